/* weights.h - the weight table: which tensor plays which role.
 *
 * Entries point into the mapped file(s) of the model and live as long as it does. Rows are the
 * output dimension: y = W x with W [n_rows, dim], each row dim elements of dtype, row-major.
 * Matrices are of any stored type; norms, biases and rope factors are F32, F16 or BF16.
 * Thread: any after bind, nothing changes. */
#pragma once
#include "model/arch.h"
#include "model/dtype.h"

typedef struct {
    const void *data;               /* NULL: this model has no such tensor. Not aligned beyond 1 */
    qh_dtype dtype;
    int64_t n_rows, dim;            /* a vector has n_rows == 1 */
    const char *name;               /* for messages; borrowed from the qh_gguf */
} qh_tensor;

typedef struct {
    qh_tensor attn_norm, wq, wk, wv, bq, bk, bv, q_norm, k_norm, wo;
    qh_tensor ffn_norm, w_gate, w_up, w_down;
} qh_layer_weights;

typedef struct {
    qh_tensor embed;                /* [n_vocab, dim] */
    qh_tensor out_norm;
    qh_tensor head;                 /* [n_vocab, dim]; same as embed when tied */
    qh_tensor rope_factors;         /* [1, rope_dim/2] frequency divisors (Llama 3.x), or data NULL */
    qh_layer_weights *layers;       /* [n_layers] */
} qh_weights;

/* Give every tensor of g its role. Types and shapes are checked against d, and a tensor without a
 * role is refused: what it would have added to the result is not computed.
 * On failure *out is zeroed. *out borrows from g. */
qh_status qh_weights_bind(qh_weights *out, const qh_desc *d, const qh_gguf *g, qh_err *err);
void      qh_weights_deinit(qh_weights *w);         /* zeroed is fine */
