/* cuda_decode.h - steps in which every sequence adds one token, as graphs recorded when opening.
 *
 * A graph is made for some numbers of rows; a step takes the next larger one, and rows too many
 * belong to no sequence. One row goes through the integer kernels (matvec.cu) where the model's
 * matrices allow. Thread: the engine thread. */
#pragma once
#include "kernels/backend.h"
#include "kernels/cuda/cuda_model.h"

typedef struct qh_cuda_decode qh_cuda_decode;
typedef struct qh_cuda_forward qh_cuda_forward;

size_t qh_cuda_decode_states_bytes(const qh_desc *d, const qh_backend_limits *limits);
/* *out NULL with QH_OK: not for this model. f is borrowed. */
qh_status qh_cuda_decode_new(qh_cuda_decode **out, const qh_cuda_forward *f, qh_err *err);
void qh_cuda_decode_free(qh_cuda_decode *d); /* NULL is fine */
bool qh_cuda_decode_takes(const qh_cuda_decode *d, const qh_step *step);
/* Describe a step in f's host memory; returns the ints used. */
size_t qh_cuda_decode_describe(const qh_cuda_forward *f, const qh_step *step);
cudaError_t qh_cuda_decode_launch(qh_cuda_decode *d, int n_rows, cudaStream_t stream);
