/* fleet.c - see fleet.h */
#include "host/fleet.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/workers.h"
#include "host/models.h"
#include <string.h>

typedef struct waiting {
    struct waiting *next;
    qh_lua_question *question;
} waiting;

typedef struct member {
    struct member *next;
    qh_fleet *fleet;
    char *model;                    /* as given: a name or a path */
    char *metric_labels;
    qh_waker *waker;
    qh_loaded loaded;
    waiting *waiting;               /* asked while it loads */
    bool is_ready;
    qh_status status;               /* of the load, written by the worker */
    qh_err err;
    int64_t begun_us;
} member;

struct qh_fleet {
    qh_loop *loop;
    qh_fleet_options opt;
    qh_workers *workers;
    qh_waker *worker_waker;
    member *members;
};

static void poll_workers(void *arg) { qh_workers_poll(((qh_fleet *)arg)->workers); }

qh_status qh_fleet_new(qh_fleet **out, qh_loop *loop, const qh_fleet_options *opt, qh_err *err)
{
    qh_fleet *f = qh_new0(qh_fleet);
    *out = NULL;
    f->loop = loop;
    f->opt = *opt;
    qh_status st = qh_waker_new(&f->worker_waker, loop, poll_workers, f, err);
    if (!st) st = qh_workers_new(&f->workers, 1, 64, qh_waker_wakeup(f->worker_waker), err);
    if (st) {
        qh_fleet_free(f);
        return st;
    }
    *out = f;
    return QH_OK;
}

static void free_member(member *m)
{
    qh_loaded_close(&m->loaded);
    qh_waker_free(m->waker);
    while (m->waiting) {
        waiting *w = m->waiting;
        m->waiting = w->next;
        qh_free(w);
    }
    qh_free(m->model);
    qh_free(m->metric_labels);
    qh_free(m);
}

void qh_fleet_free(qh_fleet *f)
{
    if (!f) return;
    qh_workers_free(f->workers);
    while (f->members) {
        member *m = f->members;
        f->members = m->next;
        free_member(m);
    }
    qh_waker_free(f->worker_waker);
    qh_free(f);
}

/* What a name stands for: "NAME=MODEL" of the list, a plain "MODEL" of it, or itself. */
static const char *model_of_name(const qh_fleet *f, const char *name)
{
    const char *for_all = NULL;
    size_t len = strlen(name);
    for (int i = 0; i < f->opt.n_models; i++) {
        const char *item = f->opt.models[i], *eq = strchr(item, '=');
        if (!eq) for_all = item;
        else if ((size_t)(eq - item) == len && strncmp(item, name, len) == 0) return eq + 1;
    }
    return for_all ? for_all : name;
}

static void answer(member *m, qh_lua_question *q)
{
    if (m->status) {
        qh_lua_answer(q, NULL, &m->err);
        return;
    }
    const qh_loaded *l = &m->loaded;
    qh_lua_model lm = {.engine = l->engine, .tokenizer = qh_loaded_tokenizer(l), .arch = qh_loaded_arch(l), .n_ctx = l->n_ctx,
                       .chat_template = qh_loaded_template(l), .path = l->path};
    qh_lua_answer(q, &lm, NULL);
}

static void remove_member(qh_fleet *f, member *m)
{
    member **at = &f->members;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    free_member(m);
}

/* A failed load is forgotten, so that the next save of the app may try again. */
static void load_done(void *arg)
{
    member *m = arg;
    m->is_ready = true;
    if (m->status) qh_error("model.failed", "model=\"%s\" error=\"%s\"", m->model, m->err.msg);
    else qh_info("model.ready", "model=\"%s\" path=%s seconds=%.2f", m->model, m->loaded.path, (double)(qh_now_us() - m->begun_us) / 1e6);
    waiting *w = m->waiting;
    m->waiting = NULL;
    while (w) {
        waiting *next = w->next;
        answer(m, w->question);
        qh_free(w);
        w = next;
    }
    if (m->status) remove_member(m->fleet, m);
}

static void load(void *arg)
{
    member *m = arg;
    qh_loaded_options opt = m->fleet->opt.load;
    opt.model = m->model;
    opt.metric_labels = m->metric_labels;
    opt.on_events = qh_waker_wakeup(m->waker);
    m->status = qh_loaded_open(&m->loaded, &opt, &m->err);
}

static void events_came(void *arg)
{
    member *m = arg;
    if (m->loaded.engine) m->fleet->opt.on_events(m->fleet->opt.arg, m->loaded.engine);
}

static char *metric_labels(const char *model)
{
    qh_str s = {0};
    const char *slash = strrchr(model, '/');
    qh_str_append_z(&s, "model=\"");
    for (const char *p = slash ? slash + 1 : model; *p; p++) {
        if (*p == '"' || *p == '\\') qh_str_append_c(&s, '\\');
        if ((unsigned char)*p >= 32) qh_str_append_c(&s, *p);
    }
    qh_str_append_c(&s, '"');
    return qh_str_steal(&s);
}

static qh_status start_load(qh_fleet *f, const char *model, member **out, qh_err *err)
{
    member *m = qh_new0(member);
    m->fleet = f;
    m->model = qh_strdup(model);
    m->metric_labels = metric_labels(model);
    m->begun_us = qh_now_us();
    qh_status st = qh_waker_new(&m->waker, f->loop, events_came, m, err);
    if (!st && (st = qh_workers_submit(f->workers, (qh_job){load, load_done, m})))
        st = qh_fail(err, st, "too many models load at once");
    if (st) {
        free_member(m);
        return st;
    }
    m->next = f->members;
    f->members = m;
    *out = m;
    return QH_OK;
}

void qh_fleet_resolve(qh_fleet *f, const char *name, qh_lua_question *q)
{
    const char *model = model_of_name(f, name);
    member *m = f->members;
    qh_err err = {0};
    while (m && strcmp(m->model, model) != 0) m = m->next;
    if (!m && start_load(f, model, &m, &err)) {
        qh_lua_answer(q, NULL, &err);
        return;
    }
    if (m->is_ready) {
        answer(m, q);
        return;
    }
    waiting *w = qh_new0(waiting);
    *w = (waiting){m->waiting, q};
    m->waiting = w;
}

bool qh_fleet_is_failed(const qh_fleet *f)
{
    for (member *m = f->members; m; m = m->next) {
        qh_engine_stats s;
        if (!m->is_ready || m->status) continue;
        qh_engine_get_stats(m->loaded.engine, &s);
        if (s.is_failed) return true;
    }
    return false;
}
