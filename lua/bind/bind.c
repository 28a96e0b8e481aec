/* bind.c - see bind.h */
#include "lua/bind/bind.h"
#include "lua/lua_private.h"
#include "lua/vm/module.h"
#include <lauxlib.h>

int qh_push_status(lua_State *L, qh_status st, const qh_err *err)
{
    lua_pushnil(L);
    lua_pushstring(L, err && err->msg[0] ? err->msg : qh_status_text(st));
    lua_pushstring(L, qh_status_name(st));
    return 3;
}

void qh_bind_class(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc)
{
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    if (gc) {
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

void qh_bind_base(lua_State *L)
{
    qh_bind_json(L);
    qh_bind_log(L);
    qh_bind_system(L);
    qh_bind_re(L);
    qh_bind_crypto(L);
    qh_bind_tasks(L);
    qh_bind_channel(L);
    qh_bind_metrics(L);
}

void qh_bind_host(lua_State *L)
{
    qh_bind_base(L);
    qh_bind_exchange(L);
    qh_bind_model(L);
    qh_bind_generation(L);
    qh_bind_background(L);
    qh_bind_policy(L);
    qh_bind_store(L);
    qh_bind_fetch(L);
    qh_bind_shared(L);
    qh_bind_topic(L);
    lua_pushboolean(L, qh_app_of(L)->lua->opts.is_dev);
    qh_module_bind(L, "is_dev");
    lua_pushboolean(L, qh_app_of(L)->lua->opts.is_test);
    qh_module_bind(L, "is_test");
    lua_pushboolean(L, !qh_app_of(L)->lua->serving);
    qh_module_bind(L, "is_first");
}
