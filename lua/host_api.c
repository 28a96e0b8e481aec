/* host_api.c - see host_api.h: the generations of the app, and which of them serves. */
#include "lua/host_api.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "lua/bind/background.h"
#include "lua/bind/generation.h"
#include "lua/lua_private.h"
#include "lua/shared.h"
#include "lua/watch.h"
#include "net/egress.h"
#include "net/fetch.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { N_WORKERS = 1, MAX_JOBS = 256, MAX_GENERATIONS = 3, RETIRE_US = 600000000 };

qh_named_model *qh_lua_find_model(qh_lua *lua, const char *name)
{
    for (qh_named_model *m = lua->models; m; m = m->next)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

/* ---- old generations ---- */

static void unlink_app(qh_lua *lua, qh_app *app)
{
    qh_app **at = &lua->apps;
    while (*at != app) at = &(*at)->next;
    *at = app->next;
}

/* Deferred: a generation is not freed from inside one of its own tasks. */
static void free_retired(void *arg)
{
    qh_lua *lua = arg;
    for (qh_app *app = lua->apps, *next; app; app = next) {
        next = app->next;
        if (!app->is_retired || app->n_requests) continue;
        unlink_app(lua, app);
        qh_debug("app.freed", "gen=%d", app->number);
        qh_app_free(app);
    }
    if (lua->is_load_wanted) qh_lua_load(lua);
}

static void retire_for_good(void *arg)
{
    qh_app *app = arg;
    qh_warn("app.retired", "gen=%d requests=%d they are cancelled: it was replaced %.0f s ago",
            app->number, app->n_requests, (double)app->lua->opts.retire_us / 1e6);
    qh_requests_cancel(app, "generation_retired");
}

static void retire(qh_lua *lua, qh_app *app)
{
    app->is_retired = true;
    qh_background_end(app);
    app->retire_timer = qh_timer_new(lua->opts.loop, retire_for_good, app);
    qh_timer_set(app->retire_timer, lua->opts.retire_us);
    if (!app->n_requests) qh_loop_defer(lua->opts.loop, free_retired, lua);
}

void qh_lua_request_over(qh_app *app)
{
    if (app->is_retired && !app->n_requests)
        qh_loop_defer(app->lua->opts.loop, free_retired, app->lua);
}

static int count_apps(const qh_lua *lua)
{
    int n = 0;
    for (const qh_app *a = lua->apps; a; a = a->next) n++;
    return n;
}

/* ---- loading ---- */

static void watch_files(qh_lua *lua, const qh_app *app)
{
    if (!lua->watcher) return;
    int n = qh_vm_n_files(app->vm);
    const char **paths = qh_alloc0(sizeof *paths * (size_t)n);
    for (int i = 0; i < n; i++) paths[i] = qh_vm_file(app->vm, i);
    qh_watcher_set(lua->watcher, paths, n);
    qh_free(paths);
}

static void count_load(const char *labels)
{
    qh_metric_add(qh_metric_counter("qhost_app_loads_total", labels, "loads of the app file"), 1);
}

void qh_lua_loaded(qh_lua *lua, qh_app *app, const qh_err *err)
{
    if (lua->loading == app) lua->loading = NULL;
    if (app->is_retired) return; /* given up: a newer load is under way, or the end */
    watch_files(lua, app);
    if (err) {
        qh_reload_note_failure(lua, app, err->msg);
        count_load("result=\"failed\"");
        retire(lua, app);
    } else {
        qh_app *old = lua->serving;
        qh_reload_note_ok(lua, app, old);
        count_load("result=\"ok\"");
        lua->serving = app;
        if (old) retire(lua, old);
        qh_background_begin(app);
    }
    if (lua->opts.on_app) lua->opts.on_app(lua->opts.arg, app->number, err);
}

static void give_up_load(qh_lua *lua)
{
    qh_app *app = lua->loading;
    if (!app) return;
    lua->loading = NULL;
    app->is_retired = true;
    if (app->load) qh_task_cancel(app->load);
    qh_loop_defer(lua->opts.loop, free_retired, lua);
}

void qh_lua_load(qh_lua *lua)
{
    qh_err err = {0};
    qh_app *app;
    give_up_load(lua);
    lua->is_load_wanted = count_apps(lua) >= MAX_GENERATIONS;
    if (lua->is_load_wanted) {
        qh_reload_note_pending(lua);
        return;
    }
    qh_status st = qh_app_new(&app, lua, &err);
    if (st) {
        qh_reload_note_failure(lua, NULL, err.msg);
        if (lua->opts.on_app) lua->opts.on_app(lua->opts.arg, lua->last_generation, &err);
        return;
    }
    app->number = ++lua->last_generation;
    app->start_us = qh_now_us();
    app->next = lua->apps;
    lua->apps = lua->loading = app;
    st = qh_app_load(app, &err);
    if (st) qh_lua_loaded(lua, app, &err);
}

static void on_files_changed(void *arg) { qh_lua_load(arg); }

/* ---- requests ---- */

void qh_lua_on_request(qh_lua *lua, qh_exchange *x)
{
    if (lua->serving) {
        qh_request_start(lua->serving, x);
        return;
    }
    qh_http_field field = {"Retry-After", "1"};
    qh_exchange_reply_error(x, 503, "not_ready",
                            lua->is_failed ? "the app does not load" : "the app is loading",
                            &field, 1);
    qh_exchange_unref(x);
}

bool qh_lua_takes_preflight(const qh_lua *lua, const qh_exchange *x)
{
    return lua->serving && lua->serving->has_cors && strcmp(qh_exchange_method(x), "OPTIONS") == 0 &&
           qh_exchange_header(x, "access-control-request-method");
}

void qh_lua_on_events(qh_lua *lua, qh_engine *engine) { qh_generation_poll(lua, engine); }

qh_lua_state qh_lua_get_state(const qh_lua *lua)
{
    qh_lua_state s = {.generation = lua->serving ? lua->serving->number : 0,
                      .is_loading = lua->loading != NULL,
                      .last_error = lua->is_failed ? lua->last_failure.message : NULL};
    for (const qh_app *a = lua->apps; a; a = a->next) {
        s.n_generations++;
        s.n_requests += a->n_requests;
        s.n_tasks += qh_vm_n_tasks(a->vm);
        s.heap_bytes += qh_vm_used_bytes(a->vm);
    }
    return s;
}

/* ---- life ---- */

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == path ? qh_strdup("/") : qh_strndup(path, (size_t)(slash - path));
}

static void poll_workers(void *arg)
{
    qh_lua *lua = arg;
    qh_workers_poll(lua->workers);
}

static qh_status open_parts(qh_lua *lua, qh_err *err)
{
    qh_status st = qh_budget_new(&lua->budget, err);
    if (!st) st = qh_waker_new(&lua->worker_waker, lua->opts.loop, poll_workers, lua, err);
    if (!st)
        st = qh_workers_new(&lua->workers, N_WORKERS, MAX_JOBS, qh_waker_wakeup(lua->worker_waker),
                            err);
    if (!st && lua->opts.is_watching)
        st = qh_watcher_new(&lua->watcher, lua->opts.loop, on_files_changed, lua, err);
    return st;
}

qh_status qh_lua_new(qh_lua **out, const qh_lua_opts *opts, qh_err *err)
{
    *out = NULL;
    char real[PATH_MAX];
    qh_status st = QH_OK;
    for (int i = 0; i < opts->n_allow_net && !st; i++) {
        st = qh_egress_check_rule(opts->allow_net[i], err);
        if (st) qh_err_prefix(err, "--allow-net");
    }
    if (st) return st;
    if (!realpath(opts->app_path, real))
        return qh_fail(err, errno == ENOENT ? QH_ENOTFOUND : QH_EIO, "%s: %s", opts->app_path,
                       strerror(errno));
    qh_lua *lua = qh_new0(qh_lua);
    qh_lua_opts *o = &lua->opts;
    *o = *opts;
    o->app_path = qh_strdup(real);
    o->lib_dir = opts->lib_dir ? qh_strdup(opts->lib_dir) : NULL;
    if (!o->cpu_us) o->cpu_us = qh_task_limits_default.cpu_us;
    if (!o->slice_us) o->slice_us = qh_task_limits_default.slice_us;
    if (!o->retire_us) o->retire_us = RETIRE_US;
    if (!o->heap_bytes) o->heap_bytes = qh_task_limits_default.heap_bytes;
    lua->app_dir = folder_of(real);
    lua->shareds = qh_shareds_new();
    lua->stores = qh_stores_new(o->loop, opts->data_dir);
    o->data_dir = NULL;                             /* the stores have it */
    st = open_parts(lua, err);
    if (st) qh_lua_free(lua);
    else *out = lua;
    return st;
}

void qh_lua_free(qh_lua *lua)
{
    if (!lua) return;
    lua->is_load_wanted = false;
    qh_watcher_free(lua->watcher);
    for (qh_app *app = lua->apps; app; app = app->next) app->is_retired = true;
    while (lua->apps) {
        qh_app *app = lua->apps;
        unlink_app(lua, app);
        qh_app_free(app);
    }
    qh_stop_forget(lua);
    qh_policies_close(lua->policies);
    qh_stores_free(lua->stores);
    qh_fetcher_free(lua->fetcher);
    qh_shareds_free(lua->shareds);
    qh_workers_free(lua->workers);
    qh_waker_free(lua->worker_waker);
    qh_loop_undefer(lua->opts.loop, free_retired, lua);
    qh_budget_free(lua->budget);
    while (lua->models) {
        qh_named_model *m = lua->models;
        lua->models = m->next;
        qh_free(m->name);
        qh_free(m);
    }
    qh_free((char *)lua->opts.app_path);
    qh_free((char *)lua->opts.lib_dir);
    qh_free(lua->app_dir);
    qh_load_story_deinit(&lua->last_ok);
    qh_load_story_deinit(&lua->last_failure);
    qh_free(lua);
}

/* ---- qhost check ---- */

typedef struct {
    qh_lua *lua;
    bool is_over;
    qh_err err;
    void (*resolve_model)(void *arg, const char *name, qh_lua_question *q);
    void *arg;
} checking;

static void pass_question(void *arg, const char *name, qh_lua_question *q)
{
    checking *c = arg;
    c->resolve_model(c->arg, name, q);
}

static void check_over(void *arg, int generation, const qh_err *err)
{
    (void)generation;
    checking *c = arg;
    c->is_over = true;
    if (err) c->err = *err;
}

static char *list_app(const qh_app *app)
{
    qh_str out = {0};
    for (int i = 0; i < app->parts.n && app->parts.items[i].kind <= QH_PART_MODEL; i++)
        qh_str_appendf(&out, "%s\n", app->parts.items[i].name);
    return qh_str_steal(&out);
}

qh_status qh_lua_check(const char *app_path, const char *lib_dir,
                       void (*resolve_model)(void *arg, const char *name, qh_lua_question *q),
                       void *arg, char **routes, qh_err *err)
{
    *routes = NULL;
    qh_loop *loop;
    checking c = {.resolve_model = resolve_model, .arg = arg};
    qh_status st = qh_loop_new(&loop, err);
    if (st) return st;
    qh_lua_opts opts = {.app_path = app_path,
                        .lib_dir = lib_dir,
                        .data_dir = ".",        /* a load opens no store, so nothing is made there */
                        .loop = loop,
                        .resolve_model = pass_question,
                        .on_app = check_over,
                        .arg = &c};
    st = qh_lua_new(&c.lua, &opts, err);
    if (!st) {
        qh_lua_load(c.lua);
        while (!c.is_over) qh_loop_turn(loop, true);
        st = c.err.status ? qh_fail(err, c.err.status, "%s", c.err.msg) : QH_OK;
        if (!st) *routes = list_app(c.lua->serving);
        qh_lua_free(c.lua);
    }
    qh_loop_free(loop);
    return st;
}
