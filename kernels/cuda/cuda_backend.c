/* cuda_backend.c - see cuda_backend.h */
#include "kernels/cuda/cuda_backend.h"
#include "base/mem.h"
#include "kernels/cuda/cuda_forward.h"
#include "kernels/cuda/cuda_model.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/lost.h"

typedef struct {
    qh_backend base;
    qh_backend_caps caps;
    qh_memory_plan plan;
    int device, n_vocab;
    cudaStream_t stream;
    qh_cuda_model model;
    uint8_t *pages;
    qh_cuda_forward *forward;
    bool is_pending; /* a step was submitted and not waited for */
    bool is_lost;
} cuda_backend;

static cuda_backend *cuda_of(qh_backend *b)
{
    return (cuda_backend *)b;
}
static const cuda_backend *const_cuda_of(const qh_backend *b)
{
    return (const cuda_backend *)b;
}

/* ---- Devices ---- */

enum { MIN_CAPABILITY = 8 }; /* bf16 tensor cores */

bool qh_cuda_is_available(int *n, qh_err *err)
{
    *n = 0;
    const cudaError_t e = cudaGetDeviceCount(n);
    if (e) {
        *n = 0;
        cudaGetLastError();
        qh_fail(err, QH_EUNSUPPORTED, "no GPU: %s",
                e == cudaErrorInsufficientDriver ? "no NVIDIA driver, or one that is too old"
                                                 : cudaGetErrorString(e));
        return false;
    }
    if (*n == 0) qh_fail(err, QH_EUNSUPPORTED, "no GPU found");
    return *n > 0;
}

static qh_status check_device(int device, qh_err *err)
{
    int n, major = 0;
    if (!qh_cuda_is_available(&n, err)) return QH_EUNSUPPORTED;
    if (device < 0 || device >= n)
        return qh_fail(err, QH_EINVAL, "GPU %d: there are %d", device, n);
    qh_status st =
        qh_cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                       "asking for its capability", err);
    if (!st && major < MIN_CAPABILITY)
        st = qh_fail(err, QH_EUNSUPPORTED, "GPU %d has compute capability %d: expected %d or later",
                     device, major, MIN_CAPABILITY);
    return st ? st : qh_cuda_status(cudaSetDevice(device), "selecting the GPU", err);
}

/* ---- Plan ---- */

static qh_status check_model(const qh_desc *d, qh_err *err)
{
    if (d->head_dim < 2 || d->head_dim % 2 || !qh_cuda_padded_head(d->head_dim))
        return qh_fail(err, QH_EUNSUPPORTED,
                       "head size %d: expected an even number up to 256 on a GPU", d->head_dim);
    if (d->n_kv_heads < 1 || d->n_heads % d->n_kv_heads)
        return qh_fail(err, QH_EUNSUPPORTED, "%d heads on %d KV heads: expected a multiple",
                       d->n_heads, d->n_kv_heads);
    return QH_OK;
}

static qh_status check_limits(const qh_backend_limits *l, qh_err *err)
{
    const struct {
        const char *name;
        int value, max;
    } all[] = {{"n_pages", l->n_pages, 1 << 24},
               {"max_rows", l->max_rows, 1 << 15},
               {"max_seqs", l->max_seqs, 1 << 15},
               {"max_outputs", l->max_outputs, 1 << 15},
               {"max_context", l->max_context, 1 << 24}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < 1 || all[i].value > all[i].max)
            return qh_fail(err, QH_EINVAL, "%s %d: expected 1 to %d", all[i].name, all[i].value,
                           all[i].max);
    return QH_OK;
}

/* What is free, less what the share leaves to others. */
static qh_status available_bytes(uint64_t *out, double share, qh_err *err)
{
    size_t n_free, total;
    qh_status st = qh_cuda_status(cudaMemGetInfo(&n_free, &total), "asking for its memory", err);
    if (st) return st;
    const uint64_t kept = (uint64_t)((double)total * (1 - (share > 0 ? share : 0.9)));
    *out = n_free > kept ? n_free - kept : 0;
    return QH_OK;
}

/* bf16 copies are taken where there is a library to multiply them, they fit, and they leave half of
 * the memory to keys and values. */
static void add_dense_to_plan(qh_memory_plan *p, const qh_desc *d, const qh_weights *w,
                              const qh_backend_limits *limits)
{
    p->weights_bytes += qh_cuda_model_dense_bytes(d, w);
    p->scratch_bytes = qh_cuda_forward_scratch_bytes(d, limits, true);
    p->total_bytes = p->weights_bytes + p->kv_bytes + p->scratch_bytes;
}

static bool wants_dense(const qh_memory_plan *p, const qh_desc *d, const qh_weights *w,
                        const qh_backend_limits *limits, const qh_cuda_options *options)
{
    qh_memory_plan with = *p;
    if (options->is_exact || !qh_dense_is_available()) return false;
    add_dense_to_plan(&with, d, w, limits);
    return with.total_bytes <= with.available_bytes &&
           with.weights_bytes - p->weights_bytes <= with.available_bytes / 2;
}

qh_status qh_cuda_backend_plan(qh_memory_plan *out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err)
{
    *out = (qh_memory_plan){0};
    if (!(options->memory_share >= 0 && options->memory_share <= 1))
        return qh_fail(err, QH_EINVAL, "share %g of GPU memory: expected 0 to 1",
                       options->memory_share);
    qh_status st = check_model(d, err);
    if (!st) st = check_limits(limits, err);
    if (!st) st = check_device(options->device, err);
    if (!st) st = available_bytes(&out->available_bytes, options->memory_share, err);
    if (st) return st;
    out->weights_bytes = qh_cuda_model_bytes(d, w);
    out->is_device_memory = true;
    out->page_bytes = qh_cuda_forward_page_bytes(d);
    out->kv_bytes = out->page_bytes * (uint64_t)limits->n_pages;
    out->scratch_bytes = qh_cuda_forward_scratch_bytes(d, limits, false);
    out->total_bytes = out->weights_bytes + out->kv_bytes + out->scratch_bytes;
    if (wants_dense(out, d, w, limits, options)) add_dense_to_plan(out, d, w, limits);
    return QH_OK;
}

static qh_status check_fits(const qh_memory_plan *p, const qh_backend_limits *l, qh_err *err)
{
    if (p->total_bytes <= p->available_bytes) return QH_OK;
    const double mb = 1e-6;
    return qh_fail(err, QH_ENOMEM,
                   "needs %.0f MB on the GPU (weights %.0f, %d KV pages of %d tokens %.0f, "
                   "activations %.0f), %.0f MB "
                   "are available: lower the context or the number of sequences",
                   p->total_bytes * mb, p->weights_bytes * mb, l->n_pages, QH_PAGE_TOKENS,
                   p->kv_bytes * mb, p->scratch_bytes * mb, p->available_bytes * mb);
}

/* ---- Close ---- */

static void close_backend(qh_backend *base)
{
    cuda_backend *b = cuda_of(base);
    cudaSetDevice(b->device);
    if (b->stream) cudaStreamSynchronize(b->stream);
    qh_cuda_forward_free(b->forward);
    cudaFree(b->pages);
    qh_cuda_model_unload(&b->model);
    if (b->stream) cudaStreamDestroy(b->stream);
    cudaGetLastError(); /* of a lost device every call above failed */
    qh_free(b);
}

static const qh_backend_caps *caps(const qh_backend *b)
{
    return &const_cuda_of(b)->caps;
}
static const qh_memory_plan *plan(const qh_backend *b)
{
    return &const_cuda_of(b)->plan;
}

/* ---- Calls ---- */

/* Every call from here on starts with this and ends with conclude. */
static qh_status enter(cuda_backend *b, qh_err *err)
{
    if (b->is_lost) return qh_fail(err, QH_EDEVICE, "the GPU was lost by an earlier error");
    qh_status st = qh_cuda_status(cudaSetDevice(b->device), "selecting the GPU", err);
    b->is_lost = st == QH_EDEVICE;
    return st;
}

static qh_status conclude(cuda_backend *b, qh_status st)
{
    b->is_lost |= st == QH_EDEVICE;
    return st;
}

static qh_status drain(cuda_backend *b, const char *doing, qh_err *err)
{
    return conclude(b, qh_cuda_status(cudaStreamSynchronize(b->stream), doing, err));
}

/* ---- Steps ---- */

static qh_status check_seq(const cuda_backend *b, const qh_step_seq *s, int index, int first_row,
                           qh_err *err)
{
    const qh_backend_limits *l = &b->caps.limits;
    if (s->first_row != first_row || s->n_rows < 1 || s->n_past < 0)
        return qh_fail(err, QH_EINVAL,
                       "sequence %d: rows %d+%d after %d tokens, expected to start at row %d",
                       index, s->first_row, s->n_rows, s->n_past, first_row);
    if (s->n_rows > l->max_context - s->n_past)
        return qh_fail(err, QH_ECONTEXT, "sequence %d: %d tokens, at most %d fit", index,
                       s->n_past + s->n_rows, l->max_context);
    for (int i = 0; i < (s->n_past + s->n_rows + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS; i++)
        if (s->pages[i] < 0 || s->pages[i] >= l->n_pages)
            return qh_fail(err, QH_EINVAL, "sequence %d: page %d: there are %d", index, s->pages[i],
                           l->n_pages);
    return QH_OK;
}

static qh_status check_step(const cuda_backend *b, const qh_step *s, qh_err *err)
{
    const qh_backend_limits *l = &b->caps.limits;
    if (s->n_rows < 1 || s->n_rows > l->max_rows || s->n_seqs > l->max_seqs || s->n_outputs < 0 ||
        s->n_outputs > l->max_outputs)
        return qh_fail(
            err, QH_EINVAL, "step of %d rows, %d sequences, %d outputs: limits are %d, %d, %d",
            s->n_rows, s->n_seqs, s->n_outputs, l->max_rows, l->max_seqs, l->max_outputs);
    int n_rows = 0;
    for (int i = 0; i < s->n_seqs; i++) {
        qh_status st = check_seq(b, &s->seqs[i], i, n_rows, err);
        if (st) return st;
        n_rows += s->seqs[i].n_rows;
        if (n_rows > s->n_rows) break;
    }
    if (n_rows != s->n_rows)
        return qh_fail(err, QH_EINVAL, "sequences have %d rows, the step %d", n_rows, s->n_rows);
    for (int i = 0; i < s->n_rows; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= b->n_vocab)
            return qh_fail(err, QH_EINVAL, "row %d: token %d: the vocabulary has %d", i,
                           s->tokens[i], b->n_vocab);
    for (int i = 0; i < s->n_outputs; i++)
        if (s->output_rows[i] >= s->n_rows ||
            s->output_rows[i] < (i ? s->output_rows[i - 1] + 1 : 0))
            return qh_fail(err, QH_EINVAL, "output %d: row %d: expected ascending rows below %d", i,
                           s->output_rows[i], s->n_rows);
    return QH_OK;
}

static qh_status submit(qh_backend *base, const qh_step *step, qh_err *err)
{
    cuda_backend *b = cuda_of(base);
    qh_status st = enter(b, err);
    if (!st) st = check_step(b, step, err);
    if (!st && b->is_pending) st = drain(b, "finishing a step that nobody waited for", err);
    b->is_pending = false;
    if (!st) st = conclude(b, qh_cuda_forward_start(b->forward, step, err));
    b->is_pending = !st;
    return st;
}

static qh_status wait_step(qh_backend *base, const float **logits, qh_err *err)
{
    cuda_backend *b = cuda_of(base);
    *logits = NULL;
    qh_status st = enter(b, err);
    if (!st && !b->is_pending) st = qh_fail(err, QH_EINVAL, "wait without a submitted step");
    if (!st) st = drain(b, "computing a step", err);
    b->is_pending = false;
    if (!st) *logits = qh_cuda_forward_logits(b->forward);
    return st;
}

/* ---- Pages ---- */

static qh_status check_page(const cuda_backend *b, qh_page p, qh_err *err)
{
    if (p >= 0 && p < b->caps.limits.n_pages) return QH_OK;
    return qh_fail(err, QH_EINVAL, "page %d: there are %d", p, b->caps.limits.n_pages);
}

static uint8_t *page_at(cuda_backend *b, qh_page p)
{
    return b->pages + (uint64_t)p * b->plan.page_bytes;
}

/* Values lie transposed, so all of a page moves; what is beyond n_tokens means nothing yet. */
static qh_status copy_page(qh_backend *base, qh_page dst, qh_page src, int n_tokens, qh_err *err)
{
    cuda_backend *b = cuda_of(base);
    qh_status st = enter(b, err);
    if (!st) st = check_page(b, dst, err);
    if (!st) st = check_page(b, src, err);
    if (st || dst == src || n_tokens <= 0) return st;
    return conclude(
        b, qh_cuda_status(cudaMemcpyAsync(page_at(b, dst), page_at(b, src), b->plan.page_bytes,
                                          cudaMemcpyDeviceToDevice, b->stream),
                          "copying a page", err));
}

static qh_status read_page(qh_backend *base, void *dst, qh_page src, qh_err *err)
{
    cuda_backend *b = cuda_of(base);
    qh_status st = enter(b, err);
    if (!st) st = check_page(b, src, err);
    if (!st)
        st = conclude(b, qh_cuda_status(cudaMemcpyAsync(dst, page_at(b, src), b->plan.page_bytes,
                                                        cudaMemcpyDeviceToHost, b->stream),
                                        "reading a page", err));
    return st ? st : drain(b, "reading a page", err);
}

static qh_status write_page(qh_backend *base, qh_page dst, const void *src, qh_err *err)
{
    cuda_backend *b = cuda_of(base);
    qh_status st = enter(b, err);
    if (!st) st = check_page(b, dst, err);
    if (!st)
        st = conclude(b, qh_cuda_status(cudaMemcpyAsync(page_at(b, dst), src, b->plan.page_bytes,
                                                        cudaMemcpyHostToDevice, b->stream),
                                        "writing a page", err));
    return st ? st : drain(b, "writing a page", err);
}

static const qh_backend_ops cuda_ops = {.close = close_backend,
                                        .caps = caps,
                                        .plan = plan,
                                        .submit = submit,
                                        .wait = wait_step,
                                        .copy_page = copy_page,
                                        .read_page = read_page,
                                        .write_page = write_page};

/* ---- Open ---- */

static qh_status open_device(cuda_backend *b, const qh_desc *d, const qh_weights *w,
                             const qh_cuda_options *options, qh_err *err)
{
    qh_status st = qh_cuda_status(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking),
                                  "making a stream", err);
    if (!st) st = qh_cuda_model_load(&b->model, d, w, b->stream, err);
    if (!st && b->plan.weights_bytes > qh_cuda_model_bytes(d, w))
        st = qh_cuda_model_add_dense(&b->model, b->stream, err);
    if (!st)
        st = qh_cuda_status(cudaMalloc((void **)&b->pages, b->plan.kv_bytes),
                            "taking memory for KV pages", err);
    if (!st)
        st = qh_cuda_status(cudaMemsetAsync(b->pages, 0, b->plan.kv_bytes, b->stream),
                            "clearing KV pages", err);
    if (!st)
        st = qh_cuda_forward_new(&b->forward, &b->model, &b->caps.limits, b->pages,
                                 options->is_exact, b->stream, err);
    return st ? st : qh_cuda_status(cudaStreamSynchronize(b->stream), "preparing memory", err);
}

qh_status qh_cuda_backend_open(qh_backend **out, const qh_desc *d, const qh_weights *w,
                               const qh_backend_limits *limits, const qh_cuda_options *options,
                               qh_err *err)
{
    *out = NULL;
    qh_memory_plan p;
    qh_status st =
        qh_cuda_backend_plan(&p, d, w, limits, options, err); /* also selects the device */
    if (!st) st = check_fits(&p, limits, err);
    if (st) return st;
    cuda_backend *b = qh_new0(cuda_backend);
    b->base.ops = &cuda_ops;
    b->caps = (qh_backend_caps){.name = "cuda", .is_exact = options->is_exact, .limits = *limits};
    b->plan = p;
    b->device = options->device;
    b->n_vocab = d->n_vocab;
    st = open_device(b, d, w, options, err);
    if (st) {
        close_backend(&b->base);
        return st;
    }
    *out = &b->base;
    return QH_OK;
}
