/* cpu_model.c - see cpu_model.h */
#include "kernels/cpu/cpu_model.h"
#include "base/mem.h"
#include "kernels/cpu/carve.h"
#include "model/quant.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* One tensor on its way in: to a matrix, to floats, or copied. */
typedef struct {
    const qh_tensor *from;
    qh_matrix *matrix;
    float *floats;
    uint8_t *copy;
} load_job;

enum {
    MATRICES_PER_LAYER = 7,
    VECTORS_PER_LAYER = 7,
    CHUNK_BYTES = 512 << 10,        /* of a tensor, taken by a thread at a time */
};

/* Walks the tensors in order of use, giving each its place. Collects jobs when jobs is not NULL. */
typedef struct {
    qh_carver carver;
    qh_isa isa;
    load_job *jobs;
    int n_jobs;
    qh_err *err;
    qh_status status;               /* the first failure */
} layout;

static void place_matrix(layout *l, qh_matrix *m, const qh_tensor *t)
{
    void *data = qh_carve(&l->carver, qh_matrix_bytes(l->isa, t->dtype, t->n_rows, t->dim));
    if (!l->jobs || l->status) return;
    l->status = qh_matrix_init(m, l->isa, t, data, l->err);
    l->jobs[l->n_jobs++] = (load_job){.from = t, .matrix = m};
}

static void place_vector(layout *l, float **v, const qh_tensor *t)
{
    if (!t->data) return;
    float *data = qh_carve_floats(&l->carver, t->dim);
    if (!l->jobs) return;
    *v = data;
    l->jobs[l->n_jobs++] = (load_job){.from = t, .floats = data};
}

static void place_layer(layout *l, qh_cpu_layer *to, const qh_layer_weights *from)
{
    place_vector(l, &to->attn_norm, &from->attn_norm);
    place_matrix(l, &to->wq, &from->wq);
    place_matrix(l, &to->wk, &from->wk);
    place_matrix(l, &to->wv, &from->wv);
    place_vector(l, &to->bq, &from->bq);
    place_vector(l, &to->bk, &from->bk);
    place_vector(l, &to->bv, &from->bv);
    place_vector(l, &to->q_norm, &from->q_norm);
    place_vector(l, &to->k_norm, &from->k_norm);
    place_matrix(l, &to->wo, &from->wo);
    place_vector(l, &to->ffn_norm, &from->ffn_norm);
    place_matrix(l, &to->w_gate, &from->w_gate);
    place_matrix(l, &to->w_up, &from->w_up);
    place_matrix(l, &to->w_down, &from->w_down);
}

static void place_all(layout *l, qh_cpu_model *m, const qh_desc *d, const qh_weights *w)
{
    qh_cpu_layer counted;           /* where a counting walk puts its pointers */
    for (int i = 0; i < d->n_layers; i++)
        place_layer(l, l->jobs ? &m->layers[i] : &counted, &w->layers[i]);
    place_vector(l, &m->out_norm, &w->out_norm);
    place_matrix(l, &m->head, &w->head);
    if (d->is_tied) return;
    uint8_t *copy = qh_carve(&l->carver, (size_t)w->embed.n_rows *
                                             qh_dtype_row_bytes(w->embed.dtype, w->embed.dim));
    if (!l->jobs) return;
    m->embed = copy;
    l->jobs[l->n_jobs++] = (load_job){.from = &w->embed, .copy = copy};
}

size_t qh_cpu_model_bytes(const qh_desc *d, const qh_weights *w, qh_isa isa)
{
    layout l = {.isa = isa};
    qh_cpu_model unused = {.isa = isa};
    place_all(&l, &unused, d, w);
    return l.carver.len_bytes;
}

/* The whole pages inside [begin, end) of a file mapping: they come back from the page cache when
 * somebody reads them again. */
static void give_back(const void *begin, const void *end)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t b = ((uintptr_t)begin + page - 1) / page * page, e = (uintptr_t)end / page * page;
    if (b < e) madvise((void *)b, e - b, MADV_DONTNEED);
}

typedef struct {
    const load_job *jobs;
    int n_jobs;
    bool is_mapped;
    _Atomic int64_t next;           /* chunk, counted over all jobs */
} loading;

static int64_t rows_per_chunk(const qh_tensor *t)
{
    size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
    int64_t rows = (int64_t)(CHUNK_BYTES / (row_bytes ? row_bytes : 1));
    return rows < QH_MATRIX_ROW_ALIGN ? QH_MATRIX_ROW_ALIGN
                                      : rows / QH_MATRIX_ROW_ALIGN * QH_MATRIX_ROW_ALIGN;
}

static void load_rows(const load_job *j, int64_t begin, int64_t end)
{
    const qh_tensor *t = j->from;
    size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
    const uint8_t *from = (const uint8_t *)t->data + (size_t)begin * row_bytes;
    if (j->matrix) qh_matrix_pack(j->matrix, t, begin, end);
    else if (j->floats)
        qh_dequantize(t->dtype, j->floats + begin * t->dim, from, (end - begin) * t->dim);
    else memcpy(j->copy + (size_t)begin * row_bytes, from, (size_t)(end - begin) * row_bytes);
}

static void load_chunks(void *arg, int thread)
{
    (void)thread;
    loading *l = arg;
    int64_t mine = atomic_fetch_add(&l->next, 1), before = 0;
    for (int i = 0; i < l->n_jobs; i++) {
        const qh_tensor *t = l->jobs[i].from;
        const int64_t rows = rows_per_chunk(t), n_chunks = (t->n_rows + rows - 1) / rows;
        const size_t row_bytes = qh_dtype_row_bytes(t->dtype, t->dim);
        for (; mine < before + n_chunks; mine = atomic_fetch_add(&l->next, 1)) {
            int64_t begin = (mine - before) * rows,
                    end = begin + rows < t->n_rows ? begin + rows : t->n_rows;
            load_rows(&l->jobs[i], begin, end);
            if (l->is_mapped)
                give_back((const uint8_t *)t->data + (size_t)begin * row_bytes,
                          (const uint8_t *)t->data + (size_t)end * row_bytes);
        }
        before += n_chunks;
    }
}

/* Faults bring in neighbouring pages too: once more over everything, when all threads are done. */
static void give_back_all(const load_job *jobs, int n_jobs)
{
    for (int i = 0; i < n_jobs; i++) {
        const qh_tensor *t = jobs[i].from;
        size_t len = (size_t)t->n_rows * qh_dtype_row_bytes(t->dtype, t->dim);
        give_back(t->data, (const uint8_t *)t->data + len);
    }
}

qh_status qh_cpu_model_load(qh_cpu_model *m, const qh_desc *d, const qh_weights *w, qh_isa isa,
                            bool is_mapped, qh_team *team, qh_err *err)
{
    *m = (qh_cpu_model){.desc = *d, .isa = isa, .embed_dtype = w->embed.dtype};
    m->data_bytes = qh_cpu_model_bytes(d, w, isa);
    m->data = qh_pages_alloc(m->data_bytes);
    m->layers = qh_try_alloc0((size_t)d->n_layers, sizeof *m->layers);
    layout l = {.isa = isa, .err = err, .carver.base = m->data};
    l.jobs = qh_try_alloc0((size_t)d->n_layers * (MATRICES_PER_LAYER + VECTORS_PER_LAYER) + 3,
                           sizeof *l.jobs);
    qh_status st;
    if (!m->data || !m->layers || !l.jobs) {
        st = qh_fail(err, QH_ENOMEM, "no memory for %zu bytes of weights", m->data_bytes);
        goto done;
    }
    place_all(&l, m, d, w);
    st = l.status;
    float factors[QH_MAX_HEAD_DIM / 2];
    const qh_tensor *f = &w->rope_factors;
    if (f->data) qh_dequantize(f->dtype, factors, f->data, d->rope_dim / 2);
    if (!st) st = qh_rope_table_init(&m->rope, d, f->data ? factors : NULL, err);
    if (st) goto done;
    loading state = {.jobs = l.jobs, .n_jobs = l.n_jobs, .is_mapped = is_mapped};
    qh_team_run(team, load_chunks, &state);
    if (is_mapped) give_back_all(l.jobs, l.n_jobs);
done:
    qh_free(l.jobs);
    if (st) qh_cpu_model_unload(m);
    return st;
}

void qh_cpu_model_unload(qh_cpu_model *m)
{
    qh_pages_free(m->data, m->data_bytes);
    qh_free(m->layers);
    qh_rope_table_deinit(&m->rope);
    *m = (qh_cpu_model){0};
}

void qh_cpu_model_embed(const qh_cpu_model *m, int64_t token, float *dst)
{
    if (!m->embed) {
        qh_matrix_row(&m->head, token, dst);
        return;
    }
    const int64_t dim = m->desc.dim;
    qh_dequantize(m->embed_dtype, dst,
                  m->embed + (size_t)token * qh_dtype_row_bytes(m->embed_dtype, dim), dim);
}
