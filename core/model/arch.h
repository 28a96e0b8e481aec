/* arch.h - a model is data: the description that every backend runs.
 *
 * Decoder-only transformers are one loop with flags. A checkpoint's metadata becomes one qh_desc;
 * there is no graph. Adding an architecture is a row in arch.c's table, and a flag here only when
 * the loop itself changes.
 *
 * One layer:  x += Wo attn(rope(qk_norm(Wq n + bq)), rope(qk_norm(Wk n + bk)), Wv n + bv), n = norm(x)
 *             x += Wdown (silu(Wgate m) * (Wup m)),                                        m = norm(x)
 * The logits: Whead norm(x). Norms are RMS norms with a weight. */
#pragma once
#include "base/err.h"
#include "model/gguf.h"
#include <stdint.h>

typedef enum { QH_ROPE_NEOX, QH_ROPE_INTERLEAVED } qh_rope_kind;
typedef enum {
    QH_ROPE_SCALE_NONE,
    QH_ROPE_SCALE_LINEAR,           /* position / factor */
    QH_ROPE_SCALE_FACTORS,          /* a divisor for each frequency, in a tensor (Llama 3.x) */
    QH_ROPE_SCALE_YARN
} qh_rope_scale;

enum { QH_MAX_HEAD_DIM = 512, QH_MAX_LAYERS = 1024 };

typedef struct {
    char arch[32];                  /* "llama", "qwen2", "qwen3" */
    int n_layers, dim, ffn_dim;     /* dim: width of the residual stream */
    int n_heads, n_kv_heads, head_dim;
    int n_vocab;                    /* rows of the embedding table */
    int n_ctx_train;                /* longest context that is computed as trained */
    float norm_eps;
    float rope_base;
    int rope_dim;                   /* rotated dimensions of a head, <= head_dim */
    qh_rope_kind rope_kind;         /* INTERLEAVED: pairs (2i, 2i+1), as llama GGUF files are permuted; NEOX: (i, i+d/2) */
    qh_rope_scale rope_scale;
    float rope_scale_factor;        /* LINEAR and YARN */
    int rope_ctx_orig;              /* YARN */
    float yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow;
    bool has_qkv_bias;              /* qwen2; llama where the file has them */
    bool has_qk_norm;               /* qwen3: RMS norm of each head of q and k before rope */
    bool is_tied;                   /* the output head is the embedding table */
    float attn_scale;               /* of q*k; 1/sqrt(head_dim) */
} qh_desc;

/* Kernels and KV layouts share these derived sizes. */
static inline int qh_desc_q_dim(const qh_desc *d) { return d->n_heads * d->head_dim; }
static inline int qh_desc_kv_dim(const qh_desc *d) { return d->n_kv_heads * d->head_dim; }

/* The description of a checkpoint. QH_EUNSUPPORTED names an architecture or a feature that is not
 * implemented; QH_EFORMAT and QH_ENOTFOUND name the key that is wrong or missing. Tensors are only
 * looked at for what metadata does not say (biases, a head of its own, rope factors). */
qh_status qh_desc_read(qh_desc *out, const qh_gguf *g, qh_err *err);
const char *qh_arch_names(void);    /* "llama, qwen2, qwen3" */
