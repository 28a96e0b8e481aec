/* cuda_forward.h - one step on the GPU: layout of its memory, description of the work, the
 * launches.
 *
 * Thread: the engine thread, with the device selected. */
#pragma once
#include "kernels/backend.h"
#include "kernels/cuda/cuda_model.h"

typedef struct qh_cuda_forward qh_cuda_forward;

uint64_t  qh_cuda_forward_page_bytes(const qh_desc *d);
/* is_dense: the model has its matrices in bf16 as well. */
uint64_t  qh_cuda_forward_scratch_bytes(const qh_desc *d, const qh_backend_limits *limits,
                                        bool is_dense);
/* m and pages (device memory) are borrowed; is_exact: a row's bits depend on its prefix only. On
 * failure *out is NULL and nothing stays allocated. */
qh_status qh_cuda_forward_new(qh_cuda_forward **out, const qh_cuda_model *m,
                              const qh_backend_limits *limits, uint8_t *pages, bool is_exact,
                              cudaStream_t stream, qh_err *err);
void      qh_cuda_forward_free(qh_cuda_forward *f);     /* NULL is fine */
/* Start a step that is within the limits. On failure it has not started as far as the caller is
 * concerned: some of its keys and values may be in their pages. */
qh_status qh_cuda_forward_start(qh_cuda_forward *f, const qh_step *step, qh_err *err);
/* Logits of the started step, in host memory, once the stream has run dry. */
const float *qh_cuda_forward_logits(const qh_cuda_forward *f);
