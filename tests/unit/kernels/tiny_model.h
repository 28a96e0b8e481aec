/* tiny_model.h - small random models in memory, and their logits computed the plain way in double.
 *
 * tiny_logits shares no code with the forward pass: whole sequence at once, no pages, no packing.
 */
#pragma once
#include "base/mem.h"
#include "model/quant.h"
#include "model/rope.h"
#include "model/weights.h"
#include "random.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    int dim, ffn_dim, n_heads, n_kv_heads, head_dim, n_layers, n_vocab;
    qh_dtype dtype;                     /* of matrices: F32, F16, Q8_0 or Q4_0 */
    bool has_bias, has_qk_norm, is_tied, is_neox;
} tiny_shape;

typedef struct {
    qh_desc desc;
    qh_weights weights;
    random_source random;
} tiny_model;

static void tiny_block(random_source *r, qh_dtype t, uint8_t *b, float std)
{
    const float x = random_normal(r) * std;
    const uint16_t half = qh_f32_to_f16(x),
                   scale = qh_f32_to_f16(std / (t == QH_Q4_0 ? 4.0f : 64.0f));
    switch (t) {
    case QH_F32: memcpy(b, &x, 4); return;
    case QH_F16: memcpy(b, &half, 2); return;
    default:
        memcpy(b, &scale, 2);
        for (size_t i = 2; i < qh_dtype_block_bytes(t); i++) b[i] = (uint8_t)random_bits(r);
    }
}

static qh_tensor tiny_tensor(random_source *r, qh_dtype t, int64_t n_rows, int64_t dim, float std)
{
    const size_t row_bytes = qh_dtype_row_bytes(t, dim), step = qh_dtype_block_bytes(t);
    uint8_t *data = qh_alloc0((size_t)n_rows * row_bytes);
    for (size_t i = 0; i < (size_t)n_rows * row_bytes; i += step) tiny_block(r, t, data + i, std);
    return (qh_tensor){.data = data, .dtype = t, .n_rows = n_rows, .dim = dim, .name = "tiny"};
}

static qh_tensor tiny_norm(random_source *r, int64_t dim)
{
    qh_tensor t = tiny_tensor(r, QH_F32, 1, dim, 0.2f);
    for (int64_t i = 0; i < dim; i++) ((float *)(uintptr_t)t.data)[i] += 1;
    return t;
}

static tiny_model tiny_make(tiny_shape s, uint64_t seed)
{
    tiny_model m = {.random = {seed, 0}};
    random_source *r = &m.random;
    m.desc = (qh_desc){.arch = "tiny",
                       .n_layers = s.n_layers,
                       .dim = s.dim,
                       .ffn_dim = s.ffn_dim,
                       .n_heads = s.n_heads,
                       .n_kv_heads = s.n_kv_heads,
                       .head_dim = s.head_dim,
                       .n_vocab = s.n_vocab,
                       .n_ctx_train = 4096,
                       .norm_eps = 1e-5f,
                       .rope_base = 10000,
                       .rope_dim = s.head_dim,
                       .rope_kind = s.is_neox ? QH_ROPE_NEOX : QH_ROPE_INTERLEAVED,
                       .has_qkv_bias = s.has_bias,
                       .has_qk_norm = s.has_qk_norm,
                       .is_tied = s.is_tied,
                       .attn_scale = 1 / sqrtf((float)s.head_dim)};
    const int q = s.n_heads * s.head_dim, kv = s.n_kv_heads * s.head_dim;
    const float std = 1 / sqrtf((float)s.dim);
    m.weights.embed = tiny_tensor(r, s.dtype, s.n_vocab, s.dim, 1);
    m.weights.head =
        s.is_tied ? m.weights.embed : tiny_tensor(r, s.dtype, s.n_vocab, s.dim, 3 * std);
    m.weights.out_norm = tiny_norm(r, s.dim);
    m.weights.layers = qh_alloc0((size_t)s.n_layers * sizeof *m.weights.layers);
    for (int i = 0; i < s.n_layers; i++) {
        qh_layer_weights *l = &m.weights.layers[i];
        l->attn_norm = tiny_norm(r, s.dim);
        l->wq = tiny_tensor(r, s.dtype, q, s.dim, std);
        l->wk = tiny_tensor(r, s.dtype, kv, s.dim, std);
        l->wv = tiny_tensor(r, s.dtype, kv, s.dim, std);
        if (s.has_bias) {
            l->bq = tiny_tensor(r, QH_F32, 1, q, 1);
            l->bk = tiny_tensor(r, QH_F32, 1, kv, 1);
            l->bv = tiny_tensor(r, QH_F32, 1, kv, 1);
        }
        if (s.has_qk_norm) {
            l->q_norm = tiny_norm(r, s.head_dim);
            l->k_norm = tiny_norm(r, s.head_dim);
        }
        l->wo = tiny_tensor(r, s.dtype, s.dim, q, std);
        l->ffn_norm = tiny_norm(r, s.dim);
        l->w_gate = tiny_tensor(r, s.dtype, s.ffn_dim, s.dim, std);
        l->w_up = tiny_tensor(r, s.dtype, s.ffn_dim, s.dim, std);
        l->w_down = tiny_tensor(r, s.dtype, s.dim, s.ffn_dim, std);
    }
    return m;
}

static void tiny_drop(tiny_model *m)
{
    for (int i = 0; i < m->desc.n_layers; i++) {
        qh_tensor *t = (qh_tensor *)&m->weights.layers[i];
        for (size_t j = 0; j < sizeof *m->weights.layers / sizeof *t; j++)
            free((void *)(uintptr_t)t[j].data);
    }
    if (!m->desc.is_tied) free((void *)(uintptr_t)m->weights.head.data);
    free((void *)(uintptr_t)m->weights.embed.data);
    free((void *)(uintptr_t)m->weights.out_norm.data);
    free(m->weights.layers);
}

/* ---- The plain way ---- */

static float *tiny_row(const qh_tensor *t, int64_t row)
{
    float *x = qh_alloc0((size_t)t->dim * sizeof *x);
    const size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
    qh_dequantize(t->dtype, x, (const uint8_t *)t->data + (size_t)row * row_bytes, t->dim);
    return x;
}

static void tiny_product(double *y, const qh_tensor *w, const double *x)
{
    for (int64_t r = 0; r < w->n_rows; r++) {
        float *row = tiny_row(w, r);
        y[r] = 0;
        for (int64_t i = 0; i < w->dim; i++) y[r] += row[i] * x[i];
        free(row);
    }
}

static void tiny_add_vector(double *x, const qh_tensor *t)
{
    if (!t->data) return;
    for (int64_t i = 0; i < t->dim; i++) x[i] += ((const float *)t->data)[i];
}

static void tiny_rms(double *y, const double *x, const qh_tensor *w, double eps)
{
    double sum = 0;
    for (int64_t i = 0; i < w->dim; i++) sum += x[i] * x[i];
    for (int64_t i = 0; i < w->dim; i++)
        y[i] = x[i] / sqrt(sum / (double)w->dim + eps) * ((const float *)w->data)[i];
}

static void tiny_rotate(double *x, const qh_desc *d, int position)
{
    for (int i = 0; i < d->rope_dim / 2; i++) {
        int a = d->rope_kind == QH_ROPE_NEOX ? i : 2 * i,
            b = d->rope_kind == QH_ROPE_NEOX ? i + d->rope_dim / 2 : a + 1;
        double angle = position * pow(d->rope_base, -2.0 * i / d->rope_dim), u = x[a], v = x[b];
        x[a] = u * cos(angle) - v * sin(angle);
        x[b] = u * sin(angle) + v * cos(angle);
    }
}

/* logits [n][n_vocab] of a whole sequence. Grows x, k, v by position, layer by layer. */
static void tiny_logits(const tiny_model *m, const int32_t *tokens, int n, double *logits)
{
    const qh_desc *d = &m->desc;
    const int q_dim = qh_desc_q_dim(d), kv_dim = qh_desc_kv_dim(d), hd = d->head_dim;
    double *x = qh_alloc0((size_t)n * (size_t)d->dim * 8),
           *k = qh_alloc0((size_t)n * (size_t)kv_dim * 8);
    double *v = qh_alloc0((size_t)n * (size_t)kv_dim * 8), *h = qh_alloc0((size_t)d->dim * 8);
    double *q = qh_alloc0((size_t)q_dim * 8), *o = qh_alloc0((size_t)q_dim * 8),
           *y = qh_alloc0((size_t)d->dim * 8);
    double *g = qh_alloc0((size_t)d->ffn_dim * 8), *u = qh_alloc0((size_t)d->ffn_dim * 8),
           *w = qh_alloc0((size_t)n * 8);
    for (int t = 0; t < n; t++) {
        float *e = tiny_row(&m->weights.embed, tokens[t]);
        for (int i = 0; i < d->dim; i++) x[t * d->dim + i] = e[i];
        free(e);
    }
    for (int layer = 0; layer < d->n_layers; layer++) {
        const qh_layer_weights *l = &m->weights.layers[layer];
        for (int t = 0; t < n; t++) {
            double *xt = x + t * d->dim, *kt = k + t * kv_dim, *vt = v + t * kv_dim;
            tiny_rms(h, xt, &l->attn_norm, d->norm_eps);
            tiny_product(q, &l->wq, h);
            tiny_product(kt, &l->wk, h);
            tiny_product(vt, &l->wv, h);
            tiny_add_vector(q, &l->bq);
            tiny_add_vector(kt, &l->bk);
            tiny_add_vector(vt, &l->bv);
            for (int i = 0; i < d->n_heads; i++) {
                if (l->q_norm.data) tiny_rms(q + i * hd, q + i * hd, &l->q_norm, d->norm_eps);
                tiny_rotate(q + i * hd, d, t);
            }
            for (int i = 0; i < d->n_kv_heads; i++) {
                if (l->k_norm.data) tiny_rms(kt + i * hd, kt + i * hd, &l->k_norm, d->norm_eps);
                tiny_rotate(kt + i * hd, d, t);
            }
            for (int i = 0; i < d->n_heads; i++) {
                const int at = i / (d->n_heads / d->n_kv_heads) * hd;
                double max = -1e300, sum = 0;
                for (int s = 0; s <= t; s++) {
                    w[s] = 0;
                    for (int j = 0; j < hd; j++) w[s] += q[i * hd + j] * k[s * kv_dim + at + j];
                    w[s] *= d->attn_scale;
                    if (w[s] > max) max = w[s];
                }
                for (int s = 0; s <= t; s++) sum += w[s] = exp(w[s] - max);
                for (int j = 0; j < hd; j++) {
                    o[i * hd + j] = 0;
                    for (int s = 0; s <= t; s++)
                        o[i * hd + j] += w[s] / sum * v[s * kv_dim + at + j];
                }
            }
            tiny_product(y, &l->wo, o);
            for (int i = 0; i < d->dim; i++) xt[i] += y[i];
            tiny_rms(h, xt, &l->ffn_norm, d->norm_eps);
            tiny_product(g, &l->w_gate, h);
            tiny_product(u, &l->w_up, h);
            for (int i = 0; i < d->ffn_dim; i++) g[i] = g[i] / (1 + exp(-g[i])) * u[i];
            tiny_product(y, &l->w_down, g);
            for (int i = 0; i < d->dim; i++) xt[i] += y[i];
        }
    }
    for (int t = 0; t < n; t++) {
        tiny_rms(h, x + t * d->dim, &m->weights.out_norm, d->norm_eps);
        tiny_product(logits + (int64_t)t * d->n_vocab, &m->weights.head, h);
    }
    double *all[] = {x, k, v, h, q, o, y, g, u, w};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}
