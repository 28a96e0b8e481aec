/* dense_absent.c - dense.h where the toolkit has no cuBLASLt header: there never is a library. */
#include "kernels/cuda/dense.h"

bool qh_dense_is_available(void) { return false; }
size_t qh_dense_workspace_bytes(void) { return 0; }
void qh_dense_free(qh_dense *d) { (void)d; }

qh_status qh_dense_new(qh_dense **out, qh_err *err)
{
    *out = NULL;
    return qh_fail(err, QH_EUNSUPPORTED, "built without cuBLASLt");
}

cudaError_t qh_dense_multiply(qh_dense *d, const qh_dense_product *p, cudaStream_t stream)
{
    (void)d, (void)p, (void)stream;
    return cudaErrorNotSupported;
}
