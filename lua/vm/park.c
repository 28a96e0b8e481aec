/* park.c - waiting: in line with others, or for one thing, and where nothing may wait */
#include "lua/vm/task_private.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <string.h>

/* ---- waiting in line ---- */

void qh_waiters_leave(qh_task *t)
{
    qh_waiters *w = t->waiters;
    if (!w) return;
    if (t->prev_waiter) t->prev_waiter->next_waiter = t->next_waiter;
    else w->first = t->next_waiter;
    if (t->next_waiter) t->next_waiter->prev_waiter = t->prev_waiter;
    else w->last = t->prev_waiter;
    t->waiters = NULL;
    t->prev_waiter = t->next_waiter = NULL;
}

static void join_waiters(qh_task *t, qh_waiters *w)
{
    qh_waiters_leave(t);
    t->waiters = w;
    t->prev_waiter = w->last;
    if (w->last) w->last->next_waiter = t;
    else w->first = t;
    w->last = t;
}

void qh_waiters_wake_one(qh_waiters *w)
{
    if (w->first) qh_task_wake(w->first);
}

void qh_waiters_wake_all(qh_waiters *w)
{
    while (w->first) qh_task_wake(w->first);
}

/* ---- waiting ---- */

int qh_task_fail_at_app(lua_State *L, const char *why, const char *what)
{
    qh_push_app_line(L);
    lua_pushfstring(L, "%s %s", what, why);
    lua_concat(L, 2);
    return lua_error(L);
}

/* "table.sort" for a function of a library, else nil. */
static void push_function_name(lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "f", ar);
    int f = lua_gettop(L);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (lua_pushnil(L); lua_next(L, f + 1); lua_pop(L, 1)) {
        if (!lua_istable(L, -1) || lua_type(L, -2) != LUA_TSTRING) continue;
        for (lua_pushnil(L); lua_next(L, f + 3); lua_pop(L, 1)) {
            if (!lua_rawequal(L, -1, f) || lua_type(L, -2) != LUA_TSTRING) continue;
            bool is_global = strcmp(lua_tostring(L, f + 2), LUA_GNAME) == 0;
            if (is_global) lua_pushvalue(L, -2);
            else lua_pushfstring(L, "%s.%s", lua_tostring(L, f + 2), lua_tostring(L, -2));
            lua_replace(L, f);
            lua_settop(L, f);
            return;
        }
    }
    lua_settop(L, f - 1);
    lua_pushnil(L);
}

static bool lets_wait_through(const char *name)
{
    static const char *const NAMES[] = {"pcall", "xpcall", "require"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(name, NAMES[i]) == 0) return true;
    return false;
}

/* The turn of others may come inside a comparison of table.sort; a wait may not. */
static bool can_wait(const qh_vm *vm, lua_State *L)
{
    for (int i = 0; i < vm->n_levels; i++)
        if (qh_coro_mark_of(vm->levels[i])->n_sorts) return false;
    return qh_task_can_yield(vm, L);
}

/* Raise "<what> cannot wait inside <C function>, <place>". */
static int fail_to_wait(lua_State *L, const char *what)
{
    lua_Debug ar;
    const char *inside = NULL;
    qh_vm *vm = qh_vm_of(L);
    for (int at = vm->n_levels - 1; at >= 0 && !inside; at--) {
        lua_State *co = vm->levels[at];
        if (lua_isyieldable(co) && !qh_coro_mark_of(co)->n_sorts) continue;
        for (int level = at == vm->n_levels - 1 ? 1 : 0; !inside && lua_getstack(co, level, &ar);
             level++) {
            lua_getinfo(co, "S", &ar);
            if (*ar.what != 'C') continue;
            luaL_checkstack(co, 8, NULL);
            push_function_name(co, &ar);
            const char *name = lua_tostring(co, -1);
            if (name && !lets_wait_through(name)) inside = lua_pushstring(L, name);
            if (co != L) lua_pop(co, 1);
        }
    }
    if (!inside) inside = "this function";
    qh_push_app_line(L);
    size_t n;
    const char *place = lua_tolstring(L, -1, &n);
    if (n) lua_pushfstring(L, "%s cannot wait inside %s, %s", what, inside, place);
    else lua_pushfstring(L, "%s cannot wait inside %s", what, inside);
    if (n) lua_pushlstring(L, lua_tostring(L, -1), lua_rawlen(L, -1) - 2);      /* without ": " */
    return lua_error(L);
}

void qh_task_may_park(lua_State *L, const char *what)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_check(L);
    if (!vm->running || !vm->opts.loop) qh_task_fail_at_app(L, "cannot wait here", what);
    if (vm->running->root->limits.is_pure) qh_task_fail_at_app(L, "cannot be used while the app loads", what);
    if (!can_wait(vm, L)) fail_to_wait(L, what);
}

qh_loop *qh_task_loop(lua_State *L) { return qh_vm_of(L)->opts.loop; }

int qh_task_park(lua_State *L, const char *what, lua_KContext ctx, lua_KFunction k)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_check_dying(L);
    if (!vm->running || !vm->opts.loop) return qh_task_fail_at_app(L, "cannot wait here", what);
    if (!can_wait(vm, L)) return fail_to_wait(L, what);
    vm->yield_kind = QH_YIELD_PARK;
    return lua_yieldk(L, 0, ctx, k);
}

int qh_task_wait(lua_State *L, qh_waiters *w, const char *what, lua_KContext ctx, lua_KFunction k)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_may_park(L, what);
    join_waiters(vm->running, w);
    vm->yield_kind = QH_YIELD_PARK;
    return lua_yieldk(L, 0, ctx, k);
}

bool qh_task_can_wait(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    return vm->running && !vm->running->dying && !vm->running->root->limits.is_pure &&
           can_wait(vm, L);
}
