/* sampler.c - see sampler.h */
#include "engine/sampler.h"
#include "base/mem.h"
#include "engine/dry.h"
#include "engine/race.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct qh_sampler {
    const qh_vocab *vocab;
    int n_vocab, max_tokens;
    float *row;                 /* [n_vocab] the edited copy */
    int *counts;                /* [n_vocab] zeros between calls */
    int *lengths;               /* [max_tokens] */
    qh_cand *list;              /* [n_vocab + QH_CAND_SLACK] */
    float *block_max, *scratch; /* [n_blocks] */
};

qh_status qh_sampler_new(qh_sampler **out, const qh_vocab *vocab, int n_vocab, int max_tokens,
                         qh_err *err)
{
    *out = NULL;
    qh_sampler *s = qh_new0(qh_sampler);
    size_t n = (size_t)n_vocab, n_blocks = (size_t)qh_logits_n_blocks(n_vocab);
    s->vocab = vocab;
    s->n_vocab = n_vocab;
    s->max_tokens = max_tokens;
    s->row = qh_try_alloc0(n, sizeof *s->row);
    s->counts = qh_try_alloc0(n, sizeof *s->counts);
    s->lengths = qh_try_alloc0((size_t)max_tokens, sizeof *s->lengths);
    s->list = qh_try_alloc0(n + QH_CAND_SLACK, sizeof *s->list);
    s->block_max = qh_try_alloc0(n_blocks, sizeof *s->block_max);
    s->scratch = qh_try_alloc0(n_blocks, sizeof *s->scratch);
    if (!s->row || !s->counts || !s->lengths || !s->list || !s->block_max || !s->scratch) {
        qh_sampler_free(s);
        return qh_fail(err, QH_ENOMEM, "no memory for a sampler over %d tokens", n_vocab);
    }
    *out = s;
    return QH_OK;
}

void qh_sampler_free(qh_sampler *s)
{
    if (!s) return;
    qh_free(s->row);
    qh_free(s->counts);
    qh_free(s->lengths);
    qh_free(s->list);
    qh_free(s->block_max);
    qh_free(s->scratch);
    qh_free(s);
}

/* The row as the request edits it: a copy when anything does, else the backend's own. */
static const float *edited_row(qh_sampler *s, const qh_draw *d)
{
    const qh_sampling *spec = d->spec;
    bool has_penalties = qh_penalties_are_on(spec), has_dry = qh_dry_is_on(spec);
    if (!spec->n_bias && !has_penalties && !has_dry && !d->n_banned) return d->logits;
    memcpy(s->row, d->logits, sizeof *s->row * (size_t)s->n_vocab);
    qh_bias_apply(spec, s->row);
    if (has_penalties) qh_penalties_apply(spec, &d->history, s->row, s->counts);
    if (has_dry) qh_dry_apply(spec, s->vocab, &d->history, s->row, s->lengths, s->counts);
    for (int i = 0; i < d->n_banned; i++) s->row[d->banned[i]] = -INFINITY;
    return s->row;
}

qh_status qh_sampler_draw(qh_sampler *s, const qh_draw *d, qh_token *out, qh_err *err)
{
    qh_assert(d->history.n_tokens <= s->max_tokens);
    qh_logits row;
    qh_status st = qh_logits_scan(&row, edited_row(s, d), s->n_vocab, s->block_max, err);
    if (st) return st;
    qh_cand_set set;
    qh_cand_set_init(&set, &row, s->list, s->scratch);
    bool is_greedy = d->spec->temperature == 0;
    bool may_drop_best = d->spec->typical_p < 1 || d->spec->xtc_probability > 0;
    const qh_noise noise = {d->seed, d->choice, (uint32_t)d->history.n_tokens};
    if (!is_greedy || may_drop_best) qh_truncate(&set, d->spec, qh_noise_coin(&noise));
    *out = qh_race(&set, d->spec->temperature, &noise);
    return QH_OK;
}

/* A set that was never cut short still is the whole row: then it has at most `top` tokens. */
qh_status qh_sampler_candidates(qh_sampler *s, const qh_draw *d, int top, qh_cand *cands, int *n,
                                float *max, qh_err *err)
{
    qh_logits row;
    qh_status st = qh_logits_scan(&row, edited_row(s, d), s->n_vocab, s->block_max, err);
    if (st) return st;
    qh_cand_set set;
    qh_cand_set_init(&set, &row, s->list, s->scratch);
    qh_sampling spec = *d->spec;
    if (spec.top_k == 0 || spec.top_k > top) spec.top_k = top;
    const qh_noise noise = {d->seed, d->choice, (uint32_t)d->history.n_tokens};
    qh_truncate(&set, &spec, qh_noise_coin(&noise));
    if (set.is_all) *n = qh_logits_gather(&row, -FLT_MAX, INFINITY, cands);
    else memcpy(cands, set.list, sizeof *cands * (size_t)(*n = set.n));
    *max = row.max;
    return QH_OK;
}

static int cmp_best_first(const void *a, const void *b)
{
    const qh_cand *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

qh_status qh_sampler_logprobs(qh_sampler *s, const float *logits, const qh_token *ids, int n_ids,
                              float *logprobs, int n_top, qh_token *top_ids, float *top_logprobs,
                              int *n_out, qh_err *err)
{
    qh_logits row;
    qh_status st = qh_logits_scan(&row, logits, s->n_vocab, s->block_max, err);
    if (st) return st;
    double norm = (double)row.max + log(qh_logits_sum_exp(&row));
    for (int i = 0; i < n_ids; i++) logprobs[i] = (float)((double)logits[ids[i]] - norm);
    *n_out = 0;
    if (n_top == 0) return QH_OK;
    qh_cand_set set;
    qh_cand_set_init(&set, &row, s->list, s->scratch);
    qh_sampling top = {.top_k = n_top, .top_p = 1, .typical_p = 1};
    qh_truncate(&set, &top, 1);
    if (set.is_all) set.n = qh_logits_gather(&row, -FLT_MAX, INFINITY, set.list);
    qsort(set.list, (size_t)set.n, sizeof *set.list, cmp_best_first);
    for (int i = 0; i < set.n; i++) {
        top_ids[i] = set.list[i].id;
        top_logprobs[i] = (float)((double)set.list[i].logit - norm);
    }
    *n_out = set.n;
    return QH_OK;
}
