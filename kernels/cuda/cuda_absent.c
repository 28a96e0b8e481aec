/* cuda_absent.c - the backend of a build without a CUDA toolkit: none. See cuda_backend.h */
#include "kernels/cuda/cuda_backend.h"

static qh_status absent(qh_err *err)
{
    return qh_fail(err, QH_EUNSUPPORTED, "this qhost was built without CUDA");
}

bool qh_cuda_is_available(int *n, qh_err *err)
{
    *n = 0;
    absent(err);
    return false;
}

qh_status qh_cuda_backend_plan(qh_memory_plan *out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err)
{
    (void)d, (void)w, (void)limits, (void)options;
    *out = (qh_memory_plan){0};
    return absent(err);
}

qh_status qh_cuda_backend_open(qh_backend **out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err)
{
    (void)d, (void)w, (void)limits, (void)options;
    *out = NULL;
    return absent(err);
}
