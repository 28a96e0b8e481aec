/* matrix_layout.h - how packed weights and activations lie in memory. Internal to the matrix
 * kernels.
 *
 * One layout serves every level. Rows come in groups of 16, a lane is a row, and the smallest unit
 * is a step: 4 consecutive k of 16 rows, 64 bytes [row][4].
 *
 *   matrix  = groups of 16 rows            group = chunks of 256 k (the last may be shorter)
 *   chunk   = scales of its blocks, padded to 64 bytes | quants of block 0 | quants of block 1 | ...
 *   block   = 32 k = 8 steps; its quants are bit planes of whole 64-byte vectors:
 *
 *     8 bits   8 vectors; vector s is step s
 *     4 bits   4 vectors; vector s holds step s in the low nibbles and step s+4 in the high ones
 *     2 bits   2 vectors; vector i holds steps i, i+2, i+4, i+6 from the low bits up
 *     1 bit    1 vector;  bit s of each byte belongs to step s
 *
 *   A 5-bit type is a 4-bit plane and a 1-bit plane on top of it; 3 is 2+1, 6 is 4+2.
 *
 *   scales  F16     for each block: scale f16[16] (minimum f16[16])
 *           CODE    super scale f16[16] (super minimum f16[16]), then for each block
 *                   for each group of it: code s8[16], then if there are minima: code s8[16] each
 *           NIBBLE  super scale f16[16], super minimum f16[16], then for each block
 *                   for each group: u8[16], scale code in the low nibble, minimum code in the high
 *
 * A weight is scale * (quant - zero) + minimum, where scale is the f16 or super * code (exact in a
 * float) and minimum likewise, negative in the K types. So the packed form holds exactly the stored
 * values, in 0 to 5 % more bytes than the file. */
#pragma once
#include "kernels/cpu/matrix.h"
#include <stddef.h>
#include <stdint.h>

/* The kernels are bodies with constant arguments, copied for each type and number of tokens, and
 * loops over lanes and steps that vanish. A sanitizer would take minutes over the copies, so it
 * gets one. */
#ifdef __SANITIZE_ADDRESS__
#define QH_BODY static inline
#define QH_UNROLL
#else
#define QH_BODY static inline __attribute__((always_inline))
#define QH_UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    QH_GROUP_ROWS = 16,
    QH_BLOCK_K = 32,
    QH_CHUNK_K = 256,
    QH_CHUNK_BLOCKS = QH_CHUNK_K / QH_BLOCK_K,
    QH_STEP_BYTES = 64,
    QH_LINE_BYTES = 64,
};
enum { QH_SCALE_F16, QH_SCALE_CODE, QH_SCALE_NIBBLE };

/* dtype, tile class, low plane bits, high plane bits, quants index the IQ4 table, zero point, k a
 * scale covers, scales, has minima. The table's values are used + 128, hence its zero point.
 * Adding one? Also unpack_<dtype> in pack.c. */
#define QH_LAYOUT_LIST(X)                                                                          \
    X(Q4_0, Z4, 4, 0, 0, 8, 32, QH_SCALE_F16, 0)                                                   \
    X(Q4_1, M4, 4, 0, 0, 0, 32, QH_SCALE_F16, 1)                                                   \
    X(Q5_0, Z5, 4, 1, 0, 16, 32, QH_SCALE_F16, 0)                                                  \
    X(Q5_1, M5, 4, 1, 0, 0, 32, QH_SCALE_F16, 1)                                                   \
    X(Q8_0, Z8, 8, 0, 0, 128, 32, QH_SCALE_F16, 0)                                                 \
    X(Q2_K, M2, 2, 0, 0, 0, 16, QH_SCALE_NIBBLE, 1)                                                \
    X(Q3_K, Z3, 2, 1, 0, 4, 16, QH_SCALE_CODE, 0)                                                  \
    X(Q4_K, M4, 4, 0, 0, 0, 32, QH_SCALE_CODE, 1)                                                  \
    X(Q5_K, M5, 4, 1, 0, 0, 32, QH_SCALE_CODE, 1)                                                  \
    X(Q6_K, Z6, 4, 2, 0, 32, 16, QH_SCALE_CODE, 0)                                                 \
    X(IQ4_NL, Z8, 4, 0, 1, 128, 32, QH_SCALE_F16, 0)                                               \
    X(IQ4_XS, Z8, 4, 0, 1, 128, 32, QH_SCALE_CODE, 0)

/* Tile classes: once unpacked to bytes and float scales, types differ only in this.
 * class, bits of a quant, zero point, k a scale covers, has minima. */
#define QH_TILE_LIST(X)                                                                            \
    X(Z4, 4, 8, 32, 0)                                                                             \
    X(M4, 4, 0, 32, 1)                                                                             \
    X(Z5, 5, 16, 32, 0)                                                                            \
    X(M5, 5, 0, 32, 1)                                                                             \
    X(Z8, 8, 128, 32, 0)                                                                           \
    X(M2, 2, 0, 16, 1)                                                                             \
    X(Z3, 3, 4, 16, 0)                                                                             \
    X(Z6, 6, 32, 16, 0)

typedef struct {
    uint8_t lo_bits, hi_bits;
    bool is_table;
    uint8_t zero, scale_k, scale_kind;
    bool has_min;
} qh_layout;

/* NULL for F32, F16 and BF16, which are stored as they are: [k][16], BF16 as pairs [k/2][16][2]. */
const qh_layout *qh_layout_of(qh_dtype t);
extern const int8_t qh_iq4_values[16];

static inline size_t qh_round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* Bytes of the scales of a chunk of n_blocks. */
static inline size_t qh_chunk_scale_bytes(int scale_kind, int scale_k, bool has_min, int n_blocks)
{
    const size_t per_row = (size_t)n_blocks * (size_t)(QH_BLOCK_K / scale_k);
    size_t n = 0;
    switch (scale_kind) {
    case QH_SCALE_F16: n = per_row * 2 * (has_min ? 2 : 1); break;
    case QH_SCALE_CODE: n = (2 + per_row) * (has_min ? 2 : 1); break;
    case QH_SCALE_NIBBLE: n = 4 + per_row; break;
    }
    return qh_round_up(n * QH_GROUP_ROWS, QH_LINE_BYTES);
}

static inline size_t qh_block_quant_bytes(int lo_bits, int hi_bits)
{
    return (size_t)(lo_bits + hi_bits) * QH_GROUP_ROWS * QH_BLOCK_K / 8;
}

size_t qh_group_bytes(qh_dtype t, int64_t dim);

/* 32 activations: a cache line of their own. */
typedef struct {
    int8_t x[QH_BLOCK_K];           /* round(activation / scale) */
    float scale;                    /* largest magnitude / 127 */
    float sum;                      /* scale * (sum of x): meets the minima */
    int32_t neg;                    /* -(sum of x): meets the zero point */
    float half_sum[2];              /* the last two again, over halves of 16 */
    int32_t half_neg[2];
    int32_t unused;
} qh_acts_block;

#define QH_ACTS_TINY 0x1p-100f      /* a block below it is all zero: 127 / amax would overflow */

/* Where activations lie: first the blocks of every token (the last one of a token filled up with
 * zeros), then, when floats are kept, the floats of every token, then at avx512bf16 the same as
 * bf16. */
typedef struct {
    int64_t n_blocks;
    size_t record_bytes, float_bytes, bf16_bytes;   /* strides between tokens */
} qh_acts_shape;

static inline qh_acts_shape qh_acts_shape_of(qh_isa isa, int64_t dim, bool has_float)
{
    qh_acts_shape s = {.n_blocks = (dim + QH_BLOCK_K - 1) / QH_BLOCK_K};
    if (isa != QH_ISA_REF) s.record_bytes = (size_t)s.n_blocks * sizeof(qh_acts_block);
    if (has_float) s.float_bytes = qh_round_up((size_t)dim * 4, QH_LINE_BYTES);
    if (has_float && isa == QH_ISA_AVX512BF16)
        s.bf16_bytes = qh_round_up((size_t)dim * 2, QH_LINE_BYTES);
    return s;
}

static inline qh_acts_block *qh_acts_blocks(const qh_acts *a, const qh_acts_shape *s, int t)
{
    return (qh_acts_block *)(a->data + (size_t)t * s->record_bytes);
}
static inline float *qh_acts_floats(const qh_acts *a, const qh_acts_shape *s, int t)
{
    return (float *)(a->data + (size_t)a->n_tokens * s->record_bytes + (size_t)t * s->float_bytes);
}
static inline uint16_t *qh_acts_bf16(const qh_acts *a, const qh_acts_shape *s, int t)
{
    return (uint16_t *)(a->data + (size_t)a->n_tokens * (s->record_bytes + s->float_bytes) +
                        (size_t)t * s->bf16_bytes);
}

/* One product, as the kernels of a level get it. */
struct qh_matmul_job {
    const qh_matrix *m;
    const qh_acts *a;
    int t_begin, t_end;
    int64_t row_begin, row_end;
    float *y;
    int64_t ldy;
};

typedef void qh_matmul_fn(const qh_matmul_job *job);

/* A level's kernels; matmul is indexed by position in QH_DTYPE_LIST. NULL: as at avx512. */
enum {
#define X(name, number, n, bytes) QH_DTYPE_AT_##name,
    QH_DTYPE_LIST(X)
#undef X
    QH_N_DTYPE
};
typedef struct {
    qh_matmul_fn *matmul[QH_N_DTYPE];
    void (*acts_set)(const qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end);
} qh_matrix_kernels;

extern const qh_matrix_kernels qh_matrix_ref, qh_matrix_scalar;
#if defined(__x86_64__)
extern const qh_matrix_kernels qh_matrix_avx2, qh_matrix_avxvnni, qh_matrix_avxvnni_evex;
extern const qh_matrix_kernels qh_matrix_avx512, qh_matrix_avx512bf16;
#elif defined(__aarch64__)
extern const qh_matrix_kernels qh_matrix_neon, qh_matrix_neondot;
#endif
const qh_matrix_kernels *qh_matrix_kernels_of(qh_isa isa);
