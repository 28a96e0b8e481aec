/* matrix.h - prepared weights and int8 activations: y = W x for every stored type and ISA level.
 *
 * Weights are repacked at load into groups of 16 rows, so that a lane is a row and no horizontal
 * sum is needed; quants and scales keep their stored values. Activations are quantized to int8 in
 * blocks of 32 with a float scale.
 *
 * Exactness: y[t][r] is computed by the same sequence of float operations whatever the number of
 * tokens in the call and the split of rows: for each 16 or 32 k that share a scale, in order, the
 * integer dot (exact) enters by one fma, the minimum by another. F32, F16 and BF16 weights meet
 * float activations, one fma for each k in order (avx512bf16: BF16 weights meet activations rounded
 * to BF16, a pair at a time).
 *
 * Thread: prepare and quantize may be split over threads by rows or tokens; a matrix is immutable
 * once prepared. */
#pragma once
#include "base/err.h"
#include "kernels/cpu/isa.h"
#include "model/weights.h"

enum { QH_MATRIX_ROW_ALIGN = 16 }; /* row ranges of threads start and end on multiples of it */

typedef struct qh_matmul_job qh_matmul_job;

typedef struct {
    void (*matmul)(const qh_matmul_job *job);   /* of the level, for this type */
    uint8_t *data;                  /* packed rows; memory belongs to the caller */
    int64_t n_rows, dim;            /* logical; rows are padded with zeros to a multiple of 16 */
    size_t group_bytes;             /* 16 packed rows */
    qh_dtype dtype;                 /* as stored */
    qh_isa isa;
} qh_matrix;

/* Bytes that prepare will need at data (64-byte aligned), for the memory plan. */
size_t    qh_matrix_bytes(qh_isa isa, qh_dtype dtype, int64_t n_rows, int64_t dim);
/* Choose the layout; checks that dim is a whole number of blocks. data is filled by _pack. */
qh_status qh_matrix_init(qh_matrix *m, qh_isa isa, const qh_tensor *t, void *data, qh_err *err);
/* Pack rows [row_begin, row_end) of t (multiples of 16, or the end); threads take disjoint ranges.
 * */
void      qh_matrix_pack(qh_matrix *m, const qh_tensor *t, int64_t row_begin, int64_t row_end);
/* Dequantize one packed row (the embedding look-up): dst [dim]. */
void      qh_matrix_row(const qh_matrix *m, int64_t row, float *dst);

/* Activations of n_tokens tokens of width dim, in the form the level's kernels read. has_float: the
 * floats are kept beside the int8 values, for matrices that need them. */
typedef struct {
    qh_isa isa;
    int n_tokens;
    int64_t dim;
    bool has_float;
    uint8_t *data;                  /* qh_acts_bytes, 64-byte aligned, caller's */
} qh_acts;
size_t qh_acts_bytes(qh_isa isa, int n_tokens, int64_t dim, bool has_float);
void   qh_acts_init(qh_acts *a, qh_isa isa, int n_tokens, int64_t dim, bool has_float, void *data);
/* Set tokens [t_begin, t_end) from x + t*ldx, dim floats each. A token with a NaN or an infinity
 * gives NaN or infinity in every product. */
void   qh_acts_set(qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end);
/* Whether products with m read the floats: F32, F16, BF16, and everything at REF. */
bool   qh_matrix_needs_float(const qh_matrix *m);

/* y[t][r] for tokens [t_begin, t_end) and rows [row_begin, row_end): y + t*ldy + r. Overwrites. */
void   qh_matmul(const qh_matrix *m, const qh_acts *a, int t_begin, int t_end,
                 int64_t row_begin, int64_t row_end, float *y, int64_t ldy);
