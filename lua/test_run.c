/* test_run.c - qhost test: an app loaded with doubles of the world, and a file of tests run in it.
 */
#include "base/mem.h"
#include "lua/lua_private.h"
#include "lua/vm/module.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>

enum { TEST_CPU_US = 10000000 }; /* of a test file between two waits: a spinning test must end */

typedef struct {
    bool is_loaded, is_over;
    qh_err err;
    qh_lua_test_result *out;
} testing;

static void on_app(void *arg, int generation, const qh_err *err)
{
    (void)generation;
    testing *t = arg;
    t->is_loaded = true;
    if (err) t->err = *err;
}

static void on_done(void *user, qh_task *task, qh_task_end end, lua_State *L, int n)
{
    (void)task, (void)n;
    testing *t = user;
    t->is_over = true;
    if (end) {
        lua_getfield(L, -1, "trace");
        lua_getfield(L, -2, "message");
        const char *text = lua_tostring(L, lua_isstring(L, -2) ? -2 : -1);
        qh_fail(&t->err, QH_ESCRIPT, "%s", text ? text : "the tests failed to run");
        lua_pop(L, 2);
        return;
    }
    t->out->n_passed = (int)lua_tointeger(L, -4);
    t->out->n_failed = (int)lua_tointeger(L, -3);
    t->out->n_skipped = (int)lua_tointeger(L, -2);
    t->out->text = qh_strdup(lua_tostring(L, -1));
}

static int push_run(lua_State *L)
{
    qh_module_require(L, "qhost.test_runner");
    lua_getfield(L, -1, "run");
    return 1;
}

/* The module's own chunk may fail only by a bug of ours, but reading it may. */
static qh_status start(qh_lua *lua, const qh_lua_test_opts *o, testing *t)
{
    static const qh_task_ops OPS = {on_done};
    qh_app *app = lua->serving;
    lua_State *L = qh_vm_lua(app->vm);
    qh_task_limits limits = qh_app_limits(app);
    limits.cpu_us = TEST_CPU_US;
    qh_vm_privileged_begin(app->vm);
    lua_pushcfunction(L, push_run);
    qh_status st = QH_OK;
    qh_task *task = NULL;
    if (lua_pcall(L, 0, 1, 0)) {
        st = qh_fail(&t->err, QH_ESCRIPT, "%s", lua_tostring(L, -1));
        lua_pop(L, 1);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, app->app_ref);
        lua_pushstring(L, o->file);
        lua_pushstring(L, o->filter);
        lua_pushnumber(L, o->timeout_s);
        task = qh_task_new(app->vm, 4, &limits, &OPS, t);
    }
    qh_vm_privileged_end(app->vm);
    if (task) qh_task_start(task);
    return st;
}

qh_status qh_lua_test(const qh_lua_test_opts *o, qh_lua_test_result *out, qh_err *err)
{
    *out = (qh_lua_test_result){0};
    qh_loop *loop;
    qh_lua *lua = NULL;
    testing t = {.out = out};
    qh_status st = qh_loop_new(&loop, err);
    if (st) return st;
    qh_lua_opts opts = {.app_path = o->app_path,
                        .lib_dir = o->lib_dir,
                        .data_dir = o->data_dir,
                        .loop = loop,
                        .is_dev = true,
                        .is_test = true,
                        .on_app = on_app,
                        .arg = &t};
    st = qh_lua_new(&lua, &opts, err);
    if (!st) {
        qh_lua_load(lua);
        while (!t.is_loaded) qh_loop_turn(loop, true);
        if (!t.err.status && !start(lua, o, &t))
            while (!t.is_over) qh_loop_turn(loop, true);
        if (t.err.status) st = qh_fail(err, t.err.status, "%s", t.err.msg);
    }
    qh_lua_free(lua);
    qh_loop_free(loop);
    return st;
}
