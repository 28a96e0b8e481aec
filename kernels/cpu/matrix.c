/* matrix.c - see matrix.h: choosing a level's kernels, and the checks before they run. */
#include "kernels/cpu/matrix_layout.h"

const qh_matrix_kernels *qh_matrix_kernels_of(qh_isa isa)
{
    switch (isa) {
    case QH_ISA_REF: return &qh_matrix_ref;
    case QH_ISA_SCALAR: return &qh_matrix_scalar;
#if defined(__x86_64__)
    case QH_ISA_AVX2: return &qh_matrix_avx2;
    case QH_ISA_AVXVNNI:
        return qh_isa_has_vex_vnni() ? &qh_matrix_avxvnni : &qh_matrix_avxvnni_evex;
    case QH_ISA_AVX512: return &qh_matrix_avx512;
    case QH_ISA_AVX512BF16: return &qh_matrix_avx512bf16;
#elif defined(__aarch64__)
    case QH_ISA_NEON: return &qh_matrix_neon;
    case QH_ISA_NEONDOT: return &qh_matrix_neondot;
#endif
    default: qh_assert(!"an available level has kernels"); return NULL;
    }
}

static int dtype_at(qh_dtype t)
{
    switch (t) {
#define X(name, number, n, bytes)                                                                  \
    case QH_##name: return QH_DTYPE_AT_##name;
        QH_DTYPE_LIST(X)
#undef X
    }
    return -1;
}

static qh_matmul_fn *matmul_of(qh_isa isa, qh_dtype t)
{
    qh_matmul_fn *fn = qh_matrix_kernels_of(isa)->matmul[dtype_at(t)];
    return fn ? fn : matmul_of(QH_ISA_AVX512, t);
}

static size_t group_bytes(qh_isa isa, qh_dtype dtype, int64_t dim)
{
    if (isa == QH_ISA_REF) return qh_dtype_row_bytes(dtype, dim) * QH_GROUP_ROWS;
    return qh_group_bytes(dtype, dim);
}

size_t qh_matrix_bytes(qh_isa isa, qh_dtype dtype, int64_t n_rows, int64_t dim)
{
    const size_t n_groups = (size_t)(n_rows + QH_GROUP_ROWS - 1) / QH_GROUP_ROWS;
    return qh_round_up(n_groups * group_bytes(isa, dtype, dim), QH_LINE_BYTES);
}

qh_status qh_matrix_init(qh_matrix *m, qh_isa isa, const qh_tensor *t, void *data, qh_err *err)
{
    *m = (qh_matrix){0};
    if (!qh_isa_is_available(isa))
        return qh_fail(err, QH_EUNSUPPORTED, "instruction-set level %s is not available here",
                       qh_isa_name(isa));
    if (dtype_at(t->dtype) < 0)
        return qh_fail(err, QH_EUNSUPPORTED, "%s: no matrix kernel for type %d", t->name, t->dtype);
    if (t->n_rows < 1 || t->dim < 1 || !qh_dtype_row_bytes(t->dtype, t->dim))
        return qh_fail(err, QH_EFORMAT,
                       "%s: %lld rows of %lld elements; expected whole %s blocks of %d", t->name,
                       (long long)t->n_rows, (long long)t->dim, qh_dtype_name(t->dtype),
                       qh_dtype_block_len(t->dtype));
    *m = (qh_matrix){.matmul = matmul_of(isa, t->dtype), .data = data, .n_rows = t->n_rows,
                     .dim = t->dim, .group_bytes = group_bytes(isa, t->dtype, t->dim),
                     .dtype = t->dtype, .isa = isa};
    return QH_OK;
}

bool qh_matrix_needs_float(const qh_matrix *m)
{
    return m->isa == QH_ISA_REF || !qh_layout_of(m->dtype);
}

void qh_matmul(const qh_matrix *m, const qh_acts *a, int t_begin, int t_end, int64_t row_begin,
               int64_t row_end, float *y, int64_t ldy)
{
    if (t_begin >= t_end || row_begin >= row_end) return;
    qh_assert(a->isa == m->isa && a->dim == m->dim);
    qh_assert(t_begin >= 0 && t_end <= a->n_tokens);
    qh_assert(row_begin >= 0 && row_end <= m->n_rows);
    qh_assert(row_begin % QH_GROUP_ROWS == 0);
    qh_assert(row_end % QH_GROUP_ROWS == 0 || row_end == m->n_rows);
    qh_assert(a->has_float || !qh_matrix_needs_float(m));
    const qh_matmul_job job = {.m = m, .a = a, .t_begin = t_begin, .t_end = t_end,
                               .row_begin = row_begin, .row_end = row_end, .y = y, .ldy = ldy};
    m->matmul(&job);
}
