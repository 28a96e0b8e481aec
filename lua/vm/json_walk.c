/* json_walk.c - see json_walk.h */
#include "lua/vm/json_walk.h"
#include "lua/vm/convert.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

qh_status qh_walk_fail(qh_json_walk *e, qh_status st, const char *what)
{
    const char *path = e->path_len ? e->path : "the value";
    return qh_fail(e->err, st, "%s: %s", path, what);
}

size_t qh_walk_key(qh_json_walk *e, qh_slice k)
{
    size_t old = e->path_len;
    int room = (int)(sizeof e->path - old);
    int len = k.len < 60 ? (int)k.len : 60;
    int n = snprintf(e->path + old, (size_t)room, "%s%.*s", old ? "." : "", len, k.data);
    e->path_len += (size_t)(n < room ? n : room - 1);
    return old;
}

size_t qh_walk_index(qh_json_walk *e, lua_Integer i)
{
    size_t old = e->path_len;
    int room = (int)(sizeof e->path - old);
    int n = snprintf(e->path + old, (size_t)room, "[%lld]", (long long)i);
    e->path_len += (size_t)(n < room ? n : room - 1);
    return old;
}

void qh_walk_back(qh_json_walk *e, size_t len)
{
    e->path_len = len;
    e->path[len] = 0;
}

/* Raw metafield of the table at t: pushes it, or nothing. */
static bool push_meta(lua_State *L, int t, const char *name)
{
    if (!lua_getmetatable(L, t)) return false;
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

qh_table_kind qh_walk_kind(lua_State *L, int t)
{
    if (push_meta(L, t, "__jsontype")) {
        bool is_array = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "array") == 0;
        lua_pop(L, 1);
        return is_array ? QH_TABLE_ARRAY : QH_TABLE_OBJECT;
    }
    bool is_array = lua_rawgeti(L, t, 1) != LUA_TNIL;
    lua_pop(L, 1);
    return is_array ? QH_TABLE_ARRAY : QH_TABLE_OBJECT;
}

static int compare_keys(const void *pa, const void *pb)
{
    const qh_slice *a = pa, *b = pb;
    size_t n = a->len < b->len ? a->len : b->len;
    int c = memcmp(a->data, b->data, n);
    return c ? c : a->len < b->len ? -1 : a->len > b->len;
}

void qh_key_list_deinit(qh_key_list *k)
{
    if (k->keys != k->fixed) free(k->keys);
}

static qh_status keys_add(qh_json_walk *e, qh_key_list *k, const char *s, size_t len)
{
    if (k->n == k->cap) {
        qh_slice *more = malloc(sizeof *more * (size_t)k->cap * 2);
        if (!more) return qh_walk_fail(e, QH_ENOMEM, "out of memory");
        memcpy(more, k->keys, sizeof *more * (size_t)k->n);
        qh_key_list_deinit(k);
        k->keys = more;
        k->cap *= 2;
    }
    k->keys[k->n++] = (qh_slice){s, len};
    return QH_OK;
}

static bool has_key(const qh_key_list *k, int n, const char *s, size_t len)
{
    for (int i = 0; i < n; i++)
        if (k->keys[i].data == s || (k->keys[i].len == len && memcmp(k->keys[i].data, s, len) == 0))
            return true;
    return false;
}

/* Keys that __jsonorder names and the table has. A longer list than this is not looked at: the
 * search for repeated keys is quadratic. */
enum { MAX_ORDERED_KEYS = 256 };

static qh_status add_ordered_keys(qh_json_walk *e, int t, qh_key_list *k)
{
    lua_State *L = e->L;
    if (e->is_sorted || !push_meta(L, t, "__jsonorder")) return QH_OK;
    qh_status st = QH_OK;
    if (lua_istable(L, -1)) {
        lua_Unsigned n = lua_rawlen(L, -1);
        if (n > MAX_ORDERED_KEYS) n = 0;
        for (lua_Unsigned i = 1; !st && i <= n; i++) {
            lua_rawgeti(L, -1, (lua_Integer)i);
            size_t len;
            bool is_string = lua_type(L, -1) == LUA_TSTRING;
            const char *s = is_string ? lua_tolstring(L, -1, &len) : NULL;
            bool is_new = is_string && !has_key(k, k->n, s, len);
            if (is_string && lua_rawget(L, t) != LUA_TNIL && is_new) st = keys_add(e, k, s, len);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
    return st;
}

qh_status qh_walk_keys(qh_json_walk *e, int t, qh_key_list *k)
{
    lua_State *L = e->L;
    *k = (qh_key_list){.cap = 32};
    k->keys = k->fixed;
    qh_status st = add_ordered_keys(e, t, k);
    int n_total = 0;
    for (lua_pushnil(L); !st && lua_next(L, t); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            st = qh_walk_fail(e, QH_EFORMAT, "an object may have string keys only");
            lua_pop(L, 2);
            return st;
        }
        n_total++;
    }
    if (st || n_total == k->n) return st;
    int n_ordered = k->n;
    for (lua_pushnil(L); !st && lua_next(L, t); lua_pop(L, 1)) {
        size_t len;
        const char *s = lua_tolstring(L, -2, &len);
        if (!has_key(k, n_ordered, s, len)) st = keys_add(e, k, s, len);
    }
    if (st) lua_settop(L, lua_gettop(L) - 1);   /* the loop popped the value, the key is left */
    else qsort(k->keys + n_ordered, (size_t)(k->n - n_ordered), sizeof *k->keys, compare_keys);
    return st;
}

/* Length of an array that has no other keys. */
qh_status qh_walk_array_len(qh_json_walk *e, int t, lua_Integer *n)
{
    lua_State *L = e->L;
    lua_Integer n_keys = 0;
    *n = (lua_Integer)lua_rawlen(L, t);
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1)) {
        if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1 || lua_tointeger(L, -2) > *n) {
            lua_pop(L, 2);
            return qh_walk_fail(e, QH_EFORMAT, "a list may have the keys 1..n only, without holes");
        }
        n_keys++;
    }
    if (n_keys != *n)
        return qh_walk_fail(e, QH_EFORMAT, "a list may have the keys 1..n only, without holes");
    return QH_OK;
}

qh_status qh_walk_enter(qh_json_walk *e)
{
    if (e->depth >= QH_JSON_MAX_DEPTH)
        return qh_walk_fail(e, QH_ELIMIT, "nested too deep, or within itself");
    if ((e->steps.left -= 8) <= 0 && qh_steps_are_over(e->L, &e->steps))
        return qh_walk_fail(e, QH_ELIMIT, "encoding it takes too long");
    if (!lua_checkstack(e->L, 12)) return qh_walk_fail(e, QH_ELIMIT, "Lua stack overflow");
    e->depth++;
    return QH_OK;
}

qh_status qh_walk_fail_type(qh_json_walk *e, int index)
{
    char what[80];
    snprintf(what, sizeof what, "a %s has no JSON form", luaL_typename(e->L, index));
    return qh_walk_fail(e, QH_EUNSUPPORTED, what);
}
