/* sampler.c - see sampler.h */
#include "engine/sampler.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/dry.h"
#include "engine/truncate.h"
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
    qh_cand *list;              /* [n_vocab] */
    float *block_max, *scratch; /* [n_blocks] */
};

qh_status qh_sampler_new(qh_sampler **out, const qh_vocab *vocab, int n_vocab, int max_tokens, qh_err *err)
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
    s->list = qh_try_alloc0(n, sizeof *s->list);
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

/* The race for the largest logit / temperature + noise. */
typedef struct {
    const qh_draw *d;
    float max;                  /* the largest logit: scores are relative to it */
    float best;                 /* score of the leader */
    qh_token leader;
} race;




static void run(race *r, qh_token id, float logit)
{
    const qh_draw *d = r->d;
    float lead = (logit - r->max) / d->spec->temperature;
    if (lead + QH_RNG_GUMBEL_MAX < r->best) return;
    float bound, noise = 0;
    uint32_t bits = qh_rng_gumbel_bits(d->seed, d->choice, (uint32_t)d->history.n_tokens, (uint32_t)id);
    bound = qh_rng_gumbel_bound(bits);
    if (lead + bound < r->best) return;
    noise = qh_rng_gumbel_of(bits);
    float score = lead + noise;
    if (score > r->best || (score == r->best && id < r->leader)) r->best = score, r->leader = id;
}

static qh_token draw_from_row(race *r, const qh_logits *l)
{
    run(r, l->argmax, l->max);
    for (int b = 0; b < qh_logits_n_blocks(l->n); b++) {
        float lo = (r->best - QH_RNG_GUMBEL_MAX) * r->d->spec->temperature + r->max;
        lo -= fabsf(lo) * 1e-5f;
        if (l->block_max[b] < lo) continue;
        int end = (b + 1) * QH_LOGITS_BLOCK < l->n ? (b + 1) * QH_LOGITS_BLOCK : l->n;
        for (int i = b * QH_LOGITS_BLOCK; i < end; i++)
            if (l->v[i] >= lo && i != l->argmax) run(r, i, l->v[i]);
    }
    return r->leader;
}

static qh_token draw_from_list(race *r, const qh_cand_set *set)
{
    for (int i = 0; i < set->n; i++) run(r, set->list[i].id, set->list[i].logit);
    return r->leader;
}

static qh_token best_of(const qh_cand_set *set)
{
    if (set->is_all) return set->row->argmax;
    const qh_cand *best = &set->list[0];
    for (int i = 1; i < set->n; i++) {
        const qh_cand *c = &set->list[i];
        if (c->logit > best->logit || (c->logit == best->logit && c->id < best->id)) best = c;
    }
    return best->id;
}

/* XTC's coin is keyed like the noise, with an id that no token has. */
static float coin_of(const qh_draw *d)
{
    return qh_rng_unit(qh_rng_gumbel_bits(d->seed, d->choice, (uint32_t)d->history.n_tokens, UINT32_MAX));
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
    if (!is_greedy || may_drop_best) qh_truncate(&set, d->spec, coin_of(d));
    race r = {.d = d, .max = row.max, .best = -INFINITY, .leader = QH_NO_TOKEN};
    *out = is_greedy ? best_of(&set) : set.is_all ? draw_from_row(&r, &row) : draw_from_list(&r, &set);
    return QH_OK;
}

static int cmp_best_first(const void *a, const void *b)
{
    const qh_cand *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

qh_status qh_sampler_logprobs(qh_sampler *s, const float *logits, qh_token id, float *logprob, int n_top,
                              qh_token *top_ids, float *top_logprobs, int *n_out, qh_err *err)
{
    qh_logits row;
    qh_status st = qh_logits_scan(&row, logits, s->n_vocab, s->block_max, err);
    if (st) return st;
    double norm = (double)row.max + log(qh_logits_sum_exp(&row));
    *logprob = (float)((double)logits[id] - norm);
    *n_out = 0;
    if (n_top == 0) return QH_OK;
    qh_cand_set set;
    qh_cand_set_init(&set, &row, s->list, s->scratch);
    qh_sampling top = {.top_k = n_top, .top_p = 1, .typical_p = 1};
    qh_truncate(&set, &top, 1);
    if (set.is_all) set.n = qh_logits_gather(&row, -FLT_MAX, set.list);
    qsort(set.list, (size_t)set.n, sizeof *set.list, cmp_best_first);
    for (int i = 0; i < set.n; i++) {
        top_ids[i] = set.list[i].id;
        top_logprobs[i] = (float)((double)set.list[i].logit - norm);
    }
    *n_out = set.n;
    return QH_OK;
}
