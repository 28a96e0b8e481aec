/* cmd_eval_ids.c - qhost eval-ids: token ids in, log-probabilities out */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/jsonl.h"
#include "cli/opts.h"
#include "host/device.h"
#include "host/models.h"
#include "host/stepper.h"
#include "model/model.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 64, MAX_TOP = 1000 };

typedef struct {
    const qh_model *model;
    qh_stepper *stepper;
    int n_vocab, max_tokens;
    int *top_ids;                   /* [MAX_TOP] */
    FILE *logits_file;              /* or NULL */
} evaluator;

static double log_sum_exp(const float *row, int n)
{
    float max = row[0];
    for (int i = 1; i < n; i++)
        if (row[i] > max) max = row[i];
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)(row[i] - max));
    return max + log(sum);
}

/* The n best ids of a row, best first, ties to the lower id: insertion into a short sorted list. */
static void best_ids(const float *row, int n_vocab, int *ids, int n)
{
    int len = 0;
    for (int id = 0; id < n_vocab; id++) {
        if (len == n && row[id] <= row[ids[len - 1]]) continue;
        int at = len < n ? len++ : len - 1;
        while (at > 0 && row[id] > row[ids[at - 1]]) ids[at] = ids[at - 1], at--;
        ids[at] = id;
    }
}

static void append_row(evaluator *ev, const float *row, int next_id, int n_top, json_t *logprobs, json_t *tops)
{
    double lse = log_sum_exp(row, ev->n_vocab);
    json_array_append_new(logprobs, json_real((double)row[next_id] - lse));
    if (!tops) return;
    best_ids(row, ev->n_vocab, ev->top_ids, n_top);
    json_t *list = json_array();
    for (int i = 0; i < n_top; i++)
        json_array_append_new(list, json_pack("[i,f]", ev->top_ids[i], (double)row[ev->top_ids[i]] - lse));
    json_array_append_new(tops, list);
}

static qh_status write_logits(evaluator *ev, const float *logits, int n_rows, qh_err *err)
{
    size_t n = (size_t)n_rows * (size_t)ev->n_vocab;
    if (fwrite(logits, sizeof *logits, n, ev->logits_file) == n) return QH_OK;
    return qh_fail(err, QH_EIO, "--logits: %s", strerror(errno));
}

static qh_status eval_ids(evaluator *ev, const int32_t *ids, int n, int n_top, json_t *logprobs, json_t *tops,
                          qh_err *err)
{
    qh_stepper_rewind(ev->stepper, 0);
    qh_status st = QH_OK;
    for (int at = 0, len; !st && at < n - 1; at += len) {
        const float *logits;
        len = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;
        st = qh_stepper_extend(ev->stepper, 0, ids + at, len, true, &logits, err);
        for (int i = 0; !st && i < len; i++)
            append_row(ev, logits + (size_t)i * (size_t)ev->n_vocab, ids[at + i + 1], n_top, logprobs, tops);
        if (!st && ev->logits_file) st = write_logits(ev, logits, len, err);
    }
    return st;
}

static qh_status eval_line(void *arg, const json_t *in, json_t **out, qh_err *err)
{
    evaluator *ev = arg;
    int32_t *ids = NULL;
    int n = 0, n_top = 0, max_top = ev->n_vocab < MAX_TOP ? ev->n_vocab : MAX_TOP;
    qh_status st = qh_jsonl_ids(in, "ids", ev->n_vocab, &ids, &n, err);
    if (!st) st = qh_jsonl_int(in, "top", 0, max_top, &n_top, err);
    if (!st && n > ev->max_tokens + 1)
        st = qh_fail(err, QH_ECONTEXT, "'ids' holds %d tokens; --ctx allows %d", n, ev->max_tokens + 1);
    if (!st) {
        json_t *logprobs = json_array(), *tops = n_top ? json_array() : NULL;
        *out = json_pack("{s:o,s:o*}", "logprobs", logprobs, "top", tops);
        st = eval_ids(ev, ids, n, n_top, logprobs, tops, err);
    }
    qh_free(ids);
    return st;
}

int qh_cmd_eval_ids(int argc, char **argv)
{
    int n_ctx = 4096, n_threads = 0;
    const char *isa = "auto", *device = "auto", *logits_path = NULL, *kv_type = NULL;
    const qh_opt opts[] = {
        {"ctx", 'c', QH_OPT_INT, &n_ctx, 1, 262144, "N", "longest line, in tokens; default 4096"},
        {"threads", 't', QH_OPT_INT, &n_threads, 0, 1024, "N", "compute threads; 0: all cores of this process"},
        {"logits", 0, QH_OPT_TEXT, &logits_path, 0, 0, "FILE",
         "also write every row's logits there: float32, little-endian, n_vocab a row"},
        {"device", 0, QH_OPT_TEXT, &device, 0, 0, "NAME", "auto, cpu or cuda[:N]; auto takes a GPU where there is one"},
        {"isa", 0, QH_OPT_TEXT, &isa, 0, 0, "NAME", "auto, ref, scalar, avx2, avxvnni, avx512, avx512bf16, neon or neondot"},
        {"kv-type", 0, QH_OPT_TEXT, &kv_type, 0, 0, "TYPE", "keys and values as bf16 (default) or, on a CPU, q8_0"},
        {0}};
    const qh_opt_spec spec = {
        "qhost eval-ids MODEL [options] < requests.jsonl",
        "Reads JSON Lines on stdin, writes one line for each on stdout.\n"
        "  in:  {\"ids\": [int, ...], \"top\": int}      top: so many best ids a position, up to 1000; default 0\n"
        "  out: {\"logprobs\": [float, ...],           natural log, one for each position after the first\n"
        "        \"top\": [[[id, logprob], ...], ...]}  with top only; best first\n"
        "       or {\"error\": string}", opts, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;

    qh_err err = {0};
    qh_model *m = NULL;
    qh_backend *be = NULL;
    char *path = NULL;
    evaluator ev = {.max_tokens = n_ctx};
    qh_backend_limits limits = {.n_pages = (n_ctx + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS, .max_rows = CHUNK,
                                .max_seqs = 1, .max_outputs = CHUNK, .max_context = n_ctx};
    qh_device_options dev = {.device = device, .isa = isa, .n_threads = n_threads, .kv_type = kv_type};
    qh_status st = qh_models_find(&path, args[0], &err);
    if (!st) st = qh_model_open(&m, path, &err);
    if (!st) st = qh_device_open(&be, m, &dev, &limits, &err);
    if (!st) st = qh_stepper_new(&ev.stepper, be, 1, n_ctx, &err);
    if (!st && logits_path && !(ev.logits_file = fopen(logits_path, "wbe")))
        st = qh_fail(&err, QH_EIO, "%s: %s", logits_path, strerror(errno));
    if (!st) {
        ev.model = m;
        ev.n_vocab = qh_model_desc(m)->n_vocab;
        ev.top_ids = qh_alloc0(sizeof(int) * MAX_TOP);
        rc = qh_jsonl_run(eval_line, &ev);
    }
    if (ev.logits_file && fclose(ev.logits_file) && !st)
        st = qh_fail(&err, QH_EIO, "%s: %s", logits_path, strerror(errno));
    qh_free(ev.top_ids);
    qh_stepper_free(ev.stepper);
    qh_backend_close(be);
    qh_model_close(m);
    qh_free(path);
    return st ? qh_cmd_fail(&err) : rc;
}
