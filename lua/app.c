/* app.c - one generation of the app: a VM, its load, and what the load gave. */
#include "base/hash.h"
#include "base/mem.h"
#include "lua/bind/background.h"
#include "lua/lua_private.h"
#include "lua/vm/module.h"
#include "lua/vm/source.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>

enum {
    LOAD_CPU_US = 500000
};

qh_app *qh_app_of(lua_State *L) { return qh_vm_host(L); }

qh_task_limits qh_app_limits(const qh_app *app)
{
    const qh_lua_opts *o = &app->lua->opts;
    qh_task_limits limits = qh_task_limits_default;
    limits.cpu_us = o->cpu_us;
    limits.slice_us = o->slice_us;
    limits.heap_bytes = o->heap_bytes;
    return limits;
}

/* ---- the end of a load ---- */

/* The list of parts is on top of L, and is popped. */
static void keep_parts(qh_app *app, lua_State *L)
{
    qh_parts_read(&app->parts, L);
    for (int i = 0; i < app->n_models; i++)
        qh_parts_add(&app->parts, QH_PART_MODEL, app->models[i]->name, 0);
    for (int i = 0; i < qh_n_sources(app->vm); i++) {
        const qh_source *f = qh_source_at(app->vm, i);
        qh_parts_add(&app->parts, QH_PART_FILE, f->name, qh_hash_bytes(f->text.data, f->text.len, 3));
    }
    qh_parts_sort(&app->parts);
}

static int push_entry_points(lua_State *L)
{
    qh_module_require(L, "qhost.app");
    lua_getfield(L, -1, "dispatch");
    lua_getfield(L, -2, "fail");
    return 2;
}

static void keep_app(qh_app *app, lua_State *L)
{
    lua_State *main = qh_vm_lua(app->vm);
    keep_parts(app, L);
    lua_pushvalue(L, -1);
    lua_getfield(L, -1, "cors");
    app->has_cors = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_xmove(L, main, 1);
    app->app_ref = luaL_ref(main, LUA_REGISTRYINDEX);
    lua_pushcfunction(main, push_entry_points);
    lua_call(main, 0, 2);           /* both modules are loaded: this only looks them up */
    app->fail_ref = luaL_ref(main, LUA_REGISTRYINDEX);
    app->dispatch_ref = luaL_ref(main, LUA_REGISTRYINDEX);
}

static void fail_load(qh_err *err, qh_task_end end, lua_State *L)
{
    lua_getfield(L, -1, "message");
    const char *message = lua_tostring(L, -1);
    if (end == QH_TASK_CPU)
        qh_fail(err, QH_ELIMIT, "%s (loading may take %d ms)", message, LOAD_CPU_US / 1000);
    else
        qh_fail(err, end == QH_TASK_CANCELLED ? QH_ECANCELED : QH_ESCRIPT, "%s",
                message ? message : "error");
    lua_pop(L, 1);
}

static void on_loaded(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    qh_app *app = user;
    qh_err err = {0};
    app->load = NULL;
    if (end == QH_TASK_OK) keep_app(app, L);
    else fail_load(&err, end, L);
    qh_lua_loaded(app->lua, app, end ? &err : NULL);
    qh_sources_keep(app->vm, false);
}

/* ---- life ---- */

static int push_loader(lua_State *L)
{
    return qh_module_require(L, "qhost.load");
}

static const qh_task_ops LOAD_OPS = {on_loaded};

qh_status qh_app_new(qh_app **out, qh_lua *lua, qh_err *err)
{
    *out = NULL;
    qh_app *app = qh_new0(qh_app);
    app->lua = lua;
    qh_vm_opts opts = {.max_bytes = QH_VM_HEAPS * (size_t)lua->opts.heap_bytes,
                       .app_dir = lua->app_dir,
                       .lib_dir = lua->opts.lib_dir,
                       .loop = lua->opts.loop,
                       .budget = lua->budget,
                       .workers = lua->workers,
                       .bind = qh_bind_host,
                       .host = app};
    qh_status st = qh_vm_new(&app->vm, &opts, err);
    if (st) {
        qh_free(app);
        return st;
    }
    *out = app;
    return QH_OK;
}

/* The library's own modules are loaded here, outside the limits that the app's load has. */
qh_status qh_app_load(qh_app *app, qh_err *err)
{
    qh_lua *lua = app->lua;
    lua_State *L = qh_vm_lua(app->vm);
    qh_task_limits limits = {.cpu_us = LOAD_CPU_US, .slice_us = lua->opts.slice_us,
                             .heap_bytes = lua->opts.heap_bytes, .is_pure = true};
    qh_status st = QH_OK;
    qh_vm_privileged_begin(app->vm);
    qh_vm_note_file(app->vm, lua->opts.app_path);
    qh_sources_keep(app->vm, true);
    lua_pushcfunction(L, push_loader);
    if (lua_pcall(L, 0, 1, 0)) {
        st = qh_fail(err, QH_ESCRIPT, "the qhost library: %s", lua_tostring(L, -1));
        lua_pop(L, 1);
    } else {
        lua_pushstring(L, lua->opts.app_path);
        app->load = qh_task_new(app->vm, 1, &limits, &LOAD_OPS, app);
    }
    qh_vm_privileged_end(app->vm);
    if (app->load) qh_task_start(app->load);
    return st;
}

void qh_app_free(qh_app *app)
{
    if (!app) return;
    qh_vm_free(app->vm);
    qh_background_free(app);
    qh_timer_free(app->retire_timer);
    qh_parts_deinit(&app->parts);
    qh_free(app->models);
    qh_free(app);
}
