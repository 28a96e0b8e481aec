/* attention.h - causal attention of grouped query heads over paged keys and values.
 *
 * One head of one layer owns a fixed place in every page, its "block": the keys and then the values
 * of QH_PAGE_TOKENS tokens. The fast levels store bf16 (no overflow where f16 has one, widened by a
 * shift, and what dot instructions take; rounding K, V, q and the weights to it moves the logits by
 * a fiftieth of what int8 activations do: mean KL 5e-5 nat on the default model). Dimensions are
 * padded to DIM_ALIGN (d below). Neighbours that are summed together lie in one 32-bit word:
 *
 *     keys    word [dim/2][token]      = (k[token][dim], k[token][dim + 1])
 *     values  word [token/2][dim]      = (v[token][dim], v[token + 1][dim])
 *
 * so a vector of words is 16 tokens of a dimension pair, or 16 dimensions of a token pair, and no
 * horizontal sum is needed. A q8_0 block stores 8 bits a value with a bf16 scale for each token and
 * QH_ATTN_Q8_GROUP dimensions, 0.53 of the bytes, and is widened to such words page by page:
 *
 *     keys    int8 [dim][token]        scales of keys      bf16 [dim/32][token]
 *     values  int8 [token][dim]        scales of values    bf16 [dim/32][token]
 *
 * The ref level stores float, keys [token][dim] then values, and has no q8_0.
 *
 * Exactness: a score is one chain of additions over dim in order. Keys are taken page by page with
 * an online softmax; every RANGE_TOKENS keys start afresh and the ranges are merged in order.
 * Masked keys weigh exactly 0 and change no bit. So a row's result does not depend on which rows
 * are computed with it, on how many keys lie behind it, or on which thread took which range: decode
 * splits a long sequence by ranges, prefill walks them one after the other.
 *
 * A state is one row of floats for each query: out[d] (not yet divided by the weight), max score,
 * weight. Oracle: qh_ref_attention. Thread: pure functions on memory handed to them. */
#pragma once
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/kv_type.h"

enum {
    QH_ATTN_RANGE_TOKENS = 4 * QH_PAGE_TOKENS,
    QH_ATTN_DIM_ALIGN = 16,
    QH_ATTN_Q8_GROUP = 32,
    QH_ATTN_STATE_MAX = 0,          /* behind out[d]: index of the largest score so far */
    QH_ATTN_STATE_WEIGHT = 1,       /* and of the sum of 2^(score - max) */
    QH_ATTN_STATE_EXTRA = 16,       /* floats behind out[d]; a cache line */
};

static inline int qh_attn_padded(int head_dim)
{
    return (head_dim + QH_ATTN_DIM_ALIGN - 1) / QH_ATTN_DIM_ALIGN * QH_ATTN_DIM_ALIGN;
}
static inline int qh_attn_state_len(int head_dim)
{
    return qh_attn_padded(head_dim) + QH_ATTN_STATE_EXTRA;
}

/* Rows of one sequence and the query heads that share a KV head. Query i is head i % n_group of row
 * i / n_group; row r sees keys 0 .. first_pos + r. */
typedef struct {
    int head_dim, n_group, n_rows, first_pos;
    float scale;                    /* of q*k */
    const unsigned char *blocks;    /* the head's block in page 0 */
    size_t page_bytes;
    const qh_page *pages;
    float *q;                       /* [n_queries][padded], zero beyond head_dim; see prepare */
} qh_attn_job;

typedef struct {
    size_t (*block_bytes)(int head_dim);
    /* Store one token's key and value, [head_dim] floats each, in its slot of a block. Values are
     * made finite: a masked key has weight 0, and 0 * inf would still be NaN. */
    void (*append)(void *block, int head_dim, int slot, const float *k, const float *v);
    /* Bring q, as float, into the form that range reads, in place. Once a job. */
    void (*prepare)(const qh_attn_job *job);
    /* states [n_queries][state_len] of keys [range * RANGE_TOKENS, + RANGE_TOKENS). */
    void (*range)(const qh_attn_job *job, int range, float *states);
    /* total = total and then part, for n states. */
    void (*merge)(float *total, const float *part, int n, int head_dim);
    /* out[head_dim] of one state. */
    void (*finish)(float *out, const float *state, int head_dim);
} qh_attn_ops;

/* isa must be available. NULL: it does not store keys and values that way. */
const qh_attn_ops *qh_attn_ops_of(qh_isa isa, qh_kv_type type);

/* States that have seen no key. */
void qh_attn_clear(float *states, int n, int head_dim);

static inline int qh_attn_n_ranges(int n_keys)
{
    return (n_keys + QH_ATTN_RANGE_TOKENS - 1) / QH_ATTN_RANGE_TOKENS;
}

extern const qh_attn_ops qh_attn_ops_ref, qh_attn_ops_scalar[QH_N_KV_TYPE];
#if defined(__x86_64__)
extern const qh_attn_ops qh_attn_ops_avx2[QH_N_KV_TYPE], qh_attn_ops_avx512[QH_N_KV_TYPE],
    qh_attn_ops_avx512bf16[QH_N_KV_TYPE];
#elif defined(__aarch64__)
extern const qh_attn_ops qh_attn_ops_neon[QH_N_KV_TYPE];
#endif
