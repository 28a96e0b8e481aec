/* step_bench.c - speed of the CPU backend's steps on a model file, without an engine around them.
 *
 *     step_bench MODEL.gguf [-i LEVEL] [-t THREADS] [-p 512,4096] [-n 64] [-d 0,2048] [-b 1,8,32]
 *                [-c CHUNK] [-r ROUNDS] [-P]
 *
 * Prefill: each prompt length of -p in chunks of -c rows, logits of the last row. Decode: -n tokens
 * a sequence for each batch of -b at each depth of -d. Prints the median and the best of the rounds
 * in tokens a second, for decode also the rate at which weights, keys and values are read. -P adds
 * where the time went. Tokens are random: the speed of a dense model does not depend on them. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/thread.h"
#include "kernels/cpu/cpu_backend.h"
#include "model/gguf.h"
#include "model/weights.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LIST = 16, MAX_ROUNDS = 100 };

typedef struct {
    int at[MAX_LIST], n;
} list;

static struct {
    const char *path;
    qh_isa isa;
    int n_threads, n_decode, chunk, n_rounds;
    list prompts, depths, batches;
    bool is_profiled;
} opt = {.n_decode = 64,
         .chunk = 512,
         .n_rounds = 5,
         .prompts = {{512}, 1},
         .depths = {{0}, 1},
         .batches = {{1}, 1}};

static qh_backend *be;
static qh_desc desc;
static qh_backend_limits limits;

static void die(const char *what)
{
    fprintf(stderr, "step_bench: %s\n", what);
    exit(1);
}

static list parse_list(const char *s)
{
    list l = {.n = 0};
    for (char *end; *s && l.n < MAX_LIST; s = *end ? end + 1 : end) {
        l.at[l.n++] = (int)strtol(s, &end, 10);
        if (end == s) die("expected numbers separated by commas");
    }
    return l;
}

static int largest(list l)
{
    int most = 0;
    for (int i = 0; i < l.n; i++)
        if (l.at[i] > most) most = l.at[i];
    return most;
}

/* Sequence s owns pages s * per_seq and up. */
static int pages_per_seq(void)
{
    return (limits.max_context + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
}

static void run_step(int n_seqs, int n_rows_each, int n_past)
{
    static qh_token tokens[1 << 16];
    static int outputs[1 << 12];
    static qh_step_seq seqs[1 << 12];
    static qh_page *pages;
    static uint64_t counter;
    if (!pages) {
        pages = qh_alloc0((size_t)limits.n_pages * sizeof *pages);
        for (int i = 0; i < limits.n_pages; i++) pages[i] = i;
    }
    for (int s = 0; s < n_seqs; s++) {
        seqs[s] = (qh_step_seq){.first_row = s * n_rows_each,
                                .n_rows = n_rows_each,
                                .n_past = n_past,
                                .pages = pages + s * pages_per_seq()};
        outputs[s] = (s + 1) * n_rows_each - 1;
    }
    for (int i = 0; i < n_seqs * n_rows_each; i++)
        tokens[i] = (qh_token)(qh_rng_philox(1, 0, counter++).v[0] % (uint32_t)desc.n_vocab);
    const qh_step step = {.n_rows = n_seqs * n_rows_each,
                          .n_seqs = n_seqs,
                          .n_outputs = n_seqs,
                          .tokens = tokens,
                          .seqs = seqs,
                          .output_rows = outputs};
    qh_err err = {0};
    const float *logits;
    if (be->ops->submit(be, &step, &err) || be->ops->wait(be, &logits, &err)) die(err.msg);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_profile(const qh_cpu_profile *p, int n_threads, int n_tokens)
{
    static const char *const names[] = {
#define X(id, text) text,
        QH_CPU_REGION_LIST(X)
#undef X
    };
    for (int r = 0; r < QH_N_CPU_REGION; r++) {
        printf("    %-28s", names[r]);
        for (int t = 0; t < n_threads; t++) printf(" %10.2f", (double)p[t].ns[r] * 1e-3 / n_tokens);
        printf("  us a token\n");
    }
}

typedef struct {
    int n_seqs, n_tokens, depth;    /* n_tokens: of each sequence */
    bool is_prefill;
} test;

static void run_test(const test *t)
{
    if (t->is_prefill) {
        for (int i = 0; i < t->n_tokens; i += opt.chunk)
            run_step(1, t->n_tokens - i < opt.chunk ? t->n_tokens - i : opt.chunk, i);
        return;
    }
    for (int i = 0; i < t->n_tokens; i++) run_step(t->n_seqs, 1, t->depth + i);
}

static void measure(test t, const char *name)
{
    static qh_cpu_profile profiles[1024];
    double rate[MAX_ROUNDS];
    const int n_tokens = t.n_seqs * t.n_tokens;
    run_test(&t);
    memset(profiles, 0, sizeof profiles);
    const int n_threads = qh_cpu_backend_profile(be, opt.is_profiled ? profiles : NULL);
    for (int r = 0; r < opt.n_rounds; r++) {
        int64_t start_us = qh_now_us();
        run_test(&t);
        rate[r] = n_tokens * 1e6 / (double)(qh_now_us() - start_us);
    }
    qsort(rate, (size_t)opt.n_rounds, sizeof *rate, compare);
    double median = rate[opt.n_rounds / 2], best = rate[opt.n_rounds - 1];
    printf("%-10s depth %5d batch %3d: %9.1f tok/s (best %.1f)", name, t.depth, t.n_seqs, median,
           best);
    if (!t.is_prefill) {
        const qh_memory_plan *p = be->ops->plan(be);
        double kv =
            (double)p->page_bytes / QH_PAGE_TOKENS * (t.depth + t.n_tokens / 2.0) * t.n_seqs;
        printf(", %.1f GB/s", ((double)p->weights_bytes + kv) * median / t.n_seqs * 1e-9);
    }
    printf("\n");
    if (opt.is_profiled) print_profile(profiles, n_threads, n_tokens * opt.n_rounds);
}

static void measure_all(void)
{
    char name[32];
    for (int i = 0; i < opt.prompts.n; i++) {
        snprintf(name, sizeof name, "pp%d", opt.prompts.at[i]);
        measure((test){.n_seqs = 1, .n_tokens = opt.prompts.at[i], .is_prefill = true}, name);
    }
    if (!opt.n_decode) return;
    snprintf(name, sizeof name, "tg%d", opt.n_decode);
    for (int d = 0; d < opt.depths.n; d++)
        for (int b = 0; b < opt.batches.n; b++)
            measure((test){.n_seqs = opt.batches.at[b],
                           .n_tokens = opt.n_decode,
                           .depth = opt.depths.at[d]},
                    name);
}

static void parse_options(int argc, char **argv)
{
    qh_err err = {0};
    opt.isa = qh_isa_best();
    for (int c; (c = getopt(argc, argv, "i:t:p:n:d:b:c:r:P")) != -1;) switch (c) {
        case 'i':
            if (qh_isa_parse(&opt.isa, optarg, &err)) die(err.msg);
            break;
        case 't': opt.n_threads = atoi(optarg); break;
        case 'p': opt.prompts = parse_list(optarg); break;
        case 'n': opt.n_decode = atoi(optarg); break;
        case 'd': opt.depths = parse_list(optarg); break;
        case 'b': opt.batches = parse_list(optarg); break;
        case 'c': opt.chunk = atoi(optarg); break;
        case 'r': opt.n_rounds = atoi(optarg); break;
        case 'P': opt.is_profiled = true; break;
        default: die("see the head of step_bench.c for its options");
        }
    if (optind != argc - 1) die("expected one model file");
    if (opt.n_rounds < 1 || opt.n_rounds > MAX_ROUNDS) die("-r: expected 1 to 100");
    opt.path = argv[optind];
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    qh_err err = {0};
    qh_gguf *g;
    qh_weights w;
    if (qh_gguf_open(&g, opt.path, &err) || qh_desc_read(&desc, g, &err) ||
        qh_weights_bind(&w, &desc, g, &err))
        die(err.msg);
    int context = largest(opt.depths) + opt.n_decode;
    if (largest(opt.prompts) > context) context = largest(opt.prompts);
    const int batch = largest(opt.batches);
    limits = (qh_backend_limits){.max_rows = opt.chunk > batch ? opt.chunk : batch,
                                 .max_seqs = batch,
                                 .max_outputs = batch,
                                 .max_context = context};
    limits.n_pages = batch * pages_per_seq();
    const qh_cpu_options o = {
        .isa = opt.isa, .n_threads = opt.n_threads, .pin = true, .is_mapped = true};
    int64_t start_us = qh_now_us();
    if (qh_cpu_backend_open(&be, &desc, &w, &limits, &o, &err)) die(err.msg);
    const qh_memory_plan *p = be->ops->plan(be);
    printf("%s, %s, weights %.1f MB, pages %.1f MB, activations %.1f MB, opened in %.2f s\n",
           opt.path, qh_isa_name(opt.isa), (double)p->weights_bytes * 1e-6,
           (double)p->kv_bytes * 1e-6, (double)p->scratch_bytes * 1e-6,
           (double)(qh_now_us() - start_us) * 1e-6);
    measure_all();
    qh_backend_close(be);
    qh_weights_deinit(&w);
    qh_gguf_close(g);
    return 0;
}
