/* Random workloads on the fake backend and a virtual clock, against the slow model.
 *
 * Arrivals, priorities, policies that answer late, forks, shared prefixes, cancels, pauses, deadlines, a receiver that falls behind,
 * pools too small for the load, steps of few rows: whatever happens around it, a choice gives the tokens,
 * text and log-probabilities it would give alone, and when all is over every page is accounted for.
 * QH_SIM_RUNS sets how many workloads run (scripts/soak sets a large number), QH_SIM_SEED the first. */
#include "test.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/step.h"
#include "fake_backend.h"
#include "fake_policy.h"
#include "fake_vocab.h"
#include "slow_model.h"
#include <math.h>

enum { N_VOCAB = 48, EOS = N_VOCAB - 1, MAX_JOBS = 24, MAX_CHOICES = 4, MAX_EVENTS = 64 };

static uint64_t luck;               /* state of the workload's own randomness */
static uint32_t roll(uint32_t n) { return qh_rng_philox(luck++, 1, 2).v[0] % n; }
static bool chance(uint32_t percent) { return roll(100) < percent; }
static int between(int lo, int hi) { return lo + (int)roll((uint32_t)(hi - lo + 1)); }

/* What came of a choice. */
typedef struct {
    qh_tokens tokens;
    float logprobs[1024];
    int n_prompt_infos;
    qh_str text;
    bool is_done;
    qh_finish finish;
    qh_status status;
    bool has_stop_match;
    qh_usage usage;
} outcome;

typedef struct {
    qh_gen *spec;                   /* the test's copy: the engine owns its own */
    int64_t arrive_us, cancel_us;   /* cancel: INT64_MAX never */
    bool is_submitted;
    int n_pauses;                   /* pauses and resumes still to come, an even number */
    _Atomic unsigned flags;
    outcome out[MAX_CHOICES];
} sim_job;

typedef struct {
    qh_clock_virtual clock;
    qh_vocab *vocab;
    fake_backend fake;
    qh_core *core;
    sim_job jobs[MAX_JOBS];
    int n_jobs;
    qh_event events[MAX_EVENTS];    /* the mailbox */
    int n_events, max_events, poll_percent;
    fake_policy policies[2];        /* that change nothing, of few candidates and of more */
    int late_percent;               /* how often a policy lets a turn wait */
    bool is_calm;                   /* no pauses, no policies, a receiver that keeps up: whoever runs must advance */
} sim;

/* Receiving --------------------------------------------------------------------------------------*/

static bool has_room(void *arg) { return ((sim *)arg)->n_events < ((sim *)arg)->max_events; }
static void put(void *arg, const qh_event *e)
{
    ((sim *)arg)->events[((sim *)arg)->n_events++] = *e;
}

static void home(void *arg, qh_turn *t) { qh_core_take_turn(((sim *)arg)->core, t); }

/* Some of the turns that are out, in any order. True when there were any. */
static bool answer(sim *s)
{
    bool did = false;
    for (int p = 0; p < 2; p++)
        for (int n = s->policies[p].n_out; n > 0; n--) {
            did = true;
            if (!chance((uint32_t)s->late_percent))
                fake_policy_answer(&s->policies[p], (int)roll((uint32_t)s->policies[p].n_out));
        }
    return did;
}

static void receive_tokens(sim_job *j, outcome *o, const qh_event *e)
{
    if (e->type == QH_EVENT_PROMPT) {
        CHECK(o->tokens.len == 0 && o->text.len == 0);
        for (int i = 0; i < e->n_tokens; i++) {
            CHECK_INT(e->tokens[i].id, j->spec->prompt.ids[o->n_prompt_infos + 1]);
            o->logprobs[o->n_prompt_infos++] = e->tokens[i].logprob;
        }
        return;
    }
    for (int i = 0; i < e->n_tokens; i++) {
        o->logprobs[o->n_prompt_infos + o->tokens.len] = e->tokens[i].logprob;
        CHECK_OK(qh_tokens_append(&o->tokens, &e->tokens[i].id, 1));
        CHECK_INT(e->tokens[i].n_top, j->spec->top_logprobs);
    }
}

static void receive(sim *s)
{
    for (int i = 0; i < s->n_events; i++) {
        qh_event *e = &s->events[i];
        sim_job *j = &s->jobs[e->job - 1];
        outcome *o = &j->out[e->choice];
        CHECK(!o->is_done);
        receive_tokens(j, o, e);
        if (e->type == QH_EVENT_TEXT) qh_str_append(&o->text, e->text, e->text_len);
        if (e->type == QH_EVENT_DONE) {
            o->is_done = true;
            o->finish = e->finish, o->status = e->status, o->usage = e->usage;
            o->has_stop_match = e->stop_match != NULL;
            CHECK((e->message != NULL) == (e->finish == QH_FINISH_ERROR));
        }
        qh_event_deinit(e);
    }
    s->n_events = 0;
}

/* Workloads --------------------------------------------------------------------------------------*/

static qh_gen *copy_gen(const qh_gen *g)
{
    qh_gen *c = qh_gen_new();
    qh_sampling_deinit(&c->sampling);
    *c = *g;
    c->prompt = (qh_tokens){0};
    CHECK_OK(qh_tokens_append(&c->prompt, g->prompt.ids, g->prompt.len));
    qh_sampling_init(&c->sampling);
    char **breakers = c->sampling.dry_breakers;
    int n_breakers = c->sampling.n_dry_breakers;
    c->sampling = g->sampling;
    c->sampling.dry_breakers = breakers, c->sampling.n_dry_breakers = n_breakers;
    c->stop_strings = qh_alloc0(sizeof(char *) * (size_t)(g->n_stop_strings + 1));
    for (int i = 0; i < g->n_stop_strings; i++) c->stop_strings[i] = qh_strdup(g->stop_strings[i]);
    c->stop_tokens = qh_alloc0(sizeof(qh_token) * (size_t)(g->n_stop_tokens + 1));
    for (int i = 0; i < g->n_stop_tokens; i++) c->stop_tokens[i] = g->stop_tokens[i];
    if (g->policy) qh_policy_ref(g->policy);
    return c;
}

static void random_prompt(qh_gen *g, int max_len)
{
    int family = between(1, 3), n = between(1, max_len), n_shared = between(0, n);
    if (chance(20)) n_shared = n;
    for (int i = 0; i < n; i++) {
        qh_token t =
            i < n_shared
                ? (qh_token)(qh_rng_philox((uint64_t)family, 7, (uint64_t)i).v[0] % (N_VOCAB - 1))
                : (qh_token)roll(N_VOCAB - 1);
        CHECK_OK(qh_tokens_append(&g->prompt, &t, 1));
    }
}

static void random_stops(qh_gen *g)
{
    static const char *const STRINGS[] = {"b.", "a",    "zz", ".\n",  "\xc3\xa9",
                                          "ab", "abab", "q",  "b.b.", "\xef\xbf\xbd"};
    g->n_stop_strings = chance(40) ? between(1, 4) : 0;
    g->stop_strings = qh_alloc0(sizeof(char *) * 5);
    for (int i = 0; i < g->n_stop_strings; i++) g->stop_strings[i] = qh_strdup(STRINGS[roll(10)]);
    g->keep_stop_string = chance(30);
    g->n_stop_tokens = chance(20) ? 1 : 0;
    g->stop_tokens = qh_alloc0(sizeof(qh_token) * 2);
    g->stop_tokens[0] = (qh_token)roll(N_VOCAB);
}

static qh_gen *random_gen(const qh_spec_limits *lim)
{
    qh_gen *g = qh_gen_new();
    int longest = lim->max_context - 1 < 300 ? lim->max_context - 1 : 300;
    random_prompt(g, chance(30) ? longest : longest < 40 ? longest : 40);
    random_stops(g);
    g->max_tokens = chance(10) ? 0 : chance(30) ? between(1, 3) : between(1, 120);
    if (chance(20))
        g->min_tokens = between(0, g->max_tokens && g->max_tokens < 20 ? g->max_tokens : 20);
    g->ignore_eos = chance(15);
    if (chance(25))
        g->n_choices = between(1, lim->max_seqs < MAX_CHOICES ? lim->max_seqs : MAX_CHOICES);
    g->sampling.temperature = chance(40) ? 0 : 0.8f;
    if (chance(20)) g->sampling.top_p = 0.9f, g->sampling.min_p = 0.05f;
    if (chance(15)) g->sampling.repeat_penalty = 1.2f, g->sampling.frequency_penalty = 0.3f;
    if (chance(10)) g->sampling.dry_multiplier = 0.8f;
    if (chance(10)) g->sampling.xtc_probability = 0.5f;
    if (chance(10)) g->sampling.typical_p = 0.8f;
    if (chance(10)) g->sampling.top_k = between(1, 10);
    g->sampling.has_seed = true;
    g->sampling.seed = roll(1000);
    g->logprobs = chance(25);
    if (chance(15)) g->top_logprobs = between(1, 5);
    g->prompt_logprobs = chance(12);
    g->priority = chance(30) ? between(-1, 2) : 0;
    g->cache_salt = chance(20) ? 5 : 0;
    return g;
}

static void random_jobs(sim *s)
{
    const qh_spec_limits *lim = qh_core_limits(s->core);
    s->n_jobs = between(1, MAX_JOBS);
    int with_policy = chance(50) ? 0 : between(10, 100);
    int64_t span_us = chance(30) ? 1 : between(1, 400000);
    for (int i = 0; i < s->n_jobs; i++) {
        sim_job *j = &s->jobs[i];
        *j = (sim_job){.spec = random_gen(lim), .arrive_us = roll((uint32_t)span_us), .cancel_us = INT64_MAX};
        if (chance(15)) j->cancel_us = j->arrive_us + roll(200000);
        if (chance(8)) j->spec->deadline_us = j->arrive_us + 1 + roll(300000);
        j->n_pauses = chance(15) ? 2 * between(1, 8) : 0;
        if (chance((uint32_t)with_policy))
            j->spec->policy = qh_policy_ref(&s->policies[roll(2)].base);
        CHECK_OK(qh_gen_check(j->spec, lim, NULL));
        s->is_calm &= !j->spec->policy;
        s->is_calm &= j->n_pauses == 0;
    }
}

static void open_sim(sim *s, uint64_t seed)
{
    luck = seed << 20;
    *s = (sim){.max_events = chance(30) ? between(1, 4) : MAX_EVENTS, .poll_percent = chance(30) ? between(2, 30) : 100};
    qh_clock_virtual_init(&s->clock);
    s->clock.t_us = 0;
    s->vocab = fake_vocab(N_VOCAB);
    int max_seqs = between(1, 8), max_rows = chance(30) ? between(1, 8) : between(8, 128);
    const fake_config fc = {
        .limits = {chance(50) ? between(2, 12) : between(8, 64), max_rows, max_seqs,
                   chance(30) ? between(1, max_seqs) : max_seqs + 8, 2048},
        .n_vocab = N_VOCAB,
        .eos = EOS,
        .clock = &s->clock,
        .vocab = s->vocab,
    };
    fake_open(&s->fake, &fc);
    const qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = chance(50) ? 500 : between(2, 400)};
    const qh_engine_config cfg = {
        .step_tokens = 4096, .no_prefix_cache = chance(20), .clock = &s->clock.base};
    CHECK_OK(qh_core_new(&s->core, &s->fake.base, &desc, s->vocab, &cfg,
                         (qh_event_sink){has_room, put, s, home}, NULL));
    fake_policy_init(&s->policies[0], between(1, 8));
    fake_policy_init(&s->policies[1], chance(50) ? 64 : 20);
    s->policies[0].max_out = between(1, 4);
    s->late_percent = chance(30) ? 0 : between(10, 95);
    s->is_calm = s->max_events == MAX_EVENTS && s->poll_percent == 100;
    random_jobs(s);
}

static void close_sim(sim *s)
{
    qh_engine_stats st;
    qh_stats_get(qh_core_stats(s->core), &st);
    CHECK_INT(st.n_running, 0);
    CHECK_INT(st.n_queued, 0);
    CHECK_INT(st.n_pages_free + st.n_pages_cached, st.n_pages_total);
    while (qh_core_n_asked(s->core)) answer(s);
    qh_core_free(s->core);
    for (int i = 0; i < s->n_jobs; i++) {
        for (int c = 0; c < MAX_CHOICES; c++) {
            qh_tokens_deinit(&s->jobs[i].out[c].tokens);
            qh_str_deinit(&s->jobs[i].out[c].text);
        }
        qh_gen_free(s->jobs[i].spec);
    }
    for (int p = 0; p < 2; p++) fake_policy_deinit(&s->policies[p]);
    fake_deinit(&s->fake);
    qh_vocab_free(s->vocab);
}

/* Running ----------------------------------------------------------------------------------------*/

/* Submit what is due, cancel what is due, pause and resume at whim. Returns the next due time. */
static int64_t act(sim *s)
{
    int64_t next = INT64_MAX;
    for (int i = 0; i < s->n_jobs; i++) {
        sim_job *j = &s->jobs[i];
        if (!j->is_submitted && j->arrive_us <= s->clock.t_us) {
            qh_core_submit(s->core, (qh_job_id)i + 1, copy_gen(j->spec), &j->flags, s->clock.t_us);
            j->is_submitted = true;
        }
        if (!j->is_submitted && j->arrive_us < next) next = j->arrive_us;
        if (!j->is_submitted) continue;
        if (j->cancel_us <= s->clock.t_us) atomic_fetch_or(&j->flags, QH_FLAG_CANCEL);
        else if (j->cancel_us < next) next = j->cancel_us;
        if (j->n_pauses > 0 && chance(10)) {
            atomic_fetch_xor(&j->flags, QH_FLAG_PAUSED);
            j->n_pauses--;
        }
    }
    return next;
}

static bool all_done(const sim *s)
{
    for (int i = 0; i < s->n_jobs; i++)
        for (int c = 0; c < s->jobs[i].spec->n_choices; c++)
            if (!s->jobs[i].out[c].is_done) return false;
    return true;
}

static void run_sim(sim *s)
{
    int n_idle = 0;
    for (int step = 0; !all_done(s); step++) {
        CHECK(step < 200000);
        int64_t due = act(s);
        qh_engine_stats st;
        qh_stats_get(qh_core_stats(s->core), &st);
        int64_t n_before = s->fake.n_steps, n_preempted = st.n_preemptions;
        bool did = qh_core_step(s->core);
        qh_stats_get(qh_core_stats(s->core), &st);
        /* A step may do no more than preempt: pages that victims share are free only afterwards. */
        CHECK(!s->is_calm || st.n_running == 0 || s->fake.n_steps > n_before || st.n_preemptions > n_preempted);
        qh_core_check(s->core);
        did |= answer(s);
        bool had_events = s->n_events > 0;
        if (chance((uint32_t)s->poll_percent)) receive(s);
        n_idle = did || had_events ? 0 : n_idle + 1;
        if (did || had_events) continue;
        /* Idle: time passes to the next thing due. */
        int64_t wake = qh_core_wake_us(s->core);
        if (wake < due) due = wake;
        if (due < INT64_MAX && due > s->clock.t_us) s->clock.t_us = due;
        CHECK(n_idle < 1000);       /* every pause ends */
    }
}

/* Judging ----------------------------------------------------------------------------------------*/

/* A policy that changes nothing is a top_k of what it wants. */
static void without_policy(qh_gen *g)
{
    qh_sampling *p = &g->sampling;
    if (g->policy && (p->top_k == 0 || p->top_k > g->policy->top)) p->top_k = g->policy->top;
}

static void judge_choice(const sim *s, const sim_job *j, int c)
{
    without_policy(j->spec);
    const outcome *o = &j->out[c];
    const slow_model m = {s->vocab, N_VOCAB, qh_core_limits(s->core)->max_context, EOS};
    slow_result want;
    slow_run(&m, j->spec, c, &want);
    bool is_cut = o->finish == QH_FINISH_CANCELED || o->finish == QH_FINISH_ERROR;
    if (o->finish == QH_FINISH_ERROR) CHECK(o->status == QH_ETIMEDOUT && j->spec->deadline_us > 0);
    if (o->finish == QH_FINISH_CANCELED) CHECK(j->cancel_us < INT64_MAX);
    CHECK(is_cut ? o->tokens.len <= want.tokens.len : o->tokens.len == want.tokens.len);
    for (int i = 0; i < o->tokens.len; i++) CHECK_INT(o->tokens.ids[i], want.tokens.ids[i]);
    CHECK_INT(o->usage.n_completion, o->tokens.len);
    CHECK_INT(o->usage.n_prompt, j->spec->prompt.len);
    CHECK(o->usage.n_cached < j->spec->prompt.len);
    if (!is_cut) {
        CHECK_INT(o->finish, want.finish);
        CHECK_INT(o->has_stop_match, want.stop_match >= 0);
        CHECK(o->text.len == want.text.len &&
              !memcmp(qh_str_z(&o->text), qh_str_z(&want.text), want.text.len));
    }
    bool has_logprobs = j->spec->logprobs || j->spec->top_logprobs;
    for (int i = 0; has_logprobs && i < o->tokens.len; i++)
        CHECK(fabsf(o->logprobs[o->n_prompt_infos + i] - want.logprobs[i]) < 1e-5f);
    if (j->spec->prompt_logprobs && c == 0 && o->tokens.len) {
        CHECK_INT(o->n_prompt_infos, j->spec->prompt.len - 1);
        for (int i = 0; i < o->n_prompt_infos; i++)
            CHECK(fabsf(o->logprobs[i] - want.prompt_logprobs[i]) < 1e-5f);
    }
    slow_result_deinit(&want);
}

static int env_int(const char *name, int otherwise)
{
    const char *v = getenv(name);
    return v && *v ? atoi(v) : otherwise;
}

TEST(random_workloads_give_what_each_request_gives_alone)
{
    int n_runs = env_int("QH_SIM_RUNS", 1500), first = env_int("QH_SIM_SEED", 1);
    int64_t n_preempted = 0, n_cached = 0, n_copies = 0, n_steps = 0, n_jobs = 0,
            n_turns = 0;
    for (int r = 0; r < n_runs; r++) {
        static sim s;
        qh_engine_stats st;
        print_message(r % 250 ? "" : "workload %d\n", first + r);
        open_sim(&s, (uint64_t)(first + r));
        run_sim(&s);
        for (int i = 0; i < s.n_jobs; i++)
            for (int c = 0; c < s.jobs[i].spec->n_choices; c++) judge_choice(&s, &s.jobs[i], c);
        qh_stats_get(qh_core_stats(s.core), &st);
        n_preempted += st.n_preemptions, n_cached += st.n_cached_tokens, n_steps += st.n_steps;
        n_copies += s.fake.n_copies, n_jobs += s.n_jobs;
        n_turns += s.policies[0].n_asked + s.policies[1].n_asked;
        close_sim(&s);
    }
    print_message("%d workloads, %lld jobs, %lld steps, %lld preemptions, %lld cached tokens, %lld "
                  "page copies, %lld turns of policies\n",
                  n_runs, (long long)n_jobs, (long long)n_steps, (long long)n_preempted,
                  (long long)n_cached, (long long)n_copies,
                  (long long)n_turns);
    CHECK(n_preempted > n_runs / 10 && n_cached > n_runs && n_copies > n_runs / 10 &&
          n_turns > n_runs * 10);    /* the workloads do bite */
}
TEST_MAIN()
