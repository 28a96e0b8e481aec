/* race.c - see race.h */
#include "engine/race.h"
#include "base/rng.h"
#include <math.h>
#include <string.h>

/* From so many candidates in a block of 64 on, the noise of the whole block is cheaper than theirs. */
enum { BLOCK = QH_LOGITS_BLOCK, WORTH_A_BLOCK = 8 };

typedef struct {
    const qh_noise *noise;
    float temperature;
    float max;                  /* the largest logit: scores are relative to it */
    float best;                 /* the leader's score */
    qh_token leader;
} race;

float qh_noise_coin(const qh_noise *n)
{
    return qh_rng_unit(qh_rng_gumbel_bits(n->seed, n->choice, n->position, UINT32_MAX));
}

static void run_with(race *r, qh_token id, float logit, uint32_t bits)
{
    float lead = (logit - r->max) / r->temperature;
    if (lead + qh_rng_gumbel_bound(bits) < r->best) return;
    float score = lead + qh_rng_gumbel_of(bits);
    if (score > r->best || (score == r->best && id < r->leader)) r->best = score, r->leader = id;
}

static void run(race *r, qh_token id, float logit)
{
    const qh_noise *n = r->noise;
    if ((logit - r->max) / r->temperature + QH_RNG_GUMBEL_MAX < r->best) return;
    run_with(r, id, logit, qh_rng_gumbel_bits(n->seed, n->choice, n->position, (uint32_t)id));
}

/* A logit below this cannot win whatever its noise; with a margin for rounding. */
static float hopeless_below(const race *r)
{
    float behind = (r->best - QH_RNG_GUMBEL_MAX) * r->temperature;
    return r->max + behind - (fabsf(r->max) + fabsf(behind)) * 1e-6f;
}

/* The largest score that a block's tokens could have by their bounds, a little above the truth. Plain
 * loops over arrays, so that they become vectors. */
static float bound_of_block(const race *r, const float *logits, const uint32_t *bits)
{
    float scale = 1.0f / r->temperature, odd[BLOCK], top = -INFINITY;
    int32_t exponent[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        odd[i] = (float)(int32_t)(2 * ((1u << 23) - (bits[i] >> 9)) - 1);
    memcpy(exponent, odd, sizeof odd);
    for (int i = 0; i < BLOCK; i++)     /* as qh_rng_gumbel_bound: 24 - floor(log2(odd)) times ln 2 */
        odd[i] = (logits[i] - r->max) * scale + (float)(24 + 127 - (exponent[i] >> 23)) * 0.69315f;
    for (int i = 0; i < BLOCK; i++) top = odd[i] > top ? odd[i] : top;
    return top + 1e-4f + fabsf(top) * 1e-6f;
}

static void run_block(race *r, qh_token first, const float *logits)
{
    uint32_t bits[BLOCK];
    qh_rng_gumbel_bits64(r->noise->seed, r->noise->choice, r->noise->position, (uint32_t)first,
                         bits);
    if (bound_of_block(r, logits, bits) < r->best) return;
    for (int i = 0; i < BLOCK; i++) run_with(r, first + i, logits[i], bits[i]);
}

static int count_from(const float *logits, float lo)
{
    int n = 0;
    for (int i = 0; i < BLOCK; i++) n += logits[i] >= lo;
    return n;
}

static void run_row(race *r, const qh_logits *l)
{
    run(r, l->argmax, l->max);
    for (int first = 0, b = 0; first < l->n; first += BLOCK, b++) {
        float lo = hopeless_below(r);
        if (l->block_max[b] < lo) continue;
        int n = l->n - first < BLOCK ? l->n - first : BLOCK;
        const float *v = l->v + first;
        if (n == BLOCK && count_from(v, lo) >= WORTH_A_BLOCK) {
            run_block(r, first, v);
            continue;
        }
        for (int i = 0; i < n; i++)
            if (v[i] >= lo) run(r, first + i, v[i]);
    }
}

/* Below this the scores of all but the best logit are lost anyway, and 1 / temperature stays finite. */
static const float COLDEST = 1e-20f;

static race start(float max, float temperature, const qh_noise *noise)
{
    return (race){.noise = noise,
                  .temperature = temperature < COLDEST ? COLDEST : temperature,
                  .max = max,
                  .best = -INFINITY,
                  .leader = QH_NO_TOKEN};
}

qh_token qh_race(const qh_cand_set *set, float temperature, const qh_noise *noise)
{
    if (!set->is_all)
        return qh_race_list(set->list, set->n, set->row->max, temperature, noise);
    if (temperature == 0) return set->row->argmax;
    race r = start(set->row->max, temperature, noise);
    run_row(&r, set->row);
    return r.leader;
}

static qh_token best_of(const qh_cand *list, int n)
{
    const qh_cand *best = &list[0];
    for (int i = 1; i < n; i++) {
        const qh_cand *c = &list[i];
        if (c->logit > best->logit || (c->logit == best->logit && c->id < best->id)) best = c;
    }
    return best->id;
}

qh_token qh_race_list(const qh_cand *list, int n, float max, float temperature,
                      const qh_noise *noise)
{
    if (temperature == 0) return best_of(list, n);
    race r = start(max, temperature, noise);
    for (int i = 0; i < n; i++) run(&r, list[i].id, list[i].logit);
    return r.leader;
}
