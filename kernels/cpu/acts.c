/* acts.c - activations of a call to qh_matmul; the quantization itself belongs to the level. */
#include "kernels/cpu/matrix_layout.h"

size_t qh_acts_bytes(qh_isa isa, int n_tokens, int64_t dim, bool has_float)
{
    const qh_acts_shape s = qh_acts_shape_of(isa, dim, has_float);
    return (size_t)n_tokens * (s.record_bytes + s.float_bytes + s.bf16_bytes);
}

void qh_acts_init(qh_acts *a, qh_isa isa, int n_tokens, int64_t dim, bool has_float, void *data)
{
    qh_assert((uintptr_t)data % QH_LINE_BYTES == 0);
    qh_assert(has_float || isa != QH_ISA_REF);
    *a = (qh_acts){.isa = isa, .n_tokens = n_tokens, .dim = dim, .has_float = has_float,
                   .data = data};
}

void qh_acts_set(qh_acts *a, const float *x, int64_t ldx, int t_begin, int t_end)
{
    qh_assert(t_begin >= 0 && t_end <= a->n_tokens);
    qh_matrix_kernels_of(a->isa)->acts_set(a, x, ldx, t_begin, t_end);
}
