/* attention_body.h - the table of one level; included once by each attention_<level>.c, which
 * defines the level's QH_VEC_ macro, QH_ATTN_OPS (the table's name) and, where the unit may use
 * VDPBF16PS, QH_BF16_DOT.
 *
 * Register tiles: QB queries by KB vectors of keys for the scores, QB queries by DB vectors of
 * dimensions for the weighted sum. Tile sizes are speed only: each score and each output is its own
 * chain of additions, in order of dimension and of key. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/vec.h"
#include <math.h>

#if defined(QH_VEC_AVX512)
enum { QB = 6, KB = 4, DB = 4 };
#elif defined(QH_VEC_AVX2)
enum { QB = 6, KB = 2, DB = 2 };
#elif defined(QH_VEC_NEON)
enum { QB = 4, KB = 4, DB = 4 };
#else
enum { QB = 4, KB = 2, DB = 2 };
#endif
enum {
    T = QH_PAGE_TOKENS,
    KV = T / VL,                    /* vectors of keys in a page */
    DIM_BLOCK = DB * VL,
};
#define INLINE static inline __attribute__((always_inline))
#define LOG2_E 1.44269504f
#ifdef QH_BF16_DOT
#define QUERY_LEN(d) ((d) / 2)      /* floats between two prepared queries */
#else
#define QUERY_LEN(d) (d)
#endif

/* Scores are kept in units of log2: the scale of q carries the factor. */
typedef struct {
    float score[QB][T];             /* then the weights, in float */
#ifdef QH_BF16_DOT
    uint32_t weight[QB][T / 2];     /* pairs of bf16 */
#endif
    float old_max[16], new_max[16], shrink[16];
} tile;

/* ---- bf16 blocks ---- */

static uint32_t *keys_of(const unsigned char *block) { return (uint32_t *)block; }
static uint32_t *values_of(const unsigned char *block, int d)
{
    return (uint32_t *)block + (size_t)d / 2 * T;
}

static size_t block_bytes(int head_dim)
{
    return (size_t)qh_attn_padded(head_dim) * T * 2 * sizeof(uint16_t);
}

/* Round to nearest even; NaN stays NaN. */
INLINE uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16, nan = u >> 16 | 0x40;
    return (uint16_t)((u & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
}

INLINE uint16_t to_finite_bf16(float f)
{
    const float largest = 0x1.FEp127f;
    if (!(f > -largest)) f = -largest;          /* NaN lands here */
    return to_bf16(f < largest ? f : largest);
}

static void append(void *block, int head_dim, int slot, const float *k, const float *v)
{
    const int d = qh_attn_padded(head_dim);
    uint32_t *keys = keys_of(block) + slot;
    for (int i = 0; i < head_dim; i += 2)
        keys[i / 2 * T] = to_bf16(k[i]) | (uint32_t)to_bf16(k[i + 1]) << 16;
    uint16_t *values = (uint16_t *)(values_of(block, d) + slot / 2 * d) + slot % 2;
    for (int i = 0; i < head_dim; i++) values[2 * i] = to_finite_bf16(v[i]);
}

/* ---- q8_0 blocks ---- */

static int n_scales(int d) { return (d + QH_ATTN_Q8_GROUP - 1) / QH_ATTN_Q8_GROUP; }
static int8_t *q8_values(const unsigned char *block, int d)
{
    return (int8_t *)block + (size_t)d * T;
}
static uint16_t *q8_key_scales(const unsigned char *block, int d)
{
    return (uint16_t *)(block + (size_t)d * T * 2);
}
static uint16_t *q8_value_scales(const unsigned char *block, int d)
{
    return q8_key_scales(block, d) + n_scales(d) * T;
}

static size_t block_bytes_q8(int head_dim)
{
    const int d = qh_attn_padded(head_dim);
    return (size_t)d * T * 2 + (size_t)n_scales(d) * T * 2 * sizeof(uint16_t);
}

INLINE float float_of_bf16(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* n values into every step-th byte; returns their scale as bf16. Keys too are made finite here:
 * NaN has no place in 8 bits. */
INLINE uint16_t quantize_group(int8_t *dst, int step, const float *x, int n)
{
    const float bound = 0x1.FCp127f;    /* 127 of its 127th, rounded up to bf16, are finite */
    float finite[QH_ATTN_Q8_GROUP], largest = 0;
    for (int i = 0; i < n; i++) {
        finite[i] = !(x[i] > -bound) ? -bound : x[i] < bound ? x[i] : bound;
        const float size = finite[i] < 0 ? -finite[i] : finite[i];
        largest = size > largest ? size : largest;
    }
    const uint16_t scale = largest > 1e-30f ? to_bf16(largest / 127) : 0;
    const float inverse = scale ? 1 / float_of_bf16(scale) : 0;
    for (int i = 0; i < n; i++) {
        float q = finite[i] * inverse;
        q = q < -127 ? -127 : q > 127 ? 127 : q;
        dst[i * step] = (int8_t)(int)(q + (q < 0 ? -0.5f : 0.5f));
    }
    return scale;
}

static void append_q8(void *block, int head_dim, int slot, const float *k, const float *v)
{
    const int d = qh_attn_padded(head_dim);
    int8_t *keys = (int8_t *)block + slot, *values = q8_values(block, d) + slot * d;
    for (int g = 0, at = 0; at < head_dim; g++, at += QH_ATTN_Q8_GROUP) {
        const int n = head_dim - at < QH_ATTN_Q8_GROUP ? head_dim - at : QH_ATTN_Q8_GROUP;
        q8_key_scales(block, d)[g * T + slot] = quantize_group(keys + at * T, T, k + at, n);
        q8_value_scales(block, d)[g * T + slot] = quantize_group(values + at, 1, v + at, n);
    }
}

/* The first n_keys tokens of a page as the words of a bf16 block: a value is scaled and rounded to
 * bf16, which adds an eighth of the error that it has from 8 bits. */
INLINE void expand_keys(uint32_t *words, const unsigned char *block, int d, int n_keys)
{
    const int8_t *keys = (const int8_t *)block;
    const uint16_t *scales = q8_key_scales(block, d);
    for (int begin = 0; begin < d; begin += QH_ATTN_Q8_GROUP, scales += T) {
        const int end = begin + QH_ATTN_Q8_GROUP < d ? begin + QH_ATTN_Q8_GROUP : d;
        for (int i = begin; i < end; i += 2)
            for (int t = 0; t < n_keys; t += VL) {
                const vf scale = vload_bf16(scales + t);
                vstore_pairs(words + i / 2 * T + t, vmul(vload_i8(keys + i * T + t), scale),
                             vmul(vload_i8(keys + (i + 1) * T + t), scale));
            }
    }
}

INLINE void expand_values(uint32_t *words, const unsigned char *block, int d, int n_keys)
{
    const int8_t *values = q8_values(block, d);
    const uint16_t *scales = q8_value_scales(block, d);
    for (int t = 0; t < n_keys; t += 2)
        for (int i = 0; i < d; i += VL) {
            const uint16_t *s = scales + i / QH_ATTN_Q8_GROUP * T + t;
            vstore_pairs(words + (size_t)(t / 2) * d + i,
                         vmul(vload_i8(values + t * d + i), vset1(float_of_bf16(s[0]))),
                         vmul(vload_i8(values + (t + 1) * d + i), vset1(float_of_bf16(s[1]))));
        }
}

/* ---- tiles ---- */

/* One row of a page's words, four cache lines: values while keys are read and the other way round.
 * A hardware stream stops at each 4 KB; without this, decode waits for memory twice a page. */
INLINE void fetch_ahead(const uint32_t *p)
{
    for (int i = 0; i < T; i += 16) __builtin_prefetch(p + i);
}

static void prepare(const qh_attn_job *job)
{
    const int d = qh_attn_padded(job->head_dim), n = job->n_rows * job->n_group * d;
    const vf scale = vset1(job->scale * LOG2_E);
    for (int i = 0; i < n; i += VL) {
        vf v = vmul(vload(job->q + i), scale);
#ifdef QH_BF16_DOT /* shorter than what it replaces: from front to back nothing is lost */
        _mm256_storeu_si256((__m256i *)((uint16_t *)job->q + i), (__m256i)_mm512_cvtneps_pbh(v));
#else
        vstore(job->q + i, v);
#endif
    }
}

#ifdef QH_BF16_DOT
INLINE __m512 dot_pairs(__m512 acc, vpairs a, uint32_t b)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
}

INLINE void score_tile(const int nq, tile *t, const float *q, int d, const uint32_t *keys,
                       int n_pairs, const uint32_t *next)
{
    const uint32_t *pairs = (const uint32_t *)q;
    vf acc[QB][KB];
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
        for (int j = 0; j < KB; j++) acc[i][j] = vset1(0);
    for (int p = 0; p < n_pairs; p++) {
        vpairs k[KB];
        fetch_ahead(next + p * T);
#pragma GCC unroll 8
        for (int j = 0; j < KB; j++) k[j] = vload_pairs(keys + p * T + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
            for (int j = 0; j < KB; j++)
                acc[i][j] = dot_pairs(acc[i][j], k[j], pairs[i * QUERY_LEN(d) + p]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
        for (int j = 0; j < KB; j++) vstore(t->score[i] + j * VL, acc[i][j]);
}
#else
INLINE void score_tile(const int nq, tile *t, const float *q, int d, const uint32_t *keys,
                       int n_pairs, const uint32_t *next)
{
    for (int first = 0; first < KV; first += KB) {
        vf acc[QB][KB];
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
            for (int j = 0; j < KB; j++) acc[i][j] = vset1(0);
        for (int p = 0; p < n_pairs; p++) {
            vpairs k[KB];
            if (first == 0) fetch_ahead(next + p * T);
#pragma GCC unroll 8
            for (int j = 0; j < KB; j++) k[j] = vload_pairs(keys + p * T + (first + j) * VL);
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) {
                vf q0 = vset1(q[i * d + 2 * p]);
#pragma GCC unroll 8
                for (int j = 0; j < KB; j++) acc[i][j] = vfma(vpairs_lo(k[j]), q0, acc[i][j]);
            }
#pragma GCC unroll 8
            for (int i = 0; i < nq; i++) {
                vf q1 = vset1(q[i * d + 2 * p + 1]);
#pragma GCC unroll 8
                for (int j = 0; j < KB; j++) acc[i][j] = vfma(vpairs_hi(k[j]), q1, acc[i][j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
            for (int j = 0; j < KB; j++) vstore(t->score[i] + (first + j) * VL, acc[i][j]);
    }
}
#endif

/* Keys from n_valid on are behind the query's own position. */
INLINE float mask_and_max(float *score, int n_valid)
{
    vf s[KV];
    for (int j = 0; j < KV; j++) s[j] = vload(score + j * VL);
    if (n_valid < T)
        for (int j = 0; j < KV; j++) {
            int n = n_valid - j * VL;
            s[j] = vfirst(s[j], n < 0 ? 0 : n > VL ? VL : n, -INFINITY);
            vstore(score + j * VL, s[j]);
        }
    for (int step = KV / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++) s[j] = vmax(s[j], s[j + step]);
    return vmaxh(s[0]);
}

#ifdef QH_BF16_DOT
/* 2^x as vexp2, for a result that will be rounded to bf16: relative error 1e-4. */
INLINE vf weight_of(vf x)
{
    vf c = vmax(x, vset1(-126.0f));
    vf n = vround(c), f = vsub(c, n);
    vf p = vset1(0x1.c2a216p-5f);
    p = vfma(p, f, vset1(0x1.f00c4cp-3f));
    p = vfma(p, f, vset1(0x1.62f5fap-1f));
    p = vfma(p, f, vset1(1.0f));
    return vzero_below(_mm512_scalef_ps(p, n), x, vset1(-126.0f));
}
#else
INLINE vf weight_of(vf x) { return vexp2(x); }
#endif

/* Scores become weights; returns their sum. */
INLINE float weigh(tile *t, int i)
{
    vf w[KV], max = vset1(t->new_max[i]);
    for (int j = 0; j < KV; j++) w[j] = weight_of(vsub(vload(t->score[i] + j * VL), max));
#ifdef QH_BF16_DOT
    for (int j = 0; j < KV; j += 2)
        _mm512_storeu_si512(t->weight[i] + j * VL / 2,
                            (__m512i)_mm512_cvtne2ps_pbh(w[j + 1], w[j]));
#else
    for (int j = 0; j < KV; j++) vstore(t->score[i] + j * VL, w[j]);
#endif
    for (int step = KV / 2; step > 0; step /= 2)
        for (int j = 0; j < step; j++) w[j] = vadd(w[j], w[j + step]);
    return vsum(w[0]);
}

/* out[i] = out[i] * shrink[i] + weights * values, for DB vectors of dimensions. */
INLINE void weighted_sum(const int nq, const int nd, tile *t, float *out, int len,
                         const uint32_t *values, int d, int n_pairs, const uint32_t *next)
{
    vf acc[QB][DB];
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
        for (int j = 0; j < nd; j++)
            acc[i][j] = vmul(vload(out + i * len + j * VL), vset1(t->shrink[i]));
    for (int p = 0; p < n_pairs; p++) {
        vpairs v[DB];
        fetch_ahead(next + p * T);
#pragma GCC unroll 8
        for (int j = 0; j < nd; j++) v[j] = vload_pairs(values + (size_t)p * d + j * VL);
#ifdef QH_BF16_DOT
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
            for (int j = 0; j < nd; j++) acc[i][j] = dot_pairs(acc[i][j], v[j], t->weight[i][p]);
#else
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) {
            vf w0 = vset1(t->score[i][2 * p]);
#pragma GCC unroll 8
            for (int j = 0; j < nd; j++) acc[i][j] = vfma(vpairs_lo(v[j]), w0, acc[i][j]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < nq; i++) {
            vf w1 = vset1(t->score[i][2 * p + 1]);
#pragma GCC unroll 8
            for (int j = 0; j < nd; j++) acc[i][j] = vfma(vpairs_hi(v[j]), w1, acc[i][j]);
        }
#endif
    }
#pragma GCC unroll 8
    for (int i = 0; i < nq; i++)
#pragma GCC unroll 8
        for (int j = 0; j < nd; j++) vstore(out + i * len + j * VL, acc[i][j]);
}

/* A page's words, and where the next page will be read from. */
typedef struct {
    int index;                      /* among the sequence's pages */
    const uint32_t *keys, *values, *next_keys, *next_values;
} page_view;

/* One page of keys for nq neighbouring queries, the first of which is query `first`. */
INLINE void attend_tile(const int nq, const qh_attn_job *job, const page_view *page, int first,
                        float *states)
{
    const int d = qh_attn_padded(job->head_dim), len = d + QH_ATTN_STATE_EXTRA;
    int n_valid[QB], n_keys = 0;
    for (int i = 0; i < nq; i++) {
        int n = job->first_pos + (first + i) / job->n_group + 1 - page->index * T;
        n_valid[i] = n < 0 ? 0 : n > T ? T : n;
        if (n_valid[i] > n_keys) n_keys = n_valid[i];
    }
    if (n_keys == 0) return;
    tile t;
    for (int i = nq; i < VL; i++) t.old_max[i] = t.new_max[i] = 0;
    score_tile(nq, &t, job->q + (size_t)first * QUERY_LEN(d), d, page->keys, job->head_dim / 2,
               page->next_keys);
    float *out = states + (size_t)first * len, *stats = out + d;
    for (int i = 0; i < nq; i++) {
        float max = mask_and_max(t.score[i], n_valid[i]);
        t.old_max[i] = stats[i * len + QH_ATTN_STATE_MAX];
        t.new_max[i] = max > t.old_max[i] ? max : t.old_max[i];
    }
    for (int i = 0; i < nq; i += VL)
        vstore(t.shrink + i, vexp2(vsub(vload(t.old_max + i), vload(t.new_max + i))));
    for (int i = 0; i < nq; i++) {
        float weight = weigh(&t, i), *w = &stats[i * len + QH_ATTN_STATE_WEIGHT];
        *w = *w * t.shrink[i] + weight;
        stats[i * len + QH_ATTN_STATE_MAX] = t.new_max[i];
    }
    const int n_pairs = (n_keys + 1) / 2;
    int c = 0;
    for (; c + DIM_BLOCK <= d; c += DIM_BLOCK)
        weighted_sum(nq, DB, &t, out + c, len, page->values + c, d, n_pairs,
                     page->next_values + c * T / 2);
    for (; c < d; c += VL)
        weighted_sum(nq, 1, &t, out + c, len, page->values + c, d, n_pairs,
                     page->next_values + c * T / 2);
}

static void attend_queries(int nq, const qh_attn_job *job, const page_view *page, int first,
                           float *states)
{
    switch (nq) {
    case 1: attend_tile(1, job, page, first, states); break;
    case 2: attend_tile(2, job, page, first, states); break;
    case 3: attend_tile(3, job, page, first, states); break;
    case 4: attend_tile(4, job, page, first, states); break;
#if defined(QH_VEC_AVX512) || defined(QH_VEC_AVX2)
    case 5: attend_tile(5, job, page, first, states); break;
    case 6: attend_tile(6, job, page, first, states); break;
#endif
    }
}

INLINE const unsigned char *block_at(const qh_attn_job *job, int page)
{
    return job->blocks + (size_t)job->pages[page] * job->page_bytes;
}

/* Pages outside, queries inside: a page's keys and values stay in the first-level cache. words:
 * room for the words of a page when blocks are q8_0, else NULL. */
INLINE void range_of(const qh_attn_job *job, int index, float *states, uint32_t *words)
{
    const int d = qh_attn_padded(job->head_dim);
    const int n_queries = job->n_rows * job->n_group;
    const int n_blocks = (n_queries + QB - 1) / QB;
    const int last_pos = job->first_pos + job->n_rows - 1, last_page = last_pos / T;
    int page = index * (QH_ATTN_RANGE_TOKENS / T), end = page + QH_ATTN_RANGE_TOKENS / T;
    if (end > last_page + 1) end = last_page + 1;
    qh_attn_clear(states, n_queries, job->head_dim);
    for (; page < end; page++) {
        const unsigned char *block = block_at(job, page);
        const unsigned char *next = page == last_page ? block : block_at(job, page + 1);
        page_view view = {page, keys_of(block), values_of(block, d), keys_of(next),
                          values_of(next, d)};
        if (words) {                /* a q8_0 block is about as long as the keys of a bf16 block */
            const int n_keys = page == last_page ? last_pos % T + 1 : T;
            uint32_t *values = words + (size_t)d / 2 * T;
            expand_keys(words, block, d, n_keys);
            expand_values(values, block, d, n_keys);
            view.keys = words;
            view.values = view.next_values = values;
        }
        for (int b = 0; b < n_blocks; b++) {
            int first = n_queries * b / n_blocks, end_of_block = n_queries * (b + 1) / n_blocks;
            attend_queries(end_of_block - first, job, &view, first, states);
        }
    }
}

static void range(const qh_attn_job *job, int index, float *states)
{
    range_of(job, index, states, NULL);
}

static void range_q8(const qh_attn_job *job, int index, float *states)
{
    uint32_t words[QH_MAX_HEAD_DIM * T] __attribute__((aligned(64)));
    range_of(job, index, states, words);
}

static void merge(float *total, const float *part, int n, int head_dim)
{
    const int d = qh_attn_padded(head_dim), len = d + QH_ATTN_STATE_EXTRA;
    for (int i = 0; i < n; i++, total += len, part += len) {
        float *ts = total + d;
        const float *ps = part + d;
        float old_max = ts[QH_ATTN_STATE_MAX], part_max = ps[QH_ATTN_STATE_MAX];
        float max = part_max > old_max ? part_max : old_max;
        vf a = vexp2(vset1(old_max - max)), b = vexp2(vset1(part_max - max));
        for (int c = 0; c < d; c += VL)
            vstore(total + c, vfma(vload(part + c), b, vmul(vload(total + c), a)));
        vf w = vfma(vset1(ps[QH_ATTN_STATE_WEIGHT]), b, vmul(vset1(ts[QH_ATTN_STATE_WEIGHT]), a));
        vstore_n(&ts[QH_ATTN_STATE_WEIGHT], w, 1);
        ts[QH_ATTN_STATE_MAX] = max;
    }
}

static void finish(float *out, const float *state, int head_dim)
{
    vf scale = vset1(1.0f / state[qh_attn_padded(head_dim) + QH_ATTN_STATE_WEIGHT]);
    for (int c = 0; c < head_dim; c += VL) {
        vf v = vmul(vload(state + c), scale);
        if (c + VL <= head_dim) vstore(out + c, v);
        else vstore_n(out + c, v, head_dim - c);
    }
}

const qh_attn_ops QH_ATTN_OPS[QH_N_KV_TYPE] = {
    [QH_KV_BF16] = {.block_bytes = block_bytes,
                    .append = append,
                    .prepare = prepare,
                    .range = range,
                    .merge = merge,
                    .finish = finish},
    [QH_KV_Q8_0] = {.block_bytes = block_bytes_q8,
                    .append = append_q8,
                    .prepare = prepare,
                    .range = range_q8,
                    .merge = merge,
                    .finish = finish},
};
