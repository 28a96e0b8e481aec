/* ops.h - launchers of the kernels, one .cu file each.
 *
 * A launcher works on the stream that it is given, does nothing for zero rows, checks its launch
 * and never synchronizes. Launches overlap, see launch.cuh. lost.h turns its result into a
 * status. Pointers are device pointers. Rows of bf16 activations are padded to whole units with
 * zeros, see qh_padded_dim, and each 32 of their columns lie in the order of qh_act_place, in
 * which a lane's eight are one load. Thread: any that has selected the device. */
#pragma once
#include "kernels/cuda/tile.h"
#include <cuda_runtime_api.h>
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t qh_bf16;

static inline int qh_padded_dim(int dim)
{
    return (dim + QH_UNIT_DIM - 1) / QH_UNIT_DIM * QH_UNIT_DIM;
}

/* Where column k of an activation row lies: t, s, then 0, 2, 1, 3 of the four (see tile.h). */
#ifdef __CUDACC__
__host__ __device__
#endif
static inline int qh_act_place(int k)
{
    const int s = k >> 4 & 1, t = k >> 2 & 3, i = k & 3;
    return (k & ~31) | t << 3 | s << 2 | (i & 1) << 1 | i >> 1;
}

/* ---- pack.cu ---- */

typedef struct {
    qh_tile tile;
    int dtype[2];                   /* qh_dtype of the sources of rows g and g + 8 of a row tile */
    const uint8_t *src[2];          /* both at row first_tile * tile_rows */
    size_t row_bytes[2];
    int tile_rows;                  /* source rows a tile takes: 16, or 8 of each of two sources */
    int n_rows, dim;                /* of a source, all of it */
    int first_tile, n_tiles, n_units;
    uint8_t *dst;                   /* of the whole matrix */
} qh_pack_args;
cudaError_t qh_cuda_pack(const qh_pack_args *a, cudaStream_t stream);

/* ---- unpack.cu ---- */

/* y [16 * n_row_tiles][64 * n_units] = the matrix in bf16, columns in act order */
cudaError_t qh_cuda_unpack(qh_bf16 *y, const qh_tiles *w, cudaStream_t stream);

/* ---- silu_mul.cu ---- */

/* y [n_rows][ld] = silu(gate) * up of x [n_rows][16 * n_row_tiles], eight of each by turns */
cudaError_t qh_cuda_silu_mul(qh_bf16 *y, const qh_bf16 *x, int n_rows, int n_row_tiles, int ld,
                             cudaStream_t stream);

/* ---- embed.cu ---- */

/* x[row] = row tokens[row] of the table */
cudaError_t qh_cuda_embed(float *x, const qh_tiles *table, const int *tokens, int n_rows,
                          cudaStream_t stream);

/* ---- rms_norm.cu ---- */

/* y[i] = bf16(norm of x[rows ? rows[i] : i]), i < n_rows; y has rows of qh_padded_dim(dim) */
cudaError_t qh_cuda_rms_norm(qh_bf16 *y, const float *x, const float *w, const int *rows,
                             int n_rows, int dim, float eps, cudaStream_t stream);

/* ---- matmul.cu ---- */

typedef enum {
    QH_EPILOGUE_STORE,   /* float y = product */
    QH_EPILOGUE_ADD,     /* float y += product */
    QH_EPILOGUE_SILU_MUL /* bf16 y = silu(gate) * up, of a matrix of gate and up together */
} qh_epilogue;

/* Products of the same x, computed together: y [n_tokens][ldy] each. */
enum { QH_MAX_PRODUCTS = 3 };
typedef struct {
    qh_tiles w;
    void *y;
} qh_product;

/* x [n_tokens][qh_padded_dim(dim)], dim that of all n_products matrices */
cudaError_t qh_cuda_matmul(const qh_product *products, int n_products, int64_t ldy,
                           const qh_bf16 *x, int n_tokens, qh_epilogue epilogue,
                           cudaStream_t stream);

/* ---- matvec.cu ---- */

/* A vector as integers from -127 to 127 with a scale a group, padded with zeros to 128 columns. */
enum { QH_ACT8_GROUP = 16, QH_ACT8_PAD = 128 };
typedef struct {
    int8_t *q;
    float *scales;
} qh_act8;

typedef enum {
    QH_MATVEC_STORE,                /* float y = product */
    QH_MATVEC_ADD,                  /* float y += residual + product; y is zeros */
    QH_MATVEC_SILU                  /* qh_act8 y = silu(gate) * up, of gate and up together */
} qh_matvec_epilogue;

/* Row tiles of one format, of one matrix or of several behind each other. */
typedef struct {
    qh_tile tile;
    const uint8_t *units;
    int unit_bytes;
    int n_rows, n_row_tiles;
    float *y;                       /* unless SILU */
} qh_matvec_part;

typedef struct {
    qh_matvec_part parts[2];
    int n_parts;
    int dim, n_units;
    const float *x, *norm_weight;   /* x is normed first; NULL: x8 */
    float eps;
    qh_act8 x8;
    qh_matvec_epilogue epilogue;
    const float *residual;
    qh_act8 out;                    /* of SILU */
    float *zero;                    /* n_zero floats that a later phase adds to */
    int n_zero;
} qh_matvec_args;
bool        qh_cuda_matvec_takes(qh_tile tile);
cudaError_t qh_cuda_matvec(const qh_matvec_args *a, cudaStream_t stream);

/* ---- heads.cu ---- */

/* cos_sin[row] = cos[rope_dim/2], sin[rope_dim/2] at positions[row], times magnitude */
cudaError_t qh_cuda_rope_table(float *cos_sin, const double *freqs, const int *positions,
                               int n_rows, int half_dim, double magnitude, cudaStream_t stream);

/* How keys and values lie in a page: [layer][kv_head]{K [64][padded], V transposed [padded][64]}
 * bf16. */
typedef struct {
    uint8_t *base;
    size_t page_bytes;
    int layer, n_kv_heads;
    int head_dim, padded;           /* padded: qh_cuda_padded_head(head_dim) */
} qh_kv;

typedef struct {
    qh_kv kv;
    int n_heads, rope_dim;
    bool is_interleaved;
    const float *qkv;               /* [n_rows][n_heads + 2 * n_kv_heads][head_dim] */
    const float *bias;              /* of such a row, or NULL */
    const float *q_norm, *k_norm;   /* [head_dim], or NULL */
    float eps;
    float q_scale;                  /* put on q: attn_scale * log2(e) */
    const float *cos_sin;
    const int *positions, *pages;   /* [n_rows] */
    qh_bf16 *q;                     /* [n_rows][n_heads][padded] */
    int n_rows;
} qh_heads_args;
/* Bias, norm and rotation; queries to q, keys and values to their pages. */
cudaError_t qh_cuda_heads(const qh_heads_args *a, cudaStream_t stream);

/* ---- attention.cu ---- */

int qh_cuda_padded_head(int head_dim);   /* 0: no kernel for this size */

/* (row, head of a group) pairs that a warp takes, and the warps of a large item. */
enum { QH_ATTN_QUERIES = 16, QH_ATTN_LARGE_QUERIES = 192 };

/* Sequence of a step, and work on it. A small item is one page of a sequence that has at most
 * QH_ATTN_QUERIES queries a KV head: its state goes to slot, and merges collects a sequence's.
 * A large item is twelve warps' worth of queries that walk along all pages. */
typedef struct {
    int first_row, n_rows, n_past;
    int first_page;                 /* in pages */
} qh_attn_seq;
typedef struct {
    int seq, page;                  /* page: which of the sequence */
    int state;                      /* first of its n_rows * n_group states, for each KV head */
} qh_attn_small;
typedef struct {
    int seq, n_pages, state;        /* states of page i begin at state + i * queries */
} qh_attn_merge;
typedef struct {
    int seq, query;                 /* first of QH_ATTN_LARGE_QUERIES */
} qh_attn_large;

typedef struct {
    qh_kv kv;
    int n_heads;
    const qh_bf16 *q;               /* scaled, see qh_heads_args */
    qh_bf16 *out;                   /* [n_rows][ld_out] */
    int ld_out;
    const qh_attn_seq *seqs;
    const int *pages;
    const qh_attn_small *small;
    const qh_attn_merge *merges;
    const qh_attn_large *large;
    int n_small, n_merges, n_large;
    float *states;                  /* [n_kv_heads][max_states][padded + 2] */
    int max_states;
    int max_merge_queries;          /* of the merges */
} qh_attn_args;
cudaError_t qh_cuda_attention(const qh_attn_args *a, cudaStream_t stream);

/* ---- decode_attention.cu ---- */

enum { QH_DECODE_MAX_SPLITS = 64 };

/* Sequences of one row each, row i of seqs[i]; n_past -1: no sequence. */
typedef struct {
    qh_kv kv;
    int n_heads, rope_dim;
    bool is_interleaved;
    const float *qkv, *bias, *q_norm, *k_norm;      /* see qh_heads_args */
    float eps, q_scale;
    const float *cos_sin;
    const qh_attn_seq *seqs;
    const int *pages;
    int n_rows;                     /* n_heads / n_kv_heads is at most QH_ATTN_QUERIES */
    qh_act8 out8;                   /* of one row; q NULL: out */
    qh_bf16 *out;
    int ld_out;
    float *states;                  /* [n_rows][n_kv_heads][max_splits][group][padded + 4] */
    int *counters;                  /* [n_rows][n_kv_heads] zeros */
    int max_splits;                 /* qh_cuda_decode_splits */
} qh_decode_attn_args;
/* Parts into which the pages of a sequence are dealt; pages at its longest. */
int         qh_cuda_decode_splits(int n_rows, int n_kv_heads, int max_pages);
cudaError_t qh_cuda_decode_attention(const qh_decode_attn_args *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
