/* request.c - one request: a task that runs the app's dispatch, and what is answered when it
 * dies.
 *
 *   start -> dispatch(app, x) ok ----------------------------------------> over
 *               | failed, out of CPU or memory, nothing sent: fail(app, x, kind, ...) -> over
 *               | ... something sent: an error event when it is an event stream, then cut -> over
 *   the client leaves: the task is cancelled and unwinds ------------------> over
 *
 * dispatch answers errors of the script itself; what arrives here are tasks that had to die, and
 * errors of the library. Thread: the loop thread. */
#include "base/log.h"
#include "base/mem.h"
#include "lua/bind/background.h"
#include "lua/bind/exchange.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>
#include <string.h>

enum { FAIL_CPU_US = 20000 };

typedef struct qh_request {
    struct qh_request *prev, *next;             /* of the app */
    qh_app *app;
    qh_exchange_box *box;
    int box_ref;                    /* registry */
    bool is_failing;                /* the task at work runs fail */
    const char *cancel_code;        /* cancelled by us: what the client is told; NULL: it left */
} request;

static const char *kind_of(qh_task_end end)
{
    return end == QH_TASK_CPU      ? "script_timeout"
           : end == QH_TASK_MEMORY ? "script_memory"
                                   : "script_error";
}

static void count_failure(qh_task_end end)
{
    static const char HELP[] = "requests that a script failed to answer";
    static const char NAME[] = "qhost_lua_failures_total";
    if (end == QH_TASK_CPU)
        qh_metric_add(qh_metric_counter(NAME, "kind=\"script_timeout\"", HELP), 1);
    else if (end == QH_TASK_MEMORY)
        qh_metric_add(qh_metric_counter(NAME, "kind=\"script_memory\"", HELP), 1);
    else qh_metric_add(qh_metric_counter(NAME, "kind=\"script_error\"", HELP), 1);
}

static void over(request *r)
{
    qh_app *app = r->app;
    r->box->task = NULL;
    qh_exchange_box_close(r->box);
    luaL_unref(qh_vm_lua(app->vm), LUA_REGISTRYINDEX, r->box_ref);
    if (r->prev) r->prev->next = r->next;
    else app->requests = r->next;
    if (r->next) r->next->prev = r->prev;
    qh_free(r);
    app->n_requests--;
    qh_lua_request_over(app);
}

static const qh_task_ops TASK_OPS;

static void run_task(request *r, int n_args, const qh_task_limits *limits)
{
    qh_task *t = qh_task_new(r->app->vm, n_args, limits, &TASK_OPS, r);
    r->box->task = t;
    qh_task_start(t);
}

/* ---- a task that died ---- */

static void reply_plainly(request *r, const char *kind)
{
    qh_http_field field = {"X-Should-Retry", "false"};
    qh_exchange_reply_error(r->box->x, 500, kind, "the app's script failed", &field, 1);
    r->box->is_finished = true;
}

/* Something was sent: an event stream gets its error in-band, and nobody gets an end mark. */
static void cut(request *r, const char *kind)
{
    qh_exchange_box *b = r->box;
    if (b->is_sse && !b->is_finished) {
        qh_str event = {0};
        qh_str_appendf(
            &event,
            "data: {\"error\":{\"message\":\"the app's script failed\",\"type\":\"server_error\","
            "\"param\":null,\"code\":\"%s\"}}\n\n",
            kind);
        qh_exchange_write(b->x, event.data, event.len);
        qh_str_deinit(&event);
    }
    qh_exchange_abort(b->x);
    b->is_finished = true;
}

static void reply_cancelled(request *r)
{
    qh_http_field fields[] = {{"Retry-After", "1"}, {"X-Should-Retry", "true"}};
    if (r->cancel_code)
        qh_exchange_reply_error(r->box->x, 503, r->cancel_code,
                                "the app was replaced a while ago, and this request took too long",
                                fields, 2);
    else
        qh_exchange_reply_error(r->box->x, 503, "shutting_down", "the service is shutting down",
                                NULL, 0);
}

/* The record of the error is on top of from. */
static void run_fail(request *r, const char *kind, lua_State *from)
{
    lua_State *L = qh_vm_lua(r->app->vm);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->app->fail_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->app->app_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->box_ref);
    lua_pushstring(L, kind);
    lua_getfield(from, -1, "message");
    lua_getfield(from, -2, "trace");
    lua_xmove(from, L, 2);
    r->is_failing = true;
    qh_task_limits limits = qh_task_limits_default;
    limits.cpu_us = FAIL_CPU_US;
    limits.is_pure = true;
    run_task(r, 5, &limits);
}

static void log_failure(request *r, const char *kind, lua_State *L)
{
    lua_getfield(L, -1, "message");
    const char *message = lua_tostring(L, -1);
    qh_error("script.failed", "request=%s kind=%s gen=%d message=\"%s\"", qh_exchange_id(r->box->x),
             kind, r->app->number, message ? message : "");
    lua_pop(L, 1);
}

static void on_done(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    request *r = user;
    qh_exchange_box *b = r->box;
    b->task = NULL;
    bool is_begun = qh_exchange_is_begun(b->x), is_open = !qh_exchange_is_closed(b->x);
    if (end == QH_TASK_OK) {
        over(r);
    } else if (end == QH_TASK_CANCELLED) {
        if (is_open && !is_begun) reply_cancelled(r);
        else if (is_open && !b->is_finished && r->cancel_code) cut(r, r->cancel_code);
        else if (is_open && !b->is_finished) qh_exchange_abort(b->x);
        over(r);
    } else {
        const char *kind = kind_of(end);
        count_failure(end);
        if (is_open && !is_begun && !r->is_failing) {
            run_fail(r, kind, L);
            return;
        }
        log_failure(r, kind, L);                /* fail logs too; it did not or could not run */
        if (is_open && !is_begun) reply_plainly(r, kind);
        else if (is_open) cut(r, kind);
        over(r);
    }
}

static const qh_task_ops TASK_OPS = {on_done};

/* ---- the client ---- */

/* Each in a background task: the request's own can wait for nothing any more. */
static void run_on_abort(request *r)
{
    lua_State *L = qh_vm_lua(r->app->vm);
    qh_vm_privileged_begin(r->app->vm);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->box_ref);
    int n = qh_exchange_push_on_abort(L);
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, -1, i + 1);
        qh_background_run(r->app, "req:on_abort");
    }
    lua_pop(L, 2);
    qh_vm_privileged_end(r->app->vm);
}

static void on_close(void *user, qh_status why)
{
    qh_exchange_box *b = user;
    if (!why || !b->task) return;
    run_on_abort(b->owner);
    bool is_waiting_for_body = b->is_body_asked && !b->is_body_there;
    if (!b->outlives || is_waiting_for_body) qh_task_cancel(b->task);
    qh_waiters_wake_all(&b->waiters);
}

static const qh_exchange_ops EXCHANGE_OPS = {on_close, qh_exchange_box_wake};

void qh_request_start(qh_app *app, qh_exchange *x)
{
    request *r = qh_new0(request);
    lua_State *L = qh_vm_lua(app->vm);
    r->app = app;
    r->next = app->requests;
    if (r->next) r->next->prev = r;
    app->requests = r;
    app->n_requests++;
    if (app->lua->opts.is_dev && app->lua->is_failed)
        qh_exchange_add_field(x, "x-qhost-reload", "failed");
    qh_vm_privileged_begin(app->vm);
    lua_rawgeti(L, LUA_REGISTRYINDEX, app->dispatch_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, app->app_ref);
    r->box = qh_exchange_push(L, x);
    r->box->owner = r;
    lua_pushvalue(L, -1);
    r->box_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    qh_vm_privileged_end(app->vm);
    qh_exchange_watch(x, &EXCHANGE_OPS, r->box);
    qh_task_limits limits = qh_app_limits(app);
    run_task(r, 2, &limits);
}

/* A task that ends now takes its request out of the list: the next one is read first. */
void qh_requests_cancel(qh_app *app, const char *code)
{
    for (request *r = app->requests, *next; r; r = next) {
        next = r->next;
        r->cancel_code = code;
        if (r->box->task) qh_task_cancel(r->box->task);
    }
}

int qh_requests_count(const qh_app *app, int *n_all)
{
    int n = 0;
    *n_all = 0;
    for (const request *r = app->requests; r; r = r->next) {
        n += qh_exchange_is_begun(r->box->x);
        ++*n_all;
    }
    return n;
}
