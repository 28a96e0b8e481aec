/* quantize.c - see quantize.h
 *
 * The searches are sums over 16 or 32 finite values, which the compiler may reorder to use vectors
 * (CMakeLists.txt gives it that freedom for this file alone). */
#include "model/quantize.h"
#include "base/err.h"
#include "model/quant.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum { MAX_GROUP = 32 };

static const float k_f16_max = 65504.0f;

static void store_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Store v as f16 and return what a reader will see. */
static float store_f16(uint8_t *p, float v)
{
    const uint16_t h = qh_f32_to_f16(fminf(fmaxf(v, -k_f16_max), k_f16_max));
    store_u16(p, h);
    return qh_f16_to_f32(h);
}

/* To the nearest integer of lo..hi, ties up. */
static float round_to(float v, int lo, int hi)
{
    v = v < (float)lo ? (float)lo : v;
    v = v > (float)hi ? (float)hi : v;
    return (float)((int)(v - (float)lo + 0.5f) + lo);
}

static int code_of(float v, int lo, int hi) { return (int)round_to(v, lo, hi); }

static float inverse(float v) { return v != 0 ? 1 / v : 0; }

/* ---- fits ---- */

/* The scale d for x ~ d*q, q in lo..hi (lo = -hi-1), least in sum of w*(x - d*q)^2 among those tried.
 *
 * For given q the best d is (sum w x q) / (sum w q^2), and it takes (sum w x q)^2 / (sum w q^2) off
 * the error; so the candidate with the largest such gain is the best. The value of largest
 * magnitude goes to lo, the end with one step more, hence the scale's sign. */
static float fit_scale(const float *x, const float *w, int n, int lo, int hi)
{
    float extreme = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    if (extreme == 0) return 0;

    float best = extreme / (float)lo, best_gain = -1;
    for (int step = -9; step <= 9; step++) {
        const float inv = ((float)lo + 0.1f * (float)step) / extreme;
        float wxq = 0, wqq = 0;
        for (int i = 0; i < n; i++) {
            const float q = round_to(x[i] * inv, lo, hi);
            wxq += w[i] * x[i] * q;
            wqq += w[i] * q * q;
        }
        if (wqq > 0 && wxq * wxq > best_gain * wqq) {
            best_gain = wxq * wxq / wqq;
            best = wxq / wqq;
        }
    }
    return best;
}

typedef struct {
    float scale, min;           /* x ~ scale*q + min */
} affine;

/* Least squares of x over q, with min at most max_min (with min fixed there, the scale follows). */
static affine solve_affine(const float *x, const float *w, const float *q, int n, float max_min)
{
    float sw = 0, sx = 0, sq = 0, sqq = 0, sxq = 0;
    for (int i = 0; i < n; i++) {
        sw += w[i];
        sx += w[i] * x[i];
        sq += w[i] * q[i];
        sqq += w[i] * q[i] * q[i];
        sxq += w[i] * x[i] * q[i];
    }
    const float det = sw * sqq - sq * sq;
    affine a = {0, sw > 0 ? sx / sw : 0};
    if (det > 0) a = (affine){(sw * sxq - sx * sq) / det, (sqq * sx - sq * sxq) / det};
    if (a.min > max_min) a = (affine){sqq > 0 ? (sxq - max_min * sq) / sqq : 0, max_min};
    return a;
}

static float affine_error(const float *x, const float *w, const float *q, int n, affine a)
{
    float sum = 0;
    for (int i = 0; i < n; i++) {
        const float e = a.scale * q[i] + a.min - x[i];
        sum += w[i] * e * e;
    }
    return sum;
}

static void round_affine(float *q, const float *x, int n, int hi, affine a)
{
    const float inv = inverse(a.scale);
    for (int i = 0; i < n; i++) q[i] = round_to((x[i] - a.min) * inv, 0, hi);
}

/* Scale and minimum for q in 0..hi, min <= max_min. */
static affine fit_affine(const float *x, const float *w, int n, int hi, float max_min)
{
    float lowest = x[0], highest = x[0], q[MAX_GROUP];
    for (int i = 1; i < n; i++) {
        lowest = fminf(lowest, x[i]);
        highest = fmaxf(highest, x[i]);
    }
    lowest = fminf(lowest, max_min);
    if (highest <= lowest) return (affine){0, lowest};

    affine best = {(highest - lowest) / (float)hi, lowest};
    round_affine(q, x, n, hi, best);
    float best_error = affine_error(x, w, q, n, best);
    for (int step = -10; step <= 10; step++) {
        const affine start = {(highest - lowest) / ((float)hi + 0.1f * (float)step), lowest};
        round_affine(q, x, n, hi, start);
        const affine a = solve_affine(x, w, q, n, max_min);
        const float e = affine_error(x, w, q, n, a);
        if (e < best_error) {
            best_error = e;
            best = a;
        }
    }
    return best;
}

static const float k_even[MAX_GROUP] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* ---- one element a block ---- */

static void block_f32(uint8_t *b, const float *x) { memcpy(b, x, sizeof *x); }
static void block_f16(uint8_t *b, const float *x) { store_f16(b, *x); }
static void block_bf16(uint8_t *b, const float *x) { store_u16(b, qh_f32_to_bf16(*x)); }

/* ---- blocks of 32; layouts in quant.c ---- */

/* No search: a scale that clips the extreme value has less squared error here, and measured worse
 * (SmolLM2-135M: mean KL 0.32 nat with it, 0.27 without). */
static void block_q4_0(uint8_t *b, const float *x)
{
    float extreme = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    const float inv = inverse(store_f16(b, extreme / -8));
    for (int i = 0; i < 16; i++)
        b[2 + i] = (uint8_t)((code_of(x[i] * inv, -8, 7) + 8) | (code_of(x[i + 16] * inv, -8, 7) + 8) << 4);
}

static void block_q4_1(uint8_t *b, const float *x)
{
    const affine a = fit_affine(x, k_even, 32, 15, FLT_MAX);
    const affine stored = {store_f16(b, a.scale), store_f16(b + 2, a.min)};
    float q[32];
    round_affine(q, x, 32, 15, stored);
    for (int i = 0; i < 16; i++) b[4 + i] = (uint8_t)((int)q[i] | (int)q[i + 16] << 4);
}

static void block_q5_0(uint8_t *b, const float *x)
{
    const float inv = inverse(store_f16(b, fit_scale(x, k_even, 32, -16, 15)));
    uint32_t high = 0;
    for (int i = 0; i < 16; i++) {
        const unsigned lo = (unsigned)(code_of(x[i] * inv, -16, 15) + 16);
        const unsigned hi = (unsigned)(code_of(x[i + 16] * inv, -16, 15) + 16);
        b[6 + i] = (uint8_t)((lo & 15) | (hi & 15) << 4);
        high |= lo >> 4 << i | hi >> 4 << (i + 16);
    }
    store_u16(b + 2, (uint16_t)high);
    store_u16(b + 4, (uint16_t)(high >> 16));
}

static void block_q8_0(uint8_t *b, const float *x)
{
    float extreme = 0;
    for (int i = 0; i < 32; i++) extreme = fmaxf(extreme, fabsf(x[i]));
    const float inv = inverse(store_f16(b, extreme / 127));
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)code_of(x[i] * inv, -127, 127);
}

/* ---- super-blocks of 256 ---- */

/* The reverse of scale_min_k in quant.c: 6-bit scale and minimum of group g into 12 zeroed bytes. */
static void put_scale_min(uint8_t *s, int g, int scale, int min)
{
    if (g < 4) {
        s[g] |= (uint8_t)scale;
        s[g + 4] |= (uint8_t)min;
    } else {
        s[g + 4] |= (uint8_t)((scale & 15) | (min & 15) << 4);
        s[g - 4] |= (uint8_t)(scale >> 4 << 6);
        s[g] |= (uint8_t)(min >> 4 << 6);
    }
}

static void block_q4_k(uint8_t *b, const float *x)
{
    affine fits[8];
    float top_scale = 0, top_min = 0;
    for (int g = 0; g < 8; g++) {
        const float *xg = x + 32 * g;
        float sum = 0, w[32];
        for (int i = 0; i < 32; i++) sum += xg[i] * xg[i];
        const float mean = sqrtf(sum / 32);
        for (int i = 0; i < 32; i++) w[i] = mean + fabsf(xg[i]);
        fits[g] = fit_affine(xg, w, 32, 15, 0);
        top_scale = fmaxf(top_scale, fits[g].scale);
        top_min = fmaxf(top_min, -fits[g].min);
    }
    const float d = store_f16(b, top_scale / 63), dmin = store_f16(b + 2, top_min / 63);
    memset(b + 4, 0, 12 + 128);
    for (int g = 0; g < 8; g++) {
        const int scale = code_of(fits[g].scale * inverse(d), 0, 63);
        const int min = code_of(-fits[g].min * inverse(dmin), 0, 63);
        put_scale_min(b + 4, g, scale, min);
        float q[32];
        round_affine(q, x + 32 * g, 32, 15, (affine){d * (float)scale, -dmin * (float)min});
        for (int i = 0; i < 32; i++) b[16 + g / 2 * 32 + i] |= (uint8_t)((int)q[i] << (g % 2 * 4));
    }
}

static void block_q6_k(uint8_t *b, const float *x)
{
    float scales[16], extreme = 0;
    for (int g = 0; g < 16; g++) {
        float w[16];
        for (int i = 0; i < 16; i++) w[i] = x[16 * g + i] * x[16 * g + i];
        scales[g] = fit_scale(x + 16 * g, w, 16, -32, 31);
        if (fabsf(scales[g]) > fabsf(extreme)) extreme = scales[g];
    }
    memset(b, 0, 192);
    const float d = store_f16(b + 208, extreme / -128);
    for (int g = 0; g < 16; g++) {
        const int scale = code_of(scales[g] * inverse(d), -128, 127);
        b[192 + g] = (uint8_t)scale;
        const float inv = inverse(d * (float)scale);
        const int half = g / 8, run = g % 8 / 2, at = g % 2 * 16;
        uint8_t *lg = b + half * 64 + run % 2 * 32 + at, *hg = b + 128 + half * 32 + at;
        for (int i = 0; i < 16; i++) {
            const int q = code_of(x[16 * g + i] * inv, -32, 31) + 32;
            lg[i] |= (uint8_t)((q & 15) << (run / 2 * 4));
            hg[i] |= (uint8_t)(q >> 4 << (run * 2));
        }
    }
}

typedef void (*block_fn)(uint8_t *b, const float *x);

static block_fn block_of(qh_dtype t)
{
    switch (t) {
    case QH_F32: return block_f32;
    case QH_F16: return block_f16;
    case QH_BF16: return block_bf16;
    case QH_Q4_0: return block_q4_0;
    case QH_Q4_1: return block_q4_1;
    case QH_Q5_0: return block_q5_0;
    case QH_Q8_0: return block_q8_0;
    case QH_Q4_K: return block_q4_k;
    case QH_Q6_K: return block_q6_k;
    default: return NULL;
    }
}

bool qh_quantize_is_known(qh_dtype t) { return block_of(t) != NULL; }

void qh_quantize(qh_dtype t, void *dst, const float *src, int64_t n)
{
    const block_fn block = block_of(t);
    const int len = qh_dtype_block_len(t);
    const size_t bytes = qh_dtype_block_bytes(t);
    qh_assert(block && n % len == 0);
    uint8_t *b = dst;
    for (const float *end = src + n; src < end; src += len, b += bytes) block(b, src);
}
