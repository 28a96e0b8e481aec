/* cuda_step.h - what a step on the GPU consists of, shared by the files that launch it: its memory,
 * its description, and the record of its launches. Thread: the engine thread. */
#pragma once
#include "kernels/cuda/cuda_decode.h"
#include "kernels/cuda/cuda_forward.h"
#include "kernels/cuda/dense.h"

/* Device memory of a step, all of one allocation. */
typedef struct {
    float *x;                  /* [max_rows][dim] the residual stream */
    qh_bf16 *normed, *mix, *h; /* [max_rows][padded] norm(x); attention's output; silu(gate) * up */
    float *qkv;                /* [max_rows][q_dim + 2 * kv_dim] */
    qh_bf16 *q;                /* [max_rows][n_heads][padded head_dim] */
    float *cos_sin;            /* [max_rows][rope_dim] */
    float *states;             /* [n_kv_heads][max_states][padded head_dim + 2] */
    float *logits;             /* [max_outputs][n_vocab] */
    int *step;                 /* [max_step_ints] the description's copy */
    qh_bf16 *wide;             /* [max_rows][16 * row tiles] gate and up, by turns */
    /* of decode steps */
    float *x2;        /* [max_seqs][dim] the stream after attention */
    qh_act8 mix8, h8; /* of one row: attention's output; silu(gate) * up */
    float *decode_states;
    int *counters; /* [max_seqs][n_kv_heads] */
} scratch;

struct qh_cuda_forward {
    const qh_cuda_model *m;
    qh_backend_limits limits;
    qh_kv kv;
    cudaStream_t stream;
    scratch s;
    uint8_t *memory;
    int *step_host;     /* pinned, [max_step_ints] */
    float *logits_host; /* pinned, [max_outputs][n_vocab] */
    int max_items, max_states;
    qh_dense *dense;        /* NULL: matrices have no bf16 copies */
    qh_cuda_decode *decode; /* NULL: exact, or not for this model */
};

/* A step's description: arrays in step_host and the same places on the device. */
typedef struct {
    int *tokens, *positions, *pages_of_rows, *output_rows, *pages;
    qh_attn_seq *seqs;
    qh_attn_small *small;
    qh_attn_merge *merges;
    qh_attn_large *large;
    int n_small, n_merges, n_large, n_states, max_merge_queries;
} description;

static inline int qh_step_n_group(const qh_desc *d)
{
    return d->n_heads / d->n_kv_heads;
}
static inline int qh_step_qkv_dim(const qh_desc *d)
{
    return qh_desc_q_dim(d) + 2 * qh_desc_kv_dim(d);
}
static inline int qh_step_n_pages(int n_tokens)
{
    return (n_tokens + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS;
}
/* 2^x is what the kernels compute. */
static inline float qh_step_q_scale(const qh_desc *d)
{
    return (float)(d->attn_scale * 1.4426950408889634);
}

/* Where an array of the description lies on the device. */
static inline const void *on_device(const qh_cuda_forward *f, const void *host)
{
    return f->s.step + ((const int *)host - f->step_host);
}

/* The first failure of a run of launches, and at what. */
typedef struct {
    cudaError_t e;
    const char *doing;
} progress;

static inline void note(progress *p, cudaError_t e, const char *doing)
{
    if (p->e == cudaSuccess && e != cudaSuccess) *p = (progress){e, doing};
}

/* Place the description's arrays of fixed length; returns the ints before its pages, which follow.
 */
size_t qh_step_lay_out(const qh_cuda_forward *f, description *d, int n_rows, int n_seqs,
                       int n_outputs);
/* A layer of any number of rows; attend turns qkv into mix. */
typedef void qh_step_attend(const qh_cuda_forward *f, progress *p, const description *s, int layer,
                            int n_rows);
void qh_step_layer(const qh_cuda_forward *f, progress *p, const description *s, int layer,
                   int n_rows, qh_step_attend *attend);
/* Embedding and angles of n_rows rows; logits of n_outputs rows. */
void qh_step_begin(const qh_cuda_forward *f, progress *p, const description *s, int n_rows);
void qh_step_head(const qh_cuda_forward *f, progress *p, const description *s, int n_outputs);
void qh_step_fetch_logits(const qh_cuda_forward *f, progress *p, int n_outputs);
