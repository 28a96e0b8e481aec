/* cuda_decode.c - see cuda_decode.h
 *
 * A layer of one row is five launches: norm and projections to heads, attention, output and
 * residual, norm with gate and up, down and residual. The residual stream changes place with each
 * addition, since partial sums are added into zeros: an earlier launch has cleared them. */
#include "kernels/cuda/cuda_decode.h"
#include "base/mem.h"
#include "kernels/cuda/cuda_step.h"
#include "kernels/cuda/lost.h"
#include <string.h>

/* Rows that graphs are made for; max_seqs is one more. */
static const int sizes[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256};
enum { MAX_GRAPHS = sizeof sizes / sizeof *sizes + 1 };

struct qh_cuda_decode {
    int n_graphs, n_rows[MAX_GRAPHS];
    cudaGraphExec_t graphs[MAX_GRAPHS];
};

/* ---- Which models ---- */

static bool takes_attention(const qh_desc *d)
{
    return qh_step_n_group(d) <= QH_ATTN_QUERIES;
}

static bool takes_integers(const qh_cuda_model *m)
{
    enum { MAX_DIM = 28 << 10 }; /* an input lies in shared memory */
    const qh_desc *d = &m->desc;
    if (d->head_dim % QH_ACT8_GROUP || d->dim > MAX_DIM || d->ffn_dim > MAX_DIM ||
        qh_desc_q_dim(d) > MAX_DIM)
        return false;
    for (int i = 0; i < d->n_layers; i++) {
        const qh_cuda_layer *l = &m->layers[i];
        const qh_tiles *all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->gate_up, &l->down};
        for (int j = 0; j < 6; j++)
            if (!qh_cuda_matvec_takes(all[j]->tile)) return false;
    }
    return true;
}

size_t qh_cuda_decode_states_bytes(const qh_desc *d, const qh_backend_limits *limits)
{
    size_t most = 0;
    for (int n = 1; n <= limits->max_seqs; n++) {
        const size_t splits =
            (size_t)qh_cuda_decode_splits(n, d->n_kv_heads, qh_step_n_pages(limits->max_context));
        if (splits * (size_t)n > most) most = splits * (size_t)n;
    }
    const size_t padded = (size_t)qh_cuda_padded_head(d->head_dim);
    return most * (size_t)d->n_heads * (padded + 4) * sizeof(float);
}

/* ---- Attention ---- */

static qh_decode_attn_args attention_of(const qh_cuda_forward *f, const description *s, int layer,
                                        int n_rows, bool is_single)
{
    const qh_desc *d = &f->m->desc;
    const qh_cuda_layer *l = &f->m->layers[layer];
    qh_decode_attn_args a = {.kv = f->kv,
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
                             .seqs = on_device(f, s->seqs),
                             .pages = on_device(f, s->pages),
                             .n_rows = n_rows,
                             .out = f->s.mix,
                             .ld_out = qh_padded_dim(qh_desc_q_dim(d)),
                             .states = f->s.decode_states,
                             .counters = f->s.counters,
                             .max_splits = qh_cuda_decode_splits(
                                 n_rows, d->n_kv_heads, qh_step_n_pages(f->limits.max_context))};
    a.kv.layer = layer;
    if (is_single) a.out8 = f->s.mix8;
    return a;
}

/* ---- One row, in integers ---- */

static qh_matvec_part part_of(const qh_tiles *w, float *y)
{
    return (qh_matvec_part){.tile = w->tile,
                            .units = w->units,
                            .unit_bytes = qh_tile_unit_bytes(w->tile),
                            .n_rows = w->n_rows,
                            .n_row_tiles = w->n_row_tiles,
                            .y = y};
}

/* Does b continue a: the same format, behind it in memory, and no row tile shared? */
static bool continues(const qh_matvec_part *a, const qh_tiles *w, int n_units, const qh_tiles *b)
{
    return b->tile == a->tile && w->n_rows % QH_TILE_ROWS == 0 &&
           b->units == a->units + (size_t)a->n_row_tiles * (size_t)n_units * (size_t)a->unit_bytes;
}

static void project_to_heads(const qh_cuda_forward *f, progress *p, const qh_cuda_layer *l,
                             const qh_matvec_args *base)
{
    const qh_desc *d = &f->m->desc;
    const int q = qh_desc_q_dim(d), kv = qh_desc_kv_dim(d);
    const qh_tiles *w[3] = {&l->wq, &l->wk, &l->wv};
    float *y[3] = {f->s.qkv, f->s.qkv + q, f->s.qkv + q + kv};
    qh_matvec_part parts[3];
    int n = 0;
    for (int i = 0; i < 3; i++) {
        if (n && continues(&parts[n - 1], w[i - 1], base->n_units, w[i])) {
            parts[n - 1].n_rows += w[i]->n_rows;
            parts[n - 1].n_row_tiles += w[i]->n_row_tiles;
        } else {
            parts[n++] = part_of(w[i], y[i]);
        }
    }
    for (int i = 0; i < n; i += 2) {
        qh_matvec_args a = *base;
        a.n_parts = n - i < 2 ? 1 : 2;
        memcpy(a.parts, parts + i, (size_t)a.n_parts * sizeof *parts);
        if (i) a.n_zero = 0;
        note(p, qh_cuda_matvec(&a, f->stream), "projecting to heads");
    }
}

/* Of a matrix that reads x through a norm, and clears where the next sum goes. */
static qh_matvec_args normed(const qh_cuda_forward *f, const qh_tiles *w, const float *x,
                             const float *norm, float *zero)
{
    const qh_desc *d = &f->m->desc;
    return (qh_matvec_args){.n_parts = 1,
                            .dim = w->dim,
                            .n_units = w->n_units,
                            .x = x,
                            .norm_weight = norm,
                            .eps = d->norm_eps,
                            .zero = zero,
                            .n_zero = zero ? d->dim : 0};
}

static void add_product(const qh_cuda_forward *f, progress *p, const qh_tiles *w, qh_act8 x,
                        float *y, const float *before, const char *doing)
{
    const qh_matvec_args a = {.parts = {part_of(w, y)},
                              .n_parts = 1,
                              .dim = w->dim,
                              .n_units = w->n_units,
                              .x8 = x,
                              .epilogue = QH_MATVEC_ADD,
                              .residual = before};
    note(p, qh_cuda_matvec(&a, f->stream), doing);
}

static void run_single_layer(const qh_cuda_forward *f, progress *p, const description *s, int layer)
{
    const qh_cuda_layer *l = &f->m->layers[layer];
    const scratch *m = &f->s;
    qh_matvec_args a = normed(f, &l->wq, m->x, l->attn_norm, m->x2);
    project_to_heads(f, p, l, &a);
    const qh_decode_attn_args attn = attention_of(f, s, layer, 1, true);
    note(p, qh_cuda_decode_attention(&attn, f->stream), "attending");
    add_product(f, p, &l->wo, m->mix8, m->x2, m->x, "projecting attention");
    a = normed(f, &l->gate_up, m->x2, l->ffn_norm, m->x);
    a.parts[0] = part_of(&l->gate_up, NULL);
    a.epilogue = QH_MATVEC_SILU;
    a.out = m->h8;
    note(p, qh_cuda_matvec(&a, f->stream), "projecting gate and up");
    add_product(f, p, &l->down, m->h8, m->x, m->x2, "projecting down");
}

static void run_single(const qh_cuda_forward *f, progress *p, const description *s)
{
    const qh_cuda_model *m = f->m;
    qh_step_begin(f, p, s, 1);
    for (int i = 0; i < m->desc.n_layers; i++) run_single_layer(f, p, s, i);
    if (!qh_cuda_matvec_takes(m->head.tile)) {
        qh_step_head(f, p, s, 1);
        return;
    }
    qh_matvec_args a = normed(f, &m->head, f->s.x, m->out_norm, NULL);
    a.parts[0] = part_of(&m->head, f->s.logits);
    note(p, qh_cuda_matvec(&a, f->stream), "computing logits");
    qh_step_fetch_logits(f, p, 1);
}

/* ---- Several rows ---- */

static void attend(const qh_cuda_forward *f, progress *p, const description *s, int layer,
                   int n_rows)
{
    const qh_decode_attn_args a = attention_of(f, s, layer, n_rows, false);
    note(p, qh_cuda_decode_attention(&a, f->stream), "attending");
}

static void run_several(const qh_cuda_forward *f, progress *p, const description *s, int n_rows)
{
    qh_step_begin(f, p, s, n_rows);
    for (int i = 0; i < f->m->desc.n_layers; i++) qh_step_layer(f, p, s, i, n_rows, attend);
    qh_step_head(f, p, s, n_rows);
}

/* ---- Graphs ---- */

static cudaError_t record(cudaGraphExec_t *out, const qh_cuda_forward *f, int n_rows,
                          bool is_single)
{
    description s;
    progress p = {cudaSuccess, NULL};
    cudaGraph_t graph = NULL;
    qh_step_lay_out(f, &s, n_rows, n_rows, n_rows);
    cudaError_t e = cudaStreamBeginCapture(f->stream, cudaStreamCaptureModeThreadLocal);
    if (e) return e;
    if (is_single)
        run_single(f, &p, &s);
    else
        run_several(f, &p, &s, n_rows);
    e = cudaStreamEndCapture(f->stream, &graph);
    if (p.e) e = p.e;
    if (!e) e = cudaGraphInstantiate(out, graph, 0);
    if (!e) e = cudaGraphUpload(*out, f->stream);
    if (graph) cudaGraphDestroy(graph);
    return e;
}

/* A graph writes logits of all its rows. */
static int largest(const qh_cuda_forward *f)
{
    const qh_backend_limits *l = &f->limits;
    int n = l->max_seqs < l->max_outputs ? l->max_seqs : l->max_outputs;
    return n < l->max_rows ? n : l->max_rows;
}

qh_status qh_cuda_decode_new(qh_cuda_decode **out, const qh_cuda_forward *f, qh_err *err)
{
    *out = NULL;
    if (!takes_attention(&f->m->desc)) return QH_OK;
    qh_cuda_decode *d = qh_new0(qh_cuda_decode);
    const bool has_integers = takes_integers(f->m);
    const int most = largest(f);
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < MAX_GRAPHS && !e; i++) {
        const bool is_last = i + 1 == MAX_GRAPHS || sizes[i] >= most;
        const int n = is_last ? most : sizes[i];
        e = record(&d->graphs[d->n_graphs], f, n, n == 1 && has_integers);
        d->n_rows[d->n_graphs++] = n;
        if (is_last) break;
    }
    if (e) {
        qh_cuda_decode_free(d);
        return qh_cuda_status(e, "recording decode steps", err);
    }
    *out = d;
    return QH_OK;
}

void qh_cuda_decode_free(qh_cuda_decode *d)
{
    if (!d) return;
    for (int i = 0; i < d->n_graphs; i++)
        if (d->graphs[i]) cudaGraphExecDestroy(d->graphs[i]);
    qh_free(d);
}

static int graph_of(const qh_cuda_decode *d, int n_rows)
{
    int i = 0;
    while (i < d->n_graphs && d->n_rows[i] < n_rows) i++;
    return i;
}

bool qh_cuda_decode_takes(const qh_cuda_decode *d, const qh_step *step)
{
    return step->n_seqs == step->n_rows && step->n_outputs == step->n_rows &&
           graph_of(d, step->n_rows) < d->n_graphs;
}

size_t qh_cuda_decode_describe(const qh_cuda_forward *f, const qh_step *step)
{
    description s;
    const int n = f->decode->n_rows[graph_of(f->decode, step->n_rows)];
    size_t used = qh_step_lay_out(f, &s, n, n, n);
    int n_pages = 0;
    for (int i = 0; i < n; i++) {
        const bool is_row = i < step->n_rows;
        const qh_step_seq *seq = &step->seqs[is_row ? i : 0];
        s.tokens[i] = is_row ? step->tokens[i] : 0;
        s.positions[i] = is_row ? seq->n_past : 0;
        s.output_rows[i] = i;
        s.seqs[i] = (qh_attn_seq){i, is_row, is_row ? seq->n_past : -1, n_pages};
        if (!is_row) continue;
        const int m = qh_step_n_pages(seq->n_past + 1);
        memcpy(s.pages + n_pages, seq->pages, (size_t)m * sizeof(int));
        n_pages += m;
    }
    return used + (size_t)n_pages;
}

cudaError_t qh_cuda_decode_launch(qh_cuda_decode *d, int n_rows, cudaStream_t stream)
{
    return cudaGraphLaunch(d->graphs[graph_of(d, n_rows)], stream);
}
