/* dying.c - why a task ends before its time, and how its code is told */
#include "lua/vm/task_private.h"
#include <lauxlib.h>

const char *qh_task_reason(const qh_task *t)
{
    switch (t->dying) {
    case QH_TASK_CANCELLED: return "cancelled";
    case QH_TASK_CPU:
        return t->is_stuck ? "the script ran too long inside a function that cannot be interrupted"
                           : "the script ran too long without waiting";
    case QH_TASK_MEMORY:
        return t->is_deep ? "stack overflow: calls nested until memory was gone"
                          : "the script used too much memory";
    default: return "not enough memory";
    }
}

void qh_task_die(qh_task *t, qh_task_end why)
{
    if (t->dying) return;
    t->dying = why;
    t->grace_end_us = t->meter->cpu_us + QH_TASK_GRACE_US;
}

int qh_task_raise(lua_State *L, qh_task *t, int level)
{
    t->is_raised = true;
    luaL_where(L, level);
    lua_pushstring(L, qh_task_reason(t));
    lua_concat(L, 2);
    return lua_error(L);
}

bool qh_task_is_dying(const qh_task *t) { return t->dying != QH_TASK_OK; }

void qh_task_check_dying(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && t->dying) qh_task_raise(L, t, 1);
}

void qh_task_push_failure(lua_State *L, qh_task *t)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->failure_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, t->failure_ref);
    t->failure_ref = LUA_NOREF;
}

void qh_task_check(lua_State *L)
{
    qh_task_check_dying(L);
    qh_task *t = qh_task_running(L);
    if (!t || t->failure_ref == LUA_NOREF) return;
    qh_task_push_failure(L, t);
    lua_getfield(L, -1, "value");
    lua_error(L);
}

bool qh_task_must_raise(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    return t && (t->dying || t->failure_ref != LUA_NOREF);
}

int qh_task_rethrow(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && t->dying) return lua_error(L);
    return 0;
}

void qh_task_out_of_memory(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (!t) return;
    qh_task_die(t, QH_TASK_MEMORY);
    t->is_raised = true;
}
