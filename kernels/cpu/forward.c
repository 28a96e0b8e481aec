/* forward.c - see forward.h */
#include "kernels/cpu/forward.h"
#include "base/mem.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attn_work.h"
#include "kernels/cpu/carve.h"
#include "kernels/cpu/float_ops.h"
#include <stdalign.h>
#include <string.h>
#include <time.h>

enum {
    OWN_ACTS_ROWS = 2, /* up to here quantizing twice is cheaper than a barrier */
    NARROW_ROWS = 8,   /* up to here threads get fixed, equal shares of a matrix */
    TOKEN_BLOCK = 256, /* activations of so many tokens stay in the second-level cache */
    CHUNK_GROUPS = 4,  /* row groups of a shared chunk, at most */
    CHUNKS_PER_THREAD = 8,
    PRODUCT_FLOATS = TOKEN_BLOCK * CHUNK_GROUPS * QH_MATRIX_ROW_ALIGN,
    N_COUNTERS = 3,
};

typedef struct {
    alignas(QH_CARVE_ALIGN) _Atomic int next;
} counter;

/* What one thread keeps for itself. */
typedef struct {
    float *row;                     /* one row of the widest kind */
    float *product;                 /* [PRODUCT_FLOATS] a product on its way to the residual or h */
    uint8_t *acts;                  /* OWN_ACTS_ROWS rows of the widest kind */
    float *q, *part, *total;        /* of an attention item */
} private_memory;

struct qh_forward {
    const qh_cpu_model *m;
    qh_team *team;
    qh_backend_limits limits;
    const qh_float_ops *ops;
    const qh_attn_ops *attn;
    uint8_t *pages;
    size_t block_bytes, page_bytes;
    bool has_float;                 /* some matrix reads activations as floats */

    /* Activations: [max_rows][width] */
    float *x, *q, *k, *v, *mix, *h; /* residual; projections; attention's output; silu(gate) * up */
    float *cos_sin;                 /* [max_rows][2 * rope_dim] */
    uint8_t *acts;
    float *logits;                  /* [max_outputs][n_vocab] */
    int *seq_of_row;
    private_memory *mine;           /* [n_threads] */
    qh_attn_work work, last_work;   /* of all layers but the last, of the last */
    float *states;                  /* [max_states][n_group] */
    counter *counters;              /* [N_COUNTERS] region r uses r % 3, see end_region */

    qh_cpu_profile *profiles;       /* [n_threads], or NULL; borrowed */
    const qh_step *step;
    bool appends_inline;            /* one row a sequence: attention items write keys and values */
};

/* A thread's walk through a step. n_rows: of the residual now; fewer after the last layer's cut. */
typedef struct {
    qh_forward *f;
    private_memory *mine;
    int thread, n_threads, region, n_rows;
    qh_acts acts;
    int64_t lap_ns;                 /* when the last lap ended */
} walker;

/* ---- Memory ---- */

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t widest(const qh_desc *d)
{
    return max64(max64(d->dim, qh_desc_q_dim(d)), d->ffn_dim);
}

static int n_group(const qh_desc *d) { return d->n_heads / d->n_kv_heads; }

static bool reads_floats(qh_isa isa, const qh_tensor *t)
{
    qh_matrix m = {.isa = isa, .dtype = t->dtype, .n_rows = t->n_rows, .dim = t->dim};
    return qh_matrix_needs_float(&m);
}

static bool any_reads_floats(const qh_desc *d, const qh_weights *w, qh_isa isa)
{
    bool any = reads_floats(isa, &w->head);
    for (int i = 0; i < d->n_layers; i++) {
        const qh_layer_weights *l = &w->layers[i];
        const qh_tensor *all[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w_gate, &l->w_up, &l->w_down};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) any |= reads_floats(isa, all[j]);
    }
    return any;
}

static size_t acts_bytes(const qh_forward *f, const qh_desc *d, qh_isa isa, int n_rows)
{
    const int widths[] = {d->dim, qh_desc_q_dim(d), d->ffn_dim};
    size_t most = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = qh_acts_bytes(isa, n_rows, widths[i], f->has_float);
        if (n > most) most = n;
    }
    return most;
}

static void place_work(qh_carver *c, qh_attn_work *w, const qh_backend_limits *l, const qh_desc *d,
                       int n_threads)
{
    qh_attn_work_size(w, l, d->n_kv_heads, n_group(d), n_threads);
    w->items = qh_carve(c, (size_t)w->max_items * sizeof *w->items);
    w->splits = qh_carve(c, (size_t)w->max_splits * sizeof *w->splits);
}

/* Give every array its place; with an empty carver, only count. */
static void place_all(qh_forward *f, qh_carver *c, const qh_desc *d, qh_isa isa,
                      const qh_backend_limits *l, int n_threads)
{
    const int64_t rows = l->max_rows;
    f->x = qh_carve_floats(c, rows * d->dim);
    f->q = qh_carve_floats(c, rows * qh_desc_q_dim(d));
    f->k = qh_carve_floats(c, rows * qh_desc_kv_dim(d));
    f->v = qh_carve_floats(c, rows * qh_desc_kv_dim(d));
    f->mix = qh_carve_floats(c, rows * qh_desc_q_dim(d));
    f->h = qh_carve_floats(c, rows * d->ffn_dim);
    f->cos_sin = qh_carve_floats(c, rows * 2 * d->rope_dim);
    f->acts = qh_carve(c, acts_bytes(f, d, isa, l->max_rows));
    f->logits = qh_carve_floats(c, (int64_t)l->max_outputs * d->n_vocab);
    f->seq_of_row = qh_carve(c, (size_t)rows * sizeof *f->seq_of_row);
    f->counters = qh_carve(c, N_COUNTERS * sizeof *f->counters);
    place_work(c, &f->work, l, d, n_threads);
    place_work(c, &f->last_work, l, d, n_threads);
    const int64_t state_len = qh_attn_state_len(d->head_dim);
    f->states = qh_carve_floats(c, (int64_t)f->work.max_states * n_group(d) * state_len);
    const int64_t n_queries = (int64_t)f->work.max_block_rows * n_group(d);
    for (int i = 0; i < n_threads; i++) {
        private_memory p = {
            .row = qh_carve_floats(c, widest(d)),
            .product = qh_carve_floats(c, PRODUCT_FLOATS),
            .acts = qh_carve(c, acts_bytes(f, d, isa, OWN_ACTS_ROWS)),
            .q = qh_carve_floats(c, n_queries * qh_attn_padded(d->head_dim)),
            .part = qh_carve_floats(c, n_queries * state_len),
            .total = qh_carve_floats(c, n_queries * state_len),
        };
        if (c->base) f->mine[i] = p;
    }
}

size_t qh_forward_page_bytes(const qh_desc *d, qh_isa isa, qh_kv_type kv)
{
    return (size_t)d->n_layers * (size_t)d->n_kv_heads *
           qh_attn_ops_of(isa, kv)->block_bytes(d->head_dim);
}

size_t qh_forward_scratch_bytes(const qh_desc *d, const qh_weights *w, qh_isa isa,
                                const qh_backend_limits *limits, int n_threads)
{
    qh_forward f = {.has_float = any_reads_floats(d, w, isa)};
    qh_carver c = {0};
    place_all(&f, &c, d, isa, limits, n_threads);
    return c.len_bytes;
}

qh_status qh_forward_new(qh_forward **out, const qh_cpu_model *m, const qh_weights *w,
                         qh_team *team, const qh_backend_limits *limits, qh_kv_type kv,
                         uint8_t *scratch, uint8_t *pages, qh_err *err)
{
    const qh_desc *d = &m->desc;
    const int n_threads = qh_team_size(team);
    qh_forward *f = qh_new0(qh_forward);
    *out = NULL;
    f->m = m;
    f->team = team;
    f->limits = *limits;
    f->ops = qh_float_ops_of(m->isa);
    f->attn = qh_attn_ops_of(m->isa, kv);
    f->pages = pages;
    f->block_bytes = f->attn->block_bytes(d->head_dim);
    f->page_bytes = qh_forward_page_bytes(d, m->isa, kv);
    f->has_float = any_reads_floats(d, w, m->isa);
    f->mine = qh_try_alloc0((size_t)n_threads, sizeof *f->mine);
    if (!f->mine) {
        qh_forward_free(f);
        return qh_fail(err, QH_ENOMEM, "no memory for %d threads", n_threads);
    }
    qh_carver c = {.base = scratch};
    place_all(f, &c, d, m->isa, limits, n_threads);
    *out = f;
    return QH_OK;
}

void qh_forward_free(qh_forward *f)
{
    if (!f) return;
    qh_free(f->mine);
    qh_free(f);
}

/* ---- Sharing out ---- */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* What passed since the last lap was spent on this. */
static void lap(walker *w, qh_cpu_region region)
{
    if (!w->f->profiles) return;
    const int64_t now = now_ns();
    w->f->profiles[w->thread].ns[region] += now - w->lap_ns;
    w->lap_ns = now;
}

typedef struct {
    int64_t begin, end;
} span;

/* The thread's equal share of n things. */
static span share(const walker *w, int64_t n)
{
    return (span){n * w->thread / w->n_threads, n * (w->thread + 1) / w->n_threads};
}

/* Everybody waits for everybody. Counter r % 3 serves region r; the one of region r - 1 is idle by
 * now and is cleared for region r + 2. */
static void end_region(walker *w, qh_cpu_region region)
{
    lap(w, region);
    if (w->thread == 0)
        atomic_store_explicit(&w->f->counters[(w->region + 2) % N_COUNTERS].next, 0,
                              memory_order_relaxed);
    w->region++;
    qh_team_barrier(w->f->team, w->thread);
    lap(w, QH_CPU_REGION_WAIT);
}

static int take(walker *w)
{
    return atomic_fetch_add_explicit(&w->f->counters[w->region % N_COUNTERS].next, 1,
                                     memory_order_relaxed);
}

/* Compute rows [row_begin, row_end) of a product for tokens [t_begin, t_end). */
typedef void product_fn(walker *w, const void *what, int t_begin, int t_end, int64_t row_begin,
                        int64_t row_end);

/* All n_out output rows for the walker's tokens, in pieces whose product fits PRODUCT_FLOATS. */
static void share_product(walker *w, product_fn *fn, const void *what, int64_t n_out)
{
    const int64_t align = QH_MATRIX_ROW_ALIGN, n_groups = (n_out + align - 1) / align;
    if (w->n_rows <= NARROW_ROWS) {
        const span s = share(w, n_groups);
        const int64_t step = PRODUCT_FLOATS / NARROW_ROWS;
        const int64_t end = s.end * align < n_out ? s.end * align : n_out;
        for (int64_t r = s.begin * align; r < end; r += step)
            fn(w, what, 0, w->n_rows, r, r + step < end ? r + step : end);
        return;
    }
    const int n_blocks = (w->n_rows + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
    int64_t per_chunk = n_groups * n_blocks / (CHUNKS_PER_THREAD * w->n_threads);
    per_chunk = per_chunk < 1 ? 1 : per_chunk > CHUNK_GROUPS ? CHUNK_GROUPS : per_chunk;
    const int n_chunks = (int)((n_groups + per_chunk - 1) / per_chunk);
    for (int i = take(w); i < n_chunks * n_blocks; i = take(w)) {
        const int block = i / n_chunks;
        const int64_t begin = i % n_chunks * per_chunk * align, end = begin + per_chunk * align;
        fn(w, what, w->n_rows * block / n_blocks, w->n_rows * (block + 1) / n_blocks, begin,
           end < n_out ? end : n_out);
    }
}

/* ---- Quantizing ---- */

/* The row to quantize: x as it is, or its norm in the thread's own row. */
static const float *normed(walker *w, const float *x, const float *norm, int dim)
{
    if (!norm) return x;
    w->f->ops->rms_norm(w->mine->row, x, norm, dim, w->f->m->desc.norm_eps);
    return w->mine->row;
}

static void set_acts(walker *w, const float *x, const float *norm, int dim, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        const float *row = normed(w, x + (int64_t)r * dim, norm, dim);
        qh_acts_set(&w->acts, row, 0, r, r + 1);    /* stride 0: token r is read from row itself */
    }
}

/* w->acts = the walker's rows of x [n_rows][dim], normed when norm is given. */
static void quantize(walker *w, const float *x, const float *norm, int dim)
{
    const qh_forward *f = w->f;
    const bool is_own = w->n_rows <= OWN_ACTS_ROWS;
    qh_acts_init(&w->acts, f->m->isa, w->n_rows, dim, f->has_float,
                 is_own ? w->mine->acts : f->acts);
    if (is_own) {
        set_acts(w, x, norm, dim, 0, w->n_rows);
        lap(w, QH_CPU_REGION_QUANTIZE);
        return;
    }
    const span s = share(w, w->n_rows);
    set_acts(w, x, norm, dim, (int)s.begin, (int)s.end);
    end_region(w, QH_CPU_REGION_QUANTIZE);
}

/* ---- Products ---- */

/* The part of rows [begin, end) that lies in a matrix whose first row is number first. */
static void part_of(walker *w, const qh_matrix *m, float *y, int64_t first, int t_begin, int t_end,
                    int64_t begin, int64_t end)
{
    begin = max64(begin - first, 0);
    end = end - first < m->n_rows ? end - first : m->n_rows;
    if (begin < end) qh_matmul(m, &w->acts, t_begin, t_end, begin, end, y, m->n_rows);
}

static int64_t aligned(int64_t n)
{
    return (n + QH_MATRIX_ROW_ALIGN - 1) / QH_MATRIX_ROW_ALIGN * QH_MATRIX_ROW_ALIGN;
}

/* Rows of q, k and v one after the other, each starting on a multiple of 16. */
static void qkv_rows(walker *w, const void *what, int t_begin, int t_end, int64_t begin,
                     int64_t end)
{
    const qh_cpu_layer *l = what;
    const int64_t k = aligned(l->wq.n_rows), v = k + aligned(l->wk.n_rows);
    part_of(w, &l->wq, w->f->q, 0, t_begin, t_end, begin, end);
    part_of(w, &l->wk, w->f->k, k, t_begin, t_end, begin, end);
    part_of(w, &l->wv, w->f->v, v, t_begin, t_end, begin, end);
}

/* y[t][r] of a piece is at product + (t - t_begin) * (row_end - row_begin) + r - row_begin. */
static void to_product(walker *w, const qh_matrix *m, int t_begin, int t_end, int64_t begin,
                       int64_t end)
{
    const int64_t ld = end - begin;
    qh_matmul(m, &w->acts, t_begin, t_end, begin, end, w->mine->product - t_begin * ld - begin, ld);
}

static void residual_rows(walker *w, const void *what, int t_begin, int t_end, int64_t begin,
                          int64_t end)
{
    const int64_t ld = end - begin, dim = w->f->m->desc.dim;
    to_product(w, what, t_begin, t_end, begin, end);
    for (int t = t_begin; t < t_end; t++)
        w->f->ops->add(w->f->x + t * dim + begin, w->mine->product + (t - t_begin) * ld, (int)ld);
}

static void gate_up_rows(walker *w, const void *what, int t_begin, int t_end, int64_t begin,
                         int64_t end)
{
    const qh_cpu_layer *l = what;
    const int64_t ld = end - begin, ffn = w->f->m->desc.ffn_dim;
    qh_matmul(&l->w_gate, &w->acts, t_begin, t_end, begin, end, w->f->h, ffn);
    to_product(w, &l->w_up, t_begin, t_end, begin, end);
    for (int t = t_begin; t < t_end; t++)
        w->f->ops->silu_mul(w->f->h + t * ffn + begin, w->mine->product + (t - t_begin) * ld,
                            (int)ld);
}

static void head_rows(walker *w, const void *what, int t_begin, int t_end, int64_t begin,
                      int64_t end)
{
    qh_matmul(what, &w->acts, t_begin, t_end, begin, end, w->f->logits, w->f->m->desc.n_vocab);
}

/* ---- Attention ---- */

static int position_of(const qh_forward *f, int row)
{
    const qh_step_seq *s = &f->step->seqs[f->seq_of_row[row]];
    return s->n_past + row - s->first_row;
}

/* Bias, norm and rotation of one head of q or k. */
static void finish_head(const qh_forward *f, float *head, const float *bias, const float *norm,
                        int row)
{
    const qh_desc *d = &f->m->desc;
    if (bias) f->ops->add(head, bias, d->head_dim);
    if (norm) f->ops->rms_norm(head, head, norm, d->head_dim, d->norm_eps);
    f->ops->rope(head, f->cos_sin + (int64_t)row * 2 * d->rope_dim, d->rope_dim,
                 f->m->rope.is_interleaved);
}

static uint8_t *head_blocks(const qh_forward *f, int layer, int kv_head)
{
    return f->pages +
           ((size_t)layer * (size_t)f->m->desc.n_kv_heads + (size_t)kv_head) * f->block_bytes;
}

/* Keys and values of a row and KV head into their page. */
static void append_row(qh_forward *f, int layer, int row, int kv_head)
{
    const qh_desc *d = &f->m->desc;
    const qh_cpu_layer *l = &f->m->layers[layer];
    const int64_t at = (int64_t)kv_head * d->head_dim;
    float *k = f->k + (int64_t)row * qh_desc_kv_dim(d) + at,
          *v = f->v + (int64_t)row * qh_desc_kv_dim(d) + at;
    finish_head(f, k, l->bk ? l->bk + at : NULL, l->k_norm, row);
    if (l->bv) f->ops->add(v, l->bv + at, d->head_dim);
    const int position = position_of(f, row);
    const qh_page page = f->step->seqs[f->seq_of_row[row]].pages[position / QH_PAGE_TOKENS];
    f->attn->append(head_blocks(f, layer, kv_head) + (size_t)page * f->page_bytes, d->head_dim,
                    position % QH_PAGE_TOKENS, k, v);
}

/* The item's queries, finished and padded, in the thread's q. */
static void gather_queries(walker *w, const qh_attn_item *item, int layer)
{
    const qh_forward *f = w->f;
    const qh_desc *d = &f->m->desc;
    const qh_cpu_layer *l = &f->m->layers[layer];
    const int padded = qh_attn_padded(d->head_dim);
    float *q = w->mine->q;
    for (int r = item->row; r < item->row + item->n_rows; r++)
        for (int g = 0; g < n_group(d); g++, q += padded) {
            const int64_t at = ((int64_t)item->kv_head * n_group(d) + g) * d->head_dim;
            memcpy(q, f->q + (int64_t)r * qh_desc_q_dim(d) + at, (size_t)d->head_dim * sizeof *q);
            memset(q + d->head_dim, 0, (size_t)(padded - d->head_dim) * sizeof *q);
            finish_head(f, q, l->bq ? l->bq + at : NULL, l->q_norm, r);
        }
}

static void finish_item(walker *w, const qh_attn_item *item, const float *states)
{
    const qh_desc *d = &w->f->m->desc;
    for (int r = 0; r < item->n_rows; r++)
        for (int g = 0; g < n_group(d); g++, states += qh_attn_state_len(d->head_dim)) {
            const int64_t at = ((int64_t)item->kv_head * n_group(d) + g) * d->head_dim;
            w->f->attn->finish(w->f->mix + (int64_t)(item->out + r) * qh_desc_q_dim(d) + at, states,
                               d->head_dim);
        }
}

/* The states of the item's ranges go into slots; the last item of the row merges them all. */
static void attend_split(walker *w, qh_attn_work *work, const qh_attn_item *item,
                         const qh_attn_job *job)
{
    qh_forward *f = w->f;
    qh_attn_split *split = &work->splits[item->split];
    const int64_t slot = (int64_t)job->n_group * qh_attn_state_len(job->head_dim);
    float *states = f->states + split->state * slot;
    for (int r = item->range; r < item->range + item->n_ranges; r++)
        f->attn->range(job, r, states + r * slot);
    if (atomic_fetch_sub_explicit(&split->n_left, 1, memory_order_acq_rel) != 1) return;
    atomic_store_explicit(&split->n_left, split->n_items,
                          memory_order_relaxed); /* for the next layer */
    qh_attn_clear(w->mine->total, job->n_group, job->head_dim);
    for (int r = 0; r < split->n_ranges; r++)
        f->attn->merge(w->mine->total, states + r * slot, job->n_group, job->head_dim);
    finish_item(w, item, w->mine->total);
}

static void attend(walker *w, qh_attn_work *work, const qh_attn_item *item, int layer)
{
    qh_forward *f = w->f;
    const qh_desc *d = &f->m->desc;
    const qh_step_seq *seq = &f->step->seqs[item->seq];
    const int n_queries = item->n_rows * n_group(d);
    if (f->appends_inline && item->range + item->n_ranges == qh_attn_n_ranges(seq->n_past + 1))
        append_row(f, layer, item->row, item->kv_head);
    gather_queries(w, item, layer);
    const qh_attn_job job = {
        .head_dim = d->head_dim,
        .n_group = n_group(d),
        .n_rows = item->n_rows,
        .first_pos = position_of(f, item->row),
        .scale = d->attn_scale,
        .blocks = head_blocks(f, layer, item->kv_head),
        .page_bytes = f->page_bytes,
        .pages = seq->pages,
        .q = w->mine->q,
    };
    f->attn->prepare(&job);
    if (item->split >= 0) {
        attend_split(w, work, item, &job);
        return;
    }
    qh_attn_clear(w->mine->total, n_queries, d->head_dim);
    for (int r = item->range; r < item->range + item->n_ranges; r++) {
        f->attn->range(&job, r, w->mine->part);
        f->attn->merge(w->mine->total, w->mine->part, n_queries, d->head_dim);
    }
    finish_item(w, item, w->mine->total);
}

/* ---- The step ---- */

static void embed_rows(walker *w)
{
    qh_forward *f = w->f;
    const span s = share(w, w->n_rows);
    for (int r = (int)s.begin; r < (int)s.end; r++) {
        qh_cpu_model_embed(f->m, f->step->tokens[r], f->x + (int64_t)r * f->m->desc.dim);
        qh_rope_table_row(&f->m->rope, position_of(f, r),
                          f->cos_sin + (int64_t)r * 2 * f->m->desc.rope_dim);
    }
    end_region(w, QH_CPU_REGION_EMBED);
}

/* From here on only the output rows matter: move them to the front of the residual. Rows ascend,
 * so none is overwritten before it has moved. */
static void cut_to_outputs(walker *w)
{
    const qh_step *step = w->f->step;
    const int64_t dim = w->f->m->desc.dim;
    if (w->thread == 0)
        for (int i = 0; i < step->n_outputs; i++)
            if (step->output_rows[i] != i)
                memcpy(w->f->x + i * dim, w->f->x + step->output_rows[i] * dim,
                       (size_t)dim * sizeof(float));
    w->n_rows = step->n_outputs;
}

static void attention_region(walker *w, int layer)
{
    qh_forward *f = w->f;
    const bool is_last = layer == f->m->desc.n_layers - 1;
    if (!f->appends_inline) {
        const span s = share(w, w->n_rows);
        for (int r = (int)s.begin; r < (int)s.end; r++)
            for (int h = 0; h < f->m->desc.n_kv_heads; h++) append_row(f, layer, r, h);
        end_region(w, QH_CPU_REGION_APPEND);
    }
    if (is_last) cut_to_outputs(w);
    qh_attn_work *work = is_last ? &f->last_work : &f->work;
    for (int i = take(w); i < work->n_items; i = take(w)) attend(w, work, &work->items[i], layer);
    end_region(w, QH_CPU_REGION_ATTENTION);
}

static void run_layer(walker *w, int layer)
{
    const qh_forward *f = w->f;
    const qh_desc *d = &f->m->desc;
    const qh_cpu_layer *l = &f->m->layers[layer];
    quantize(w, f->x, l->attn_norm, d->dim);
    share_product(w, qkv_rows, l, aligned(l->wq.n_rows) + aligned(l->wk.n_rows) + l->wv.n_rows);
    end_region(w, QH_CPU_REGION_QKV);
    attention_region(w, layer);
    if (w->n_rows == 0) return;         /* the last layer of a step without outputs */
    quantize(w, f->mix, NULL, qh_desc_q_dim(d));
    share_product(w, residual_rows, &l->wo, d->dim);
    end_region(w, QH_CPU_REGION_OUT);
    quantize(w, f->x, l->ffn_norm, d->dim);
    share_product(w, gate_up_rows, l, d->ffn_dim);
    end_region(w, QH_CPU_REGION_GATE_UP);
    quantize(w, f->h, NULL, d->ffn_dim);
    share_product(w, residual_rows, &l->w_down, d->dim);
    end_region(w, QH_CPU_REGION_DOWN);
}

static void walk(void *arg, int thread)
{
    qh_forward *f = arg;
    walker w = {.f = f,
                .mine = &f->mine[thread],
                .thread = thread,
                .n_threads = qh_team_size(f->team),
                .n_rows = f->step->n_rows};
    if (f->profiles) w.lap_ns = now_ns();
    embed_rows(&w);
    for (int i = 0; i < f->m->desc.n_layers; i++) run_layer(&w, i);
    if (w.n_rows == 0) return;
    quantize(&w, f->x, f->m->out_norm, f->m->desc.dim);
    share_product(&w, head_rows, &f->m->head, f->m->desc.n_vocab);
    lap(&w, QH_CPU_REGION_HEAD);
}

void qh_forward_profile(qh_forward *f, qh_cpu_profile *profiles) { f->profiles = profiles; }

const float *qh_forward_run(qh_forward *f, const qh_step *step)
{
    f->step = step;
    f->appends_inline = true;
    for (int s = 0; s < step->n_seqs; s++) {
        const qh_step_seq *seq = &step->seqs[s];
        for (int i = 0; i < seq->n_rows; i++) f->seq_of_row[seq->first_row + i] = s;
        f->appends_inline &= seq->n_rows == 1;
    }
    /* In the last layer a row without output has no item that would write its keys. */
    f->appends_inline &= step->n_outputs == step->n_rows;
    qh_attn_work_build(&f->work, step, NULL, step->n_rows);
    qh_attn_work_build(&f->last_work, step, step->output_rows, step->n_outputs);
    for (int i = 0; i < N_COUNTERS; i++) atomic_store(&f->counters[i].next, 0);
    qh_team_run(f->team, walk, f);
    return f->logits;
}
