/* The engine's core on a virtual clock: what happens to a job at each place it can be. */
#include "test.h"
#include "base/mem.h"
#include "engine/step.h"
#include "fake_backend.h"
#include "fake_vocab.h"

enum { N_VOCAB = 48, EOS = N_VOCAB - 1, MAX_EVENTS = 4096 };

typedef struct {
    qh_clock_virtual clock;
    qh_vocab *vocab;
    fake_backend fake;
    qh_core *core;
    qh_event events[MAX_EVENTS];    /* all that came, owned until close */
    int n_events, max_events;
} fixture;

static bool has_room(void *arg)
{
    return ((fixture *)arg)->n_events < ((fixture *)arg)->max_events;
}
static void put(void *arg, const qh_event *e)
{
    ((fixture *)arg)->events[((fixture *)arg)->n_events++] = *e;
}

static void open_core(fixture *f, qh_backend_limits limits, qh_engine_config cfg)
{
    const qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 4096};
    *f = (fixture){.max_events = MAX_EVENTS};
    qh_clock_virtual_init(&f->clock);
    f->vocab = fake_vocab(N_VOCAB);
    fake_open(&f->fake,
              &(fake_config){
                  .limits = limits, .n_vocab = N_VOCAB, .eos = QH_NO_TOKEN, .clock = &f->clock});
    cfg.clock = &f->clock.base;
    CHECK_OK(qh_core_new(&f->core, &f->fake.base, &desc, f->vocab, &cfg,
                         (qh_event_sink){has_room, put, f, NULL}, NULL));
}

static const qh_backend_limits ROOMY = {64, 128, 8, 16, 4096};

static void close_core(fixture *f)
{
    qh_core_check(f->core);
    qh_core_free(f->core);
    for (int i = 0; i < f->n_events; i++) qh_event_deinit(&f->events[i]);
    fake_deinit(&f->fake);
    qh_vocab_free(f->vocab);
}

static qh_gen *a_gen(int n_prompt, int max_tokens)
{
    qh_gen *g = qh_gen_new();
    for (qh_token i = 0; i < n_prompt; i++) {
        qh_token t = (i * 7 + i / 5) % (N_VOCAB - 1);
        CHECK_OK(qh_tokens_append(&g->prompt, &t, 1));
    }
    g->max_tokens = max_tokens;
    g->ignore_eos = true;
    g->sampling.has_seed = true;
    return g;
}

static qh_engine_stats stats_of(fixture *f)
{
    qh_engine_stats st;
    qh_stats_get(qh_core_stats(f->core), &st);
    return st;
}

static void run(fixture *f, int max_steps)
{
    for (int i = 0; i < max_steps && qh_core_step(f->core); i++) qh_core_check(f->core);
}

/* The job's DONE of that choice, or NULL. */
static const qh_event *done_of(const fixture *f, qh_job_id id, int choice)
{
    for (int i = 0; i < f->n_events; i++)
        if (f->events[i].job == id && f->events[i].choice == choice &&
            f->events[i].type == QH_EVENT_DONE)
            return &f->events[i];
    return NULL;
}

static int n_tokens_of(const fixture *f, qh_job_id id, int choice)
{
    int n = 0;
    for (int i = 0; i < f->n_events; i++)
        if (f->events[i].job == id && f->events[i].choice == choice &&
            f->events[i].type == QH_EVENT_TEXT)
            n += f->events[i].n_tokens;
    return n;
}

static void check_all_pages_back(fixture *f)
{
    qh_engine_stats st = stats_of(f);
    CHECK_INT(st.n_running, 0);
    CHECK_INT(st.n_pages_free + st.n_pages_cached, st.n_pages_total);
}

/* Opening and admission --------------------------------------------------------------------------*/

TEST(a_backend_too_small_for_any_sequence_is_refused_with_numbers)
{
    const qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 100};
    qh_vocab *v = fake_vocab(N_VOCAB);
    fake_backend fake;
    qh_core *c;
    qh_err err = {0};
    fake_open(&fake, &(fake_config){.limits = {1, 8, 1, 1, 64}, .n_vocab = N_VOCAB});
    CHECK_STATUS(
        qh_core_new(&c, &fake.base, &desc, v, &(qh_engine_config){0}, (qh_event_sink){0}, &err),
        QH_EINVAL);
    CHECK(strstr(err.msg, "1 pages") && c == NULL);
    fake_deinit(&fake);
    qh_vocab_free(v);
}

TEST(a_generation_out_of_range_is_refused_by_its_field)
{
    const qh_spec_limits lim = {
        .n_vocab = N_VOCAB, .max_context = 100, .n_pages = 9, .max_seqs = 4};
    struct {
        const char *word;
        qh_status st;
    } cases[] = {
        {"empty", QH_EINVAL},          {"prompt[1]", QH_EINVAL},  {"context", QH_ECONTEXT},
        {"n is", QH_EINVAL},           {"max_tokens", QH_EINVAL}, {"min_tokens", QH_EINVAL},
        {"top_logprobs", QH_EINVAL},   {"stop[0]", QH_EINVAL},    {"UTF-8", QH_EINVAL},
        {"stop_tokens[0]", QH_EINVAL}, {"temperature", QH_EINVAL}, {"shown_tokens[0]", QH_EINVAL}};
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        qh_gen *g = a_gen(i == 2 ? 100 : 5, 10);
        qh_err err = {0};
        g->stop_strings = qh_alloc0(sizeof(char *));
        g->stop_strings[0] = qh_strdup(i == 7 ? "" : i == 8 ? "\xff" : "x");
        g->n_stop_strings = 1;
        g->stop_tokens = qh_alloc0(sizeof(qh_token));
        g->stop_tokens[0] = i == 9 ? N_VOCAB : 1;
        g->n_stop_tokens = 1;
        if (i == 0) g->prompt.len = 0;
        if (i == 1) g->prompt.ids[1] = -1;
        if (i == 3) g->n_choices = 5;
        if (i == 4) g->max_tokens = -1;
        if (i == 5) g->min_tokens = 11;
        if (i == 6) g->top_logprobs = 21;
        if (i == 10) g->sampling.temperature = -1;
        g->shown_tokens = qh_alloc0(sizeof(qh_token));
        g->shown_tokens[0] = i == 11 ? -1 : 1;
        g->n_shown_tokens = 1;
        CHECK_STATUS(qh_gen_check(g, &lim, &err), cases[i].st);
        if (!strstr(err.msg, cases[i].word)) print_error("case %d: %s\n", i, err.msg);
        CHECK(strstr(err.msg, cases[i].word));
        qh_gen_free(g);
    }
}

TEST(a_prompt_that_never_fits_the_pages_is_refused_with_numbers)
{
    fixture f;
    open_core(&f, (qh_backend_limits){4, 128, 8, 16, 4096}, (qh_engine_config){0});
    qh_gen *g = a_gen(192, 10);
    qh_err err = {0};
    CHECK_STATUS(qh_gen_check(g, qh_core_limits(f.core), &err), QH_ECONTEXT);
    CHECK(strstr(err.msg, "192 tokens") && strstr(err.msg, "4 KV pages"));
    qh_gen_free(g);
    qh_core_submit(f.core, 1, a_gen(191, 10), NULL, f.clock.t_us);
    run(&f, 100);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_LENGTH);
    CHECK_INT(n_tokens_of(&f, 1, 0), 1);
    close_core(&f);
}

/* Prefill, prefix, forks -------------------------------------------------------------------------*/

TEST(a_long_prompt_is_computed_in_chunks_of_the_budget)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.step_tokens = 32});
    qh_core_submit(f.core, 1, a_gen(100, 1), NULL, f.clock.t_us);
    run(&f, 3);
    CHECK_INT(n_tokens_of(&f, 1, 0), 0);
    run(&f, 1);
    CHECK_INT(n_tokens_of(&f, 1, 0), 1);
    CHECK_INT(f.fake.max_rows_seen, 32);
    CHECK_INT(f.fake.n_rows, 100);
    close_core(&f);
}

TEST(the_same_prompt_again_computes_one_row)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_core_submit(f.core, 1, a_gen(150, 1), NULL, f.clock.t_us);
    run(&f, 10);
    int64_t n_rows = f.fake.n_rows;
    qh_core_submit(f.core, 2, a_gen(150, 1), NULL, f.clock.t_us);
    run(&f, 10);
    CHECK_INT(f.fake.n_rows - n_rows, 1);
    CHECK_INT(done_of(&f, 2, 0)->usage.n_cached, 149);
    CHECK_INT(stats_of(&f).n_cached_tokens, 149);
    close_core(&f);
}

TEST(a_prompt_is_shared_as_soon_as_it_is_computed)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_core_submit(f.core, 1, a_gen(150, 50), NULL, f.clock.t_us);
    run(&f, 3);
    qh_core_submit(f.core, 2, a_gen(150, 50), NULL, f.clock.t_us);
    run(&f, 100);
    CHECK_INT(done_of(&f, 2, 0)->usage.n_cached, 2 * QH_PAGE_TOKENS);
    close_core(&f);
}

TEST(choices_fork_after_one_prefill_and_draw_from_streams_of_their_own)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_gen *g = a_gen(100, 20);
    g->n_choices = 4;
    qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
    run(&f, 1);
    CHECK_INT(f.fake.n_rows, 100);
    run(&f, 100);
    CHECK_INT(f.fake.n_rows, 100 + 4 * 19);
    CHECK_INT(f.fake.n_steps, 20);
    CHECK_INT(f.fake.n_copies, 3);          /* the last of four writes into the page they shared */
    qh_token first[4][20];
    int n[4] = {0}, n_differ = 0;
    for (int i = 0; i < f.n_events; i++)
        for (int k = 0; k < f.events[i].n_tokens; k++)
            first[f.events[i].choice][n[f.events[i].choice]++] = f.events[i].tokens[k].id;
    for (int c = 1; c < 4; c++) n_differ += memcmp(first[0], first[c], sizeof first[0]) != 0;
    CHECK_INT(n_differ, 3);
    check_all_pages_back(&f);
    close_core(&f);
}

TEST(prompt_logprobs_need_no_more_outputs_than_there_are)
{
    fixture f;
    open_core(&f, (qh_backend_limits){64, 128, 4, 4, 4096}, (qh_engine_config){0});
    qh_gen *g = a_gen(50, 1);
    g->prompt_logprobs = true;
    qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
    run(&f, 100);
    int n = 0;
    for (int i = 0; i < f.n_events; i++)
        if (f.events[i].type == QH_EVENT_PROMPT) n += f.events[i].n_tokens;
    CHECK_INT(n, 49);
    CHECK_INT(done_of(&f, 1, 0)->usage.n_cached, 0);
    close_core(&f);
}

/* Cancels and deadlines --------------------------------------------------------------------------*/

TEST(a_cancel_ends_a_job_in_queue_prefill_and_decode_before_another_row)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.step_tokens = 16, .max_seqs = 2});
    _Atomic unsigned flags[3] = {0};
    qh_core_submit(f.core, 1, a_gen(8, 1000), &flags[0], f.clock.t_us);
    qh_core_submit(f.core, 2, a_gen(300, 10), &flags[1], f.clock.t_us);
    qh_core_submit(f.core, 3, a_gen(8, 10), &flags[2], f.clock.t_us);
    run(&f, 4);
    CHECK_INT(stats_of(&f).n_running, 2);
    CHECK_INT(stats_of(&f).n_queued, 1);
    int64_t n_rows = f.fake.n_rows;
    for (int i = 0; i < 3; i++) atomic_store(&flags[i], atomic_load(&flags[i]) | QH_FLAG_CANCEL);
    run(&f, 10);
    CHECK_INT(f.fake.n_rows, n_rows);
    for (qh_job_id id = 1; id <= 3; id++) CHECK_INT(done_of(&f, id, 0)->finish, QH_FINISH_CANCELED);
    CHECK(atomic_load(&flags[2]) & QH_FLAG_STARTED);
    CHECK_INT(stats_of(&f).n_queued, 0);
    check_all_pages_back(&f);
    close_core(&f);
}

TEST(a_cancel_before_the_fork_ends_every_choice)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.step_tokens = 16});
    _Atomic unsigned flags = 0;
    qh_gen *g = a_gen(100, 5);
    g->n_choices = 3;
    qh_core_submit(f.core, 1, g, &flags, f.clock.t_us);
    run(&f, 2);
    atomic_fetch_or(&flags, QH_FLAG_CANCEL);
    run(&f, 2);
    for (int c = 0; c < 3; c++) CHECK_INT(done_of(&f, 1, c)->finish, QH_FINISH_CANCELED);
    check_all_pages_back(&f);
    close_core(&f);
}

TEST(a_deadline_ends_a_job_wherever_it_is)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.max_seqs = 1});
    qh_gen *a = a_gen(8, 4000), *b = a_gen(8, 10);
    a->deadline_us = f.clock.t_us + 50000;
    b->deadline_us = f.clock.t_us + 20000;
    qh_core_submit(f.core, 1, a, NULL, f.clock.t_us);
    qh_core_submit(f.core, 2, b, NULL, f.clock.t_us);
    run(&f, 1000);
    for (qh_job_id id = 1; id <= 2; id++) {
        CHECK_INT(done_of(&f, id, 0)->finish, QH_FINISH_ERROR);
        CHECK_INT(done_of(&f, id, 0)->status, QH_ETIMEDOUT);
    }
    CHECK(n_tokens_of(&f, 1, 0) > 10);
    CHECK_INT(n_tokens_of(&f, 2, 0), 0);
    check_all_pages_back(&f);
    close_core(&f);
}

/* Pauses and slow receivers ----------------------------------------------------------------------*/

TEST(a_paused_job_sits_out_steps_and_goes_on_where_it_was)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    _Atomic unsigned flags = 0;
    qh_core_submit(f.core, 1, a_gen(8, 30), &flags, f.clock.t_us);
    qh_core_submit(f.core, 2, a_gen(9, 30), NULL, f.clock.t_us);
    run(&f, 5);
    atomic_fetch_or(&flags, QH_FLAG_PAUSED);
    run(&f, 100);
    CHECK_INT(n_tokens_of(&f, 1, 0), 5);
    CHECK_INT(n_tokens_of(&f, 2, 0), 30);
    CHECK(!qh_core_step(f.core));
    CHECK(qh_core_wake_us(f.core) < INT64_MAX);         /* to mark it as stalled */
    atomic_fetch_and(&flags, ~(unsigned)QH_FLAG_PAUSED);
    run(&f, 100);
    CHECK_INT(n_tokens_of(&f, 1, 0), 30);
    CHECK_INT(done_of(&f, 1, 0)->usage.n_preempted, 0);
    close_core(&f);
}

TEST(a_job_paused_for_long_gives_its_slot_to_one_that_waits)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.max_seqs = 1});
    _Atomic unsigned flags = 0;
    qh_core_submit(f.core, 1, a_gen(8, 30), &flags, f.clock.t_us);
    qh_core_submit(f.core, 2, a_gen(9, 5), NULL, f.clock.t_us);
    run(&f, 5);
    atomic_fetch_or(&flags, QH_FLAG_PAUSED);
    run(&f, 10);
    CHECK_INT(n_tokens_of(&f, 2, 0), 0);
    f.clock.t_us = qh_core_wake_us(f.core);
    run(&f, 10);
    CHECK_INT(done_of(&f, 2, 0)->finish, QH_FINISH_LENGTH);
    atomic_fetch_and(&flags, ~(unsigned)QH_FLAG_PAUSED);
    run(&f, 100);
    CHECK_INT(n_tokens_of(&f, 1, 0), 30);
    CHECK_INT(done_of(&f, 1, 0)->usage.n_preempted, 1);
    close_core(&f);
}

TEST(without_room_for_events_text_is_joined_and_at_the_bound_the_job_waits)
{
    fixture f;
    open_core(&f, (qh_backend_limits){200, 128, 8, 16, 12000},
              (qh_engine_config){.max_context = 10000});
    f.max_events = 0;
    qh_core_submit(f.core, 1, a_gen(8, 6000), NULL, f.clock.t_us);
    run(&f, 20000);
    CHECK(qh_core_has_untold(f.core));
    int64_t n_steps = f.fake.n_steps;
    CHECK(n_steps > 4000 && n_steps < 5000);            /* 4096 untold token infos */
    f.max_events = 1;
    CHECK(qh_core_step(f.core));                        /* told, so there may be more to do */
    CHECK_INT(f.n_events, 1);
    CHECK_INT(f.events[0].n_tokens, n_steps);           /* one event, nothing lost */
    f.max_events = MAX_EVENTS;
    run(&f, 20000);
    CHECK_INT(n_tokens_of(&f, 1, 0), 6000);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_LENGTH);
    close_core(&f);
}

/* Priorities -------------------------------------------------------------------------------------*/

TEST(a_job_of_higher_priority_takes_the_slot_and_the_other_ends_with_the_same_tokens)
{
    fixture f;
    qh_token alone[40], preempted[40];
    for (int round = 0; round < 2; round++) {
        int n = 0;
        open_core(&f, ROOMY, (qh_engine_config){.max_seqs = 1});
        qh_core_submit(f.core, 1, a_gen(100, 40), NULL, f.clock.t_us);
        run(&f, 10);
        qh_gen *high = a_gen(60, 5);
        high->priority = 1;
        if (round) qh_core_submit(f.core, 2, high, NULL, f.clock.t_us);
        else qh_gen_free(high);
        run(&f, 200);
        CHECK_INT(done_of(&f, 1, 0)->usage.n_preempted, round);
        for (int i = 0; i < f.n_events; i++)
            for (int k = 0; k < f.events[i].n_tokens && f.events[i].job == 1; k++)
                (round ? preempted : alone)[n++] = f.events[i].tokens[k].id;
        CHECK_INT(n, 40);
        close_core(&f);
    }
    CHECK(!memcmp(alone, preempted, sizeof alone));
}

/* Ends -------------------------------------------------------------------------------------------*/

TEST(min_tokens_bans_stop_tokens_until_then)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_gen *g = a_gen(5, 200);
    g->min_tokens = 50;
    g->n_stop_tokens = N_VOCAB - 4;                     /* nearly everything stops */
    g->stop_tokens = qh_alloc0(sizeof(qh_token) * N_VOCAB);
    for (int i = 0; i < g->n_stop_tokens; i++) g->stop_tokens[i] = i;
    qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
    run(&f, 300);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_STOP);
    int n = n_tokens_of(&f, 1, 0);
    CHECK(n > 50 && n < 60);
    close_core(&f);
}

TEST(a_control_token_stands_in_the_text_only_when_it_is_asked_for)
{
    for (int is_shown = 0; is_shown <= 1; is_shown++) {
        fixture f;
        open_core(&f, ROOMY, (qh_engine_config){0});
        qh_gen *g = a_gen(5, 2);
        g->ignore_eos = true;
        g->sampling.bias = qh_alloc0(sizeof *g->sampling.bias);
        g->sampling.bias[0] = (qh_logit_bias){N_VOCAB - 1, 1000};       /* <|end|>, a control token */
        g->sampling.n_bias = 1;
        if (is_shown) {
            g->shown_tokens = qh_alloc0(sizeof(qh_token));
            g->shown_tokens[0] = N_VOCAB - 1;
            g->n_shown_tokens = 1;
        }
        qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
        run(&f, 20);
        qh_str text = {0};
        for (int i = 0; i < f.n_events; i++) qh_str_append(&text, f.events[i].text, f.events[i].text_len);
        CHECK_STR(qh_str_z(&text), is_shown ? "<|end|><|end|>" : "");
        qh_str_deinit(&text);
        close_core(&f);
    }
}

TEST(banning_every_token_fails_the_request_and_says_why)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_gen *g = a_gen(5, 20);
    g->sampling.n_bias = N_VOCAB;
    g->sampling.bias = qh_alloc0(sizeof(qh_logit_bias) * N_VOCAB);
    for (int i = 0; i < N_VOCAB; i++) g->sampling.bias[i] = (qh_logit_bias){i, -__builtin_inff()};
    qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
    qh_core_submit(f.core, 2, a_gen(6, 3), NULL, f.clock.t_us);
    run(&f, 100);
    CHECK_INT(done_of(&f, 1, 0)->status, QH_EINVAL);
    CHECK(strstr(done_of(&f, 1, 0)->message, "logit_bias"));
    CHECK_INT(done_of(&f, 2, 0)->finish, QH_FINISH_LENGTH);
    check_all_pages_back(&f);
    close_core(&f);
}

/* Failures of the backend ------------------------------------------------------------------------*/

TEST(a_lost_device_fails_every_job_and_those_that_come_later)
{
    for (int in_wait = 0; in_wait < 2; in_wait++) {
        fixture f;
        open_core(&f, ROOMY, (qh_engine_config){.max_seqs = 2});
        for (qh_job_id id = 1; id <= 4; id++)
            qh_core_submit(f.core, id, a_gen(8, 50), NULL, f.clock.t_us);
        run(&f, 3);
        f.fake.fail_in = 1, f.fake.fail_with = QH_EDEVICE, f.fake.fails_wait = in_wait;
        run(&f, 10);
        qh_core_submit(f.core, 5, a_gen(8, 50), NULL, f.clock.t_us);
        run(&f, 10);
        for (qh_job_id id = 1; id <= 5; id++) {
            CHECK_INT(done_of(&f, id, 0)->status, QH_EDEVICE);
            CHECK(strstr(done_of(&f, id, 0)->message, "fake device failed"));
        }
        CHECK(stats_of(&f).is_failed);
        close_core(&f);
    }
}

TEST(another_failure_fails_the_jobs_of_that_step_only_and_caches_nothing_of_it)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.max_seqs = 2});
    for (qh_job_id id = 1; id <= 3; id++)
        qh_core_submit(f.core, id, a_gen(80, 20), NULL, f.clock.t_us);
    f.fake.fail_in = 1, f.fake.fail_with = QH_EIO, f.fake.fails_wait = true;
    run(&f, 200);
    CHECK_INT(done_of(&f, 1, 0)->status, QH_EIO);
    CHECK_INT(done_of(&f, 2, 0)->status, QH_EIO);
    CHECK_INT(done_of(&f, 3, 0)->finish, QH_FINISH_LENGTH);
    CHECK_INT(done_of(&f, 3, 0)->usage.n_cached, 0);
    CHECK(!stats_of(&f).is_failed);
    check_all_pages_back(&f);
    close_core(&f);
}

TEST(a_failed_page_copy_fails_its_choice_only)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){0});
    qh_gen *g = a_gen(10, 20);
    g->n_choices = 2;
    f.fake.fails_copy = true;
    qh_core_submit(f.core, 1, g, NULL, f.clock.t_us);
    run(&f, 200);
    CHECK_INT(done_of(&f, 1, 0)->status, QH_EIO);
    CHECK_INT(done_of(&f, 1, 1)->finish, QH_FINISH_LENGTH);
    check_all_pages_back(&f);
    close_core(&f);
}

TEST(metrics_count_what_was_done)
{
    fixture f;
    open_core(&f, ROOMY, (qh_engine_config){.metric_labels = "model=\"step_test\""});
    qh_core_submit(f.core, 1, a_gen(70, 10), NULL, f.clock.t_us);
    run(&f, 100);
    qh_str out = {0};
    qh_metric_write(&out);
    CHECK(strstr(out.data, "qhost_prompt_tokens_total{model=\"step_test\"} 70\n"));
    CHECK(strstr(out.data, "qhost_sampled_tokens_total{model=\"step_test\"} 10\n"));
    CHECK(strstr(out.data, "qhost_step_seconds_count{model=\"step_test\"} 10\n"));
    CHECK(strstr(out.data, "qhost_first_token_seconds_count{model=\"step_test\"} 1\n"));
    CHECK(strstr(out.data, "qhost_kv_pages{model=\"step_test\"} 64\n"));
    qh_str_deinit(&out);
    const qh_usage *u = &done_of(&f, 1, 0)->usage;
    CHECK_INT(u->queue_us, 0);
    CHECK_INT(u->prefill_us, 8000);
    CHECK_INT(u->decode_us, 9 * 1100);
    CHECK_INT(u->first_token_us, 8000);
    close_core(&f);
}
TEST_MAIN()
