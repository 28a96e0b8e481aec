/* failure.c - what is kept of an error: a record with the place where it was raised */
#include "lua/vm/task_private.h"
#include <lauxlib.h>

static int to_text(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* Records carry a metatable that scripts cannot have, so no table of theirs is taken for one. */
static const char RECORD_KEY;

bool qh_record_is(lua_State *L, int index)
{
    if (!lua_istable(L, index) || !lua_getmetatable(L, index)) return false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &RECORD_KEY);
    bool yes = lua_istable(L, -1) && lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return yes;
}

/* The table on top. Privileged. */
static void mark_record(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &RECORD_KEY) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_createtable(L, 0, 1);
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &RECORD_KEY);
    }
    lua_setmetatable(L, -2);
}

enum { SHOWN_CALLS = 20, LISTED_CALLS = 2000 };

void qh_push_trace(lua_State *L, const char *message)
{
    lua_Debug ar;
    if (!lua_getstack(L, LISTED_CALLS, &ar)) {
        luaL_traceback(L, L, message, 1);
        return;
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, message ? message : "");
    luaL_addstring(&b, message ? "\nstack traceback:" : "stack traceback:");
    for (int level = 1; level <= SHOWN_CALLS && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        lua_pushfstring(L, "\n\t%s:%d:", ar.short_src, ar.currentline);
        luaL_addvalue(&b);
    }
    luaL_addstring(&b, "\n\t...\t(more calls than are counted)");
    luaL_pushresult(&b);
}

/* error value -> {message, trace, value}. Runs where the error was raised. */
int qh_error_record(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    lua_settop(L, 1);
    if (qh_record_is(L, 1)) return 1;              /* made by an inner handler: keep the first place */
    lua_pushcfunction(L, to_text);              /* __tostring is the script's, and may fail */
    lua_pushvalue(L, 1);
    bool is_text = lua_pcall(L, 1, 1, 0) == LUA_OK;
    qh_vm_privileged_begin(vm);
    if (!is_text)
        lua_pop(L, 1), lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    lua_createtable(L, 0, 3);
    qh_push_trace(L, lua_tostring(L, -2));
    lua_setfield(L, -2, "trace");
    lua_insert(L, -2);
    lua_setfield(L, -2, "message");
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "value");
    mark_record(L);
    qh_vm_privileged_end(vm);
    return 1;
}

void qh_record_push_plain(lua_State *L, const char *message)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, message);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "value");
    lua_setfield(L, -2, "message");
    mark_record(L);
}
