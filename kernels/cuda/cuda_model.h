/* cuda_model.h - a model as the kernels read it: units of every matrix, vectors in float.
 *
 * Gate and up share row tiles (8 rows each), so that one warp holds both sides of silu(gate) *
 * up; when their types differ both become bf16. All lies in one allocation. The embedding is read
 * from its units, and a tied head is the same units. Thread: load on one thread; immutable after.
 * */
#pragma once
#include "kernels/cuda/ops.h"
#include "model/weights.h"

typedef struct {
    qh_tiles wq, wk, wv, wo, gate_up, down;
    const float *attn_norm, *ffn_norm;
    const float *qkv_bias;          /* [q_dim + 2 * kv_dim], or NULL */
    const float *q_norm, *k_norm;   /* [head_dim], or NULL */
} qh_cuda_layer;

typedef struct {
    qh_desc desc;
    qh_tiles embed, head;
    const float *out_norm;
    const double *rope_freqs;       /* [rope_dim / 2] */
    double rope_magnitude;
    qh_cuda_layer *layers;          /* host memory, [n_layers] */
    uint8_t *memory, *dense_memory; /* dense: bf16 copies of all matrices, NULL without */
} qh_cuda_model;

uint64_t  qh_cuda_model_bytes(const qh_desc *d, const qh_weights *w);
/* On failure nothing stays allocated. */
qh_status qh_cuda_model_load(qh_cuda_model *m, const qh_desc *d, const qh_weights *w,
                             cudaStream_t stream, qh_err *err);
/* Copies of all matrices as rows of bf16, for many rows at a time. */
uint64_t  qh_cuda_model_dense_bytes(const qh_desc *d, const qh_weights *w);
qh_status qh_cuda_model_add_dense(qh_cuda_model *m, cudaStream_t stream, qh_err *err);
void      qh_cuda_model_unload(qh_cuda_model *m);   /* zeroed is fine */
