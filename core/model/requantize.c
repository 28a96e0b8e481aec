/* requantize.c - see requantize.h */
#include "model/requantize.h"
#include "base/mem.h"
#include "base/thread.h"
#include "model/gguf_writer.h"
#include "model/quant.h"
#include "model/quantize.h"
#include <math.h>
#include <string.h>

enum { PIECE_VALUES = 1 << 20, MAX_THREADS = 64 };

/* ---- rows of one tensor, a stripe a thread ---- */

typedef struct {
    const qh_gguf_tensor *tensor;
    qh_dtype to;
    int64_t first_row, n_rows;
    uint8_t *out;                   /* of first_row */
    float *row, *again;             /* [dims[0]] scratch */
    double sum_value, sum_error, max_error;
    int64_t bad_row;                /* the first one with a value that is not finite, or -1 */
} stripe;

static bool is_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static void count_errors(stripe *s, int64_t dim)
{
    for (int64_t i = 0; i < dim; i++) {
        const double v = s->row[i], e = fabs((double)s->again[i] - v);
        s->sum_value += v * v;
        s->sum_error += e * e;
        s->max_error = fmax(s->max_error, e);
    }
}

static void convert_rows(void *arg)
{
    stripe *s = arg;
    const qh_gguf_tensor *t = s->tensor;
    const int64_t dim = t->dims[0];
    const size_t in_bytes = qh_dtype_row_bytes(t->dtype, dim), out_bytes = qh_dtype_row_bytes(s->to, dim);
    for (int64_t r = 0; r < s->n_rows; r++) {
        uint8_t *out = s->out + (size_t)r * out_bytes;
        qh_dequantize(t->dtype, s->row, t->data + (size_t)(s->first_row + r) * in_bytes, dim);
        if (!is_finite(s->row, dim)) {
            s->bad_row = s->first_row + r;
            return;
        }
        qh_quantize(s->to, out, s->row, dim);
        qh_dequantize(s->to, s->again, out, dim);
        count_errors(s, dim);
    }
}

/* ---- the run ---- */

typedef struct {
    const qh_requantize_opts *opts;
    qh_gguf_writer *writer;
    qh_dtype *types;                /* [n_tensors of the input] to be written as */
    uint64_t done_bytes, total_bytes;
    int n_threads;
    uint8_t *out;                   /* a piece, as converted */
    float *scratch;                 /* [n_threads][2 * dim] */
} run;

static qh_status report(run *x, uint64_t n_bytes, qh_err *err)
{
    x->done_bytes += n_bytes;
    if (!x->opts->progress || x->opts->progress(x->opts->arg, x->done_bytes, x->total_bytes)) return QH_OK;
    return qh_fail(err, QH_ECANCELED, "interrupted");
}

static int64_t rows_of(const qh_gguf_tensor *t)
{
    int64_t n = 1;
    for (int i = 1; i < t->n_dims; i++) n *= t->dims[i];
    return n;
}

static qh_status copy_tensor(run *x, const qh_gguf_tensor *t, qh_err *err)
{
    const uint64_t step = (uint64_t)PIECE_VALUES * sizeof(float);
    qh_status st = QH_OK;
    for (uint64_t at = 0; at < t->len_bytes && !st; at += step) {
        const uint64_t n = t->len_bytes - at < step ? t->len_bytes - at : step;
        st = qh_gguf_writer_data(x->writer, t->data + at, (size_t)n, err);
        if (!st) st = report(x, n, err);
    }
    return st;
}

static qh_status run_stripes(stripe *stripes, int n, qh_err *err)
{
    qh_thread *threads[MAX_THREADS] = {NULL};
    qh_status st = QH_OK;
    for (int i = 1; i < n && !st; i++) st = qh_thread_start(&threads[i], "quantize", convert_rows, &stripes[i], err);
    if (!st) convert_rows(&stripes[0]);
    for (int i = 1; i < n; i++) qh_thread_join(threads[i]);
    return st;
}

static qh_status convert_piece(run *x, const qh_gguf_tensor *t, qh_requantized *r, int64_t first, int64_t n, qh_err *err)
{
    stripe stripes[MAX_THREADS];
    const int64_t dim = t->dims[0];
    const size_t out_bytes = qh_dtype_row_bytes(r->to, dim);
    for (int i = 0; i < x->n_threads; i++) {
        const int64_t begin = n * i / x->n_threads, end = n * (i + 1) / x->n_threads;
        float *scratch = x->scratch + (size_t)(2 * dim * i);
        stripes[i] = (stripe){.tensor = t, .to = r->to, .first_row = first + begin, .n_rows = end - begin, .bad_row = -1,
                              .out = x->out + (size_t)begin * out_bytes, .row = scratch, .again = scratch + dim};
    }
    qh_status st = run_stripes(stripes, x->n_threads, err);
    for (int i = 0; i < x->n_threads && !st; i++) {
        if (stripes[i].bad_row >= 0)
            st = qh_fail(err, QH_EFORMAT, "tensor '%s': row %lld holds a value that is not finite", t->name,
                         (long long)stripes[i].bad_row);
        r->rms_value += stripes[i].sum_value;
        r->rms_error += stripes[i].sum_error;
        r->max_error = fmax(r->max_error, stripes[i].max_error);
    }
    if (!st) st = qh_gguf_writer_data(x->writer, x->out, (size_t)n * out_bytes, err);
    return st ? st : report(x, (uint64_t)n * qh_dtype_row_bytes(t->dtype, dim), err);
}

static qh_status convert_tensor(run *x, const qh_gguf_tensor *t, qh_requantized *r, qh_err *err)
{
    const int64_t dim = t->dims[0], n_rows = rows_of(t);
    const int64_t step = dim >= PIECE_VALUES ? 1 : PIECE_VALUES / dim;
    x->out = qh_try_alloc0((size_t)step, qh_dtype_row_bytes(r->to, dim));
    x->scratch = qh_try_alloc0((size_t)(2 * dim), sizeof(float) * (size_t)x->n_threads);
    qh_status st = x->out && x->scratch ? QH_OK : qh_fail(err, QH_ENOMEM, "tensor '%s': no memory for its rows", t->name);
    for (int64_t row = 0; row < n_rows && !st; row += step)
        st = convert_piece(x, t, r, row, n_rows - row < step ? n_rows - row : step, err);
    qh_free(x->out);
    qh_free(x->scratch);
    x->out = NULL;
    x->scratch = NULL;
    const double n = (double)n_rows * (double)dim;
    r->rms_value = sqrt(r->rms_value / n);
    r->rms_error = sqrt(r->rms_error / n);
    return st;
}

static qh_status write_tensor(run *x, const qh_gguf_tensor *t, qh_dtype to, qh_err *err)
{
    qh_requantized r = {.tensor = t, .from = t->dtype, .to = to,
                        .n_bytes = (uint64_t)rows_of(t) * qh_dtype_row_bytes(to, t->dims[0])};
    qh_status st = to == t->dtype ? copy_tensor(x, t, err) : convert_tensor(x, t, &r, err);
    if (!st && x->opts->on_tensor) x->opts->on_tensor(x->opts->arg, &r);
    return st;
}

/* Keys that speak of what changes: the writer's own values stand for them. */
static bool is_replaced(const char *key)
{
    return strcmp(key, "general.file_type") == 0 || strcmp(key, "general.quantization_version") == 0 ||
           strcmp(key, "general.alignment") == 0 || strncmp(key, "split.", 6) == 0;
}

static qh_status write_head(run *x, const qh_gguf *in, const qh_recipe *recipe, qh_err *err)
{
    for (int i = 0; i < qh_gguf_n_keys(in); i++)
        if (!is_replaced(qh_gguf_kv_at(in, i)->key)) qh_gguf_writer_key(x->writer, qh_gguf_kv_at(in, i));
    qh_gguf_writer_u32(x->writer, "general.file_type", recipe->file_type);
    qh_gguf_writer_u32(x->writer, "general.quantization_version", 2);
    const int n_layers = qh_recipe_n_layers(in);
    x->types = qh_alloc0(sizeof *x->types * (size_t)qh_gguf_n_tensors(in));
    for (int i = 0; i < qh_gguf_n_tensors(in); i++) {
        const qh_gguf_tensor *t = qh_gguf_tensor_at(in, i);
        x->types[i] = qh_recipe_type(recipe, in, n_layers, t);
        qh_gguf_writer_tensor(x->writer, t, x->types[i]);
        x->total_bytes += t->len_bytes;
    }
    return qh_gguf_writer_begin(x->writer, err);
}

qh_status qh_requantize(const qh_gguf *in, const char *path, const qh_recipe *recipe,
                        const qh_requantize_opts *opts, qh_err *err)
{
    run x = {.opts = opts, .n_threads = opts->n_threads > MAX_THREADS ? MAX_THREADS : opts->n_threads};
    qh_status st = qh_gguf_writer_new(&x.writer, path, err);
    if (!st) st = write_head(&x, in, recipe, err);
    for (int i = 0; i < qh_gguf_n_tensors(in) && !st; i++)
        st = write_tensor(&x, qh_gguf_tensor_at(in, i), x.types[i], err);
    if (!st) st = qh_gguf_writer_finish(x.writer, err);
    qh_gguf_writer_free(x.writer);
    qh_free(x.types);
    return st;
}
