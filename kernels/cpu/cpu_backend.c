/* cpu_backend.c - see cpu_backend.h */
#include "kernels/cpu/cpu_backend.h"
#include "base/mem.h"
#include "base/thread.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_model.h"
#include "kernels/cpu/forward.h"
#include "kernels/cpu/meminfo.h"
#include "kernels/cpu/team.h"
#include <string.h>

typedef struct {
    qh_backend base;
    qh_backend_caps caps;
    qh_memory_plan plan;
    qh_team *team;
    qh_cpu_model model;
    uint8_t *pages, *scratch;
    qh_forward *forward;
    const float *logits;            /* of the last submit */
} cpu_backend;

static cpu_backend *cpu_of(qh_backend *b) { return (cpu_backend *)b; }
static const cpu_backend *const_cpu_of(const qh_backend *b) { return (const cpu_backend *)b; }

/* ---- Plan ---- */

static int n_threads_of(const qh_cpu_options *o)
{
    int n = o->n_threads ? o->n_threads : qh_cpu_count();
    return n < QH_TEAM_MAX ? n : QH_TEAM_MAX;
}

static qh_status check_model(const qh_desc *d, qh_err *err)
{
    if (d->head_dim < 2 || d->head_dim > QH_MAX_HEAD_DIM || d->head_dim % 2)
        return qh_fail(err, QH_EUNSUPPORTED, "head size %d: expected an even number up to %d",
                       d->head_dim, QH_MAX_HEAD_DIM);
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
    } all[] = {{"n_pages", l->n_pages, INT32_MAX},
               {"max_rows", l->max_rows, 1 << 16},
               {"max_seqs", l->max_seqs, 1 << 16},
               {"max_outputs", l->max_outputs, 1 << 16},
               {"max_context", l->max_context, 1 << 24}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < 1 || all[i].value > all[i].max)
            return qh_fail(err, QH_EINVAL, "%s %d: expected 1 to %d", all[i].name, all[i].value,
                           all[i].max);
    return QH_OK;
}

qh_status qh_cpu_backend_plan(qh_memory_plan *out, const qh_desc *d, const qh_weights *w,
                              const qh_backend_limits *limits, const qh_cpu_options *options,
                              qh_err *err)
{
    *out = (qh_memory_plan){0};
    qh_status st = check_model(d, err);
    if (!st) st = check_limits(limits, err);
    if (st) return st;
    if (!qh_isa_is_available(options->isa))
        return qh_fail(err, QH_EUNSUPPORTED, "ISA level %s: not on this machine",
                       qh_isa_name(options->isa));
    if (!qh_attn_ops_of(options->isa, options->kv_type))
        return qh_fail(err, QH_EUNSUPPORTED, "ISA level %s: keys and values as bf16 only",
                       qh_isa_name(options->isa));
    out->weights_bytes = qh_cpu_model_bytes(d, w, options->isa);
    out->page_bytes = qh_forward_page_bytes(d, options->isa, options->kv_type);
    out->kv_bytes = out->page_bytes * (uint64_t)limits->n_pages;
    out->scratch_bytes =
        qh_forward_scratch_bytes(d, w, options->isa, limits, n_threads_of(options));
    out->total_bytes = out->weights_bytes + out->kv_bytes + out->scratch_bytes;
    out->available_bytes = qh_mem_available();
    return QH_OK;
}

static qh_status check_fits(const qh_memory_plan *p, const qh_backend_limits *l, qh_err *err)
{
    if (!p->available_bytes || p->total_bytes <= p->available_bytes) return QH_OK;
    const double mb = 1e-6;
    return qh_fail(
        err, QH_ENOMEM,
        "needs %.0f MB (weights %.0f, %d KV pages of %d tokens %.0f, activations %.0f), %.0f MB "
        "are available: lower the context or the number of sequences",
        p->total_bytes * mb, p->weights_bytes * mb, l->n_pages, QH_PAGE_TOKENS, p->kv_bytes * mb,
        p->scratch_bytes * mb, p->available_bytes * mb);
}

/* ---- Open and close ---- */

/* Memory is taken from the system now, in parallel, so that no step waits for a page or fails. */
typedef struct {
    volatile uint8_t *data;
    uint64_t len_bytes;
    uint64_t n_threads;
} touching;

static void touch(void *arg, int thread)
{
    enum { STEP = 4096 };
    const touching *t = arg;
    const uint64_t n = (t->len_bytes + STEP - 1) / STEP;
    const uint64_t begin = n * (uint64_t)thread / t->n_threads,
                   end = n * (uint64_t)(thread + 1) / t->n_threads;
    for (uint64_t i = begin; i < end; i++) t->data[i * STEP] = 0;
}

static uint8_t *take_memory(qh_team *team, uint64_t len_bytes)
{
    uint8_t *p = qh_pages_alloc(len_bytes);
    touching t = {.data = p, .len_bytes = len_bytes, .n_threads = (uint64_t)qh_team_size(team)};
    if (p) qh_team_run(team, touch, &t);
    return p;
}

static void close_backend(qh_backend *base)
{
    cpu_backend *b = cpu_of(base);
    qh_forward_free(b->forward);
    qh_pages_free(b->scratch, b->plan.scratch_bytes);
    qh_pages_free(b->pages, b->plan.kv_bytes);
    qh_cpu_model_unload(&b->model);
    qh_team_free(b->team);
    qh_free(b);
}

static const qh_backend_caps *caps(const qh_backend *b) { return &const_cpu_of(b)->caps; }
static const qh_memory_plan *plan(const qh_backend *b) { return &const_cpu_of(b)->plan; }

/* ---- Steps ---- */

static qh_status check_seq(const cpu_backend *b, const qh_step_seq *s, int index, int first_row,
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

static qh_status check_step(const cpu_backend *b, const qh_step *s, qh_err *err)
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
        if (s->tokens[i] < 0 || s->tokens[i] >= b->model.desc.n_vocab)
            return qh_fail(err, QH_EINVAL, "row %d: token %d: the vocabulary has %d", i,
                           s->tokens[i], b->model.desc.n_vocab);
    for (int i = 0; i < s->n_outputs; i++)
        if (s->output_rows[i] >= s->n_rows ||
            s->output_rows[i] < (i ? s->output_rows[i - 1] + 1 : 0))
            return qh_fail(err, QH_EINVAL, "output %d: row %d: expected ascending rows below %d", i,
                           s->output_rows[i], s->n_rows);
    return QH_OK;
}

static qh_status submit(qh_backend *base, const qh_step *step, qh_err *err)
{
    cpu_backend *b = cpu_of(base);
    qh_status st = check_step(b, step, err);
    if (st) return st;
    b->logits = qh_forward_run(b->forward, step);
    return QH_OK;
}

static qh_status wait_step(qh_backend *base, const float **logits, qh_err *err)
{
    cpu_backend *b = cpu_of(base);
    *logits = b->logits;
    return b->logits ? QH_OK : qh_fail(err, QH_EINVAL, "wait without a submitted step");
}

/* ---- Pages ---- */

static qh_status check_page(const cpu_backend *b, qh_page p, qh_err *err)
{
    if (p >= 0 && p < b->caps.limits.n_pages) return QH_OK;
    return qh_fail(err, QH_EINVAL, "page %d: there are %d", p, b->caps.limits.n_pages);
}

static uint8_t *page_at(cpu_backend *b, qh_page p)
{
    return b->pages + (uint64_t)p * b->plan.page_bytes;
}

/* Tokens of a page are interleaved, so all of them move; those beyond n_tokens mean nothing yet. */
static qh_status copy_page(qh_backend *base, qh_page dst, qh_page src, int n_tokens, qh_err *err)
{
    cpu_backend *b = cpu_of(base);
    qh_status st = check_page(b, dst, err);
    if (!st) st = check_page(b, src, err);
    if (!st && dst != src && n_tokens > 0)
        memcpy(page_at(b, dst), page_at(b, src), b->plan.page_bytes);
    return st;
}

static qh_status read_page(qh_backend *base, void *dst, qh_page src, qh_err *err)
{
    cpu_backend *b = cpu_of(base);
    qh_status st = check_page(b, src, err);
    if (!st) memcpy(dst, page_at(b, src), b->plan.page_bytes);
    return st;
}

static qh_status write_page(qh_backend *base, qh_page dst, const void *src, qh_err *err)
{
    cpu_backend *b = cpu_of(base);
    qh_status st = check_page(b, dst, err);
    if (!st) memcpy(page_at(b, dst), src, b->plan.page_bytes);
    return st;
}

static const qh_backend_ops cpu_ops = {.close = close_backend,
                                       .caps = caps,
                                       .plan = plan,
                                       .submit = submit,
                                       .wait = wait_step,
                                       .copy_page = copy_page,
                                       .read_page = read_page,
                                       .write_page = write_page};

qh_status qh_cpu_backend_open(qh_backend **out, const qh_desc *d, const qh_weights *w,
                              const qh_backend_limits *limits, const qh_cpu_options *options,
                              qh_err *err)
{
    *out = NULL;
    cpu_backend *b = qh_new0(cpu_backend);
    b->base.ops = &cpu_ops;
    b->caps = (qh_backend_caps){.name = "cpu", .is_exact = true, .limits = *limits};
    qh_status st = qh_cpu_backend_plan(&b->plan, d, w, limits, options, err);
    if (!st) st = check_fits(&b->plan, limits, err);
    if (!st) st = qh_team_new(&b->team, n_threads_of(options), options->pin, err);
    if (!st)
        st = qh_cpu_model_load(&b->model, d, w, options->isa, options->is_mapped, b->team, err);
    if (st) goto fail;
    b->pages = take_memory(b->team, b->plan.kv_bytes);
    b->scratch = take_memory(b->team, b->plan.scratch_bytes);
    if (!b->pages || !b->scratch) {
        st = qh_fail(err, QH_ENOMEM, "no memory for %d KV pages and activations, %.0f MB",
                     limits->n_pages, (double)(b->plan.kv_bytes + b->plan.scratch_bytes) * 1e-6);
        goto fail;
    }
    st = qh_forward_new(&b->forward, &b->model, w, b->team, limits, options->kv_type, b->scratch,
                        b->pages, err);
    if (st) goto fail;
    *out = &b->base;
    return QH_OK;
fail:
    close_backend(&b->base);
    return st;
}

int qh_cpu_backend_profile(qh_backend *base, qh_cpu_profile *profiles)
{
    cpu_backend *b = cpu_of(base);
    qh_forward_profile(b->forward, profiles);
    return qh_team_size(b->team);
}
