/* matrix_ref.c - the oracle: float activations, dequantized weights, sums in double.
 *
 * Rows are kept as stored, so that it shares nothing with the packed kernels but qh_dequantize. */
#include "kernels/cpu/matrix_layout.h"
#include "model/quant.h"
#include <string.h>

enum { REF_TOKENS = 16, REF_K = QH_CHUNK_K };

/* One row for n_tokens <= REF_TOKENS tokens; the sum of a token runs in order of k. */
static void row_dots(double *sum, const qh_matmul_job *j, const uint8_t *row, int t, int n_tokens)
{
    const qh_matrix *m = j->m;
    const qh_acts_shape shape = qh_acts_shape_of(QH_ISA_REF, m->dim, true);
    float w[REF_K];
    memset(sum, 0, sizeof *sum * REF_TOKENS);
    for (int64_t k = 0; k < m->dim; k += REF_K) {
        const int64_t n = m->dim - k < REF_K ? m->dim - k : REF_K;
        qh_dequantize(m->dtype, w, row, n);
        row += qh_dtype_row_bytes(m->dtype, n);
        for (int i = 0; i < n_tokens; i++) {
            const float *x = qh_acts_floats(j->a, &shape, t + i) + k;
            for (int64_t e = 0; e < n; e++) sum[i] += (double)w[e] * (double)x[e];
        }
    }
}

static void matmul_any(const qh_matmul_job *j)
{
    const size_t row_bytes = qh_dtype_row_bytes(j->m->dtype, j->m->dim);
    double sum[REF_TOKENS];
    for (int64_t r = j->row_begin; r < j->row_end; r++)
        for (int t = j->t_begin; t < j->t_end; t += REF_TOKENS) {
            const int n = j->t_end - t < REF_TOKENS ? j->t_end - t : REF_TOKENS;
            row_dots(sum, j, j->m->data + (size_t)r * row_bytes, t, n);
            for (int i = 0; i < n; i++) j->y[(int64_t)(t + i) * j->ldy + r] = (float)sum[i];
        }
}

static void acts_set(const qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end)
{
    const qh_acts_shape s = qh_acts_shape_of(QH_ISA_REF, a->dim, true);
    for (int t = t_begin; t < t_end; t++)
        memcpy(qh_acts_floats(a, &s, t), x + (int64_t)t * ldx, (size_t)a->dim * sizeof *x);
}

const qh_matrix_kernels qh_matrix_ref = {
    .matmul = {
#define X(name, number, n, bytes) [QH_DTYPE_AT_##name] = matmul_any,
        QH_DTYPE_LIST(X)
#undef X
    },
    .acts_set = acts_set,
};
