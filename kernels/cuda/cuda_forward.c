/* cuda_forward.c - see cuda_forward.h
 *
 * The host describes a step in one pinned block of ints, copied in one go: rows, sequences, their
 * pages, and the attention work. A layer is nine launches of small steps, eight of prompts. */
#include "kernels/cuda/cuda_step.h"
#include "base/mem.h"
#include "kernels/cuda/lost.h"
#include <string.h>

enum { ALIGN = 256, LARGE_QUERIES = QH_ATTN_LARGE_QUERIES };

/* ---- Memory ---- */

/* Small attention items of a step: what a step of all sequences at full length or all pages could
 * use. When shared pages make it more, sequences are worked on as large items, with the same
 * result. */
static int max_items(const qh_backend_limits *l)
{
    const int64_t most = (int64_t)l->max_seqs * qh_step_n_pages(l->max_context);
    return most < l->n_pages ? (int)most : l->n_pages;
}

static int max_states(const qh_desc *d, const qh_backend_limits *l)
{
    return qh_step_n_group(d) <= QH_ATTN_QUERIES ? max_items(l) * qh_step_n_group(d) : 1;
}

static size_t max_step_ints(const qh_desc *d, const qh_backend_limits *l)
{
    const size_t rows = (size_t)l->max_rows, seqs = (size_t)l->max_seqs, n_arrays = 9, int4s = 4;
    const size_t large = rows * (size_t)qh_step_n_group(d) / LARGE_QUERIES + seqs;
    return 3 * rows + (size_t)l->max_outputs + seqs * (size_t)qh_step_n_pages(l->max_context) +
           seqs * sizeof(qh_attn_seq) / sizeof(int) +
           (size_t)max_items(l) * sizeof(qh_attn_small) / sizeof(int) +
           seqs * sizeof(qh_attn_merge) / sizeof(int) +
           large * sizeof(qh_attn_large) / sizeof(int) + n_arrays * int4s;
}

static void *place(uint8_t *base, size_t *at, size_t len_bytes)
{
    uint8_t *p = base ? base + *at : NULL;
    *at += (len_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

static qh_act8 place_act8(uint8_t *base, size_t *at, int dim)
{
    const size_t n = (size_t)(dim + QH_ACT8_PAD - 1) / QH_ACT8_PAD * QH_ACT8_PAD;
    qh_act8 a;
    a.q = place(base, at, n);
    a.scales = place(base, at, n / QH_ACT8_GROUP * sizeof(float));
    return a;
}

static void place_decode(scratch *s, uint8_t *base, size_t *at, const qh_desc *d,
                         const qh_backend_limits *l)
{
    const size_t seqs = (size_t)l->max_seqs;
    s->x2 = place(base, at, seqs * (size_t)d->dim * sizeof(float));
    s->mix8 = place_act8(base, at, qh_desc_q_dim(d));
    s->h8 = place_act8(base, at, d->ffn_dim);
    s->decode_states = place(base, at, qh_cuda_decode_states_bytes(d, l));
    s->counters = place(base, at, seqs * (size_t)d->n_kv_heads * sizeof(int));
}

/* Give every array its place; with base NULL, only count. */
static size_t place_all(scratch *s, uint8_t *base, const qh_desc *d, const qh_backend_limits *l,
                        bool is_dense)
{
    const size_t rows = (size_t)l->max_rows, padded = (size_t)qh_cuda_padded_head(d->head_dim);
    size_t at = 0;
    s->x = place(base, &at, rows * (size_t)d->dim * sizeof(float));
    s->normed = place(base, &at, rows * (size_t)qh_padded_dim(d->dim) * sizeof(qh_bf16));
    s->mix = place(base, &at, rows * (size_t)qh_padded_dim(qh_desc_q_dim(d)) * sizeof(qh_bf16));
    s->h = place(base, &at, rows * (size_t)qh_padded_dim(d->ffn_dim) * sizeof(qh_bf16));
    s->qkv = place(base, &at, rows * (size_t)qh_step_qkv_dim(d) * sizeof(float));
    s->q = place(base, &at, rows * (size_t)d->n_heads * padded * sizeof(qh_bf16));
    s->cos_sin = place(base, &at, rows * (size_t)d->rope_dim * sizeof(float));
    s->states = place(
        base, &at, (size_t)d->n_kv_heads * (size_t)max_states(d, l) * (padded + 2) * sizeof(float));
    s->logits = place(base, &at, (size_t)l->max_outputs * (size_t)d->n_vocab * sizeof(float));
    s->step = place(base, &at, max_step_ints(d, l) * sizeof(int));
    place_decode(s, base, &at, d, l);
    if (is_dense)
        s->wide = place(base, &at, rows * 16 * (size_t)((d->ffn_dim + 7) / 8) * sizeof(qh_bf16));
    return at;
}

uint64_t qh_cuda_forward_page_bytes(const qh_desc *d)
{
    const uint64_t padded = (uint64_t)qh_cuda_padded_head(d->head_dim);
    return (uint64_t)d->n_layers * (uint64_t)d->n_kv_heads * 2 * QH_PAGE_TOKENS * padded *
           sizeof(qh_bf16);
}

uint64_t qh_cuda_forward_scratch_bytes(const qh_desc *d, const qh_backend_limits *limits,
                                       bool is_dense)
{
    scratch s = {0};
    return place_all(&s, NULL, d, limits, is_dense) + (is_dense ? qh_dense_workspace_bytes() : 0);
}

static qh_status take_memory(qh_cuda_forward *f, qh_err *err)
{
    const qh_desc *d = &f->m->desc;
    const bool is_dense = f->m->dense_memory;
    const size_t bytes = place_all(&f->s, NULL, d, &f->limits, is_dense);
    cudaError_t e = cudaMalloc((void **)&f->memory, bytes);
    /* Padding beyond a row's end stays zero: nobody writes it. */
    if (!e) e = cudaMemsetAsync(f->memory, 0, bytes, f->stream);
    if (e) return qh_cuda_status(e, "taking memory for activations", err);
    place_all(&f->s, f->memory, d, &f->limits, is_dense);
    e = cudaMallocHost((void **)&f->step_host, max_step_ints(d, &f->limits) * sizeof(int));
    if (!e)
        e = cudaMallocHost((void **)&f->logits_host,
                           (size_t)f->limits.max_outputs * (size_t)d->n_vocab * sizeof(float));
    return qh_cuda_status(e, "pinning host memory for logits", err);
}

qh_status qh_cuda_forward_new(qh_cuda_forward **out, const qh_cuda_model *m,
                              const qh_backend_limits *limits, uint8_t *pages, bool is_exact,
                              cudaStream_t stream, qh_err *err)
{
    const qh_desc *d = &m->desc;
    qh_cuda_forward *f = qh_new0(qh_cuda_forward);
    *out = NULL;
    f->m = m;
    f->limits = *limits;
    f->stream = stream;
    f->max_items = max_items(limits);
    f->max_states = max_states(d, limits);
    f->kv = (qh_kv){.base = pages,
                    .page_bytes = qh_cuda_forward_page_bytes(d),
                    .n_kv_heads = d->n_kv_heads,
                    .head_dim = d->head_dim,
                    .padded = qh_cuda_padded_head(d->head_dim)};
    qh_status st = take_memory(f, err);
    if (!st && m->dense_memory) st = qh_dense_new(&f->dense, err);
    if (!st && !is_exact) st = qh_cuda_decode_new(&f->decode, f, err);
    if (st) {
        qh_cuda_forward_free(f);
        return st;
    }
    *out = f;
    return QH_OK;
}

void qh_cuda_forward_free(qh_cuda_forward *f)
{
    if (!f) return;
    qh_cuda_decode_free(f->decode);
    qh_dense_free(f->dense);
    cudaFree(f->memory);
    cudaFreeHost(f->step_host);
    cudaFreeHost(f->logits_host);
    qh_free(f);
}

/* ---- Describing a step ---- */

/* The next n ints of the block, 16-byte aligned. */
static void *take_ints(int **at, size_t n)
{
    int *p = *at;
    *at += (n + 3) / 4 * 4;
    return p;
}

static bool describe_small(const qh_cuda_forward *f, description *d, const qh_step_seq *seq,
                           int index)
{
    const int n = seq->n_rows * qh_step_n_group(&f->m->desc),
              n_pages = qh_step_n_pages(seq->n_past + seq->n_rows);
    if (n > QH_ATTN_QUERIES || n_pages > f->max_items - d->n_small ||
        n_pages > (f->max_states - d->n_states) / n)
        return false;
    d->merges[d->n_merges++] =
        (qh_attn_merge){.seq = index, .n_pages = n_pages, .state = d->n_states};
    for (int p = 0; p < n_pages; p++, d->n_states += n)
        d->small[d->n_small++] = (qh_attn_small){.seq = index, .page = p, .state = d->n_states};
    if (n > d->max_merge_queries) d->max_merge_queries = n;
    return true;
}

static void describe_large(const qh_cuda_forward *f, description *d, const qh_step_seq *seq,
                           int index)
{
    for (int q = 0; q < seq->n_rows * qh_step_n_group(&f->m->desc); q += LARGE_QUERIES)
        d->large[d->n_large++] = (qh_attn_large){.seq = index, .query = q};
}

static void describe_rows(description *d, const qh_step *step)
{
    for (int s = 0; s < step->n_seqs; s++) {
        const qh_step_seq *seq = &step->seqs[s];
        for (int i = 0; i < seq->n_rows; i++) {
            const int row = seq->first_row + i, position = seq->n_past + i;
            d->tokens[row] = step->tokens[row];
            d->positions[row] = position;
            d->pages_of_rows[row] = seq->pages[position / QH_PAGE_TOKENS];
        }
    }
    for (int i = 0; i < step->n_outputs; i++) d->output_rows[i] = step->output_rows[i];
}

size_t qh_step_lay_out(const qh_cuda_forward *f, description *d, int n_rows, int n_seqs,
                       int n_outputs)
{
    const size_t rows = (size_t)n_rows, seqs = (size_t)n_seqs, int_bytes = sizeof(int);
    int *at = f->step_host;
    *d = (description){0};
    d->tokens = take_ints(&at, rows);
    d->positions = take_ints(&at, rows);
    d->pages_of_rows = take_ints(&at, rows);
    d->output_rows = take_ints(&at, (size_t)n_outputs);
    d->seqs = take_ints(&at, seqs * sizeof *d->seqs / int_bytes);
    d->merges = take_ints(&at, seqs * sizeof *d->merges / int_bytes);
    d->large = take_ints(&at, (rows * (size_t)qh_step_n_group(&f->m->desc) / LARGE_QUERIES + seqs) *
                                  sizeof *d->large / int_bytes);
    d->pages = at;
    return (size_t)(at - f->step_host);
}

/* Lists of known length come first; those that grow follow at their limits. Returns the ints
 * used. */
static size_t describe(const qh_cuda_forward *f, description *d, const qh_step *step)
{
    int *at = f->step_host + qh_step_lay_out(f, d, step->n_rows, step->n_seqs, step->n_outputs);
    int n_pages = 0;
    for (int s = 0; s < step->n_seqs; s++) {
        const qh_step_seq *seq = &step->seqs[s];
        const int n = qh_step_n_pages(seq->n_past + seq->n_rows);
        d->seqs[s] = (qh_attn_seq){seq->first_row, seq->n_rows, seq->n_past, n_pages};
        memcpy(d->pages + n_pages, seq->pages, (size_t)n * sizeof(int));
        n_pages += n;
    }
    take_ints(&at, (size_t)n_pages);
    d->small = (qh_attn_small *)at;
    for (int s = 0; s < step->n_seqs; s++)
        if (!describe_small(f, d, &step->seqs[s], s)) describe_large(f, d, &step->seqs[s], s);
    take_ints(&at, (size_t)d->n_small * sizeof *d->small / sizeof(int));
    describe_rows(d, step);
    return (size_t)(at - f->step_host);
}

/* ---- Launching ---- */

static void attend(const qh_cuda_forward *f, progress *p, const description *s, int layer,
                   int n_rows)
{
    const qh_desc *d = &f->m->desc;
    const qh_cuda_layer *l = &f->m->layers[layer];
    qh_kv kv = f->kv;
    kv.layer = layer;
    const qh_heads_args heads = {.kv = kv,
                                 .n_heads = d->n_heads,
                                 .rope_dim = d->rope_dim,
                                 .is_interleaved = d->rope_kind == QH_ROPE_INTERLEAVED,
                                 .qkv = f->s.qkv,
                                 .bias = l->qkv_bias,
                                 .q_norm = l->q_norm,
                                 .k_norm = l->k_norm,
                                 .eps = d->norm_eps,
                                 .q_scale = qh_step_q_scale(d),
                                 .cos_sin = f->s.cos_sin,
                                 .positions = on_device(f, s->positions),
                                 .pages = on_device(f, s->pages_of_rows),
                                 .q = f->s.q,
                                 .n_rows = n_rows};
    const qh_attn_args attn = {.kv = kv,
                               .n_heads = d->n_heads,
                               .q = f->s.q,
                               .out = f->s.mix,
                               .ld_out = qh_padded_dim(qh_desc_q_dim(d)),
                               .seqs = on_device(f, s->seqs),
                               .pages = on_device(f, s->pages),
                               .small = on_device(f, s->small),
                               .merges = on_device(f, s->merges),
                               .large = on_device(f, s->large),
                               .n_small = s->n_small,
                               .n_merges = s->n_merges,
                               .n_large = s->n_large,
                               .states = f->s.states,
                               .max_states = f->max_states,
                               .max_merge_queries = s->max_merge_queries};
    note(p, qh_cuda_heads(&heads, f->stream), "rotating heads");
    note(p, qh_cuda_attention(&attn, f->stream), "attending");
}

static void send(const qh_cuda_forward *f, progress *p, size_t n_ints)
{
    note(p,
         cudaMemcpyAsync(f->s.step, f->step_host, n_ints * sizeof(int), cudaMemcpyHostToDevice,
                         f->stream),
         "sending a step");
}

qh_status qh_cuda_forward_start(qh_cuda_forward *f, const qh_step *step, qh_err *err)
{
    description s;
    progress p = {cudaSuccess, NULL};
    if (f->decode && qh_cuda_decode_takes(f->decode, step)) {
        send(f, &p, qh_cuda_decode_describe(f, step));
        note(&p, qh_cuda_decode_launch(f->decode, step->n_rows, f->stream), "decoding");
        return qh_cuda_status(p.e, p.doing, err);
    }
    send(f, &p, describe(f, &s, step));
    qh_step_begin(f, &p, &s, step->n_rows);
    for (int i = 0; i < f->m->desc.n_layers; i++) qh_step_layer(f, &p, &s, i, step->n_rows, attend);
    if (step->n_outputs) qh_step_head(f, &p, &s, step->n_outputs);
    return qh_cuda_status(p.e, p.doing, err);
}

const float *qh_cuda_forward_logits(const qh_cuda_forward *f)
{
    return f->logits_host;
}
