/* The policies that ship, each by what it promises: rows of known logits in, temperatures, cuts and ends out. */
#include "test.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fake_vocab.h"
#include "lua/policies.h"
#include "lua/vm/mind.h"
#include <math.h>
#include <stdio.h>

enum { N_VOCAB = 300, PLENTY_US = 10000 };

typedef struct {
    qh_vocab *vocab;
    qh_budget *budget;
    qh_mind *mind;
    qh_turn *turn;
    void *code;
} fixture;

static qh_policy no_policy = {.n_refs = 1, .top = QH_POLICY_MAX_TOP};

/* The text as it stands; caller frees. */
static char *read_policy(const char *name)
{
    char path[300];
    snprintf(path, sizeof path, QH_SOURCE_DIR "/lua/policies/%s.lua", name);
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s cannot be read", path);
    char *text = qh_alloc0(1 << 16);
    CHECK(fread(text, 1, (1 << 16) - 1, file) > 0);
    fclose(file);
    return text;
}

static void open_policy(fixture *f, const char *name, const char *params)
{
    char *text = read_policy(name);
    qh_err err = {0};
    json_t *p = json_loads(params, 0, NULL);
    *f = (fixture){.vocab = fake_vocab(N_VOCAB), .turn = qh_turn_new(&no_policy, false, 0)};
    qh_mind_module m = {.name = name, .chunk = "=p", .code = text, .len_bytes = strlen(text), .budget_us = PLENTY_US};
    f->turn->vocab = f->vocab;
    f->turn->max_tokens = 1000;
    CHECK_OK(qh_budget_new(&f->budget, &err));
    CHECK_OK(qh_mind_compile(&m, &f->code, &m.len_bytes, &err));
    m.code = f->code;
    if (qh_mind_new(&f->mind, &m, f->turn, p, f->budget, &err)) fail_msg("%s: %s", name, err.msg);
    json_decref(p);
    qh_free(text);
}

static void close_policy(fixture *f)
{
    qh_mind_free(f->mind);
    qh_turn_free(f->turn);
    qh_budget_free(f->budget);
    qh_free(f->code);
    qh_vocab_free(f->vocab);
}

/* A turn over these probabilities: ids 0, 1, ... */
static qh_turn *take(fixture *f, const double *probs, int n, int n_out)
{
    qh_turn *t = f->turn;
    t->n = n, t->n_out = n_out, t->temperature = 1, t->max = -INFINITY;
    t->noise = (qh_noise){11, 0, (uint32_t)n_out};
    for (int i = 0; i < n; i++) {
        t->cands[i] = (qh_cand){.id = i, .logit = (float)log(probs[i])};
        t->max = fmaxf(t->max, t->cands[i].logit);
    }
    qh_mind_take_turn(f->mind, t, f->budget);
    if (t->message[0]) print_error("%s\n", t->message);
    CHECK(t->verdict == QH_TURN_TOKEN || t->verdict == QH_TURN_STOP);
    return t;
}

static void check_near(double got, double want, double tolerance)
{
    if (fabs(got - want) > tolerance) print_error("got %g, want %g\n", got, want);
    CHECK(fabs(got - want) <= tolerance);
}

TEST(cautious_is_cold_where_the_model_is_sure_and_warm_where_it_is_not)
{
    static const double SURE[] = {0.8, 0.15, 0.05}, TORN[] = {0.4, 0.35, 0.25};
    fixture f;
    open_policy(&f, "cautious", "{}");
    check_near(take(&f, SURE, 3, 0)->temperature, 0.3, 1e-6);
    check_near(take(&f, TORN, 3, 1)->temperature, 0.9, 1e-6);
    close_policy(&f);
    open_policy(&f, "cautious", "{\"min_lead\": 0.9, \"warm\": 1.5, \"min_p\": 0.5}");
    qh_turn *t = take(&f, SURE, 3, 0);
    check_near(t->temperature, 0.3, 1e-6);      /* alone after min_p, so its lead is 1 */
    CHECK_INT(t->n, 1);
    close_policy(&f);
}

TEST(cautious_stops_when_it_has_lost_the_thread)
{
    double flat[20];
    fixture f;
    int n = 0;
    for (int i = 0; i < 20; i++) flat[i] = 0.05;
    open_policy(&f, "cautious", "{\"patience\": 4}");
    while (take(&f, flat, 20, n)->verdict == QH_TURN_TOKEN) n++;
    CHECK_INT(n, 3);
    CHECK_STR(f.turn->reason, "low_confidence");
    close_policy(&f);
}

TEST(schedule_moves_in_a_straight_line_and_stays)
{
    static const double P[] = {0.5, 0.5};
    fixture f;
    open_policy(&f, "schedule", "{\"from\": 2, \"to\": 0.5, \"over\": 10}");
    check_near(take(&f, P, 2, 0)->temperature, 2, 1e-6);
    check_near(take(&f, P, 2, 5)->temperature, 1.25, 1e-6);
    check_near(take(&f, P, 2, 10)->temperature, 0.5, 1e-6);
    check_near(take(&f, P, 2, 500)->temperature, 0.5, 1e-6);
    close_policy(&f);
}

/* A model that wants to say 0 1 2 0 1 2 ...; returns when a token left the loop, or the answer ended. */
static int until_it_breaks(const char *params, qh_turn_verdict *verdict)
{
    fixture f;
    int n = 0;
    open_policy(&f, "repetition", params);
    for (; n < 100; n++) {
        double p[4] = {1e-4, 1e-4, 1e-4, 1e-3};
        p[n % 3] = 0.9;
        qh_turn *t = take(&f, p, 4, n);
        *verdict = t->verdict;
        if (t->verdict == QH_TURN_STOP) CHECK_STR(t->reason, "repetition");
        if (t->token != n % 3 || t->verdict == QH_TURN_STOP) break;
    }
    close_policy(&f);
    return n;
}

TEST(repetition_makes_a_loop_unlikely_and_ends_one_that_goes_on)
{
    qh_turn_verdict verdict;
    int n = until_it_breaks("{\"penalty\": 5, \"length\": 3, \"times\": 1000}", &verdict);
    CHECK(n >= 5 && n < 20 && verdict == QH_TURN_TOKEN);    /* not before the run was there once */
    n = until_it_breaks("{\"penalty\": 0, \"times\": 6}", &verdict);
    CHECK_INT(n, 6 * 3 - 1);                    /* the token that completes the sixth time */
    CHECK_INT(verdict, QH_TURN_STOP);
}

TEST(repetition_leaves_a_text_without_runs_alone_however_long_it_is)
{
    fixture f;
    open_policy(&f, "repetition", "{}");
    for (int i = 0; i < 12000; i++) {
        double p[64];
        for (int k = 0; k < 64; k++) p[k] = qh_rng_unit(qh_rng_philox(5, 0, (uint64_t)(i * 64 + k)).v[0]);
        CHECK_INT(take(&f, p, 64, i)->verdict, QH_TURN_TOKEN);
    }
    close_policy(&f);
}

/* The surprise of what was drawn, on average over many tokens, in bits. */
static double surprise_of(const char *params)
{
    fixture f;
    double p[250], sum = 0, bits = 0;
    int n_counted = 0;
    for (int i = 0; i < 250; i++) sum += p[i] = pow(i + 1, -1.1);   /* as words are distributed */
    open_policy(&f, "mirostat", params);
    for (int n = 0; n < 3000; n++) {
        qh_token tok = take(&f, p, 250, n)->token;
        if (n < 500) continue;                  /* until mu has settled */
        bits += -log2(p[tok] / sum);
        n_counted++;
    }
    close_policy(&f);
    return bits / n_counted;
}

TEST(mirostat_keeps_the_surprise_near_its_target)
{
    check_near(surprise_of("{\"tau\": 2.6}"), 2.6, 0.1);    /* the best token alone has 2.2 */
    check_near(surprise_of("{\"tau\": 4}"), 4, 0.1);
    check_near(surprise_of("{\"tau\": 3, \"eta\": 0.3}"), 3, 0.1);
}

TEST(entropy_draws_coldly_where_the_model_is_sure)
{
    static const double SURE[] = {0.97, 0.02, 0.01};
    double flat[64];
    fixture f;
    for (int i = 0; i < 64; i++) flat[i] = 1.0 / 64;
    open_policy(&f, "entropy", "{}");
    double h = 0;
    for (int i = 0; i < 3; i++) h -= SURE[i] * log(SURE[i]);
    check_near(take(&f, SURE, 3, 0)->temperature, pow(0.8, 0.7 / h), 1e-4);
    check_near(take(&f, flat, 64, 1)->temperature, pow(0.8, 0.7 / log(64)), 1e-4);
    close_policy(&f);
    open_policy(&f, "entropy", "{\"t0\": 1.5, \"theta\": 1.5}");
    check_near(take(&f, flat, 64, 0)->temperature, 1.5 * pow(0.8, 1.5 / log(64)), 1e-4);
    check_near(take(&f, flat, 1, 1)->temperature, 0, 0);
    close_policy(&f);
}

TEST_MAIN()
