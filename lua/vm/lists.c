/* lists.c - see lists.h */
#include "lua/vm/lists.h"
#include "lua/vm/task.h"
#include "lua/vm/vm_private.h"
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
 *
 * A state machine, one comparison a step, so that it can be left for the turns of others and gone on
 * with: between two comparisons, and inside a comparison function in Lua. Stack: 1 list, 2 comparison
 * or nil, 3 the sorter, 4 the pivot, then the two values at hand: each step asks whether the upper is
 * less than the lower. Deep recursion cannot happen: the larger part of a range waits, at most one
 * for each halving. */

typedef enum { ENDS, FIRST_MID, MID_LAST, FROM_LEFT, FROM_RIGHT } sort_stage;
enum { LIST = 1, COMPARISON, SORTER, PIVOT };

typedef struct {
    qh_steps steps;
    sort_stage stage;
    lua_Integer low, high, mid, i, j;
    int n_waiting;
    struct {
        lua_Integer low, high;
    } waiting[64];
} sorter;

static void push_two(lua_State *L, lua_Integer i, lua_Integer j)
{
    lua_geti(L, LIST, i);
    lua_geti(L, LIST, j);
}

/* Pops two values: t[i] = the upper one, t[j] = the lower one. */
static void set_two(lua_State *L, lua_Integer i, lua_Integer j)
{
    lua_seti(L, LIST, i);
    lua_seti(L, LIST, j);
}

static void order_two(lua_State *L, bool is_less, lua_Integer i, lua_Integer j)
{
    if (is_less) set_two(L, i, j);
    else lua_pop(L, 2);
}

static void look_left(lua_State *L, sorter *s)
{
    s->stage = FROM_LEFT;
    lua_pushvalue(L, PIVOT);
    lua_geti(L, LIST, ++s->i);
}

static void look_right(lua_State *L, sorter *s)
{
    s->stage = FROM_RIGHT;
    lua_geti(L, LIST, --s->j);
    lua_pushvalue(L, PIVOT);
}

/* The next range with something to order; false: there is none. Pushes its first two values. */
static bool begin_range(lua_State *L, sorter *s)
{
    while (s->low >= s->high) {
        if (!s->n_waiting) return false;
        s->n_waiting--;
        s->low = s->waiting[s->n_waiting].low;
        s->high = s->waiting[s->n_waiting].high;
    }
    s->stage = ENDS;
    push_two(L, s->low, s->high);
    return true;
}

/* The ends are in order around t[mid], which becomes the pivot at high - 1. */
static void begin_partition(lua_State *L, sorter *s)
{
    lua_geti(L, LIST, s->mid);
    lua_copy(L, -1, PIVOT);
    lua_geti(L, LIST, s->high - 1);
    set_two(L, s->mid, s->high - 1);
    s->i = s->low;
    s->j = s->high - 1;
    look_left(L, s);
}

/* The pivot goes to t[i]; the smaller part is next. */
static bool end_partition(lua_State *L, sorter *s)
{
    lua_Integer at = s->i;
    push_two(L, s->high - 1, at);
    set_two(L, s->high - 1, at);
    bool is_left_larger = at - s->low > s->high - at;
    s->waiting[s->n_waiting].low = is_left_larger ? s->low : at + 1;
    s->waiting[s->n_waiting++].high = is_left_larger ? at - 1 : s->high;
    if (is_left_larger) s->low = at + 1;
    else s->high = at - 1;
    return begin_range(L, s);
}

/* Take the answer about the two values on top, and pop them; push the next two. False: sorted. */
static bool step(lua_State *L, sorter *s, bool is_less)
{
    switch (s->stage) {
    case ENDS:
        order_two(L, is_less, s->low, s->high);
        s->mid = s->low + (s->high - s->low) / 2;
        if (s->high - s->low == 1) {
            s->low = s->high;
            return begin_range(L, s);
        }
        s->stage = FIRST_MID;
        push_two(L, s->low, s->mid);
        return true;
    case FIRST_MID:
        order_two(L, is_less, s->low, s->mid);
        s->stage = MID_LAST;
        push_two(L, s->mid, s->high);
        return true;
    case MID_LAST:
        order_two(L, is_less, s->mid, s->high);
        if (s->high - s->low == 2) {
            s->low = s->high;
            return begin_range(L, s);
        }
        begin_partition(L, s);
        return true;
    case FROM_LEFT:
        lua_pop(L, 2);
        if (is_less && s->i == s->high - 1)
            return luaL_error(L, "invalid order function for sorting");
        if (is_less) look_left(L, s);
        else look_right(L, s);
        return true;
    default:
        lua_pop(L, 2);
        if (is_less && s->j < s->i) return luaL_error(L, "invalid order function for sorting");
        if (is_less) {
            look_right(L, s);
            return true;
        }
        if (s->j < s->i) return end_partition(L, s);
        push_two(L, s->i, s->j);
        set_two(L, s->i, s->j);                 /* t[j] to i, t[i] to j */
        look_left(L, s);
        return true;
    }
}

/* Whether the value on top is less than the one below, without a function. */
static bool compare_plainly(lua_State *L, sorter *s)
{
    qh_steps_take(L, &s->steps, 4);
    if (lua_type(L, -1) == LUA_TSTRING && lua_type(L, -2) == LUA_TSTRING) {
        size_t len_a = lua_rawlen(L, -1), len_b = lua_rawlen(L, -2);
        qh_steps_take(L, &s->steps, (len_a < len_b ? len_a : len_b) / 16);
    }
    return lua_compare(L, -1, -2, LUA_OPLT);
}

static bool take_answer(lua_State *L)
{
    bool yes = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return yes;
}

static int go_on(lua_State *L, int status, lua_KContext ctx);

static int sort_rest(lua_State *L, sorter *s, bool has_answer)
{
    bool is_plain = lua_isnil(L, COMPARISON), counts = is_plain || lua_iscfunction(L, COMPARISON);
    bool is_more = true;
    while (is_more) {
        if (!has_answer && counts && qh_steps_want_pause(L, &s->steps)) {
            s->steps = qh_steps_begin("table.sort");
            return qh_task_pause(L, 1, go_on);
        }
        if (!has_answer && !is_plain) {
            if (counts) qh_steps_take(L, &s->steps, 4);     /* one in Lua has hooks of its own */
            lua_pushvalue(L, COMPARISON);
            lua_pushvalue(L, -2);
            lua_pushvalue(L, -4);
            lua_callk(L, 2, 1, 0, go_on);
        }
        is_more = step(L, s, is_plain ? compare_plainly(L, s) : take_answer(L));
        has_answer = false;
    }
    qh_coro_mark_of(L)->n_sorts--;
    return 0;
}

/* ctx 1: its turn was over between two comparisons; 0: one has returned. */
static int go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    return sort_rest(L, lua_touserdata(L, SORTER), ctx == 0);
}

int qh_table_sort(lua_State *L)
{
    check_list(L, 1, READ | WRITE | LENGTH);
    lua_Integer n = luaL_len(L, 1);
    if (n < 2) return 0;
    luaL_argcheck(L, n < INT_MAX, 1, "array too big");
    if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    luaL_checkstack(L, 12, NULL);
    sorter *s = lua_newuserdatauv(L, sizeof *s, 0);
    *s = (sorter){.steps = qh_steps_begin("table.sort"), .low = 1, .high = n};
    lua_pushnil(L);                             /* no pivot yet */
    qh_coro_mark_of(L)->n_sorts++;              /* an error takes it back where it is caught */
    begin_range(L, s);
    return sort_rest(L, s, false);
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
