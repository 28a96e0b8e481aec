/* cuda_backend.h - the backend that computes on one NVIDIA GPU.
 *
 * Opening repacks the weights on the GPU and takes all memory: weights, pages, activations, and
 * pinned host memory for steps and logits; a step allocates nothing. submit only starts a step,
 * wait waits. Two ways to compute: exact, where the bits of a row's logits depend on its prefix
 * only; and fast, where decode steps take kernels of their own (8-bit activations with one
 * sequence), so that bits also depend on how many sequences a step has.
 *
 * A failed launch fails its step. An error that the driver cannot clear is QH_EDEVICE, and only
 * close is allowed after it; a process that had one can never use the GPU again.
 *
 * Built without a CUDA toolkit there is no device, and plan and open are QH_EUNSUPPORTED.
 * Thread: plan anywhere; the rest as backend.h says. */
#pragma once
#include "kernels/backend.h"
#include "model/weights.h"

typedef struct {
    int device;                     /* 0 .. n-1 of qh_cuda_is_available */
    bool is_exact;
    double memory_share; /* of the card's memory that may be used, 0 < share <= 1; 0: 0.9 */
} qh_cuda_options;

/* Is there a GPU these kernels run on? *n is how many; when there is none, err says why (no
 * driver, no device, too old, or built without). Loads the driver, but takes no memory on a GPU.
 * */
bool qh_cuda_is_available(int *n, qh_err *err);

/* What open will take, and what there is: the share of the card less what is already in use. */
qh_status qh_cuda_backend_plan(qh_memory_plan *out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err);
/* Weights and description are borrowed for the call only. QH_ENOMEM states the plan's numbers when
 * it does not fit; QH_EUNSUPPORTED names what the kernels cannot do. */
qh_status qh_cuda_backend_open(qh_backend **out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err);
