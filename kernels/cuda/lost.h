/* lost.h - what a CUDA error means: this call failed, or the device is lost.
 *
 * Errors of two kinds come out of the runtime. Most are of one call and gone once read. Sticky
 * ones (an illegal address, an uncorrectable memory error) spoil the context: every later call
 * returns the same and only a new process helps. Thread: any that has selected the device. */
#pragma once
#include "base/err.h"
#include <cuda_runtime_api.h>

/* QH_OK for cudaSuccess; else says what was being done. QH_EDEVICE: the device is lost.
 * QH_ENOMEM: out of its memory. QH_EIO: this call failed, the next may not. May synchronize the
 * device. */
qh_status qh_cuda_status(cudaError_t e, const char *doing, qh_err *err);
