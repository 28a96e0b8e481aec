/* lost.c - see lost.h */
#include "kernels/cuda/lost.h"

/* A sticky error comes back from every call, also after it has been read. */
static bool is_lost(void)
{
    cudaGetLastError();
    const bool lost =
        cudaDeviceSynchronize() != cudaSuccess && cudaDeviceSynchronize() != cudaSuccess;
    cudaGetLastError();
    return lost;
}

qh_status qh_cuda_status(cudaError_t e, const char *doing, qh_err *err)
{
    if (e == cudaSuccess) return QH_OK;
    const char *name = cudaGetErrorName(e), *text = cudaGetErrorString(e);
    if (is_lost()) return qh_fail(err, QH_EDEVICE, "GPU lost while %s: %s (%s)", doing, text, name);
    return qh_fail(err, e == cudaErrorMemoryAllocation ? QH_ENOMEM : QH_EIO, "GPU, %s: %s (%s)",
                   doing, text, name);
}
