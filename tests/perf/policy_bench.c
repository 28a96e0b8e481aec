/* policy_bench.c - what a sampling policy in Lua costs.
 *
 *     policy_bench FOLDER [MODEL.gguf [ROUNDS]]      FOLDER: the policies that ship, lua/policies
 *
 * First a token alone: CPU of the policy thread's part (logits, draw, accept) over 64 candidates, for the
 * policy that does the steps of the second part, and for each that ships. The best of several rounds.
 *
 * Then, with a model, 32 streams on the CPU backend, by turns with the policy and with the sampler in C
 * that does the same steps: top_k 64, min_p 0.05, temperature 0.8. The tokens are compared. Figures are
 * medians, and the median of the ratios of neighbouring runs, for the machine's own speed drifts. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "kernels/cpu/cpu_backend.h"
#include "lua/policies.h"
#include "lua/vm/mind.h"
#include "model/model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { N_CANDIDATES = 64, N_TURNS = 20000, N_STREAMS = 32, N_TOKENS = 48, MAX_ROUNDS = 64 };

static const char SAME_STEPS[] = "return { top = 64, logits = function(cand, st, row)\n"
                                 "  cand:min_p(0.05):temperature(0.8) end }";

static void die(const char *what, const qh_err *err)
{
    fprintf(stderr, "policy_bench: %s: %s\n", what, err->msg);
    exit(1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, compare);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- a token alone ---- */

static double thread_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static qh_vocab *small_vocab(void)
{
    enum { N = 512 };
    static char text[N][8];
    static qh_slice pieces[N];
    static int32_t types[N];
    qh_err err = {0};
    qh_vocab *v;
    for (int i = 0; i < N; i++) {
        snprintf(text[i], sizeof text[i], "t%d", i);
        pieces[i] = (qh_slice){text[i], strlen(text[i])};
        types[i] = QH_TOKEN_NORMAL;
    }
    const qh_vocab_spec spec = {.kind = QH_TOKENIZER_BPE, .pretokenizer = "gpt-2", .n_tokens = N,
                                .pieces = pieces, .types = types, .bos = QH_NO_TOKEN, .eos = N - 1,
                                .eot = QH_NO_TOKEN, .unk = QH_NO_TOKEN, .pad = QH_NO_TOKEN};
    if (qh_vocab_new(&v, &spec, &err)) die("vocabulary", &err);
    return v;
}

/* Logits as a model gives them: a few likely tokens, a long tail. They differ from token to token. */
static void fill(qh_turn *t, int n_out)
{
    t->n = N_CANDIDATES, t->n_out = n_out, t->temperature = 1, t->max = -INFINITY;
    t->noise = (qh_noise){1, 0, (uint32_t)n_out};
    for (int i = 0; i < N_CANDIDATES; i++) {
        uint32_t r = qh_rng_philox(3, 0, (uint64_t)(n_out % 64 * N_CANDIDATES + i)).v[0];
        float x = -2.0f * logf((float)(i + 1)) + 2 * qh_rng_unit(r);
        t->cands[i] = (qh_cand){.id = (i * 37 + n_out) % 500, .logit = x};
        t->max = fmaxf(t->max, x);
    }
}

static double cost_of(const char *name, const char *text, qh_budget *budget)
{
    static qh_policy none = {.n_refs = 1, .top = N_CANDIDATES};
    qh_err err = {0};
    void *code;
    qh_mind_module m = {.name = name, .chunk = "=p", .code = text, .len_bytes = strlen(text), .budget_us = 10000};
    if (qh_mind_compile(&m, &code, &m.len_bytes, &err)) die(name, &err);
    m.code = code;
    qh_vocab *vocab = small_vocab();
    json_t *params = json_object();
    double best = INFINITY;
    for (int round = 0; round < 5; round++) {
        qh_mind *mind;
        qh_turn *t = qh_turn_new(&none, false, 0);
        t->vocab = vocab, t->max_tokens = N_TURNS;
        if (qh_mind_new(&mind, &m, t, params, budget, &err)) die(name, &err);
        double us = 0;
        for (int i = 0; i < N_TURNS && t->verdict != QH_TURN_FAILED; i++) {
            fill(t, i);
            double begin = thread_us();
            qh_mind_take_turn(mind, t, budget);
            us += thread_us() - begin;
        }
        if (t->verdict == QH_TURN_FAILED) fprintf(stderr, "%s: %s\n", name, t->message), exit(1);
        us /= t->n_out + 1;
        best = us < best ? us : best;
        qh_mind_free(mind);
        qh_turn_free(t);
    }
    json_decref(params);
    qh_vocab_free(vocab);
    qh_free(code);
    return best;
}

static char *read_file(const char *folder, const char *name)
{
    char path[1000];
    snprintf(path, sizeof path, "%s/%s.lua", folder, name);
    FILE *f = fopen(path, "r");
    char *text = qh_alloc0(1 << 16);
    if (!f || !fread(text, 1, (1 << 16) - 1, f)) fprintf(stderr, "%s cannot be read\n", path), exit(1);
    fclose(f);
    return text;
}

static void print_costs(const char *folder)
{
    static const char *const NAMES[] = {"cautious", "schedule", "repetition", "mirostat", "entropy"};
    qh_err err = {0};
    qh_budget *budget;
    if (qh_budget_new(&budget, &err)) die("watchdog", &err);
    printf("a token over %d candidates, us of CPU on the policy thread\n", N_CANDIDATES);
    printf("  %-12s %6.2f\n", "min_p+temp", cost_of("steps", SAME_STEPS, budget));
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        char *text = read_file(folder, NAMES[i]);
        printf("  %-12s %6.2f\n", NAMES[i], cost_of(NAMES[i], text, budget));
        qh_free(text);
    }
    qh_budget_free(budget);
}

/* ---- 32 streams ---- */

typedef struct {
    double tokens_per_s, cpu_us;    /* cpu: of the process, a token */
    uint64_t sum;                   /* of the tokens, to compare */
    int n;
} result;

static double process_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static qh_gen *gen_of(const qh_tokens *prompt, int i, qh_policy *policy)
{
    qh_gen *g = qh_gen_new();
    if (qh_tokens_append(&g->prompt, prompt->ids, prompt->len)) abort();
    g->max_tokens = N_TOKENS;
    g->ignore_eos = true;
    g->sampling.has_seed = true;
    g->sampling.seed = (uint64_t)i;
    g->policy = policy;
    if (policy) return g;
    g->sampling.top_k = N_CANDIDATES;
    g->sampling.min_p = 0.05f;
    g->sampling.temperature = 0.8f;
    return g;
}

static result run(qh_engine *e, const qh_tokens *prompt, qh_policies *policies, qh_policy_module *module)
{
    qh_err err = {0};
    qh_job_id ids[N_STREAMS];
    result r = {0};
    int n_left = N_STREAMS;
    double cpu = process_us();
    int64_t begin = qh_now_us();
    for (int i = 0; i < N_STREAMS; i++) {
        qh_policy *p = module ? qh_policies_bind(policies, module, json_object()) : NULL;
        if (qh_engine_submit(e, gen_of(prompt, i, p), &ids[i], &err)) die("submit", &err);
    }
    while (n_left) {
        qh_event ev;
        if (qh_engine_poll(e, &ev)) {
            qh_sleep_us(2000);
            continue;
        }
        for (int k = 0; k < ev.n_tokens; k++)
            r.sum += (uint64_t)(ev.job - ids[0] + 1) * (uint64_t)(ev.tokens[k].id + 1), r.n++;
        if (ev.type == QH_EVENT_DONE) {
            if (ev.finish != QH_FINISH_LENGTH) fprintf(stderr, "a stream ended early: %s\n", ev.message ? ev.message : "?"), exit(1);
            n_left--;
        }
        qh_event_deinit(&ev);
    }
    r.tokens_per_s = r.n / ((double)(qh_now_us() - begin) * 1e-6);
    r.cpu_us = (process_us() - cpu) / r.n;
    return r;
}

static void compare_streams(const char *path, int n_rounds)
{
    qh_err err = {0};
    qh_model *model;
    qh_backend *be;
    qh_engine *e;
    qh_policies *policies;
    qh_policy_module *module;
    qh_tokens prompt = {0};
    static const char TEXT[] = "Once upon a time there was a lighthouse keeper who";
    const qh_policy_spec spec = {.name = "steps", .chunk = "=steps", .text = SAME_STEPS,
                                 .len_bytes = strlen(SAME_STEPS), .top = N_CANDIDATES, .budget_us = 50};
    if (qh_model_open(&model, path, &err)) die(path, &err);
    const qh_backend_limits limits = {.n_pages = 4 * N_STREAMS, .max_rows = 512, .max_seqs = N_STREAMS,
                                      .max_outputs = N_STREAMS, .max_context = 1024};
    const qh_cpu_options opt = {.isa = qh_isa_best(), .n_threads = qh_cpu_count()};
    if (qh_cpu_backend_open(&be, qh_model_desc(model), qh_model_weights(model), &limits, &opt, &err)) die("backend", &err);
    if (qh_engine_new(&e, be, qh_model_desc(model), qh_model_tokenizer(model), &(qh_engine_config){.max_seqs = N_STREAMS}, &err)) die("engine", &err);
    if (qh_policies_new(&policies, &err) || qh_policy_module_new(&module, &spec, &err)) die("policy", &err);
    if (qh_tokenizer_encode(qh_model_tokenizer(model), TEXT, strlen(TEXT), 0, &prompt, &err)) die("prompt", &err);

    double lua[MAX_ROUNDS], c[MAX_ROUNDS], ratio[MAX_ROUNDS], cpu_ratio[MAX_ROUNDS];
    run(e, &prompt, policies, module);              /* warm */
    for (int i = 0; i < n_rounds; i++) {
        bool lua_first = i % 2 == 0;
        result a = run(e, &prompt, policies, lua_first ? module : NULL);
        result b = run(e, &prompt, policies, lua_first ? NULL : module);
        result with = lua_first ? a : b, without = lua_first ? b : a;
        if (with.sum != without.sum) fprintf(stderr, "the tokens differ\n"), exit(1);
        lua[i] = with.tokens_per_s, c[i] = without.tokens_per_s;
        ratio[i] = with.tokens_per_s / without.tokens_per_s;
        cpu_ratio[i] = with.cpu_us / without.cpu_us;
    }
    printf("%d streams of %d tokens, %d threads, %d pairs of runs, the same tokens\n", N_STREAMS, N_TOKENS, opt.n_threads, n_rounds);
    printf("  tokens/s     policy %.1f, sampler in C %.1f (medians)\n", median(lua, n_rounds), median(c, n_rounds));
    printf("  rate         x %.3f (median of the pairs)\n", median(ratio, n_rounds));
    printf("  CPU a token  x %.3f (median of the pairs)\n", median(cpu_ratio, n_rounds));

    qh_engine_free(e);
    qh_policies_close(policies);
    qh_policy_module_unref(module);
    qh_tokens_deinit(&prompt);
    qh_model_close(model);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: policy_bench FOLDER [MODEL.gguf [ROUNDS]]\n");
        return 2;
    }
    int n_rounds = argc > 3 ? atoi(argv[3]) : 9;
    print_costs(argv[1]);
    if (argc > 2) compare_streams(argv[2], n_rounds < 1 ? 1 : n_rounds > MAX_ROUNDS ? MAX_ROUNDS : n_rounds);
    return 0;
}
