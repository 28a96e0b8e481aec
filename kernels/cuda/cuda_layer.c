/* cuda_layer.c - a layer of any number of rows, and what comes before and after the layers.
 *
 * Matrix products are kernels of ours for few rows, which read the units once, and cuBLASLt on the
 * bf16 copies for many, where there are copies. */
#include "kernels/cuda/cuda_step.h"

/* From so many rows on the library is faster: measured, see README.md. Weights that are bf16 anyway
 * are no shorter in units. */
enum { DENSE_ROWS = 17, DENSE_ROWS_BF16 = 2 };

static bool is_dense(const qh_cuda_forward *f, const qh_tiles *w, int n_rows)
{
    return f->dense && w->dense &&
           n_rows >= (w->tile == QH_TILE_BF16 ? DENSE_ROWS_BF16 : DENSE_ROWS);
}

static qh_dense_product dense_product(const qh_tiles *w, void *y, int64_t ldy, const qh_bf16 *x,
                                      int n_rows)
{
    return (qh_dense_product){.w = w->dense,
                              .x = x,
                              .y = y,
                              .n_rows = w->n_rows,
                              .dim = w->n_units * QH_UNIT_DIM,
                              .n_tokens = n_rows,
                              .ldy = ldy};
}

static cudaError_t multiply_dense(const qh_cuda_forward *f, const qh_tiles *w, void *y, int64_t ldy,
                                  const qh_bf16 *x, int n_rows, qh_epilogue epilogue)
{
    qh_dense_product d = dense_product(w, y, ldy, x, n_rows);
    d.is_added = epilogue == QH_EPILOGUE_ADD;
    if (epilogue != QH_EPILOGUE_SILU_MUL) return qh_dense_multiply(f->dense, &d, f->stream);
    d.y = f->s.wide;
    d.n_rows = w->n_row_tiles * QH_TILE_ROWS;
    d.ldy = d.n_rows;
    d.is_bf16 = true;
    const cudaError_t e = qh_dense_multiply(f->dense, &d, f->stream);
    return e ? e : qh_cuda_silu_mul(y, f->s.wide, n_rows, w->n_row_tiles, (int)ldy, f->stream);
}

static void project(const qh_cuda_forward *f, progress *p, void *y, int64_t ldy, const qh_tiles *w,
                    const qh_bf16 *x, int n_rows, qh_epilogue epilogue, const char *doing)
{
    const qh_product one = {.w = *w, .y = y};
    note(p,
         is_dense(f, w, n_rows) ? multiply_dense(f, w, y, ldy, x, n_rows, epilogue)
                                : qh_cuda_matmul(&one, 1, ldy, x, n_rows, epilogue, f->stream),
         doing);
}

/* q, k and v are one product where their copies lie behind each other. */
static void project_to_heads(const qh_cuda_forward *f, progress *p, const qh_cuda_layer *l,
                             int n_rows)
{
    const qh_desc *d = &f->m->desc;
    const int q = qh_desc_q_dim(d), kv = qh_desc_kv_dim(d);
    const int64_t ldy = qh_step_qkv_dim(d);
    const qh_product all[] = {{l->wq, f->s.qkv}, {l->wk, f->s.qkv + q}, {l->wv, f->s.qkv + q + kv}};
    if (!is_dense(f, &l->wq, n_rows)) {
        note(p, qh_cuda_matmul(all, 3, ldy, f->s.normed, n_rows, QH_EPILOGUE_STORE, f->stream),
             "projecting to heads");
        return;
    }
    const size_t dim = (size_t)l->wq.n_units * QH_UNIT_DIM;
    if (l->wk.dense == l->wq.dense + (size_t)q * dim &&
        l->wv.dense == l->wk.dense + (size_t)kv * dim) {
        qh_dense_product one = dense_product(&l->wq, f->s.qkv, ldy, f->s.normed, n_rows);
        one.n_rows = (int)ldy;
        note(p, qh_dense_multiply(f->dense, &one, f->stream), "projecting to heads");
        return;
    }
    for (int i = 0; i < 3; i++)
        project(f, p, all[i].y, ldy, &all[i].w, f->s.normed, n_rows, QH_EPILOGUE_STORE,
                "projecting to heads");
}

static void norm(const qh_cuda_forward *f, progress *p, const float *w, const int *rows, int n_rows)
{
    const qh_desc *d = &f->m->desc;
    note(p, qh_cuda_rms_norm(f->s.normed, f->s.x, w, rows, n_rows, d->dim, d->norm_eps, f->stream),
         "norming");
}

void qh_step_layer(const qh_cuda_forward *f, progress *p, const description *s, int layer,
                   int n_rows, qh_step_attend *attend)
{
    const qh_desc *d = &f->m->desc;
    const qh_cuda_layer *l = &f->m->layers[layer];
    const scratch *m = &f->s;
    norm(f, p, l->attn_norm, NULL, n_rows);
    project_to_heads(f, p, l, n_rows);
    attend(f, p, s, layer, n_rows);
    project(f, p, m->x, d->dim, &l->wo, m->mix, n_rows, QH_EPILOGUE_ADD, "projecting attention");
    norm(f, p, l->ffn_norm, NULL, n_rows);
    project(f, p, m->h, qh_padded_dim(d->ffn_dim), &l->gate_up, m->normed, n_rows,
            QH_EPILOGUE_SILU_MUL, "projecting gate and up");
    project(f, p, m->x, d->dim, &l->down, m->h, n_rows, QH_EPILOGUE_ADD, "projecting down");
}

void qh_step_begin(const qh_cuda_forward *f, progress *p, const description *s, int n_rows)
{
    const qh_cuda_model *m = f->m;
    note(p,
         qh_cuda_rope_table(f->s.cos_sin, m->rope_freqs, on_device(f, s->positions), n_rows,
                            m->desc.rope_dim / 2, m->rope_magnitude, f->stream),
         "computing angles");
    note(p, qh_cuda_embed(f->s.x, &m->embed, on_device(f, s->tokens), n_rows, f->stream),
         "embedding");
}

void qh_step_head(const qh_cuda_forward *f, progress *p, const description *s, int n_outputs)
{
    norm(f, p, f->m->out_norm, on_device(f, s->output_rows), n_outputs);
    project(f, p, f->s.logits, f->m->desc.n_vocab, &f->m->head, f->s.normed, n_outputs,
            QH_EPILOGUE_STORE, "computing logits");
    qh_step_fetch_logits(f, p, n_outputs);
}

void qh_step_fetch_logits(const qh_cuda_forward *f, progress *p, int n_outputs)
{
    note(p,
         cudaMemcpyAsync(f->logits_host, f->s.logits,
                         (size_t)n_outputs * (size_t)f->m->desc.n_vocab * sizeof(float),
                         cudaMemcpyDeviceToHost, f->stream),
         "fetching logits");
}
