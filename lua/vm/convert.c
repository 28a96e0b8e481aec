/* convert.c - null, and the marks of lists and objects; see convert.h */
#include "lua/vm/convert.h"

void qh_json_push_null(lua_State *L) { lua_pushlightuserdata(L, NULL); }

bool qh_json_is_null(lua_State *L, int index)
{
    return lua_islightuserdata(L, index) && !lua_touserdata(L, index);
}

static void mark(lua_State *L, const char *type)
{
    lua_createtable(L, 0, 1);
    lua_pushstring(L, type);
    lua_setfield(L, -2, "__jsontype");
    lua_setmetatable(L, -2);
}

void qh_json_mark_array(lua_State *L) { mark(L, "array"); }
void qh_json_mark_object(lua_State *L) { mark(L, "object"); }
