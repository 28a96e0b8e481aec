/* lists.c - see lists.h */
#include "lua/vm/lists.h"
#include "lua/vm/task.h"
#include <lauxlib.h>
#include <string.h>

enum { READ = 1, WRITE = 2, LENGTH = 4 };
enum { MAX_REP_BYTES = 1 << 30 };     /* beyond every VM's memory */

static bool has_metafield(lua_State *L, int index, const char *name)
{
    if (luaL_getmetafield(L, index, name) == LUA_TNIL) return false;
    lua_pop(L, 1);
    return true;
}

/* A table, or anything that behaves like one as far as needed. */
static void check_list(lua_State *L, int index, int needs)
{
    if (lua_istable(L, index)) return;
    bool is_one = (!(needs & READ) || has_metafield(L, index, "__index")) &&
                  (!(needs & WRITE) || has_metafield(L, index, "__newindex")) &&
                  (!(needs & LENGTH) || has_metafield(L, index, "__len"));
    if (!is_one) luaL_checktype(L, index, LUA_TTABLE);
}

/* t[i] = t[i + from] for i in first..last, in the direction that copies each before it is overwritten. */
static void shift(lua_State *L, qh_steps *steps, lua_Integer to, lua_Integer from, lua_Integer n, bool is_upward)
{
    for (lua_Integer k = 0; k < n; k++) {
        lua_Integer i = is_upward ? k : n - 1 - k;
        qh_steps_take(L, steps, 4);
        lua_geti(L, 1, from + i);
        lua_seti(L, 1, to + i);
    }
}

int qh_table_insert(lua_State *L)
{
    check_list(L, 1, READ | WRITE | LENGTH);
    lua_Integer end = (lua_Integer)((lua_Unsigned)luaL_len(L, 1) + 1), at = end;
    qh_steps steps = qh_steps_begin(L, "table.insert");
    switch (lua_gettop(L)) {
    case 2: break;
    case 3:
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, (lua_Unsigned)at - 1u < (lua_Unsigned)end, 2, "position out of bounds");
        shift(L, &steps, at + 1, at, end - at, false);
        break;
    default: return luaL_error(L, "wrong number of arguments to 'insert'");
    }
    lua_seti(L, 1, at);
    return 0;
}

int qh_table_remove(lua_State *L)
{
    check_list(L, 1, READ | WRITE | LENGTH);
    lua_Integer size = luaL_len(L, 1), at = luaL_optinteger(L, 2, size);
    if (at != size) luaL_argcheck(L, (lua_Unsigned)at - 1u <= (lua_Unsigned)size, 2, "position out of bounds");
    lua_geti(L, 1, at);
    qh_steps steps = qh_steps_begin(L, "table.remove");
    if (at < size) {
        shift(L, &steps, at, at + 1, size - at, true);
        at = size;
    }
    lua_pushnil(L);
    lua_seti(L, 1, at);
    return 1;
}

int qh_table_move(lua_State *L)
{
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    int target = lua_isnoneornil(L, 5) ? 1 : 5;
    check_list(L, 1, READ);
    check_list(L, target, WRITE);
    if (last >= first) {
        luaL_argcheck(L, first > 0 || last < LUA_MAXINTEGER + first, 3, "too many elements to move");
        luaL_argcheck(L, to <= LUA_MAXINTEGER - (last - first + 1) + 1, 4, "destination wrap around");
        lua_Integer n = last - first + 1;
        bool is_upward = to > last || to <= first || (target != 1 && !lua_compare(L, 1, target, LUA_OPEQ));
        qh_steps steps = qh_steps_begin(L, "table.move");
        for (lua_Integer k = 0; k < n; k++) {
            lua_Integer i = is_upward ? k : n - 1 - k;
            qh_steps_take(L, &steps, 4);
            lua_geti(L, 1, first + i);
            lua_seti(L, target, to + i);
        }
    }
    lua_pushvalue(L, target);
    return 1;
}

static void add_item(lua_State *L, luaL_Buffer *b, lua_Integer i)
{
    lua_geti(L, 1, i);
    if (!lua_isstring(L, -1))
        luaL_error(L, "invalid value (at index %I) in table for 'concat'", (LUAI_UACINT)i);
    luaL_addvalue(b);
}

int qh_table_concat(lua_State *L)
{
    size_t len;
    check_list(L, 1, READ | LENGTH);
    const char *between = luaL_optlstring(L, 2, "", &len);
    lua_Integer i = luaL_optinteger(L, 3, 1), last = lua_isnoneornil(L, 4) ? luaL_len(L, 1) : luaL_checkinteger(L, 4);
    qh_steps steps = qh_steps_begin(L, "table.concat");
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (; i < last; i++) {
        qh_steps_take(L, &steps, 4);
        add_item(L, &b, i);
        luaL_addlstring(&b, between, len);
    }
    if (i == last) add_item(L, &b, i);
    luaL_pushresult(&b);
    return 1;
}

/* ---- sort: the plain one, with a comparison that counts ----
 * upvalues: the script's comparison or nil, qh_steps */

static int count_and_compare(lua_State *L)
{
    qh_steps *steps = lua_touserdata(L, lua_upvalueindex(2));
    bool is_lua = lua_isfunction(L, lua_upvalueindex(1)) && !lua_iscfunction(L, lua_upvalueindex(1));
    if (!is_lua) qh_steps_take(L, steps, 8);    /* hooks fire in a function of Lua */
    if (lua_isnil(L, lua_upvalueindex(1))) {
        if (lua_type(L, 1) == LUA_TSTRING && lua_type(L, 2) == LUA_TSTRING) {
            size_t a = lua_rawlen(L, 1), b = lua_rawlen(L, 2);
            qh_steps_take(L, steps, (a < b ? a : b) / 16);
        }
        lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
        return 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

int qh_table_sort(lua_State *L)
{
    check_list(L, 1, READ | WRITE | LENGTH);
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);                           /* sort, list, comparison */
    qh_steps *steps = lua_newuserdatauv(L, sizeof *steps, 0);
    *steps = qh_steps_begin(L, "table.sort");
    lua_pushcclosure(L, count_and_compare, 2);
    lua_call(L, 2, 0);
    return 0;
}

/* ---- string.rep ---- */

int qh_string_rep(lua_State *L)
{
    size_t s_len, sep_len;
    const char *s = luaL_checklstring(L, 1, &s_len);
    lua_Integer n = luaL_checkinteger(L, 2);
    const char *sep = luaL_optlstring(L, 3, "", &sep_len);
    size_t piece = s_len + sep_len;
    if (n <= 0 || piece == 0) return lua_pushliteral(L, ""), 1;
    if (piece < s_len || piece > MAX_REP_BYTES / (size_t)n) return luaL_error(L, "resulting string too large");
    size_t total = piece * (size_t)n - sep_len;
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, total);
    /* one piece, then what is there doubled: few large copies instead of many small ones */
    memcpy(out, s, s_len);
    if (n > 1) {
        memcpy(out + s_len, sep, sep_len);
        for (size_t done = piece; done < total; done *= 2) {
            size_t more = total - done < done ? total - done : done;
            memcpy(out + done, out, more);
        }
    }
    luaL_pushresultsize(&b, total);
    return 1;
}
