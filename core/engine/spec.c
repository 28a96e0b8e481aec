/* spec.c - generations and events as plain data: defaults, ranges, ownership; see engine.h, spec.h */
#include "engine/spec.h"
#include "base/mem.h"
#include "engine/sampler.h"
#include "engine/stopper.h"
#include "text/utf8.h"
#include <string.h>

enum { MAX_STOP_TOKENS = 1024, MAX_SHOWN_TOKENS = 64 };

qh_gen *qh_gen_new(void)
{
    qh_gen *g = qh_new0(qh_gen);
    g->n_choices = 1;
    qh_sampling_init(&g->sampling);
    return g;
}

void qh_gen_free(qh_gen *g)
{
    if (!g) return;
    qh_tokens_deinit(&g->prompt);
    qh_sampling_deinit(&g->sampling);
    for (int i = 0; i < g->n_stop_strings; i++) qh_free(g->stop_strings[i]);
    qh_free(g->stop_strings);
    qh_free(g->stop_tokens);
    qh_policy_unref(g->policy);
    qh_free(g->shown_tokens);
    qh_free(g);
}

static void free_infos(qh_token_info *t, int n)
{
    for (int i = 0; i < n; i++) qh_free(t[i].top);
    qh_free(t);
}

void qh_event_deinit(qh_event *e)
{
    qh_free(e->text);
    free_infos(e->tokens, e->n_tokens);
    qh_free((char *)e->stop_match);
    qh_free(e->message);
    qh_free(e->reason);
    *e = (qh_event){0};
}

static qh_status in_range(const char *field, int64_t v, int64_t lo, int64_t hi, qh_err *err)
{
    if (v >= lo && v <= hi) return QH_OK;
    return qh_fail(err, QH_EINVAL, "%s is %lld, expected %lld to %lld", field, (long long)v,
                   (long long)lo, (long long)hi);
}

static qh_status check_ids(const char *field, const qh_token *ids, int n, int n_vocab, qh_err *err)
{
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return qh_fail(err, QH_EINVAL, "%s[%d] is token %d, expected 0 to %d", field, i, ids[i],
                           n_vocab - 1);
    return QH_OK;
}

static qh_status check_stop_strings(const qh_gen *g, qh_err *err)
{
    qh_status st =
        in_range("number of stop strings", g->n_stop_strings, 0, QH_MAX_STOP_STRINGS, err);
    if (st) return st;
    for (int i = 0; i < g->n_stop_strings; i++) {
        const char *s = g->stop_strings[i];
        size_t len = s ? strlen(s) : 0;
        if (len == 0 || len > QH_MAX_STOP_BYTES)
            return qh_fail(err, QH_EINVAL, "stop[%d] has %zu bytes, expected 1 to %d", i, len,
                           QH_MAX_STOP_BYTES);
        if (qh_utf8_span(s, len) != len)
            return qh_fail(err, QH_EINVAL, "stop[%d] is not valid UTF-8", i);
    }
    return QH_OK;
}

static qh_status check_context(const qh_gen *g, const qh_spec_limits *lim, qh_err *err)
{
    if (g->prompt.len < 1)
        return qh_fail(err, QH_EINVAL, "the prompt is empty, expected at least one token");
    if (g->prompt.len < lim->max_context) return QH_OK;
    if (lim->is_pool_bound)
        return qh_fail(err, QH_ECONTEXT,
                       "the prompt has %d tokens and at least one is generated, "
                       "but memory holds %d of a sequence "
                       "(%d KV pages of %d tokens, one kept spare)",
                       g->prompt.len, lim->max_context, lim->n_pages, QH_PAGE_TOKENS);
    return qh_fail(
        err, QH_ECONTEXT,
        "the prompt has %d tokens and at least one is generated, but the context is %d tokens",
        g->prompt.len, lim->max_context);
}

qh_status qh_gen_check(const qh_gen *g, const qh_spec_limits *lim, qh_err *err)
{
    qh_status st = check_context(g, lim, err);
    if (!st) st = check_ids("prompt", g->prompt.ids, g->prompt.len, lim->n_vocab, err);
    if (!st) st = in_range("n", g->n_choices, 1, lim->max_seqs, err);
    if (!st) st = in_range("max_tokens", g->max_tokens, 0, INT32_MAX, err);
    if (!st)
        st = in_range("min_tokens", g->min_tokens, 0, g->max_tokens ? g->max_tokens : INT32_MAX,
                      err);
    if (!st) st = in_range("top_logprobs", g->top_logprobs, 0, QH_MAX_TOP_LOGPROBS, err);
    if (!st) st = check_stop_strings(g, err);
    if (!st) st = in_range("number of stop tokens", g->n_stop_tokens, 0, MAX_STOP_TOKENS, err);
    if (!st) st = check_ids("stop_tokens", g->stop_tokens, g->n_stop_tokens, lim->n_vocab, err);
    if (!st) st = in_range("number of shown tokens", g->n_shown_tokens, 0, MAX_SHOWN_TOKENS, err);
    if (!st) st = check_ids("shown_tokens", g->shown_tokens, g->n_shown_tokens, lim->n_vocab, err);
    if (!st) st = qh_sampling_check(&g->sampling, lim->n_vocab, err);
    return st;
}
