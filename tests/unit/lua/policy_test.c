/* Policies in their VMs and on their thread: what they may do, what ends them, and that a sequence with a policy
 * gives the tokens of the sampler in C that does the same. */
#include "test.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "fake_backend.h"
#include "fake_vocab.h"
#include "lua/policies.h"
#include "lua/vm/candidates.h"
#include "lua/vm/mind.h"
#include <math.h>
#include <stdatomic.h>

enum { N_VOCAB = 300, EOS = N_VOCAB - 1 };

/* One mind, without a thread ---------------------------------------------------------------------*/

typedef struct {
    qh_vocab *vocab;
    qh_budget *budget;
    qh_mind *mind;
    qh_turn *turn;
    void *code;
    qh_err err;
} mind_fixture;

static qh_policy no_policy = {.n_refs = 1, .top = QH_POLICY_MAX_TOP};

/* Candidates 10, 11, ...: logits 0, -1, -2, ... in no order. */
static void fill_turn(mind_fixture *f, int n, int n_out)
{
    qh_turn *t = f->turn;
    t->vocab = f->vocab;
    t->temperature = 1;
    t->n_prompt = 4, t->max_tokens = 100, t->n_out = n_out;
    t->noise = (qh_noise){7, 0, (uint32_t)(4 + n_out)};
    t->n = n;
    t->max = 0;
    for (int i = 0; i < n; i++) {
        int k = (i * 7 + 3) % n;
        t->cands[i] = (qh_cand){.id = 10 + k, .logit = -(float)k};
    }
}

static qh_status open_mind(mind_fixture *f, const char *text, const char *params, int budget_us)
{
    *f = (mind_fixture){.vocab = fake_vocab(N_VOCAB)};
    qh_mind_module m = {
        .name = "test", .chunk = "@p.lua", .code = text, .len_bytes = strlen(text), .budget_us = budget_us};
    json_t *p = json_loads(params, 0, NULL);
    CHECK(p);
    CHECK_OK(qh_budget_new(&f->budget, &f->err));
    f->turn = qh_turn_new(&no_policy, false, 0);
    fill_turn(f, 16, 0);
    qh_status st = qh_mind_compile(&m, &f->code, &m.len_bytes, &f->err);
    m.code = f->code;
    if (!st) st = qh_mind_new(&f->mind, &m, f->turn, p, f->budget, &f->err);
    json_decref(p);
    return st;
}

static void close_mind(mind_fixture *f)
{
    qh_mind_free(f->mind);
    qh_turn_free(f->turn);
    qh_budget_free(f->budget);
    qh_free(f->code);
    qh_vocab_free(f->vocab);
}

enum { PLENTY_US = 10000 };

/* Run one turn of a policy whose logits has this body. */
static void run_logits(mind_fixture *f, const char *body)
{
    char text[2000];
    snprintf(text, sizeof text, "return { logits = function(cand, st, row) %s end }", body);
    if (open_mind(f, text, "{}", PLENTY_US)) fail_msg("%s: %s", body, f->err.msg);
    qh_mind_take_turn(f->mind, f->turn, f->budget);
}

static void check_left(const char *body, int n, qh_token first)
{
    mind_fixture f;
    run_logits(&f, body);
    if (f.turn->verdict) print_error("%s: %s\n", body, f.turn->message);
    CHECK_INT(f.turn->verdict, QH_TURN_TOKEN);
    CHECK_INT(f.turn->n, n);
    bool has_first = false;
    for (int i = 0; i < f.turn->n; i++) has_first |= f.turn->cands[i].id == first;
    CHECK(has_first);
    close_mind(&f);
}

static void check_fails(const char *body, const char *part)
{
    mind_fixture f;
    run_logits(&f, body);
    if (!strstr(f.turn->message, part))
        print_error("%s:\n  got  %s\n  want %s\n", body, f.turn->message, part);
    CHECK_INT(f.turn->verdict, QH_TURN_FAILED);
    CHECK(strstr(f.turn->message, part));
    close_mind(&f);
}

TEST(candidates_are_in_order_with_the_probabilities_of_what_is_left)
{
    check_left("assert(#cand == 16 and cand:id(1) == 10 and cand:id(16) == 25 and cand:id(17) == nil)", 16, 10);
    check_left("local sum = 0 for i = 1, #cand do sum = sum + cand:prob(i) end assert(math.abs(sum - 1) < 1e-6)", 16, 10);
    check_left("assert(math.abs(cand:prob(1) / cand:prob(2) - math.exp(1)) < 1e-4 and cand:prob(99) == 0)", 16, 10);
    check_left("cand:ban(10) assert(cand:id(1) == 11 and math.abs(cand:prob(1) - (1 - math.exp(-1))) < 1e-2)", 15, 11);
    check_left("assert(math.abs(cand:logit(3) + 2) < 1e-6 and cand:text(1) == 'k')", 16, 10);
    check_left("assert(math.abs(cand:entropy() - 1.04065) < 1e-3)", 16, 10);
    check_left("local a = cand:coin() assert(a == cand:coin() and a > 0 and a < 1)", 16, 10);
}

TEST(what_removes_candidates_removes_the_unlikely_ones)
{
    check_left("cand:top_k(3) assert(cand:id(3) == 12)", 3, 10);
    check_left("cand:top_k(99)", 16, 10);
    check_left("cand:top_p(0.8)", 2, 11);       /* 0.632 + 0.233 */
    check_left("cand:top_p(0)", 1, 10);
    check_left("cand:min_p(0.05)", 3, 12);      /* e^-2 = 0.135, e^-3 = 0.0498 */
    check_left("cand:min_p(0):min_p(1)", 1, 10);
    check_left("cand:keep{12, 99, 14, 12}", 2, 14);
    check_left("cand:ban(3)", 16, 10);
    check_left("cand:ban(10):ban(11):top_k(2)", 2, 13);
    check_left("cand:bias(20, 100) assert(cand:id(1) == 20)", 16, 20);
    check_left("cand:bias(10, -math.huge)", 15, 11);
    check_left("cand:scale(2) assert(math.abs(cand:prob(2) / cand:prob(1) - math.exp(-2)) < 1e-4)", 16, 10);
    check_left("assert(cand:temperature() == 1) cand:temperature(0) assert(cand:temperature() == 0)", 16, 10);
}

TEST(misuse_is_an_error_with_its_place)
{
    check_fails("for i = 1, 99 do cand:ban(cand:id(1) or 0) end", "no candidate");
    check_fails("cand:top_k(0)", "p.lua:1");
    check_fails("cand:top_p(1.5)", "top_p is 1.5");
    check_fails("cand:temperature(0/0)", "temperature");
    check_fails("cand:bias(10, 0/0)", "bias");
    check_fails("cand:keep{'x'}", "token ids");
    check_fails("cand:prob(0)", "count from 1");
    check_fails("cand.prob(nil, 1)", "candidates");
    check_fails("error({})", "no text");
    check_fails("x = 1", "make 'x' local");
}

TEST(there_is_nothing_that_waits_reads_or_catches)
{
    static const char *const GONE[] = {
        "io", "os", "debug", "package", "require", "coroutine", "load", "loadstring", "dofile",
        "loadfile", "pcall", "xpcall", "print", "setmetatable", "getmetatable", "collectgarbage",
        "rawset", "rawget", "_G", "math.random", "math.randomseed", "string.rep", "string.find",
        "string.gsub", "string.dump", "string.gmatch", "table.move", "('x').rep", "('x').find"};
    for (size_t i = 0; i < sizeof GONE / sizeof *GONE; i++) {
        char body[100];
        snprintf(body, sizeof body, "assert(%s == nil, 'it is there')", GONE[i]);
        check_left(body, 16, 10);
    }
}

TEST(the_state_is_of_the_sequence_and_logits_only_reads_it)
{
    mind_fixture f;
    const char *text = "local n = 0\n"
                       "local P = {}\n"
                       "function P.init(seq, p) return { n = 0, list = { 5, 6 }, from = p.from,\n"
                       "  facts = seq.n_prompt == 4 and seq.max_tokens == 100 and seq.eos == 299 } end\n"
                       "function P.logits(cand, st, row)\n"
                       "  assert(st.n == row.n_out and st.facts and st.from.a[2] == 'x' and row.position == 4 + st.n)\n"
                       "  local k = 0 for _ in pairs(st) do k = k + 1 end assert(k == 4)\n"
                       "  if st.n == 2 then st.n = 9 end\n"
                       "end\n"
                       "function P.accept(st, tok, row) n = n + 1 st.n = st.n + 1\n"
                       "  assert(n == st.n and row.n_out == n and row.prob > 0 and row.prob <= 1 and tok >= 10) end\n"
                       "return P\n";
    CHECK_OK(open_mind(&f, text, "{\"from\": {\"a\": [1, \"x\"]}}", PLENTY_US));
    for (int i = 0; i < 3; i++) {
        fill_turn(&f, 16, i);
        qh_mind_take_turn(f.mind, f.turn, f.budget);
        if (i < 2) CHECK_STR(f.turn->message, "");
    }
    CHECK_INT(f.turn->verdict, QH_TURN_FAILED);
    CHECK(strstr(f.turn->message, "p.lua:8") && strstr(f.turn->message, "accept can"));
    close_mind(&f);
}

static void check_accept(const char *returns, qh_turn_verdict verdict, const char *reason)
{
    mind_fixture f;
    char text[300];
    snprintf(text, sizeof text, "return { accept = function() return %s end }", returns);
    CHECK_OK(open_mind(&f, text, "{}", PLENTY_US));
    qh_mind_take_turn(f.mind, f.turn, f.budget);
    CHECK_INT(f.turn->verdict, verdict);
    CHECK_STR(f.turn->reason, reason);
    close_mind(&f);
}

TEST(accept_goes_on_or_stops_with_a_word)
{
    check_accept("nil", QH_TURN_TOKEN, "");
    check_accept("'stop'", QH_TURN_STOP, "");
    check_accept("'stop', 'low_confidence'", QH_TURN_STOP, "low_confidence");
    check_accept("'stop', 'two words'", QH_TURN_FAILED, "");
    check_accept("'stop', 7 // 0.0", QH_TURN_FAILED, "");
    check_accept("'halt'", QH_TURN_FAILED, "");
    check_accept("true", QH_TURN_FAILED, "");
}

/* Who does not end is stopped; the limit is a few milliseconds of CPU, here with much room. */
static void check_stopped(const char *text, int max_turns)
{
    mind_fixture f;
    int64_t begin = qh_now_us();
    if (!open_mind(&f, text, "{}", 1))
        for (int i = 0; i < max_turns && !f.turn->verdict; i++) {
            fill_turn(&f, 16, i);
            qh_mind_take_turn(f.mind, f.turn, f.budget);
        }
    if (f.mind) CHECK_INT(f.turn->verdict, QH_TURN_TIMED_OUT);
    else CHECK_INT(f.err.status, QH_ETIMEDOUT);
    CHECK(strstr(f.mind ? f.turn->message : f.err.msg, "CPU a call"));
    CHECK(qh_now_us() - begin < 5000000);
    close_mind(&f);
}

/* The thread sanitizer delivers signals at calls into libc only, and a loop in Lua makes none. */
#ifdef __SANITIZE_THREAD__
enum { CAN_STOP_LOOPS = false };
#else
enum { CAN_STOP_LOOPS = true };
#endif

TEST(a_policy_that_takes_too_long_is_stopped)
{
    if (!CAN_STOP_LOOPS) SKIP("no signals within loops under this sanitizer");
    check_stopped("return { logits = function() while true do end end }", 1);
    check_stopped("return { accept = function() for i = 1, 1e18 do end end }", 1);
    check_stopped("return { logits = function() local t = {} for i = 1, 1e9 do t[i % 7] = { i } end end }", 1);
    check_stopped("while true do end", 1);
    check_stopped("return { init = function() while true do end end, logits = print }", 1);
    check_stopped("return { logits = function() for i = 1, 20000 do end end }", 100000);
}

TEST(a_policy_within_its_budget_lives_however_many_tokens_it_sees)
{
    mind_fixture f;
    CHECK_OK(open_mind(&f, "return { logits = function(c) c:min_p(0.1) for i = 1, 100 do end end }", "{}", PLENTY_US));
    for (int i = 0; i < 5000; i++) {
        fill_turn(&f, 16, i);
        qh_mind_take_turn(f.mind, f.turn, f.budget);
        CHECK_INT(f.turn->verdict, QH_TURN_TOKEN);
    }
    close_mind(&f);
}

TEST(memory_beyond_the_limit_is_an_error_and_deep_recursion_too)
{
    check_fails("local s = 'x' for i = 1, 40 do s = s .. s end", "not enough memory");
    check_fails("local t = {} for i = 1, 1e7 do t[i] = i end", "not enough memory");
    check_fails("local function f() return 1 + f() end f()", "");
    check_fails("local t = {} table.unpack(t, 1, 1e6)", "");
}

TEST(a_module_that_does_not_run_is_an_error_with_its_line)
{
    static const struct {
        const char *text, *part;
    } CASES[] = {{"return {", "p.lua:1"},
                 {"\nerror 'no'", "p.lua:2: no"},
                 {"return 5", "number"},
                 {"return { logits = 5 }", "logits is a number"},
                 {"return { init = function() error 'bad' end, logits = print }", "bad"},
                 {"\x1bLua", "binary chunk"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        mind_fixture f;
        CHECK_STATUS(open_mind(&f, CASES[i].text, "{}", PLENTY_US), QH_ESCRIPT);
        if (!strstr(f.err.msg, CASES[i].part)) print_error("%s: %s\n", CASES[i].text, f.err.msg);
        CHECK(!f.mind && strstr(f.err.msg, CASES[i].part));
        close_mind(&f);
    }
}

/* With an engine ---------------------------------------------------------------------------------*/

typedef struct {
    qh_vocab *vocab;
    qh_tokenizer *tokenizer;
    fake_backend fake;
    qh_engine *engine;
    qh_policies *policies;
} host;

static void open_host(host *h)
{
    const qh_desc desc = {.n_vocab = N_VOCAB, .n_ctx_train = 4096};
    qh_err err = {0};
    h->vocab = fake_vocab(N_VOCAB);
    fake_open(&h->fake, &(fake_config){.limits = {128, 128, 16, 32, 4096}, .n_vocab = N_VOCAB,
                                       .eos = EOS, .vocab = h->vocab});
    CHECK_OK(qh_engine_new(&h->engine, &h->fake.base, &desc, NULL, &(qh_engine_config){.max_seqs = 16}, &err));
    CHECK_OK(qh_policies_new(&h->policies, &err));
}

static void close_host(host *h)
{
    qh_policies_close(h->policies);
    qh_engine_free(h->engine);
    fake_deinit(&h->fake);
    qh_vocab_free(h->vocab);
}

static qh_policy *policy_of(host *h, const char *text, const char *params, int top, int budget_us)
{
    qh_policy_module *m;
    qh_err err = {0};
    const qh_policy_spec spec = {.name = "test", .chunk = "@p.lua", .text = text,
                                 .len_bytes = strlen(text), .top = top, .budget_us = budget_us};
    if (qh_policy_module_new(&m, &spec, &err)) fail_msg("%s", err.msg);
    qh_policy *p = qh_policies_bind(h->policies, m, json_loads(params, 0, NULL));
    qh_policy_module_unref(m);      /* the bound policy keeps its version */
    return p;
}

static qh_gen *a_gen(int i, qh_policy *policy)
{
    qh_gen *g = qh_gen_new();
    for (qh_token k = 0; k < 20 + i; k++) {
        qh_token t = (k * 7 + k / 5 + i) % (N_VOCAB - 1);
        CHECK_OK(qh_tokens_append(&g->prompt, &t, 1));
    }
    g->max_tokens = 30;
    g->sampling.seed = (uint64_t)i;
    g->sampling.has_seed = true;
    g->policy = policy;
    return g;
}

typedef struct {
    qh_tokens tokens;
    qh_finish finish;
    char reason[64];
    char message[300];
} outcome;

/* Submits all at once and waits for them. n_choices is 1. */
static void run_all(host *h, qh_gen **gens, int n, outcome *out)
{
    qh_job_id ids[32];
    qh_err err = {0};
    int n_left = n;
    for (int i = 0; i < n; i++) {
        out[i] = (outcome){0};
        if (qh_engine_submit(h->engine, gens[i], &ids[i], &err)) fail_msg("%s", err.msg);
    }
    for (int64_t until = qh_now_us() + 20000000; n_left > 0;) {
        qh_event e;
        CHECK(qh_now_us() < until);
        if (qh_engine_poll(h->engine, &e)) {
            qh_sleep_us(200);
            continue;
        }
        for (int i = 0; i < n; i++) {
            if (ids[i] != e.job) continue;
            for (int k = 0; k < e.n_tokens; k++)
                CHECK_OK(qh_tokens_append(&out[i].tokens, &e.tokens[k].id, 1));
            if (e.type != QH_EVENT_DONE) continue;
            out[i].finish = e.finish;
            snprintf(out[i].reason, sizeof out[i].reason, "%s", e.reason ? e.reason : "");
            snprintf(out[i].message, sizeof out[i].message, "%.299s", e.message ? e.message : "");
            n_left--;
        }
        qh_event_deinit(&e);
    }
}

static void check_same(const outcome *a, const outcome *b)
{
    CHECK_INT(a->finish, b->finish);
    CHECK_INT(a->tokens.len, b->tokens.len);
    CHECK(!memcmp(a->tokens.ids, b->tokens.ids, sizeof(qh_token) * (size_t)a->tokens.len));
}

static void free_outcomes(outcome *o, int n)
{
    for (int i = 0; i < n; i++) qh_tokens_deinit(&o[i].tokens);
}

static void set_nothing(qh_sampling *s) { (void)s; }
static void set_steps(qh_sampling *s)
{
    s->top_k = 20, s->top_p = 0.9f, s->min_p = 0.02f, s->temperature = 0.7f;
}
static void set_greedy(qh_sampling *s) { s->temperature = 0; }

TEST(a_policy_in_lua_gives_the_tokens_of_the_sampler_in_c_that_does_the_same)
{
    static const struct {
        const char *text;
        void (*set)(qh_sampling *);
    } CASES[] = {
        {"return { logits = function() end }", set_nothing},
        {"return { accept = function() end }", set_nothing},
        {"return { logits = function(c) c:top_k(20):top_p(0.9):min_p(0.02):temperature(0.7) end }", set_steps},
        {"return { logits = function(c) c:scale(1):temperature(0) end }", set_greedy},
    };
    static host h;
    open_host(&h);
    for (size_t k = 0; k < sizeof CASES / sizeof *CASES; k++) {
        qh_gen *with[8], *without[8];
        outcome a[8], b[8];
        for (int i = 0; i < 8; i++) {
            with[i] = a_gen(i, policy_of(&h, CASES[k].text, "{}", 64, PLENTY_US));
            without[i] = a_gen(i, NULL);
            without[i]->sampling.top_k = 64;
            CASES[k].set(&without[i]->sampling);
        }
        run_all(&h, with, 8, a);
        run_all(&h, without, 8, b);
        for (int i = 0; i < 8; i++) check_same(&a[i], &b[i]);
        free_outcomes(a, 8);
        free_outcomes(b, 8);
    }
    close_host(&h);
}

TEST(a_bad_policy_ends_its_own_sequence_and_leaves_the_others_alone)
{
    static host h;
    open_host(&h);
    const char *const BAD[] = {
        "return { logits = function(c, s, row) if row.n_out == 3 then error 'no' end end }",
        CAN_STOP_LOOPS ? "return { logits = function(c, s, row) while row.n_out == 3 do end end }"
                       : "return { logits = function(c, s, row) if row.n_out == 3 then for i = 1, 1e8 do end end end }",
        "return { accept = function(s, t, row) if row.n_out == 3 then return 'stop', 'three' end end }",
        "return { init = function() error 'never' end, logits = print }",
        "return { logits = function(c) for i = 1, 99 do c:ban(c:id(1) or 0) end end }"};
    static const char *const REASONS[] = {"policy_error", "policy_timeout", "three", "policy_error", "policy_error"};
    static const int N[] = {3, 3, 3, 0, 0};
    qh_gen *gens[10];
    outcome alone[10], crowd[10];
    for (int i = 0; i < 5; i++) gens[i] = a_gen(i, policy_of(&h, "return { logits = function(c) c:top_k(5) end }", "{}", 64, PLENTY_US));
    run_all(&h, gens, 5, alone);
    for (int i = 0; i < 5; i++) {
        gens[i] = a_gen(i, policy_of(&h, "return { logits = function(c) c:top_k(5) end }", "{}", 64, PLENTY_US));
        gens[5 + i] = a_gen(5 + i, policy_of(&h, BAD[i], "{}", 64, 100));
    }
    run_all(&h, gens, 10, crowd);
    for (int i = 0; i < 5; i++) {
        check_same(&alone[i], &crowd[i]);
        CHECK_INT(crowd[5 + i].finish, QH_FINISH_POLICY);
        CHECK_STR(crowd[5 + i].reason, REASONS[i]);
        CHECK_INT(crowd[5 + i].tokens.len, N[i]);
    }
    free_outcomes(alone, 5);
    free_outcomes(crowd, 10);
    close_host(&h);
}

TEST(whatever_ends_first_engine_or_thread_every_turn_is_answered)
{
    for (int order = 0; order < 2; order++) {
        for (int round = 0; round < 10; round++) {
            static host h;
            qh_job_id id;
            open_host(&h);
            for (int i = 0; i < 8; i++) {
                qh_gen *g = a_gen(i, policy_of(&h, "return { logits = function(c) c:entropy() end }", "{}", 200, PLENTY_US));
                g->max_tokens = 4000, g->ignore_eos = true;
                g->n_choices = 2;
                CHECK_OK(qh_engine_submit(h.engine, g, &id, NULL));
                if (i % 3 == 0) qh_engine_cancel(h.engine, id);
            }
            qh_sleep_us(500 * round);
            if (order == 0) {
                qh_policies_close(h.policies);
                qh_engine_free(h.engine);
            } else {
                qh_engine_free(h.engine);
                qh_policies_close(h.policies);
            }
            fake_deinit(&h.fake);
            qh_vocab_free(h.vocab);
        }
    }
}

TEST(a_module_out_of_range_is_refused_by_its_number)
{
    qh_policy_module *m;
    qh_err err = {0};
    qh_policy_spec spec = {.name = "x", .chunk = "@x", .text = "", .top = 257, .budget_us = 50};
    CHECK_STATUS(qh_policy_module_new(&m, &spec, &err), QH_EINVAL);
    CHECK(strstr(err.msg, "top is 257") && !m);
    qh_err_clear(&err);
    spec.top = 1, spec.budget_us = 0;
    CHECK_STATUS(qh_policy_module_new(&m, &spec, &err), QH_EINVAL);
    CHECK(strstr(err.msg, "budget_us is 0"));
}

/* Every method of the candidates is in the manual, as a field of their class. */
TEST(the_manual_names_every_method_of_the_candidates)
{
    static char manual[400000];
    FILE *file = fopen(QH_SOURCE_DIR "/lua/types/qhost.lua", "r");
    CHECK(file);
    manual[fread(manual, 1, sizeof manual - 1, file)] = 0;
    fclose(file);
    for (const char *const *name = qh_candidates_methods; *name; name++) {
        char field[80];
        snprintf(field, sizeof field, "---@field %s fun(self: qhost.Candidates", *name);
        if (!strstr(manual, field)) print_error("not in the manual: %s\n", *name);
        CHECK(strstr(manual, field));
    }
}

TEST_MAIN()
