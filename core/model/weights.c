/* weights.c - see weights.h
 *
 * Roles are listed once, in order; binding counts the tensors it has placed, so that one left over
 * is noticed and named. */
#include "model/weights.h"
#include "base/mem.h"
#include "model/quant.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum { MATRIX, VECTOR } form;

typedef struct {
    const qh_gguf *g;
    unsigned char *is_bound;            /* [n_tensors of g] */
    qh_err *err;
} binder;

static qh_status wrong_shape(binder *b, const qh_gguf_tensor *t, form f, int64_t n_rows, int64_t dim)
{
    char is[96], expected[64];
    int n = 0;
    for (int i = 0; i < t->n_dims; i++)
        n += snprintf(is + n, sizeof is - (size_t)n, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
    if (f == MATRIX) snprintf(expected, sizeof expected, "%lld, %lld", (long long)dim, (long long)n_rows);
    else snprintf(expected, sizeof expected, "%lld", (long long)dim);
    return qh_fail(b->err, QH_EFORMAT, "%s: tensor '%s': shape [%s], expected [%s]", qh_gguf_path(b->g),
                   t->name, is, expected);
}

static bool is_plain(qh_dtype t) { return t == QH_F32 || t == QH_F16 || t == QH_BF16; }

/* Bind one tensor of known shape; vectors have n_rows 1. */
static qh_status bind(binder *b, qh_tensor *out, const char *name, form f, int64_t n_rows, int64_t dim)
{
    const qh_gguf_tensor *t = qh_gguf_find_tensor(b->g, name);
    if (!t)
        return qh_fail(b->err, QH_EFORMAT, "%s: tensor '%s': missing", qh_gguf_path(b->g), name);
    if (t->dims[0] != dim || t->dims[1] != n_rows || t->dims[2] != 1 || t->dims[3] != 1)
        return wrong_shape(b, t, f, n_rows, dim);
    if (f == VECTOR && !is_plain(t->dtype))
        return qh_fail(b->err, QH_EFORMAT, "%s: tensor '%s': type %s, expected F32, F16 or BF16",
                       qh_gguf_path(b->g), t->name, qh_dtype_name(t->dtype));
    *out = (qh_tensor){t->data, t->dtype, n_rows, dim, t->name};
    b->is_bound[t - qh_gguf_tensor_at(b->g, 0)] = 1;
    return QH_OK;
}

/* One tensor of a layer, "blk.<layer>.<name>". */
typedef struct {
    const char *name;
    qh_tensor *to;
    form form;
    int64_t n_rows, dim;
    bool is_wanted;
} role;

static qh_status bind_layer(binder *b, qh_layer_weights *l, int index, const qh_desc *d)
{
    const int64_t dim = d->dim, ffn = d->ffn_dim, head = d->head_dim;
    const int64_t q = qh_desc_q_dim(d), kv = qh_desc_kv_dim(d);
    const bool bias = d->has_qkv_bias, norm = d->has_qk_norm;
    const role roles[] = {
        {"attn_norm.weight", &l->attn_norm, VECTOR, 1, dim, true},
        {"attn_q.weight", &l->wq, MATRIX, q, dim, true},
        {"attn_k.weight", &l->wk, MATRIX, kv, dim, true},
        {"attn_v.weight", &l->wv, MATRIX, kv, dim, true},
        {"attn_q.bias", &l->bq, VECTOR, 1, q, bias},
        {"attn_k.bias", &l->bk, VECTOR, 1, kv, bias},
        {"attn_v.bias", &l->bv, VECTOR, 1, kv, bias},
        {"attn_q_norm.weight", &l->q_norm, VECTOR, 1, head, norm},
        {"attn_k_norm.weight", &l->k_norm, VECTOR, 1, head, norm},
        {"attn_output.weight", &l->wo, MATRIX, dim, q, true},
        {"ffn_norm.weight", &l->ffn_norm, VECTOR, 1, dim, true},
        {"ffn_gate.weight", &l->w_gate, MATRIX, ffn, dim, true},
        {"ffn_up.weight", &l->w_up, MATRIX, ffn, dim, true},
        {"ffn_down.weight", &l->w_down, MATRIX, dim, ffn, true},
    };
    qh_status st = QH_OK;
    for (size_t i = 0; i < sizeof roles / sizeof *roles && !st; i++) {
        const role *r = &roles[i];
        char name[QH_GGUF_MAX_NAME_BYTES];
        snprintf(name, sizeof name, "blk.%d.%s", index, r->name);
        if (r->is_wanted) st = bind(b, r->to, name, r->form, r->n_rows, r->dim);
    }
    return st;
}

/* Divisors are used by 1/x on every token: each must be a finite positive number. */
static qh_status check_factors(binder *b, const qh_tensor *t)
{
    float f[QH_MAX_HEAD_DIM / 2];
    qh_dequantize(t->dtype, f, t->data, t->dim);
    for (int64_t i = 0; i < t->dim; i++)
        if (!(f[i] > 0) || isinf(f[i]))
            return qh_fail(b->err, QH_EFORMAT, "%s: tensor '%s': value %lld is %g, expected a positive number",
                           qh_gguf_path(b->g), t->name, (long long)i, f[i]);
    return QH_OK;
}

static qh_status bind_all(binder *b, qh_weights *w, const qh_desc *d)
{
    qh_status st = bind(b, &w->embed, "token_embd.weight", MATRIX, d->n_vocab, d->dim);
    if (!st) st = bind(b, &w->out_norm, "output_norm.weight", VECTOR, 1, d->dim);
    if (d->is_tied) w->head = w->embed;
    else if (!st) st = bind(b, &w->head, "output.weight", MATRIX, d->n_vocab, d->dim);
    if (!st && d->rope_scale == QH_ROPE_SCALE_FACTORS) {
        st = bind(b, &w->rope_factors, "rope_freqs.weight", VECTOR, 1, d->rope_dim / 2);
        if (!st) st = check_factors(b, &w->rope_factors);
    }
    for (int i = 0; i < d->n_layers && !st; i++) st = bind_layer(b, &w->layers[i], i, d);
    return st;
}

static qh_status refuse_leftover(binder *b, const qh_desc *d)
{
    for (int i = 0; i < qh_gguf_n_tensors(b->g); i++)
        if (!b->is_bound[i])
            return qh_fail(b->err, QH_EUNSUPPORTED, "%s: tensor '%s': has no place in a %s model of %d layers",
                           qh_gguf_path(b->g), qh_gguf_tensor_at(b->g, i)->name, d->arch, d->n_layers);
    return QH_OK;
}

qh_status qh_weights_bind(qh_weights *out, const qh_desc *d, const qh_gguf *g, qh_err *err)
{
    binder b = {.g = g, .err = err};
    *out = (qh_weights){0};
    if (qh_gguf_n_tensors(g) == 0)
        return qh_fail(err, QH_EFORMAT, "%s: holds no tensors, expected a model's weights", qh_gguf_path(g));
    out->layers = qh_try_alloc0((size_t)d->n_layers, sizeof *out->layers);
    b.is_bound = qh_try_alloc0((size_t)qh_gguf_n_tensors(g), 1);
    qh_status st = QH_OK;
    if (!out->layers || !b.is_bound)
        st = qh_fail(err, QH_ENOMEM, "%s: no memory for %d layers", qh_gguf_path(g), d->n_layers);
    if (!st) st = bind_all(&b, out, d);
    if (!st) st = refuse_leftover(&b, d);
    qh_free(b.is_bound);
    if (st) qh_weights_deinit(out);
    return st;
}

void qh_weights_deinit(qh_weights *w)
{
    qh_free(w->layers);
    *w = (qh_weights){0};
}
