/* json.c - qh.json: encode, decode, null, array, object */
#include "lua/bind/bind.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include <lauxlib.h>

static int decode_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_err err = {0};
    qh_task_check(L);
    qh_status st = qh_json_decoder_go_on((qh_json_decoder *)ctx, &err);
    if (st == QH_AGAIN) return qh_task_pause(L, ctx, decode_go_on);
    return st ? qh_push_status(L, st, &err) : 1;
}

/* decode(text) -> value | nil, message, "EFORMAT". Others get their turns meanwhile. */
static int decode(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    lua_settop(L, 1);
    return decode_go_on(L, LUA_OK, (lua_KContext)qh_json_decoder_push(L, text, len, true));
}

/* encode(value, {sorted = true}?) -> text | nil, message, name */
static int encode(lua_State *L)
{
    luaL_checkany(L, 1);
    bool is_sorted = false;
    if (lua_istable(L, 2)) {
        lua_getfield(L, 2, "sorted");
        is_sorted = lua_toboolean(L, -1);
    }
    qh_err err = {0};
    qh_str *out = qh_vm_scratch(L);
    qh_status st = qh_json_encode(L, 1, is_sorted, out, &err);
    if (st) return qh_push_status(L, st, &err);
    lua_pushlstring(L, qh_str_z(out), out->len);
    return 1;
}

/* array(t?) -> t, which is written as a list even when it is empty */
static int array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) lua_newtable(L);
    else luaL_checktype(L, 1, LUA_TTABLE), lua_settop(L, 1);
    qh_json_mark_array(L);
    return 1;
}

/* object(t?, keys?) -> t, which is written as an object, its keys in that order */
static int object(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_isnil(L, 1)) lua_newtable(L), lua_replace(L, 1);
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
    lua_createtable(L, 0, 2);
    lua_pushliteral(L, "object");
    lua_setfield(L, -2, "__jsontype");
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "__jsonorder");
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
}

void qh_bind_json(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {
        {"decode", decode}, {"encode", encode}, {"array", array}, {"object", object}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_json_push_null(L);
    lua_setfield(L, -2, "null");
    qh_module_bind(L, "json");
}
