/* stop.c - the app's last words: its app:on("stop") hooks, run once before the host ends. */
#include "base/log.h"
#include "base/mem.h"
#include "lua/lua_private.h"
#include "lua/vm/module.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>

enum { STOP_US = 5000000 }; /* for all hooks together */

struct qh_lua_stopping {
    qh_lua *lua;
    void (*done)(void *arg);
    void *arg;
    qh_task *task;
    qh_timer *limit;
};

static void finish(void *arg)
{
    qh_lua_stopping *s = arg;
    void (*done)(void *) = s->done;
    void *done_arg = s->arg;
    qh_stop_forget(s->lua);
    done(done_arg);
}

static void on_done(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    qh_lua_stopping *s = user;
    s->task = NULL;
    if (end) {
        lua_getfield(L, -1, "message");
        const char *message = lua_tostring(L, -1);
        qh_error("stop.failed", "message=\"%s\"", message ? message : "");
        lua_pop(L, 1);
    }
    qh_loop_defer(s->lua->opts.loop, finish, s);
}

static void on_limit(void *arg)
{
    qh_lua_stopping *s = arg;
    qh_warn("stop.cancelled", "after=%ds reason=\"the stop hooks take too long\"",
            STOP_US / 1000000);
    if (s->task) qh_task_cancel(s->task);
}

static int push_stop(lua_State *L)
{
    qh_module_require(L, "qhost.app");
    lua_getfield(L, -1, "stop");
    return 1;
}

void qh_lua_stop(qh_lua *lua, void (*done)(void *arg), void *arg)
{
    static const qh_task_ops OPS = {on_done};
    qh_app *app = lua->serving;
    if (!app || lua->stopping) {
        if (!lua->stopping) done(arg);
        return;
    }
    qh_lua_stopping *s = lua->stopping = qh_new0(qh_lua_stopping);
    *s = (qh_lua_stopping){.lua = lua, .done = done, .arg = arg};
    s->limit = qh_timer_new(lua->opts.loop, on_limit, s);
    qh_timer_set(s->limit, STOP_US);
    lua_State *L = qh_vm_lua(app->vm);
    qh_task_limits limits = qh_app_limits(app);
    qh_vm_privileged_begin(app->vm);
    lua_pushcfunction(L, push_stop);
    lua_call(L, 0, 1); /* the module is loaded: this only looks it up */
    lua_rawgeti(L, LUA_REGISTRYINDEX, app->app_ref);
    s->task = qh_task_new(app->vm, 1, &limits, &OPS, s);
    qh_vm_privileged_end(app->vm);
    qh_task_start(s->task);
}

void qh_stop_forget(qh_lua *lua)
{
    qh_lua_stopping *s = lua->stopping;
    if (!s) return;
    lua->stopping = NULL;
    qh_loop_undefer(lua->opts.loop, finish, s);
    qh_timer_free(s->limit);
    qh_free(s);
}
