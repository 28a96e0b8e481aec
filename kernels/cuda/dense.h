/* dense.h - products of bf16 matrices through cuBLASLt, found at run time: the one door to it.
 *
 * Where the library is missing the caller has kernels of its own. Works on the given stream and may
 * be recorded in graphs. Thread: one at a time. */
#pragma once
#include "base/err.h"
#include "kernels/cuda/ops.h"

typedef struct qh_dense qh_dense;

bool qh_dense_is_available(void); /* loads the library, without touching the GPU */
/* On the selected device; takes its workspace. QH_EUNSUPPORTED: no library. */
qh_status qh_dense_new(qh_dense **out, qh_err *err);
void qh_dense_free(qh_dense *d); /* NULL is fine */
size_t qh_dense_workspace_bytes(void);

typedef struct {
    const qh_bf16 *w, *x; /* [n_rows][dim], [n_tokens][dim]; dim % 64 == 0 */
    void *y;              /* [n_tokens][ldy], float or bf16 */
    int n_rows, dim, n_tokens;
    int64_t ldy;
    bool is_bf16, is_added; /* of y */
} qh_dense_product;
cudaError_t qh_dense_multiply(qh_dense *d, const qh_dense_product *p, cudaStream_t stream);
