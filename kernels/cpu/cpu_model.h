/* cpu_model.h - the weights of a model as the forward pass reads them.
 *
 * Matrices are packed for the level, vectors become float, the embedding table of an untied model
 * is copied as stored. After loading nothing refers to the checkpoint: its pages can be given back,
 * and a file that changes underneath does no harm. Thread: load from one thread, which runs the
 * team; immutable afterwards. */
#pragma once
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/cpu/team.h"

typedef struct {
    float *attn_norm, *ffn_norm;    /* [dim] */
    float *bq, *bk, *bv;            /* or NULL */
    float *q_norm, *k_norm;         /* [head_dim], or NULL */
    qh_matrix wq, wk, wv, wo, w_gate, w_up, w_down;
} qh_cpu_layer;

typedef struct {
    qh_desc desc;
    qh_isa isa;
    uint8_t *data;                  /* all that follows points into it */
    size_t data_bytes;
    qh_cpu_layer *layers;
    float *out_norm;
    qh_matrix head;
    uint8_t *embed;                 /* rows as stored; NULL when tied: then rows of head */
    qh_dtype embed_dtype;
    qh_rope_table rope;
} qh_cpu_model;

/* Bytes that load will allocate for data. */
size_t    qh_cpu_model_bytes(const qh_desc *d, const qh_weights *w, qh_isa isa);
/* is_mapped: tensors lie in read-only file mappings, whose pages are given back once packed.
 * On failure *m is zeroed. */
qh_status qh_cpu_model_load(qh_cpu_model *m, const qh_desc *d, const qh_weights *w, qh_isa isa,
                            bool is_mapped, qh_team *team, qh_err *err);
void      qh_cpu_model_unload(qh_cpu_model *m);     /* zeroed is fine */
/* The embedding of a token: dst [dim]. */
void      qh_cpu_model_embed(const qh_cpu_model *m, int64_t token, float *dst);
