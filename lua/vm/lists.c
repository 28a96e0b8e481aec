/* lists.c - see lists.h */
#include "lua/vm/lists.h"
#include "lua/vm/task.h"
#include <lauxlib.h>
#include <limits.h>
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

/* t[i] = t[i + from] for i in first..last, in the direction that copies each before it is
 * overwritten. */
static void shift(lua_State *L, qh_steps *steps, lua_Integer to, lua_Integer from, lua_Integer n,
                  bool is_upward)
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
    qh_steps steps = qh_steps_begin("table.insert");
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
    if (at != size)
        luaL_argcheck(L, (lua_Unsigned)at - 1u <= (lua_Unsigned)size, 2, "position out of bounds");
    lua_geti(L, 1, at);
    qh_steps steps = qh_steps_begin("table.remove");
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
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3),
                to = luaL_checkinteger(L, 4);
    int target = lua_isnoneornil(L, 5) ? 1 : 5;
    check_list(L, 1, READ);
    check_list(L, target, WRITE);
    if (last >= first) {
        luaL_argcheck(L, first > 0 || last < LUA_MAXINTEGER + first, 3,
                      "too many elements to move");
        luaL_argcheck(L, to <= LUA_MAXINTEGER - (last - first + 1) + 1, 4,
                      "destination wrap around");
        lua_Integer n = last - first + 1;
        bool is_upward =
            to > last || to <= first || (target != 1 && !lua_compare(L, 1, target, LUA_OPEQ));
        qh_steps steps = qh_steps_begin("table.move");
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
    lua_Integer i = luaL_optinteger(L, 3, 1),
                last = lua_isnoneornil(L, 4) ? luaL_len(L, 1) : luaL_checkinteger(L, 4);
    qh_steps steps = qh_steps_begin("table.concat");
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

/* ---- sort: quicksort, median of three (Sedgewick, "Implementing Quicksort programs", 1978) ----
 * Stack: 1 list, 2 comparison or nil. Its own loop over ranges, so that deep recursion cannot
 * happen: the larger part waits on a stack of at most one range for each halving. */

typedef struct {
    lua_State *L;
    qh_steps steps;
    bool counts;                /* a comparison in Lua has hooks of its own */
} sorter;

/* Whether the value at a stack index is less than the one at another. */
static bool is_less(sorter *s, int a, int b)
{
    lua_State *L = s->L;
    if (s->counts) qh_steps_take(L, &s->steps, 4);
    if (lua_isnil(L, 2)) {
        if (lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING) {
            size_t len_a = lua_rawlen(L, a), len_b = lua_rawlen(L, b);
            qh_steps_take(L, &s->steps, (len_a < len_b ? len_a : len_b) / 16);
        }
        return lua_compare(L, a, b, LUA_OPLT);
    }
    a = lua_absindex(L, a), b = lua_absindex(L, b);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

/* Pops two values: t[i] = the upper one, t[j] = the lower one. */
static void set_two(lua_State *L, lua_Integer i, lua_Integer j)
{
    lua_seti(L, 1, i);
    lua_seti(L, 1, j);
}

/* Put t[i] and t[j] in order, i < j. */
static void order_two(sorter *s, lua_Integer i, lua_Integer j)
{
    lua_State *L = s->L;
    lua_geti(L, 1, i);
    lua_geti(L, 1, j);
    if (is_less(s, -1, -2)) set_two(L, i, j);
    else lua_pop(L, 2);
}

/* Part t[low..high], whose ends are in order around t[high - 1], the pivot. Returns where the
 * pivot goes. */
static lua_Integer partition(sorter *s, lua_Integer low, lua_Integer high)
{
    lua_State *L = s->L;
    lua_Integer i = low, j = high - 1;
    lua_geti(L, 1, high - 1);
    for (;;) {
        while (lua_geti(L, 1, ++i), is_less(s, -1, -2)) {
            if (i == high - 1) luaL_error(L, "invalid order function for sorting");
            lua_pop(L, 1);
        }
        while (lua_geti(L, 1, --j), is_less(s, -3, -1)) {
            if (j < i) luaL_error(L, "invalid order function for sorting");
            lua_pop(L, 1);
        }
        if (j < i) break;
        set_two(L, i, j);                       /* t[j] to i, t[i] to j */
    }
    lua_pop(L, 3);
    lua_geti(L, 1, high - 1);
    lua_geti(L, 1, i);
    set_two(L, high - 1, i);
    return i;
}

static void sort_ranges(sorter *s, lua_Integer n)
{
    struct {
        lua_Integer low, high;
    } waiting[64];
    int n_waiting = 0;
    lua_Integer low = 1, high = n;
    for (;;) {
        while (low < high) {
            order_two(s, low, high);
            if (high - low == 1) break;
            lua_Integer mid = low + (high - low) / 2;
            order_two(s, low, mid);
            order_two(s, mid, high);
            if (high - low == 2) break;
            lua_geti(s->L, 1, mid);
            lua_geti(s->L, 1, high - 1);
            set_two(s->L, mid, high - 1);
            lua_Integer at = partition(s, low, high);
            bool is_left_larger = at - low > high - at;
            waiting[n_waiting].low = is_left_larger ? low : at + 1;
            waiting[n_waiting++].high = is_left_larger ? at - 1 : high;
            if (is_left_larger) low = at + 1;
            else high = at - 1;
        }
        if (!n_waiting) return;
        n_waiting--;
        low = waiting[n_waiting].low;
        high = waiting[n_waiting].high;
    }
}

int qh_table_sort(lua_State *L)
{
    check_list(L, 1, READ | WRITE | LENGTH);
    lua_Integer n = luaL_len(L, 1);
    if (n < 2) return 0;
    luaL_argcheck(L, n < INT_MAX, 1, "array too big");
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    luaL_checkstack(L, 10, NULL);
    sorter s = {L, qh_steps_begin("table.sort"), lua_isnil(L, 2) || lua_iscfunction(L, 2)};
    sort_ranges(&s, n);
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
    if (piece < s_len || piece > MAX_REP_BYTES / (size_t)n)
        return luaL_error(L, "resulting string too large");
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
