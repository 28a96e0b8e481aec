/* cuda_model.c - see cuda_model.h
 *
 * One walk over the weights serves both the plan and the load: with no memory yet it only counts.
 * */
#include "kernels/cuda/cuda_model.h"
#include "base/mem.h"
#include "kernels/cuda/lost.h"
#include "model/quant.h"
#include "model/rope.h"
#include <string.h>

enum { ALIGN = 128, STAGE_BYTES = 32 << 20 };

/* The walk. memory NULL: count only. */
typedef struct {
    qh_cuda_model *m;
    uint8_t *memory, *stage; /* stage: [2][STAGE_BYTES], sources of a chunk */
    size_t n_bytes;
    cudaStream_t stream;
    qh_status st; /* the first failure; later steps of the walk do nothing */
    qh_err *err;
} loader;

static void check(loader *l, cudaError_t e, const char *doing)
{
    if (!l->st) l->st = qh_cuda_status(e, doing, l->err);
}

static uint8_t *place(loader *l, size_t len_bytes)
{
    uint8_t *p = l->memory ? l->memory + l->n_bytes : NULL;
    l->n_bytes += (len_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

/* ---- Matrices ---- */

static qh_tile tile_of(qh_dtype t)
{
    switch (t) {
    case QH_Q4_0: return QH_TILE_Q4S;
    case QH_Q4_1:
    case QH_Q4_K: return QH_TILE_Q4M;
    case QH_Q5_0: return QH_TILE_Q5S;
    case QH_Q5_1:
    case QH_Q5_K: return QH_TILE_Q5M;
    case QH_Q6_K: return QH_TILE_Q6S;
    case QH_Q8_0:
    case QH_IQ4_NL: /* values of a table from -127 to 113 */
    case QH_IQ4_XS: return QH_TILE_Q8S;
    case QH_Q2_K: return QH_TILE_Q2M;
    case QH_Q3_K: return QH_TILE_Q3S;
    case QH_F32:
    case QH_F16:
    case QH_BF16: return QH_TILE_BF16;
    }
    return QH_N_TILES;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Rows travel to the stage in chunks of whole row tiles and are packed from there. */
static void upload(loader *l, const qh_tiles *t, const qh_tensor *const src[2], int tile_rows)
{
    qh_pack_args a = {.tile = t->tile,
                      .tile_rows = tile_rows,
                      .n_rows = t->n_rows,
                      .dim = t->dim,
                      .n_units = t->n_units,
                      .dst = (uint8_t *)(uintptr_t)t->units};
    const int n_src = src[0] == src[1] ? 1 : 2;
    size_t tile_bytes = 0;
    for (int h = 0; h < 2; h++) {
        a.dtype[h] = (int)src[h]->dtype;
        a.row_bytes[h] = qh_dtype_row_bytes(src[h]->dtype, src[h]->dim);
        a.src[h] = l->stage + (h < n_src ? h : 0) * STAGE_BYTES;
        if (a.row_bytes[h] * (size_t)tile_rows > tile_bytes)
            tile_bytes = a.row_bytes[h] * (size_t)tile_rows;
    }
    const int per_chunk = (int)min_size(STAGE_BYTES / tile_bytes, (size_t)t->n_row_tiles);
    if (per_chunk == 0) {
        l->st = qh_fail(l->err, QH_EUNSUPPORTED, "%s: rows of %zu bytes: at most %d fit",
                        src[0]->name, a.row_bytes[0], STAGE_BYTES / tile_rows);
        return;
    }
    for (int first = 0; first < t->n_row_tiles && !l->st; first += per_chunk) {
        a.first_tile = first;
        a.n_tiles = (int)min_size((size_t)per_chunk, (size_t)(t->n_row_tiles - first));
        for (int h = 0; h < n_src; h++) {
            const size_t begin = (size_t)first * (size_t)tile_rows * a.row_bytes[h];
            const size_t all = (size_t)t->n_rows * a.row_bytes[h];
            const size_t len =
                min_size((size_t)a.n_tiles * (size_t)tile_rows * a.row_bytes[h], all - begin);
            check(l,
                  cudaMemcpyAsync(l->stage + h * STAGE_BYTES, (const uint8_t *)src[h]->data + begin,
                                  len, cudaMemcpyHostToDevice, l->stream),
                  "uploading weights");
        }
        check(l, qh_cuda_pack(&a, l->stream), "packing weights");
    }
}

static qh_tiles put_rows(loader *l, const qh_tensor *first, const qh_tensor *second, int tile_rows)
{
    const qh_tile kind = tile_of(first->dtype);
    qh_tiles t = {.tile = first->dtype == second->dtype ? kind : QH_TILE_BF16,
                  .n_rows = (int)first->n_rows,
                  .dim = (int)first->dim,
                  .n_row_tiles = (int)((first->n_rows + tile_rows - 1) / tile_rows),
                  .n_units = qh_padded_dim((int)first->dim) / QH_UNIT_DIM};
    t.units =
        place(l, (size_t)t.n_row_tiles * (size_t)t.n_units * (size_t)qh_tile_unit_bytes(t.tile));
    const qh_tensor *src[2] = {first, second};
    if (l->memory && !l->st) upload(l, &t, src, tile_rows);
    return t;
}

static qh_tiles put_matrix(loader *l, const qh_tensor *t)
{
    return put_rows(l, t, t, QH_TILE_ROWS);
}

/* ---- Vectors ---- */

/* The next n floats at *at are t, or stay zeros where the model has no such tensor. */
static void append_vector(float **at, const qh_tensor *t, int n)
{
    if (t->data) qh_dequantize(t->dtype, *at, t->data, n);
    *at += n;
}

static const float *upload_floats(loader *l, const float *host, size_t n)
{
    uint8_t *p = place(l, n * sizeof *host);
    if (!l->memory || l->st) return (const float *)p;
    check(l, cudaMemcpyAsync(p, host, n * sizeof *host, cudaMemcpyHostToDevice, l->stream),
          "uploading vectors");
    check(l, cudaStreamSynchronize(l->stream), "uploading vectors"); /* host goes */
    return (const float *)p;
}

static const float *put_vector(loader *l, const qh_tensor *t)
{
    if (!t->data) return NULL;
    float *host = qh_try_alloc0((size_t)t->dim, sizeof *host), *at = host;
    if (!host) {
        l->st = qh_fail(l->err, QH_ENOMEM, "no memory for %s", t->name);
        return NULL;
    }
    append_vector(&at, t, (int)t->dim);
    const float *p = upload_floats(l, host, (size_t)t->dim);
    qh_free(host);
    return p;
}

/* Biases of q, k and v as one row of the projections. */
static const float *put_qkv_bias(loader *l, const qh_desc *d, const qh_layer_weights *w)
{
    if (!w->bq.data && !w->bk.data && !w->bv.data) return NULL;
    const int q = qh_desc_q_dim(d), kv = qh_desc_kv_dim(d);
    float *host = qh_try_alloc0((size_t)q + 2 * (size_t)kv, sizeof *host), *at = host;
    if (!host) {
        l->st = qh_fail(l->err, QH_ENOMEM, "no memory for biases");
        return NULL;
    }
    append_vector(&at, &w->bq, q);
    append_vector(&at, &w->bk, kv);
    append_vector(&at, &w->bv, kv);
    const float *p = upload_floats(l, host, (size_t)(at - host));
    qh_free(host);
    return p;
}

static void put_rope(loader *l, const qh_desc *d, const qh_weights *w)
{
    const size_t n = (size_t)d->rope_dim / 2;
    double *freqs = qh_try_alloc0(n, sizeof *freqs);
    float *factors = qh_try_alloc0(n, sizeof *factors);
    uint8_t *p = place(l, n * sizeof *freqs);
    if (!freqs || !factors) {
        l->st = qh_fail(l->err, QH_ENOMEM, "no memory for %zu rope frequencies", n);
    } else if (l->memory && !l->st) {
        if (w->rope_factors.data)
            qh_dequantize(w->rope_factors.dtype, factors, w->rope_factors.data, (int64_t)n);
        l->m->rope_magnitude = qh_rope_freqs(d, factors, freqs);
        check(l, cudaMemcpyAsync(p, freqs, n * sizeof *freqs, cudaMemcpyHostToDevice, l->stream),
              "uploading rope");
        check(l, cudaStreamSynchronize(l->stream), "uploading rope");
    }
    l->m->rope_freqs = (const double *)p;
    qh_free(freqs);
    qh_free(factors);
}

/* ---- The walk ---- */

static void put_layer(loader *l, const qh_desc *d, const qh_layer_weights *w, qh_cuda_layer *out)
{
    out->attn_norm = put_vector(l, &w->attn_norm);
    out->ffn_norm = put_vector(l, &w->ffn_norm);
    out->q_norm = put_vector(l, &w->q_norm);
    out->k_norm = put_vector(l, &w->k_norm);
    out->qkv_bias = put_qkv_bias(l, d, w);
    out->wq = put_matrix(l, &w->wq);
    out->wk = put_matrix(l, &w->wk);
    out->wv = put_matrix(l, &w->wv);
    out->wo = put_matrix(l, &w->wo);
    out->gate_up = put_rows(l, &w->w_gate, &w->w_up, QH_TILE_ROWS / 2);
    out->down = put_matrix(l, &w->w_down);
}

static void put_all(loader *l, const qh_desc *d, const qh_weights *w)
{
    put_rope(l, d, w);
    l->m->out_norm = put_vector(l, &w->out_norm);
    l->m->embed = put_matrix(l, &w->embed);
    l->m->head = w->head.data == w->embed.data ? l->m->embed : put_matrix(l, &w->head);
    for (int i = 0; i < d->n_layers && !l->st; i++) {
        qh_cuda_layer out = {0};
        put_layer(l, d, &w->layers[i], &out);
        if (l->memory) l->m->layers[i] = out;
    }
}

uint64_t qh_cuda_model_bytes(const qh_desc *d, const qh_weights *w)
{
    qh_cuda_model m = {0};
    loader l = {.m = &m};
    put_all(&l, d, w);
    return l.n_bytes;
}

qh_status qh_cuda_model_load(qh_cuda_model *m, const qh_desc *d, const qh_weights *w,
                             cudaStream_t stream, qh_err *err)
{
    *m = (qh_cuda_model){.desc = *d};
    loader l = {.m = m, .stream = stream, .err = err};
    m->layers = qh_try_alloc0((size_t)d->n_layers, sizeof *m->layers);
    if (!m->layers) return qh_fail(err, QH_ENOMEM, "no memory for %d layers", d->n_layers);
    check(&l, cudaMalloc((void **)&m->memory, qh_cuda_model_bytes(d, w)),
          "taking memory for weights");
    l.memory = m->memory;
    if (!l.st)
        check(&l, cudaMalloc((void **)&l.stage, 2 * STAGE_BYTES), "taking memory to load through");
    if (!l.st) put_all(&l, d, w);
    if (!l.st) check(&l, cudaStreamSynchronize(stream), "packing weights");
    cudaFree(l.stage);
    if (l.st) qh_cuda_model_unload(m);
    return l.st;
}

/* ---- Copies in bf16 ---- */

static size_t dense_bytes(const qh_tiles *w)
{
    return (size_t)w->n_row_tiles * QH_TILE_ROWS * (size_t)w->n_units * QH_UNIT_DIM *
           sizeof(qh_bf16);
}

/* Copy w, or with no memory only count; the embedding is read from its units, its copy is the
 * head's. */
static cudaError_t copy_dense(qh_cuda_model *m, qh_tiles *w, size_t *at, cudaStream_t stream)
{
    qh_bf16 *copy = (qh_bf16 *)(m->dense_memory + *at);
    *at += dense_bytes(w);
    if (!m->dense_memory) return cudaSuccess;
    w->dense = copy;
    return qh_cuda_unpack(copy, w, stream);
}

static cudaError_t copy_all(qh_cuda_model *m, size_t *n_bytes, cudaStream_t stream)
{
    *n_bytes = 0;
    cudaError_t e = copy_dense(m, &m->head, n_bytes, stream);
    for (int i = 0; i < m->desc.n_layers && !e; i++) {
        qh_cuda_layer *l = &m->layers[i];
        qh_tiles *all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate_up, &l->down};
        for (int j = 0; j < 6 && !e; j++) e = copy_dense(m, all[j], n_bytes, stream);
    }
    return e;
}

static size_t rows_bytes(const qh_tensor *t, int tile_rows)
{
    return (size_t)((t->n_rows + tile_rows - 1) / tile_rows) * QH_TILE_ROWS *
           (size_t)qh_padded_dim((int)t->dim) * sizeof(qh_bf16);
}

uint64_t qh_cuda_model_dense_bytes(const qh_desc *d, const qh_weights *w)
{
    uint64_t n = rows_bytes(&w->head, QH_TILE_ROWS);
    for (int i = 0; i < d->n_layers; i++) {
        const qh_layer_weights *l = &w->layers[i];
        n += rows_bytes(&l->wq, QH_TILE_ROWS) + rows_bytes(&l->wk, QH_TILE_ROWS) +
             rows_bytes(&l->wv, QH_TILE_ROWS) + rows_bytes(&l->wo, QH_TILE_ROWS) +
             rows_bytes(&l->w_gate, QH_TILE_ROWS / 2) + rows_bytes(&l->w_down, QH_TILE_ROWS);
    }
    return n;
}

qh_status qh_cuda_model_add_dense(qh_cuda_model *m, cudaStream_t stream, qh_err *err)
{
    size_t n;
    cudaError_t e = copy_all(m, &n, stream);
    if (!e) e = cudaMalloc((void **)&m->dense_memory, n);
    if (!e) e = copy_all(m, &n, stream);
    return qh_cuda_status(e, "copying weights to bf16", err);
}

void qh_cuda_model_unload(qh_cuda_model *m)
{
    cudaFree(m->dense_memory);
    cudaFree(m->memory);
    qh_free(m->layers);
    *m = (qh_cuda_model){0};
}
