/* cmd_bench.c - qhost bench: prefill and decode speed of a model in raw steps, without a sampler */
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/device.h"
#include "host/models.h"
#include "host/profile.h"
#include "host/read_rate.h"
#include "host/stepper.h"
#include "model/model.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 32, MAX_TOKENS = 1 << 20, MAX_BATCH = 4096, MAX_REPEATS = 100 };

typedef struct {
    int v[MAX_LIST];
    int n;
} int_list;

typedef struct {
    const char *model, *device, *isa, *kv_type, *prompts, *depths, *batches;
    int n_threads, n_decode, n_repeats, chunk;
    bool as_json, is_profiled, is_exact;
    int_list prompt, depth, batch;
} bench_options;

typedef struct {
    char test[24];
    int depth, batch;
    double tok_s, tok_s_min, tok_s_max;
    double floor_share;             /* of the rate at which memory gives what a decode step reads; 0: not known */
    json_t *profile;                /* {region: [us a token, by thread]}, or NULL */
} result;

typedef struct {
    const bench_options *o;
    const qh_model *model;
    qh_backend *backend;
    qh_stepper *stepper;
    qh_profile *profile;            /* NULL: not asked for */
    qh_token *tokens;               /* fixed pseudo-random ids, as many as the longest sequence */
    result results[3 * MAX_LIST * MAX_LIST];
    int n_results;
} bench;

static bool parse_list(int_list *l, const char *text, int min, int max)
{
    l->n = 0;
    if (!*text) return true;
    for (const char *p = text;; p++) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < min || v > max || l->n == MAX_LIST) return false;
        l->v[l->n++] = (int)v;
        if (!*end) return true;
        if (*end != ',') return false;
        p = end;
    }
}

static int list_max(const int_list *l, int at_least)
{
    int m = at_least;
    for (int i = 0; i < l->n; i++)
        if (l->v[i] > m) m = l->v[i];
    return m;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static json_t *read_profile(const qh_profile *p, int n_tokens)
{
    json_t *all = json_object();
    for (int r = 0; r < qh_profile_n_regions(p); r++) {
        json_t *threads = json_array();
        for (int t = 0; t < qh_profile_n_threads(p); t++) json_array_append_new(threads, json_real(qh_profile_us(p, r, t) / n_tokens));
        json_object_set_new(all, qh_profile_region(p, r), threads);
    }
    return all;
}

static void print_result(const result *r)
{
    printf("%-8s %8d %6d %12.1f %12.1f %12.1f", r->test, r->depth, r->batch, r->tok_s, r->tok_s_min, r->tok_s_max);
    if (r->floor_share > 0) printf(" %8.0f%%", 100 * r->floor_share);
    putchar('\n');
    const char *region;
    json_t *threads, *us;
    size_t i;
    json_object_foreach(r->profile, region, threads) {
        printf("    %-28s", region);
        json_array_foreach(threads, i, us) printf(" %9.2f", json_real_value(us));
        printf("  us a token\n");
    }
    fflush(stdout);
}

/* rates: of n_repeats rounds, each of n tokens for batch sequences. floor: tokens a second that memory
 * allows, or 0. */
static void add_result(bench *b, const char *kind, int n, int depth, int batch, double *rates, double floor)
{
    int n_rates = b->o->n_repeats;
    qsort(rates, (size_t)n_rates, sizeof *rates, by_value);
    result *r = &b->results[b->n_results++];
    *r = (result){"", depth, batch, (rates[(n_rates - 1) / 2] + rates[n_rates / 2]) / 2, rates[0],
                  rates[n_rates - 1], 0, NULL};
    snprintf(r->test, sizeof r->test, "%s%d", kind, n);
    if (floor > 0) r->floor_share = r->tok_s / floor;
    if (b->profile) r->profile = read_profile(b->profile, n * batch * n_rates);
    if (!b->o->as_json) print_result(r);
}

/* After the round that warms up. */
static void begin_rounds(bench *b)
{
    if (b->profile) qh_profile_reset(b->profile);
}

static qh_status prefill(bench *b, int seq, int n_tokens, qh_err *err)
{
    const float *logits;
    qh_status st = QH_OK;
    for (int at = 0, n; !st && at < n_tokens; at += n) {
        n = n_tokens - at < b->o->chunk ? n_tokens - at : b->o->chunk;
        st = qh_stepper_extend(b->stepper, seq, b->tokens + at, n, false, &logits, err);
    }
    return st;
}

static qh_status bench_prefill(bench *b, int n_tokens, qh_err *err)
{
    double rates[MAX_REPEATS];
    qh_status st = QH_OK;
    for (int r = -1; !st && r < b->o->n_repeats; r++) {         /* the first round warms up */
        qh_stepper_rewind(b->stepper, 0);
        int64_t t = qh_now_us();
        st = prefill(b, 0, n_tokens, err);
        if (r < 0) begin_rounds(b);
        else rates[r] = n_tokens * 1e6 / (double)(qh_now_us() - t);
    }
    if (!st) add_result(b, "pp", n_tokens, 0, 1, rates, 0);
    return st;
}

static qh_status decode_run(bench *b, int n_seqs, int n_steps, qh_err *err)
{
    qh_token next[4096];
    const float *logits;
    qh_status st = QH_OK;
    for (int i = 0; !st && i < n_steps; i++) {
        for (int s = 0; s < n_seqs; s++) next[s] = b->tokens[(i + s) % n_steps];
        st = qh_stepper_decode(b->stepper, next, n_seqs, &logits, err);
    }
    return st;
}

/* Decoding reads every weight once a step and each sequence's keys and values once a token: tokens a
 * second if that took no longer than reading a buffer of that size does. The CPU backend only. */
static qh_status stream_floor(const bench *b, int depth, int n_seqs, double *out, qh_err *err)
{
    *out = 0;
    const qh_backend_ops *ops = b->backend->ops;
    if (strcmp(ops->caps(b->backend)->name, "cpu") != 0) return QH_OK;
    const qh_memory_plan *plan = ops->plan(b->backend);
    const qh_weights *w = qh_model_weights(b->model);
    uint64_t weights = plan->weights_bytes;
    if (w->embed.data != w->head.data)      /* of an embedding of its own, a row a token is read */
        weights -= (uint64_t)w->embed.n_rows * qh_dtype_row_bytes(w->embed.dtype, w->embed.dim);
    const double past = depth + b->o->n_decode / 2.0;
    const double kv = (double)plan->page_bytes / QH_PAGE_TOKENS * past * n_seqs, bytes = (double)weights + kv;
    double rate = 0;
    qh_status st = qh_read_rate(&rate, (uint64_t)bytes, b->o->n_threads ? b->o->n_threads : qh_cpu_count(), err);
    if (!st) *out = n_seqs * rate / bytes;
    return st;
}

static qh_status bench_decode(bench *b, int depth, int n_seqs, qh_err *err)
{
    double rates[MAX_REPEATS];
    qh_stepper_rewind(b->stepper, 0);
    qh_status st = QH_OK;
    for (int s = 0; !st && s < n_seqs; s++) st = prefill(b, s, depth, err);
    for (int r = -1; !st && r < b->o->n_repeats; r++) {
        qh_stepper_rewind(b->stepper, depth);
        int64_t t = qh_now_us();
        st = decode_run(b, n_seqs, b->o->n_decode, err);
        if (r < 0) begin_rounds(b);
        else rates[r] = (double)n_seqs * b->o->n_decode * 1e6 / (double)(qh_now_us() - t);
    }
    double floor = 0;
    if (!st) st = stream_floor(b, depth, n_seqs, &floor, err);
    if (!st) add_result(b, "tg", b->o->n_decode, depth, n_seqs, rates, floor);
    return st;
}

static qh_status run_all(bench *b, qh_err *err)
{
    const bench_options *o = b->o;
    qh_status st = QH_OK;
    for (int i = 0; !st && i < o->prompt.n; i++) st = bench_prefill(b, o->prompt.v[i], err);
    for (int d = 0; o->n_decode && !st && d < o->depth.n; d++)
        for (int s = 0; !st && s < o->batch.n; s++) st = bench_decode(b, o->depth.v[d], o->batch.v[s], err);
    return st;
}

static void cpu_name(char *out, size_t len)
{
    snprintf(out, len, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256], name[128];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n]", name) == 1) {
            snprintf(out, len, "%s", name);
            break;
        }
    if (f) fclose(f);
}

/* What computed: the processor and its threads, or the name of another backend. */
static void machine_name(const bench_options *o, qh_backend *be, char *out, size_t len)
{
    char cpu[128];
    const char *backend = be->ops->caps(be)->name;
    cpu_name(cpu, sizeof cpu);
    if (strcmp(backend, "cpu") == 0) snprintf(out, len, "%s, %d threads", cpu, o->n_threads ? o->n_threads : qh_cpu_count());
    else snprintf(out, len, "%s, on a host with %s", backend, cpu);
}

static void print_json(const bench *b, const char *machine)
{
    json_t *list = json_array();
    for (int i = 0; i < b->n_results; i++) {
        const result *r = &b->results[i];
        json_array_append_new(list, json_pack("{s:s,s:i,s:i,s:f,s:f,s:f,s:o*,s:O*}", "test", r->test, "depth", r->depth,
                                              "batch", r->batch, "tok_s", r->tok_s, "tok_s_min", r->tok_s_min,
                                              "tok_s_max", r->tok_s_max, "floor_share",
                                              r->floor_share > 0 ? json_real(r->floor_share) : NULL, "profile", r->profile));
    }
    json_t *all = json_pack("{s:o,s:s,s:s}", "results", list, "machine", machine, "model", qh_model_name(b->model));
    json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
    putchar('\n');
    json_decref(all);
}

static void fill_tokens(qh_token *ids, int n, int n_vocab)
{
    uint32_t x = 1;
    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (qh_token)((x >> 8) % (uint32_t)n_vocab);
    }
}

static void print_head(const bench *b, const char *machine)
{
    printf("%s; %s; median, min and max of %d\n", qh_model_name(b->model), machine, b->o->n_repeats);
    printf("%-8s %8s %6s %12s %12s %12s %9s\n", "test", "depth", "batch", "tok/s", "min", "max", "of floor");
}

static qh_status open_and_run(bench *b, qh_backend **be, qh_err *err)
{
    const bench_options *o = b->o;
    int n_seqs = list_max(&o->batch, 1), longest = list_max(&o->depth, 0) + o->n_decode;
    longest = list_max(&o->prompt, longest > 0 ? longest : 1);
    int pages = (longest + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
    qh_backend_limits limits = {.n_pages = pages * n_seqs, .max_rows = o->chunk > n_seqs ? o->chunk : n_seqs,
                                .max_seqs = n_seqs, .max_outputs = n_seqs, .max_context = longest};
    qh_device_options dev = {.device = o->device, .isa = o->isa, .n_threads = o->n_threads,
                             .is_exact = o->is_exact, .kv_type = o->kv_type};
    qh_status st = qh_device_open(be, b->model, &dev, &limits, err);
    b->backend = *be;
    if (!st) st = qh_stepper_new(&b->stepper, *be, n_seqs, longest, err);
    if (!st && o->is_profiled && !(b->profile = qh_profile_begin(*be)))
        st = qh_fail(err, QH_EUNSUPPORTED, "--profile: the %s backend keeps no times", (*be)->ops->caps(*be)->name);
    if (st) return st;

    char machine[256];
    machine_name(o, *be, machine, sizeof machine);
    b->tokens = qh_alloc0(sizeof *b->tokens * (size_t)longest);
    fill_tokens(b->tokens, longest, qh_model_desc(b->model)->n_vocab);
    if (!o->as_json) print_head(b, machine);
    st = run_all(b, err);
    if (!st && o->as_json) print_json(b, machine);
    return st;
}

static qh_status run_bench(const bench_options *o, const qh_model *m, qh_err *err)
{
    qh_backend *be = NULL;
    bench *b = qh_new0(bench);
    b->o = o;
    b->model = m;
    qh_status st = open_and_run(b, &be, err);
    for (int i = 0; i < b->n_results; i++) json_decref(b->results[i].profile);
    qh_profile_end(b->profile);
    qh_stepper_free(b->stepper);
    qh_backend_close(be);
    qh_free(b->tokens);
    qh_free(b);
    return st;
}

int qh_cmd_bench(int argc, char **argv)
{
    bench_options o = {.device = "auto", .isa = "auto", .prompts = "512", .depths = "0", .batches = "1",
                       .n_decode = 128, .n_repeats = 5, .chunk = 512};
    const qh_opt opts[] = {
        {"threads", 't', QH_OPT_INT, &o.n_threads, 0, 1024, "N", "compute threads; 0: all cores of this process"},
        {"prompt", 'p', QH_OPT_TEXT, &o.prompts, 0, 0, "N,N", "prompt lengths to prefill; default 512"},
        {"decode", 'n', QH_OPT_INT, &o.n_decode, 0, 100000, "N", "tokens to decode a sequence; default 128"},
        {"depth", 'd', QH_OPT_TEXT, &o.depths, 0, 0, "N,N", "tokens already in the cache when decoding; default 0"},
        {"batch", 'b', QH_OPT_TEXT, &o.batches, 0, 0, "N,N", "sequences decoded together; default 1"},
        {"repeat", 'r', QH_OPT_INT, &o.n_repeats, 1, MAX_REPEATS, "N", "rounds, after one to warm up; default 5"},
        {"chunk", 0, QH_OPT_INT, &o.chunk, 1, 65536, "N", "prompt tokens a step; default 512"},
        {"device", 0, QH_OPT_TEXT, &o.device, 0, 0, "NAME", "auto, cpu or cuda[:N]; auto takes a GPU where there is one"},
        {"isa", 0, QH_OPT_TEXT, &o.isa, 0, 0, "NAME", "auto, ref, scalar, avx2, avxvnni, avx512, avx512bf16, neon or neondot"},
        {"deterministic", 0, QH_OPT_FLAG, &o.is_exact, 0, 0, NULL, "GPU: the same bits in any batch, at a lower speed"},
        {"kv-type", 0, QH_OPT_TEXT, &o.kv_type, 0, 0, "TYPE", "keys and values as bf16 (default) or, on a CPU, q8_0"},
        {"json", 0, QH_OPT_FLAG, &o.as_json, 0, 0, NULL,
         "print {results: [{test, depth, batch, tok_s, tok_s_min, tok_s_max, floor_share?, profile?}], machine, model}"},
        {"profile", 0, QH_OPT_FLAG, &o.is_profiled, 0, 0, NULL, "CPU: also the time of each region of a step, by thread, in us a token"},
        {0}};
    const qh_opt_spec spec = {
        "qhost bench MODEL [options]",
        "Prefill (pp) and decode (tg) speed in tokens a second, in raw steps: no sampler, no server.\n"
        "Lists are separated by commas. 'of floor': the share of the speed that decoding would have if it took\n"
        "no longer than the same threads need to read a buffer as large as what a step reads (CPU only).", opts, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    if (!parse_list(&o.prompt, o.prompts, 1, MAX_TOKENS) || !parse_list(&o.depth, o.depths, 0, MAX_TOKENS) ||
        !parse_list(&o.batch, o.batches, 1, MAX_BATCH)) {
        fprintf(stderr, "qhost: lists are up to %d whole numbers separated by commas: -p from 1, -d from 0, both to %d; -b from 1 to %d\n",
                MAX_LIST, MAX_TOKENS, MAX_BATCH);
        return QH_EXIT_USAGE;
    }

    qh_err err = {0};
    qh_model *m = NULL;
    char *path = NULL;
    qh_status st = qh_models_find(&path, args[0], &err);
    if (!st) st = qh_model_open(&m, path, &err);
    if (!st) st = run_bench(&o, m, &err);
    qh_model_close(m);
    qh_free(path);
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
