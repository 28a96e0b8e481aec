/* loaded.c - see loaded.h */
#include "host/loaded.h"
#include "base/log.h"
#include "base/mem.h"
#include "host/models.h"
#include "host/scripted_model.h"

enum { DEFAULT_SEQS = 64, DEFAULT_QUEUED = 256, DEFAULT_STEP_TOKENS = 512, DEFAULT_CONTEXTS = 4, SCRIPTED_PAGES = 4096 };
static const int64_t DEFAULT_KV_BYTES = 1ll << 30;

/* One page stays spare for copies, see engine.h. */
static int pages_of(int n_tokens) { return (n_tokens + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS + 1; }

/* Pages that the options ask for; *n_ctx is the context they allow. */
static qh_status choose_pages(const qh_loaded_options *opt, const qh_memory_plan *one_page, int n_ctx_train,
                              int *n_pages, int *n_ctx, qh_err *err)
{
    int64_t page = (int64_t)one_page->page_bytes, free_bytes = (int64_t)one_page->available_bytes;
    int wanted = opt->n_ctx ? opt->n_ctx : n_ctx_train;
    int64_t kv = opt->kv_bytes;
    if (!kv && one_page->is_device_memory && opt->device.memory_share > 0) {
        /* All that the share leaves; scratch grows a little with it. */
        int64_t left = free_bytes - (int64_t)one_page->total_bytes;
        kv = left > 0 ? left / 100 * 98 : 0;
    } else if (!kv) {
        kv = page * pages_of(wanted) * DEFAULT_CONTEXTS;
        if (kv > DEFAULT_KV_BYTES) kv = DEFAULT_KV_BYTES;
        if (kv < page * pages_of(wanted)) kv = page * pages_of(wanted);
        if (!opt->n_ctx && free_bytes && kv > free_bytes / 2) kv = free_bytes / 2;
    }
    int64_t n = kv / page;
    *n_pages = n > INT32_MAX ? INT32_MAX : (int)n;
    *n_ctx = wanted;
    if (*n_pages >= pages_of(wanted)) return QH_OK;
    if (opt->n_ctx || *n_pages < 2)
        return qh_fail(err, QH_ENOMEM, "a context of %d tokens takes %.1f MB of KV cache (%.1f KB a token), more than the %.1f MB allowed",
                       wanted, (double)page * pages_of(wanted) / 1e6, (double)page / QH_PAGE_TOKENS / 1e3, (double)kv / 1e6);
    *n_ctx = (*n_pages - 1) * QH_PAGE_TOKENS;
    return QH_OK;
}

static qh_status settle_limits(const qh_loaded_options *opt, const qh_model *m, qh_backend_limits *limits, qh_err *err)
{
    int n_ctx_train = qh_model_desc(m)->n_ctx_train;
    if (opt->n_ctx > n_ctx_train)
        return qh_fail(err, QH_EINVAL, "a context of %d tokens; %s was trained for %d", opt->n_ctx, qh_model_name(m), n_ctx_train);
    *limits = (qh_backend_limits){.n_pages = 1, .max_rows = opt->step_tokens ? opt->step_tokens : DEFAULT_STEP_TOKENS,
                                  .max_seqs = opt->max_seqs ? opt->max_seqs : DEFAULT_SEQS, .max_context = n_ctx_train};
    if (limits->max_rows < limits->max_seqs) limits->max_rows = limits->max_seqs;
    limits->max_outputs = limits->max_seqs;
    qh_memory_plan one_page;
    qh_status st = qh_device_plan(&one_page, m, &opt->device, limits, err);
    if (!st) st = choose_pages(opt, &one_page, n_ctx_train, &limits->n_pages, &limits->max_context, err);
    return st;
}

static void print_plan(const qh_memory_plan *p, const qh_model *m, const qh_backend_limits *limits)
{
    qh_info("memory.plan", "model=\"%s\" weights_mb=%.1f kv_mb=%.1f scratch_mb=%.1f total_mb=%.1f free_mb=%.1f context=%d kv_tokens=%d",
            qh_model_name(m), (double)p->weights_bytes / 1e6, (double)p->kv_bytes / 1e6, (double)p->scratch_bytes / 1e6,
            (double)p->total_bytes / 1e6, (double)p->available_bytes / 1e6, limits->max_context, limits->n_pages * QH_PAGE_TOKENS);
}

static qh_status start_engine(qh_loaded *l, const qh_loaded_options *opt, qh_backend *be, const qh_desc *desc, qh_err *err)
{
    qh_backend_limits limits = be->ops->caps(be)->limits;
    qh_engine_config cfg = {.max_seqs = limits.max_seqs, .max_queued = opt->max_queued ? opt->max_queued : DEFAULT_QUEUED,
                            .step_tokens = limits.max_rows, .max_context = limits.max_context, .n_pages = limits.n_pages,
                            .no_prefix_cache = opt->no_prefix_cache, .metric_labels = opt->metric_labels, .on_events = opt->on_events};
    qh_status st = qh_engine_new(&l->engine, be, desc, qh_loaded_tokenizer(l), &cfg, err);
    if (st) qh_backend_close(be);
    else l->n_ctx = qh_engine_max_context(l->engine);
    return st;
}

static qh_status open_checkpoint(qh_loaded *l, const qh_loaded_options *opt, qh_err *err)
{
    qh_backend_limits limits;
    qh_backend *be = NULL;
    qh_status st = qh_models_find(&l->path, opt->model, err);
    if (!st) st = qh_model_open(&l->model, l->path, err);
    if (!st) st = settle_limits(opt, l->model, &limits, err);
    if (!st) st = qh_device_plan(&l->plan, l->model, &opt->device, &limits, err);
    if (st) return st;
    print_plan(&l->plan, l->model, &limits);
    st = qh_device_open(&be, l->model, &opt->device, &limits, err);
    return st ? st : start_engine(l, opt, be, qh_model_desc(l->model), err);
}

static qh_status open_script(qh_loaded *l, const qh_loaded_options *opt, const char *path, qh_err *err)
{
    qh_backend_limits limits = {.n_pages = SCRIPTED_PAGES, .max_rows = DEFAULT_STEP_TOKENS, .max_seqs = opt->max_seqs ? opt->max_seqs : DEFAULT_SEQS};
    limits.max_outputs = limits.max_seqs;
    qh_scripted_model m;
    qh_status st = qh_scripted_model_open(&m, path, &limits, err);
    if (st) return st;
    l->path = qh_strdup(path);
    l->script_tokenizer = m.tokenizer;
    l->script_template = m.chat_template;
    return start_engine(l, opt, m.backend, &m.desc, err);
}

qh_status qh_loaded_open(qh_loaded *l, const qh_loaded_options *opt, qh_err *err)
{
    *l = (qh_loaded){0};
    const char *script = qh_scripted_path(opt->model);
    qh_status st = script ? open_script(l, opt, script, err) : open_checkpoint(l, opt, err);
    if (st) qh_loaded_close(l);
    return st;
}

const qh_tokenizer *qh_loaded_tokenizer(const qh_loaded *l)
{
    return l->model ? qh_model_tokenizer(l->model) : l->script_tokenizer;
}

const char *qh_loaded_template(const qh_loaded *l)
{
    return l->model ? qh_model_chat_template(l->model) : l->script_template;
}

const char *qh_loaded_arch(const qh_loaded *l) { return l->model ? qh_model_desc(l->model)->arch : "scripted"; }

void qh_loaded_close(qh_loaded *l)
{
    qh_engine_free(l->engine);
    qh_tokenizer_free(l->script_tokenizer);
    qh_free(l->script_template);
    qh_free(l->path);
    qh_model_close(l->model);
    *l = (qh_loaded){0};
}
