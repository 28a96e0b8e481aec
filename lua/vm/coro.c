/* coro.c - the coroutine library of scripts, wrapped so that the scheduler sees through it.
 *
 * A script's coroutine may wait like any other code: the wait passes outward through every
 * resume to the task, and on waking inward again, without the resumer noticing. A coroutine that
 * waits counts as "normal", so nobody else can resume it; the same holds for the roots of tasks. */
#include "lua/vm/vm_private.h"
#include <lauxlib.h>

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

typedef enum { SUSPENDED, CO_RUNNING, NORMAL, DEAD } co_status;

static co_status status_of(lua_State *L, lua_State *co)
{
    lua_Debug ar;
    if (L == co) return CO_RUNNING;
    qh_coro_mark *mark = qh_coro_mark_of(co);
    if (mark->is_task || mark->is_parked) return NORMAL;
    switch (lua_status(co)) {
    case LUA_YIELD: return SUSPENDED;
    case LUA_OK:
        if (lua_getstack(co, 0, &ar)) return NORMAL;
        return lua_gettop(co) ? SUSPENDED : DEAD;
    default: return DEAD;
    }
}

/* ---- resume: L's stack holds only the arguments; with wrap the coroutine is an upvalue ---- */

static int resume_end(lua_State *L, lua_State *co, int status, int n_results, bool is_wrap);

static int resume_more(lua_State *L, int status, lua_KContext is_wrap)
{
    (void)status;
    lua_State *co = lua_tothread(L, is_wrap ? lua_upvalueindex(1) : 1);
    int n_results = 0;
    int st = qh_vm_resume(qh_vm_of(L), co, L, 0, &n_results);
    return resume_end(L, co, st, n_results, is_wrap);
}

/* Run the <close> variables of co, under the watchdog's eye. Its error, if any, is on top of co. */
static int reset(lua_State *L, lua_State *co)
{
    qh_vm *vm = qh_vm_of(L);
    qh_budget *b = vm->running ? vm->opts.budget : NULL;
    if (b) qh_budget_switch(b, co);
    int status = lua_resetthread(co);
    if (b) qh_budget_switch(b, L);
    qh_coro_mark_of(co)->n_protected = 0;
    return status;
}

/* An error leaves its message on top of L. */
static int resume_failed(lua_State *L, lua_State *co, int status, bool is_wrap)
{
    if (status == LUA_ERRMEM) qh_task_out_of_memory(L);
    qh_task *t = qh_task_running(L);
    bool is_dying = t && qh_task_is_dying(t);
    if (is_wrap || is_dying) {                  /* nobody can close it later */
        status = reset(L, co);
        lua_xmove(co, L, 1);
    } else {
        lua_xmove(co, L, 1);
    }
    if (is_dying) return lua_error(L);
    if (!is_wrap) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int resume_end(lua_State *L, lua_State *co, int status, int n_results, bool is_wrap)
{
    qh_vm *vm = qh_vm_of(L);
    if (status == LUA_YIELD && vm->yield_kind != QH_YIELD_SCRIPT)
        return lua_yieldk(L, 0, is_wrap, resume_more);
    if (status != LUA_OK && status != LUA_YIELD) return resume_failed(L, co, status, is_wrap);
    if (!lua_checkstack(L, n_results + 1)) {
        lua_pop(co, n_results);
        lua_pushliteral(L, "too many results to resume");
        if (is_wrap) return lua_error(L);
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    if (!is_wrap) lua_pushboolean(L, 1);
    lua_xmove(co, L, n_results);
    return n_results + !is_wrap;
}

/* n_args are on top of L. Leaves a message and returns false when co cannot be resumed. */
static bool may_resume(lua_State *L, lua_State *co, int n_args)
{
    static const char *const WORDS[] = {NULL, "non-suspended", "non-suspended", "dead"};
    co_status s = status_of(L, co);
    if (s != SUSPENDED) {
        lua_pushfstring(L, "cannot resume %s coroutine", WORDS[s]);
        return false;
    }
    if (!lua_checkstack(co, n_args)) {
        lua_pushliteral(L, "too many arguments to resume");
        return false;
    }
    if (qh_vm_of(L)->n_levels >= QH_VM_MAX_LEVELS) {
        lua_pushliteral(L, "C stack overflow");
        return false;
    }
    return true;
}

/* The function waits below the arguments of its first resume. */
static int start_or_go_on(lua_State *L, lua_State *co, int n_args, bool is_wrap)
{
    int n_results = 0;
    bool is_first = lua_status(co) == LUA_OK;
    lua_xmove(L, co, n_args);
    int status = qh_vm_resume(qh_vm_of(L), co, L, n_args + is_first, &n_results);
    return resume_end(L, co, status, n_results, is_wrap);
}

static int co_resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int n_args = lua_gettop(L) - 1;
    if (!may_resume(L, co, n_args)) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    return start_or_go_on(L, co, n_args, false);
}

static int call_wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n_args = lua_gettop(L);
    if (!may_resume(L, co, n_args)) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
        return lua_error(L);
    }
    return start_or_go_on(L, co, n_args, true);
}

/* ---- the rest ---- */

static int body_end(lua_State *L, int status, lua_KContext ctx)
{
    (void)ctx;
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L);
    return lua_error(L);
}

/* A coroutine's function runs under a protected call: an error raised by the watchdog's hook leaves
 * hooks switched off in its coroutine until one catches it, and nothing could stop the <close>
 * variables then. So, unlike in plain Lua, an error closes them at once. */
static int body(lua_State *L)
{
    return body_end(L, lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 0, body_end), 0);
}

static int co_create(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    *qh_coro_mark_of(co) = (qh_coro_mark){0};
    lua_pushcfunction(co, body);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return 1;
}

static int co_wrap(lua_State *L)
{
    co_create(L);
    lua_pushcclosure(L, call_wrapped, 1);
    return 1;
}

static bool is_outside(lua_State *L)
{
    bool is_main = lua_pushthread(L);
    lua_pop(L, 1);
    return is_main || qh_coro_mark_of(L)->is_task;
}

static int co_yield(lua_State *L)
{
    if (is_outside(L)) return luaL_error(L, "attempt to yield from outside a coroutine");
    if (qh_coro_mark_of(L)->n_sorts)
        return luaL_error(L, "attempt to yield across a C-call boundary");
    qh_vm_of(L)->yield_kind = QH_YIELD_SCRIPT;
    return lua_yield(L, lua_gettop(L));
}

static int co_status_name(lua_State *L)
{
    static const char *const NAMES[] = {"suspended", "running", "normal", "dead"};
    lua_pushstring(L, NAMES[status_of(L, check_coroutine(L))]);
    return 1;
}

static int co_isyieldable(lua_State *L)
{
    lua_State *co = lua_isnone(L, 1) ? L : check_coroutine(L);
    lua_pushboolean(L, !is_outside(co) && !qh_coro_mark_of(co)->n_sorts && lua_isyieldable(co));
    return 1;
}

static int co_running(lua_State *L)
{
    int is_main = lua_pushthread(L) || qh_coro_mark_of(L)->is_task;
    lua_pushboolean(L, is_main);
    return 2;
}

static int co_close(lua_State *L)
{
    static const char *const NAMES[] = {NULL, "running", "normal", NULL};
    lua_State *co = check_coroutine(L);
    co_status s = status_of(L, co);
    if (s != SUSPENDED && s != DEAD) return luaL_error(L, "cannot close a %s coroutine", NAMES[s]);
    if (reset(L, co) == LUA_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    qh_task_rethrow(L);
    return 2;
}

int qh_coro_open(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {
        {"create", co_create}, {"resume", co_resume}, {"wrap", co_wrap}, {"yield", co_yield},
        {"status", co_status_name}, {"isyieldable", co_isyieldable}, {"running", co_running},
        {"close", co_close}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    return 1;
}
