/* background.c - see background.h */
#include "lua/bind/background.h"
#include "base/log.h"
#include "base/mem.h"
#include "lua/vm/module.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>
#include <string.h>

enum { MAX_BACKGROUNDS = 1000, MAX_NAME_BYTES = 100 };

struct qh_background {
    qh_app *app;
    qh_background *prev, *next;
    char *name;
    int fn_ref;                 /* registry */
    int64_t period_us;          /* 0: once */
    bool is_standing;           /* of the load; else it counts as a request */
    bool is_over;               /* freed when its task has ended */
    qh_timer *timer;            /* to the next run, or to the end of the grace */
    qh_task *task;              /* NULL: it is not at work */
};

/* ---- life ---- */

static qh_background *find(qh_app *app, const char *name)
{
    qh_background *b = app->backgrounds;
    while (b && strcmp(b->name, name) != 0) b = b->next;
    return b;
}

static void run(void *arg);

/* The function is on top of L. */
static qh_background *add(qh_app *app, lua_State *L, const char *name, int64_t period_us,
                          bool is_standing)
{
    qh_background *b = qh_new0(qh_background);
    b->app = app;
    b->name = qh_strdup(name);
    b->period_us = period_us;
    b->is_standing = is_standing;
    b->fn_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    b->timer = qh_timer_new(app->lua->opts.loop, run, b);
    b->next = app->backgrounds;
    if (b->next) b->next->prev = b;
    app->backgrounds = b;
    app->n_backgrounds++;
    if (!is_standing) app->n_requests++;
    return b;
}

static void forget(qh_background *b)
{
    if (b->prev) b->prev->next = b->next;
    else b->app->backgrounds = b->next;
    if (b->next) b->next->prev = b->prev;
    b->app->n_backgrounds--;
    qh_timer_free(b->timer);
    qh_free(b->name);
    qh_free(b);
}

static void over(qh_background *b)
{
    qh_app *app = b->app;
    bool is_counted = !b->is_standing;
    luaL_unref(qh_vm_lua(app->vm), LUA_REGISTRYINDEX, b->fn_ref);
    forget(b);
    if (!is_counted) return;
    app->n_requests--;
    qh_lua_request_over(app);
}

/* ---- runs ---- */

static void log_failure(const qh_background *b, lua_State *L)
{
    lua_getfield(L, -1, "trace");
    lua_getfield(L, -2, "message");
    const char *text = lua_tostring(L, lua_isstring(L, -2) ? -2 : -1);
    qh_error("background.failed", "name=\"%s\" gen=%d message=\"%s\"", b->name, b->app->number,
             text ? text : "");
    lua_pop(L, 2);
}

static void on_done(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    qh_background *b = user;
    b->task = NULL;
    if (end && end != QH_TASK_CANCELLED) log_failure(b, L);
    if (b->period_us && !b->is_over) qh_timer_set(b->timer, b->period_us);
    else over(b);
}

static const qh_task_ops OPS = {on_done};

static void make_task(qh_background *b)
{
    qh_app *app = b->app;
    lua_State *L = qh_vm_lua(app->vm);
    qh_task_limits limits = qh_app_limits(app);
    qh_vm_privileged_begin(app->vm);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->fn_ref);
    b->task = qh_task_new(app->vm, 0, &limits, &OPS, b);
    qh_vm_privileged_end(app->vm);
    qh_task_start(b->task);
}

static void run(void *arg)
{
    qh_background *b = arg;
    if (!b->task) {
        make_task(b);
        return;
    }
    qh_warn("background.cancelled", "name=\"%s\" gen=%d after=%ds reason=\"its generation is replaced\"",
            b->name, b->app->number, QH_BACKGROUND_GRACE_S);
    qh_task_cancel(b->task);
}

/* The function is on top of L. */
static void run_once(qh_app *app, lua_State *L, const char *name)
{
    qh_background *b = add(app, L, name, 0, false);
    if (app->lua->serving != app) qh_timer_set(b->timer, (int64_t)QH_BACKGROUND_GRACE_S * 1000000);
    make_task(b);
}

void qh_background_run(qh_app *app, const char *name)
{
    run_once(app, qh_vm_lua(app->vm), name);
}

/* ---- with the generation ---- */

void qh_background_begin(qh_app *app)
{
    for (qh_background *b = app->backgrounds; b; b = b->next) qh_timer_set(b->timer, b->period_us);
}

void qh_background_end(qh_app *app)
{
    for (qh_background *b = app->backgrounds, *next; b; b = next) {
        next = b->next;
        if (!b->is_standing) {
            qh_timer_set(b->timer, (int64_t)QH_BACKGROUND_GRACE_S * 1000000);
            continue;
        }
        b->is_over = true;
        if (b->task) qh_task_cancel(b->task);
        else over(b);
    }
}

void qh_background_free(qh_app *app)
{
    while (app->backgrounds) forget(app->backgrounds);
}

/* ---- what scripts call ---- */

/* start(name, fn, period?) -> true | false: one of that name is there already */
static int start(lua_State *L)
{
    qh_app *app = qh_app_of(L);
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    luaL_argcheck(L, len && len <= MAX_NAME_BYTES && strlen(name) == len, 1,
                  "a name of 1 to 100 bytes");
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_Number period = luaL_optnumber(L, 3, 0);
    luaL_argcheck(L, period >= 0 && period <= 86400 * 365, 3, "seconds, at most a year");
    bool is_load = app->load && qh_task_running(L) == app->load;
    if (find(app, name)) {
        if (is_load) luaL_error(L, "two background tasks are called '%s'", name);
        return lua_pushboolean(L, 0), 1;
    }
    if (app->n_backgrounds >= MAX_BACKGROUNDS)
        luaL_error(L, "more than %d background tasks", MAX_BACKGROUNDS);
    if (!is_load) qh_task_may_start(L, period > 0 ? "qh.every" : "qh.background");
    if (!is_load && period > 0) luaL_error(L, "qh.every is for the load of an app");
    lua_settop(L, 2);
    if (is_load) add(app, L, name, (int64_t)(period * 1e6), true);
    else run_once(app, L, name);
    return lua_pushboolean(L, 1), 1;
}

void qh_bind_background(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {{"start", start}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "background");
}
