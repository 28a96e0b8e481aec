/* The engine through its mailboxes: one loop thread (the test), one engine thread. */
#include "test.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "fake_backend.h"
#include "fake_vocab.h"

enum { N_VOCAB = 64, EOS = N_VOCAB - 1 };

typedef struct {
    qh_vocab *vocab;
    fake_backend fake;
    qh_engine *engine;
} fixture;

static void open_engine(fixture *f, qh_engine_config cfg, fake_config fc)
{
    qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 4096};
    qh_err err = {0};
    f->vocab = fake_vocab(N_VOCAB);
    fc.vocab = f->vocab;
    fc.n_vocab = N_VOCAB;
    if (!fc.limits.n_pages) fc.limits = (qh_backend_limits){64, 64, 8, 16, 4096};
    fake_open(&f->fake, &fc);
    qh_status st = qh_engine_new(&f->engine, &f->fake.base, &desc, NULL, &cfg, &err);
    if (st) print_error("%s\n", err.msg);
    CHECK_OK(st);
}

static void close_engine(fixture *f)
{
    qh_engine_free(f->engine);
    CHECK(f->fake.is_closed);
    fake_deinit(&f->fake);
    qh_vocab_free(f->vocab);
}

static qh_gen *gen_of(const qh_token *prompt, int n, int max_tokens)
{
    qh_gen *g = qh_gen_new();
    CHECK_OK(qh_tokens_append(&g->prompt, prompt, n));
    g->max_tokens = max_tokens;
    return g;
}

/* Poll until an event comes. */
static qh_event next_event(fixture *f)
{
    qh_event e;
    while (qh_engine_poll(f->engine, &e)) qh_sleep_us(100);
    return e;
}

static void slow_greedy(qh_token *tokens, int *n, int max_tokens)
{
    float logits[N_VOCAB];
    for (int i = 0; i < max_tokens; i++) {
        fake_logits(tokens, *n, N_VOCAB, EOS, logits);
        int best = 0;
        for (int id = 1; id < N_VOCAB; id++) best = logits[id] > logits[best] ? id : best;
        tokens[(*n)++] = best;
        if (best == EOS) return;
    }
}

TEST(a_greedy_generation_comes_back_as_text_and_tokens_then_done)
{
    fixture f;
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = EOS});
    qh_token tokens[200] = {1, 2, 3};
    int n = 3, at = 3;
    slow_greedy(tokens, &n, 40);
    qh_gen *g = gen_of(tokens, 3, 40);
    g->sampling.temperature = 0;
    qh_job_id id;
    CHECK_OK(qh_engine_submit(f.engine, g, &id, NULL));
    for (;;) {
        qh_event e = next_event(&f);
        CHECK(e.job == id && e.choice == 0);
        for (int i = 0; i < e.n_tokens; i++) CHECK_INT(e.tokens[i].id, tokens[at++]);
        bool is_done = e.type == QH_EVENT_DONE;
        if (is_done) {
            CHECK_INT(e.finish, tokens[n - 1] == EOS ? QH_FINISH_STOP : QH_FINISH_LENGTH);
            CHECK_INT(e.usage.n_prompt, 3);
            CHECK_INT(e.usage.n_completion, n - 3);
        }
        qh_event_deinit(&e);
        if (is_done) break;
    }
    CHECK_INT(at, n);
    close_engine(&f);
}

TEST(freeing_an_engine_at_work_leaks_nothing)
{
    fixture f;
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = QH_NO_TOKEN});
    for (int i = 0; i < 20; i++) {
        qh_job_id id;
        CHECK_OK(qh_engine_submit(f.engine, gen_of((qh_token[]){i, 5}, 2, 2000), &id, NULL));
    }
    qh_sleep_us(2000);
    close_engine(&f);
}

/* A loop thread that keeps what each job said. */
typedef struct {
    qh_job_id id;
    qh_tokens tokens;
    qh_str text;
    bool is_done;
    qh_finish finish;
    qh_status status;
} heard;

static heard *heard_of(heard *h, int n, qh_job_id id)
{
    for (int i = 0; i < n; i++)
        if (h[i].id == id) return &h[i];
    return NULL;
}

/* Take all that is there; returns how many events. */
static int listen(fixture *f, heard *h, int n)
{
    qh_event e;
    int n_events = 0;
    for (; qh_engine_poll(f->engine, &e) == QH_OK; n_events++) {
        heard *to = heard_of(h, n, e.job);
        CHECK(to && !to->is_done);
        for (int i = 0; i < e.n_tokens; i++)
            CHECK_OK(qh_tokens_append(&to->tokens, &e.tokens[i].id, 1));
        if (e.text_len) qh_str_append(&to->text, e.text, e.text_len);
        if (e.type == QH_EVENT_DONE)
            to->is_done = true, to->finish = e.finish, to->status = e.status;
        qh_event_deinit(&e);
    }
    return n_events;
}

static bool all_done(const heard *h, int n)
{
    for (int i = 0; i < n; i++)
        if (h[i].id && !h[i].is_done) return false;
    return true;
}

static void free_heard(heard *h, int n)
{
    for (int i = 0; i < n; i++) {
        qh_tokens_deinit(&h[i].tokens);
        qh_str_deinit(&h[i].text);
    }
}

static qh_engine_stats stats_of(fixture *f)
{
    qh_engine_stats st;
    qh_engine_get_stats(f->engine, &st);
    return st;
}

static void count_wakeup(void *arg) { __atomic_fetch_add((int *)arg, 1, __ATOMIC_RELAXED); }

TEST(many_jobs_each_get_their_own_text_with_few_wakeups)
{
    enum { N = 60 };
    fixture f;
    heard h[N] = {0};
    int n_wakeups = 0;
    open_engine(&f, (qh_engine_config){.on_events = {count_wakeup, &n_wakeups}},
                (fake_config){.eos = EOS});
    for (int i = 0; i < N; i++) {
        qh_gen *g = gen_of((qh_token[]){i, 1, i}, 3, 30);
        g->sampling.temperature = 0;
        CHECK_OK(qh_engine_submit(f.engine, g, &h[i].id, NULL));
    }
    int n_events = 0;
    while (!all_done(h, N)) {
        n_events += listen(&f, h, N);
        qh_sleep_us(200);
    }
    for (int i = 0; i < N; i++) {
        qh_token want[40] = {i, 1, i};
        int n = 3;
        slow_greedy(want, &n, 30);
        CHECK_INT(h[i].tokens.len, n - 3);
        CHECK(!memcmp(h[i].tokens.ids, want + 3, sizeof(qh_token) * (size_t)(n - 3)));
    }
    CHECK(n_wakeups > 0 && n_wakeups <= n_events);
    CHECK_INT(stats_of(&f).n_running, 0);
    free_heard(h, N);
    close_engine(&f);
}

TEST(a_full_queue_is_refused_at_once_and_has_room_again_later)
{
    fixture f;
    heard h[16] = {0};
    qh_err err = {0};
    qh_job_id id;
    open_engine(&f, (qh_engine_config){.max_queued = 4, .max_seqs = 1},
                (fake_config){.eos = QH_NO_TOKEN});
    qh_gen *refused = NULL;
    int n = 0;
    for (; n < 16 && !refused; n++) {
        qh_gen *g = gen_of((qh_token[]){n}, 1, 4000);
        qh_status st = qh_engine_submit(f.engine, g, &h[n].id, &err);
        if (st) {
            CHECK_STATUS(st, QH_AGAIN);
            refused = g;
        }
    }
    CHECK(refused && n <= 7 && strstr(err.msg, "queue is full"));
    qh_gen_free(refused);
    for (int i = 0; i < n; i++) qh_engine_cancel(f.engine, h[i].id);
    while (!all_done(h, n)) listen(&f, h, 16), qh_sleep_us(200);
    qh_gen *g = gen_of((qh_token[]){1}, 1, 1);
    CHECK_OK(qh_engine_submit(f.engine, g, &id, NULL));
    free_heard(h, 16);
    close_engine(&f);
}

TEST(clients_that_leave_at_random_moments_leave_no_page_behind)
{
    enum { N = 300, AT_ONCE = 24 };
    fixture f;
    static heard h[N];
    memset(h, 0, sizeof h);
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = EOS});
    uint64_t luck = 1;
    int n = 0, n_canceled = 0;
    while (n < N || !all_done(h, n)) {
        int n_open = 0;
        for (int i = 0; i < n; i++) n_open += !h[i].is_done;
        if (n < N && n_open < AT_ONCE) {
            qh_gen *g = gen_of((qh_token[]){n % 60, 2, 3}, 3, 1 + n % 200);
            g->n_choices = 1;
            if (!qh_engine_submit(f.engine, g, &h[n].id, NULL)) n++;
            else qh_gen_free(g);
        }
        int victim = (int)(qh_rng_philox(luck++, 0, 0).v[0] % (uint32_t)(3 * n));
        if (victim < n) qh_engine_cancel(f.engine, h[victim].id);
        victim = (int)(qh_rng_philox(luck++, 0, 0).v[0] % (uint32_t)(n + 1));
        if (victim < n) qh_engine_pause(f.engine, h[victim].id, luck % 2);
        if (n == N)
            for (int i = 0; i < n; i++) qh_engine_pause(f.engine, h[i].id, false);
        listen(&f, h, n);
    }
    for (int i = 0; i < N; i++) n_canceled += h[i].finish == QH_FINISH_CANCELED;
    CHECK(n_canceled > 0);
    qh_engine_stats st = stats_of(&f);
    for (int i = 0; i < 1000 && st.n_pages_free + st.n_pages_cached < st.n_pages_total; i++)
        qh_sleep_us(1000), st = stats_of(&f);
    CHECK_INT(st.n_pages_free + st.n_pages_cached, st.n_pages_total);
    free_heard(h, N);
    close_engine(&f);
}

TEST(a_receiver_that_does_not_poll_stops_its_job_and_loses_nothing)
{
    fixture f;
    heard h[1] = {0};
    open_engine(&f, (qh_engine_config){.max_queued = 1, .max_seqs = 1, .max_context = 20000},
                (fake_config){.eos = QH_NO_TOKEN, .limits = {400, 64, 8, 16, 20000}});
    qh_gen *g = gen_of((qh_token[]){1, 2}, 2, 12000);
    g->ignore_eos = true;
    CHECK_OK(qh_engine_submit(f.engine, g, &h[0].id, NULL));
    int64_t before = -1, now = 0;
    while (now != before || now == 0) {
        before = now;
        qh_sleep_us(50000);
        now = stats_of(&f).n_sampled_tokens;
    }
    CHECK(now < 8000);                      /* 1024 events, and 4096 infos joined */
    qh_sleep_us(300000);                    /* nothing timed is left that would wake it */
    while (!all_done(h, 1)) listen(&f, h, 1), qh_sleep_us(200);
    CHECK_INT(h[0].tokens.len, 12000);
    free_heard(h, 1);
    close_engine(&f);
}

TEST(a_paused_job_waits_and_a_cancel_reaches_it)
{
    fixture f;
    heard h[1] = {0};
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = QH_NO_TOKEN});
    qh_gen *g = gen_of((qh_token[]){1, 2}, 2, 4000);
    g->ignore_eos = true;
    CHECK_OK(qh_engine_submit(f.engine, g, &h[0].id, NULL));
    qh_engine_pause(f.engine, h[0].id, true);
    int64_t before = -1, now = 0;
    while (now != before) {
        before = now;
        qh_sleep_us(20000);
        listen(&f, h, 1);
        now = stats_of(&f).n_steps;
    }
    CHECK(!h[0].is_done);
    qh_engine_cancel(f.engine, h[0].id);
    while (!all_done(h, 1)) listen(&f, h, 1), qh_sleep_us(200);
    CHECK_INT(h[0].finish, QH_FINISH_CANCELED);
    qh_engine_cancel(f.engine, h[0].id);    /* finished: ignored */
    qh_engine_pause(f.engine, 12345678, true);
    qh_engine_cancel(f.engine, 0);
    free_heard(h, 1);
    close_engine(&f);
}

TEST(a_deadline_passes_while_the_engine_sleeps)
{
    fixture f;
    heard h[1] = {0};
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = QH_NO_TOKEN});
    qh_gen *g = gen_of((qh_token[]){1, 2}, 2, 4000);
    g->ignore_eos = true;
    g->deadline_us = qh_now_us() + 50000;
    CHECK_OK(qh_engine_submit(f.engine, g, &h[0].id, NULL));
    qh_engine_pause(f.engine, h[0].id, true);
    while (!all_done(h, 1)) listen(&f, h, 1), qh_sleep_us(200);
    CHECK(h[0].finish == QH_FINISH_ERROR ? h[0].status == QH_ETIMEDOUT
                                         : h[0].finish == QH_FINISH_LENGTH);
    free_heard(h, 1);
    close_engine(&f);
}

TEST(after_the_device_is_lost_submit_says_so)
{
    fixture f;
    heard h[1] = {0};
    qh_err err = {0};
    qh_job_id id;
    open_engine(&f, (qh_engine_config){0}, (fake_config){.eos = QH_NO_TOKEN});
    f.fake.fail_with = QH_EDEVICE;
    f.fake.fail_in = 1;
    CHECK_OK(qh_engine_submit(f.engine, gen_of((qh_token[]){1, 2}, 2, 100), &h[0].id, NULL));
    while (!all_done(h, 1)) listen(&f, h, 1), qh_sleep_us(200);
    CHECK_INT(h[0].status, QH_EDEVICE);
    while (!stats_of(&f).is_failed) qh_sleep_us(200);
    qh_gen *g = gen_of((qh_token[]){1}, 1, 1);
    CHECK_STATUS(qh_engine_submit(f.engine, g, &id, &err), QH_EDEVICE);
    CHECK(err.msg[0]);
    qh_gen_free(g);
    free_heard(h, 1);
    close_engine(&f);
}
TEST_MAIN()
