/* Sequences with a policy: the rest of the engine does not wait for it, and what runs beside it, how late it
 * answers and which other feature the request uses do not change its tokens. */
#include "test.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/step.h"
#include "fake_backend.h"
#include "fake_policy.h"
#include "fake_vocab.h"
#include <math.h>

enum { N_VOCAB = 48, EOS = N_VOCAB - 1, MAX_EVENTS = 8192 };

typedef struct {
    qh_clock_virtual clock;
    qh_vocab *vocab;
    fake_backend fake;
    qh_core *core;
    fake_policy policy;
    qh_event events[MAX_EVENTS];    /* all that came, owned until close */
    int n_events;
} fixture;

static bool has_room(void *arg) { return ((fixture *)arg)->n_events < MAX_EVENTS; }
static void put(void *arg, const qh_event *e)
{
    ((fixture *)arg)->events[((fixture *)arg)->n_events++] = *e;
}
static void home(void *arg, qh_turn *t) { qh_core_take_turn(((fixture *)arg)->core, t); }

static void open_core(fixture *f, qh_backend_limits limits, void (*edit)(qh_turn *))
{
    const qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 4096};
    *f = (fixture){0};
    qh_clock_virtual_init(&f->clock);
    f->vocab = fake_vocab(N_VOCAB);
    fake_open(&f->fake, &(fake_config){.limits = limits, .n_vocab = N_VOCAB, .eos = EOS, .clock = &f->clock});
    fake_policy_init(&f->policy, 16);
    f->policy.edit = edit;
    CHECK_OK(qh_core_new(&f->core, &f->fake.base, &desc, f->vocab,
                         &(qh_engine_config){.clock = &f->clock.base},
                         (qh_event_sink){has_room, put, f, home}, NULL));
}

static void close_core(fixture *f)
{
    qh_engine_stats st;
    qh_stats_get(qh_core_stats(f->core), &st);
    CHECK_INT(st.n_running, 0);
    CHECK_INT(st.n_pages_free + st.n_pages_cached, st.n_pages_total);
    CHECK_INT(qh_core_n_asked(f->core), 0);
    qh_core_free(f->core);
    for (int i = 0; i < f->n_events; i++) qh_event_deinit(&f->events[i]);
    fake_policy_deinit(&f->policy);
    fake_deinit(&f->fake);
    qh_vocab_free(f->vocab);
}

static const qh_backend_limits ROOMY = {256, 128, 8, 16, 4096};

static qh_gen *a_gen(fixture *f, int n_prompt, int max_tokens)
{
    qh_gen *g = qh_gen_new();
    for (qh_token i = 0; i < n_prompt; i++) {
        qh_token t = (i * 7 + i / 5) % (N_VOCAB - 1);
        CHECK_OK(qh_tokens_append(&g->prompt, &t, 1));
    }
    g->max_tokens = max_tokens;
    g->ignore_eos = true;
    g->sampling.has_seed = true;
    if (f) g->policy = qh_policy_ref(&f->policy.base);
    return g;
}

static void submit(fixture *f, qh_job_id id, qh_gen *g)
{
    qh_err err = {0};
    if (qh_gen_check(g, qh_core_limits(f->core), &err)) fail_msg("%s", err.msg);
    qh_core_submit(f->core, id, g, NULL, 0);
}

static void answer_all(fixture *f)
{
    while (f->policy.n_out) fake_policy_answer(&f->policy, 0);
}

static void run(fixture *f)
{
    for (bool did = true; did || qh_core_n_asked(f->core);) {
        answer_all(f);
        did = qh_core_step(f->core);
        qh_core_check(f->core);
    }
}

static const qh_event *done_of(const fixture *f, qh_job_id id, int choice)
{
    for (int i = 0; i < f->n_events; i++)
        if (f->events[i].job == id && f->events[i].choice == choice &&
            f->events[i].type == QH_EVENT_DONE)
            return &f->events[i];
    return NULL;
}

static int n_tokens_of(const fixture *f, qh_job_id id)
{
    int n = 0;
    for (int i = 0; i < f->n_events; i++)
        if (f->events[i].job == id) n += f->events[i].n_tokens;
    return n;
}

/* Waiting ----------------------------------------------------------------------------------------*/

TEST(a_late_policy_makes_its_own_sequence_sit_out_and_nobody_else)
{
    static fixture f;
    open_core(&f, ROOMY, NULL);
    submit(&f, 1, a_gen(&f, 10, 5));
    submit(&f, 2, a_gen(NULL, 10, 20));
    for (int i = 0; i < 20; i++) {
        CHECK(qh_core_step(f.core));
        qh_core_check(f.core);
    }
    CHECK_INT(n_tokens_of(&f, 1), 0);       /* its first token is not chosen yet */
    CHECK_INT(n_tokens_of(&f, 2), 20);
    CHECK(!qh_core_step(f.core));           /* nothing to do but to wait */
    CHECK_INT(qh_core_n_asked(f.core), 1);
    run(&f);
    CHECK_INT(n_tokens_of(&f, 1), 5);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_LENGTH);
    close_core(&f);
}

TEST(a_turn_is_due_until_the_next_step)
{
    static fixture f;
    open_core(&f, ROOMY, NULL);
    submit(&f, 1, a_gen(&f, 10, 3));
    submit(&f, 2, a_gen(&f, 10, 3));
    submit(&f, 3, a_gen(NULL, 10, 9));
    qh_core_step(f.core);
    CHECK_INT(qh_core_n_due(f.core), 2);
    fake_policy_answer(&f.policy, 0);
    CHECK_INT(qh_core_n_due(f.core), 1);
    qh_core_step(f.core);                   /* the other one missed it; the first was asked again */
    CHECK_INT(qh_core_n_due(f.core), 1);
    CHECK_INT(qh_core_n_asked(f.core), 2);
    answer_all(&f);
    CHECK_INT(qh_core_n_due(f.core), 0);
    run(&f);
    close_core(&f);
}

TEST(a_full_queue_of_the_policy_is_tried_again)
{
    static fixture f;
    open_core(&f, ROOMY, NULL);
    f.policy.max_out = 1;
    for (qh_job_id id = 1; id <= 4; id++) submit(&f, id, a_gen(&f, 10, 4));
    qh_core_step(f.core);
    CHECK_INT(f.policy.n_out, 1);
    CHECK(qh_core_wake_us(f.core) == INT64_MAX || !qh_core_step(f.core));
    qh_core_step(f.core);
    CHECK(qh_core_wake_us(f.core) <= f.clock.t_us + 1000);
    run(&f);
    for (qh_job_id id = 1; id <= 4; id++) CHECK_INT(n_tokens_of(&f, id), 4);
    close_core(&f);
}

TEST(a_policy_that_nobody_runs_any_more_is_an_error_of_its_sequence)
{
    static fixture f;
    open_core(&f, ROOMY, NULL);
    submit(&f, 1, a_gen(&f, 10, 4));
    submit(&f, 2, a_gen(NULL, 10, 4));
    f.policy.is_closed = true;
    run(&f);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_ERROR);
    CHECK_INT(done_of(&f, 1, 0)->status, QH_ECLOSED);
    CHECK_INT(done_of(&f, 2, 0)->finish, QH_FINISH_LENGTH);
    close_core(&f);
}

TEST(a_cancel_while_the_policy_thinks_gives_the_pages_back_at_once)
{
    static fixture f;
    _Atomic unsigned flags = 0;
    open_core(&f, ROOMY, NULL);
    qh_gen *g = a_gen(&f, 100, 4);
    g->n_choices = 3;
    qh_core_submit(f.core, 1, g, &flags, 0);
    qh_core_step(f.core);
    fake_policy_answer(&f.policy, 0);
    CHECK_INT(qh_core_n_asked(f.core), 2);
    atomic_fetch_or(&flags, QH_FLAG_CANCEL);
    qh_core_step(f.core);
    for (int c = 0; c < 3; c++) CHECK_INT(done_of(&f, 1, c)->finish, QH_FINISH_CANCELED);
    qh_engine_stats st;
    qh_stats_get(qh_core_stats(f.core), &st);
    CHECK_INT(st.n_pages_free + st.n_pages_cached, st.n_pages_total);
    int n_events = f.n_events;
    answer_all(&f);                         /* what comes home has nobody left */
    qh_core_step(f.core);
    CHECK_INT(f.n_events, n_events);
    close_core(&f);
}

TEST(a_sequence_preempted_while_its_policy_thinks_keeps_its_answer)
{
    static fixture f;
    const qh_backend_limits tight = {4, 128, 8, 16, 4096};
    open_core(&f, tight, NULL);
    submit(&f, 1, a_gen(&f, 70, 3));
    qh_core_step(f.core);
    qh_gen *g = a_gen(NULL, 185, 2);
    g->cache_salt = 1;
    g->priority = 1;
    submit(&f, 2, g);
    qh_core_step(f.core);
    qh_engine_stats st;
    qh_stats_get(qh_core_stats(f.core), &st);
    CHECK_INT(st.n_preemptions, 1);
    CHECK_INT(qh_core_n_asked(f.core), 1);
    answer_all(&f);                         /* while it is in the queue */
    run(&f);
    CHECK_INT(n_tokens_of(&f, 1), 3);
    CHECK_INT(done_of(&f, 1, 0)->usage.n_preempted, 1);
    close_core(&f);
}

/* Ends -------------------------------------------------------------------------------------------*/

static void stop_at_third(qh_turn *t)
{
    if (t->n_out < 2) return;
    t->verdict = QH_TURN_STOP;
    strcpy(t->reason, "tired");
}
static void fail_at_third(qh_turn *t)
{
    if (t->n_out < 2) return;
    t->verdict = QH_TURN_FAILED;
    strcpy(t->message, "p.lua:3: no");
}
static void take_long_at_third(qh_turn *t)
{
    if (t->n_out < 2) return;
    t->verdict = QH_TURN_TIMED_OUT;
    strcpy(t->message, "too slow");
}

static void check_end(void (*edit)(qh_turn *), int n_tokens, const char *reason,
                      const char *message)
{
    static fixture f;
    open_core(&f, ROOMY, edit);
    submit(&f, 1, a_gen(&f, 10, 8));
    submit(&f, 2, a_gen(NULL, 10, 8));
    run(&f);
    const qh_event *e = done_of(&f, 1, 0);
    CHECK_INT(e->finish, QH_FINISH_POLICY);
    CHECK_STR(e->reason, reason);
    CHECK(message ? e->message && !strcmp(e->message, message) : !e->message);
    CHECK_INT(e->usage.n_completion, n_tokens);
    CHECK_INT(n_tokens_of(&f, 1), n_tokens);
    CHECK_INT(done_of(&f, 2, 0)->finish, QH_FINISH_LENGTH);
    close_core(&f);
}

TEST(a_policy_ends_its_sequence_with_its_own_reason)
{
    check_end(stop_at_third, 3, "tired", NULL);
}
TEST(a_failing_policy_ends_its_own_sequence_with_a_named_reason)
{
    check_end(fail_at_third, 2, "policy_error", "p.lua:3: no");
    check_end(take_long_at_third, 2, "policy_timeout", "too slow");
}

static void stop_without_reason(qh_turn *t)
{
    t->verdict = QH_TURN_STOP;
    t->reason[0] = 0;
}

TEST(a_stop_without_a_reason_is_an_ordinary_stop)
{
    static fixture f;
    open_core(&f, ROOMY, stop_without_reason);
    submit(&f, 1, a_gen(&f, 10, 8));
    run(&f);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_STOP);
    CHECK_INT(n_tokens_of(&f, 1), 1);
    close_core(&f);
}

TEST(a_stop_token_goes_before_the_policys_stop_and_that_before_max_tokens)
{
    static fixture f;
    open_core(&f, ROOMY, stop_at_third);
    submit(&f, 1, a_gen(&f, 10, 3));
    run(&f);
    CHECK_INT(done_of(&f, 1, 0)->finish, QH_FINISH_POLICY);
    qh_token third = QH_NO_TOKEN;
    for (int i = 0, n = 0; i < f.n_events; i++)
        for (int k = 0; k < f.events[i].n_tokens; k++)
            if (++n == 3) third = f.events[i].tokens[k].id;
    qh_gen *g = a_gen(&f, 10, 3);
    g->stop_tokens = qh_alloc0(sizeof(qh_token));
    g->stop_tokens[g->n_stop_tokens++] = third;
    submit(&f, 2, g);
    run(&f);
    CHECK_INT(done_of(&f, 2, 0)->finish, QH_FINISH_STOP);
    close_core(&f);
}

/* Every pair of features ----------------------------------------------------------------------------
 * A policy that changes what it is given, as a pure function of the turn; a request with two features at
 * once; alone in a roomy engine, with answers at once, and in a crowd that shares few pages, where
 * answers are late in any order: the same tokens, text, log-probabilities and end. */

static void edit_purely(qh_turn *t)
{
    int n = 0;
    for (int i = 0; i < t->n; i++)
        if (t->n < 3 || qh_hash_mix((uint64_t)t->cands[i].id + (uint64_t)t->n_out) % 3)
            t->cands[n++] = t->cands[i];
    t->n = n ? n : 1;
    if (t->temperature > 0) t->temperature = t->n_out % 2 ? 0.5f : 1.3f;
    if (t->n_out == 40) stop_at_third(t);
}

static void with_stop_string(qh_gen *g)
{
    static const char *const STOPS[] = {"ab", "q", "b."};
    g->stop_strings = qh_alloc0(sizeof(char *) * 3);
    for (int i = 0; i < 3; i++) g->stop_strings[g->n_stop_strings++] = qh_strdup(STOPS[i]);
}
static void with_stop_token(qh_gen *g)
{
    g->stop_tokens = qh_alloc0(sizeof(qh_token));
    g->stop_tokens[g->n_stop_tokens++] = 7;
}
static void with_penalties(qh_gen *g)
{
    g->sampling.repeat_penalty = 1.3f;
    g->sampling.presence_penalty = 0.4f;
    g->sampling.frequency_penalty = 0.3f;
    g->sampling.penalty_window = -1;
}
static void with_dry(qh_gen *g) { g->sampling.dry_multiplier = 0.8f; }
static void with_xtc(qh_gen *g) { g->sampling.xtc_probability = 0.7f; }
static void with_truncation(qh_gen *g)
{
    g->sampling.top_k = 12;
    g->sampling.top_p = 0.9f;
    g->sampling.min_p = 0.02f;
}
static void with_typical(qh_gen *g) { g->sampling.typical_p = 0.8f; }
static void with_greedy(qh_gen *g) { g->sampling.temperature = 0; }
static void with_seed(qh_gen *g) { g->sampling.seed = 77; }
static void with_bias(qh_gen *g)
{
    g->sampling.bias = qh_alloc0(sizeof *g->sampling.bias * 2);
    g->sampling.bias[g->sampling.n_bias++] = (qh_logit_bias){3, 2.5f};
    g->sampling.bias[g->sampling.n_bias++] = (qh_logit_bias){4, -INFINITY};
}
static void with_choices(qh_gen *g) { g->n_choices = 3; }
static void with_logprobs(qh_gen *g) { g->logprobs = true, g->top_logprobs = 4; }
static void with_prompt_logprobs(qh_gen *g) { g->prompt_logprobs = true; }
static void with_min_tokens(qh_gen *g) { g->min_tokens = 6, g->ignore_eos = false; }
static void with_eos(qh_gen *g) { g->ignore_eos = false; }
static void with_short_limit(qh_gen *g) { g->max_tokens = 9; }
static void with_priority(qh_gen *g) { g->priority = 1; }
static void with_salt(qh_gen *g) { g->cache_salt = 9; }

static void (*const FEATURES[])(qh_gen *) = {
    with_stop_string, with_stop_token,  with_penalties,       with_dry,        with_xtc,
    with_truncation,  with_typical,     with_greedy,          with_seed,       with_bias,
    with_choices,     with_logprobs,    with_prompt_logprobs, with_min_tokens, with_eos,
    with_short_limit, with_priority,    with_salt};
enum { N_FEATURES = sizeof FEATURES / sizeof *FEATURES };

static qh_gen *pair_gen(fixture *f, int a, int b)
{
    qh_gen *g = a_gen(f, 55 + (a + b) % 3, 45);
    FEATURES[a](g);
    FEATURES[b](g);
    return g;
}

/* All that was told of a choice, as one number; -1: its end is missing. */
static uint64_t told(const fixture *f, qh_job_id id, int choice)
{
    uint64_t h = 1;
    bool is_over = false;
    for (int i = 0; i < f->n_events; i++) {
        const qh_event *e = &f->events[i];
        if (e->job != id || e->choice != choice) continue;
        for (int k = 0; k < e->n_tokens; k++) {
            const qh_token_info *t = &e->tokens[k];
            h = qh_hash_mix(h * 31 + (uint64_t)t->id + 1);
            if (!isnan(t->logprob)) h = qh_hash_mix(h + (uint64_t)(int64_t)lrintf(t->logprob * 1e4f));
            for (int j = 0; j < t->n_top; j++) h = qh_hash_mix(h + (uint64_t)t->top[j].id);
            h = qh_hash_mix(h + (uint64_t)t->text_end);
        }
        for (size_t k = 0; k < e->text_len; k++) h = qh_hash_mix(h * 31 + (unsigned char)e->text[k]);
        if (e->type != QH_EVENT_DONE) continue;
        is_over = true;
        h = qh_hash_mix(h + (uint64_t)e->finish * 7 + (uint64_t)e->usage.n_completion);
        for (const char *s = e->reason; s && *s; s++) h = qh_hash_mix(h + (unsigned char)*s);
        for (const char *s = e->stop_match; s && *s; s++) h = qh_hash_mix(h + (unsigned char)*s);
    }
    return is_over ? h : UINT64_MAX;
}

static uint64_t luck = 1;
static uint32_t roll(uint32_t n) { return qh_rng_philox(luck++, 1, 2).v[0] % n; }

static void run_late(fixture *f)
{
    for (bool did = true; did || qh_core_n_asked(f->core);) {
        for (int n = f->policy.n_out; n > 0; n--)
            if (roll(3) == 0) fake_policy_answer(&f->policy, (int)roll((uint32_t)f->policy.n_out));
        did = qh_core_step(f->core);
        qh_core_check(f->core);
    }
}

TEST(every_pair_of_features_gives_the_same_alone_and_in_a_crowd)
{
    static fixture alone, crowd;
    static uint64_t want[N_FEATURES][N_FEATURES][3];
    const qh_backend_limits tight = {9, 24, 8, 16, 4096};
    int64_t n_preemptions = 0, n_cached = 0;
    int n_pairs = 0;
    for (int a = 0; a < N_FEATURES; a++) {
        for (int b = a + 1; b < N_FEATURES; b++, n_pairs++) {
            open_core(&alone, ROOMY, edit_purely);
            submit(&alone, 1, pair_gen(&alone, a, b));
            run(&alone);
            int n = a == 10 || b == 10 ? 3 : 1;
            for (int c = 0; c < n; c++) want[a][b][c] = told(&alone, 1, c);
            close_core(&alone);
        }
    }
    for (int a = 0; a < N_FEATURES; a++) {
        open_core(&crowd, tight, edit_purely);
        crowd.policy.max_out = 3;
        qh_job_id id = 100;
        for (int b = a + 1; b < N_FEATURES; b++) {
            submit(&crowd, (qh_job_id)b + 1, pair_gen(&crowd, a, b));
            submit(&crowd, id++, a_gen(b % 2 ? &crowd : NULL, 70, 30));
        }
        run_late(&crowd);
        for (int b = a + 1; b < N_FEATURES; b++) {
            for (int c = 0; c < (a == 10 || b == 10 ? 3 : 1); c++) {
                if (told(&crowd, (qh_job_id)b + 1, c) != want[a][b][c])
                    print_error("features %d and %d, choice %d\n", a, b, c);
                CHECK(want[a][b][c] != UINT64_MAX);
                CHECK(told(&crowd, (qh_job_id)b + 1, c) == want[a][b][c]);
            }
        }
        qh_engine_stats st;
        qh_stats_get(qh_core_stats(crowd.core), &st);
        n_preemptions += st.n_preemptions;
        n_cached += st.n_cached_tokens;
        close_core(&crowd);
    }
    print_message("%d pairs, %lld preemptions, %lld cached tokens\n", n_pairs,
                  (long long)n_preemptions, (long long)n_cached);
    CHECK(n_pairs == N_FEATURES * (N_FEATURES - 1) / 2 && n_preemptions > 0 && n_cached > 0);
}

TEST_MAIN()
