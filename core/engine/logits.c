/* logits.c - passes in four lanes of GCC's portable vectors; see logits.h */
#include "engine/logits.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum { LANES = 4 };       /* what every x86-64 and AArch64 has */
typedef float v4f __attribute__((vector_size(LANES * sizeof(float))));
typedef uint64_t v2u __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t v4u __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef int32_t v4i __attribute__((vector_size(LANES * sizeof(int32_t))));

static inline v4f load4(const float *p)
{
    v4f x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline v4f pick4(v4i mask, v4f a, v4f b)
{
    return (v4f)((mask & (v4i)a) | (~mask & (v4i)b));
}

/* Maximum of a full block; a NaN leaves a set bit in *bad. */
static float max_of_block(const float *v, v4i *bad)
{
    v4f top = load4(v);
    *bad |= top != top;
    for (int i = LANES; i < QH_LOGITS_BLOCK; i += LANES) {
        v4f x = load4(v + i);
        *bad |= x != x;
        top = pick4(x > top, x, top);
    }
    float m = top[0];
    for (int i = 1; i < LANES; i++) m = top[i] > m ? top[i] : m;
    return m;
}

/* The last block, when it is not full, is worked on as a copy filled up with banned tokens. */
static const float *block_at(const float *v, int n, int first, float padded[QH_LOGITS_BLOCK])
{
    if (n - first >= QH_LOGITS_BLOCK) return v + first;
    for (int i = 0; i < QH_LOGITS_BLOCK; i++) padded[i] = first + i < n ? v[first + i] : -INFINITY;
    return padded;
}

qh_status qh_logits_scan(qh_logits *l, const float *v, int n, float *block_max, qh_err *err)
{
    float padded[QH_LOGITS_BLOCK];
    v4i bad = {0};
    int best = 0;
    *l = (qh_logits){.v = v, .n = n, .block_max = block_max, .max = -INFINITY};
    for (int b = 0; b < qh_logits_n_blocks(n); b++) {
        block_max[b] = max_of_block(block_at(v, n, b * QH_LOGITS_BLOCK, padded), &bad);
        if (block_max[b] > l->max) l->max = block_max[b], best = b;
    }
    for (int i = 0; i < LANES; i++)
        if (bad[i]) return qh_fail(err, QH_EFORMAT, "the model's logits hold a NaN");
    if (l->max == INFINITY) return qh_fail(err, QH_EFORMAT, "the model's logits hold an infinity");
    if (l->max == -INFINITY)
        return qh_fail(err, QH_EINVAL,
                       "no token is left to draw: logit_bias or min_tokens bans all %d", n);
    l->argmax = best * QH_LOGITS_BLOCK;
    while (v[l->argmax] != l->max) l->argmax++;
    return QH_OK;
}

/* exp(x) = 2^i * e^r with i = round(x / ln 2), |r| <= ln2 / 2, and e^r by its Taylor polynomial of degree
 * 6 (remainder 1e-7 at the ends). Plain multiplications and additions, so that a GPU gives the same bits. */
static inline v4f exp4(v4f x)
{
    v4i is_tiny = x < -87.0f;
    x = pick4(is_tiny, (v4f){0}, x);                /* anything in range; masked below */
    v4f t = x * 1.44269504f - 0.5f;                 /* x <= 0: truncation rounds half away */
    v4i i = __builtin_convertvector(t, v4i);
    v4f f = __builtin_convertvector(i, v4f);
    v4f r = (x - f * 0.693359375f) + f * 2.12194440e-4f;
    v4f p = r * (1.0f / 720) + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p = (v4f)((v4u)p + ((v4u)i << 23));
    return (v4f)(~is_tiny & (v4i)p);
}

float qh_exp_neg(float x)
{
    v4f v = {x};
    return exp4(v)[0];
}

double qh_logits_sum_exp(const qh_logits *l)
{
    float padded[QH_LOGITS_BLOCK];
    double total = 0;
    for (int b = 0; b < qh_logits_n_blocks(l->n); b++) {
        if (l->block_max[b] - l->max < -87.0f) continue;
        const float *v = block_at(l->v, l->n, b * QH_LOGITS_BLOCK, padded);
        v4f even = {0}, odd = {0};
        for (int i = 0; i < QH_LOGITS_BLOCK; i += 2 * LANES) {
            even += exp4(load4(v + i) - l->max);
            odd += exp4(load4(v + i + LANES) - l->max);
        }
        v4f sum = even + odd;
        total += (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
    return total;
}

/* Groups of four in which nothing is wanted are skipped; the others are written without branches: each
 * token is stored, and kept by counting it. */
int qh_logits_gather(const qh_logits *l, float lo, float hi, qh_cand *out)
{
    int n = 0;
    for (int b = 0; b < qh_logits_n_blocks(l->n); b++) {
        if (l->block_max[b] < lo) continue;
        int i = b * QH_LOGITS_BLOCK, end = i + QH_LOGITS_BLOCK < l->n ? i + QH_LOGITS_BLOCK : l->n;
        for (; i + LANES < end; i += LANES) {
            v4f x = load4(l->v + i);
            v2u any = (v2u)((x >= lo) & (x < hi));
            if (!(any[0] | any[1])) continue;
            for (int k = 0; k < LANES; k++) {
                out[n].id = i + k, out[n].logit = x[k];
                n += x[k] >= lo && x[k] < hi;
            }
        }
        for (; i < end; i++)
            if (l->v[i] >= lo && l->v[i] < hi) out[n++] = (qh_cand){.id = i, .logit = l->v[i]};
    }
    return n;
}

double qh_cands_weigh(qh_cand *c, int n, float max)
{
    double sum = 0;
    for (int i = 0; i < n; i += LANES) {
        int n_left = n - i < LANES ? n - i : LANES;
        v4f x = {0};
        for (int k = 0; k < n_left; k++) x[k] = c[i + k].logit - max;
        x = exp4(x);
        for (int k = 0; k < n_left; k++) sum += c[i + k].weight = x[k];
    }
    return sum;
}

/* Each of the k best blocks has a token that reaches the k-th best block maximum. */
float qh_logits_bound_of_best(const qh_logits *l, int k, float *scratch)
{
    int lo = 0, hi = qh_logits_n_blocks(l->n) - 1;
    if (k > hi) return -FLT_MAX;
    memcpy(scratch, l->block_max, sizeof *scratch * (size_t)(hi + 1));
    while (lo < hi) {                               /* Hoare's quickselect, descending */
        float pivot = scratch[lo + (hi - lo) / 2];
        int i = lo, j = hi;
        while (i <= j) {
            while (scratch[i] > pivot) i++;
            while (scratch[j] < pivot) j--;
            if (i > j) break;
            float t = scratch[i];
            scratch[i++] = scratch[j], scratch[j--] = t;
        }
        if (k - 1 <= j) hi = j;
        else if (k - 1 >= i) lo = i;
        else break;
    }
    return scratch[k - 1] > -FLT_MAX ? scratch[k - 1] : -FLT_MAX;
}
