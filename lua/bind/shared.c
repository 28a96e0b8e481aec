/* shared.c - the methods of a shared table; values are numbers, texts, booleans, and tables as JSON */
#include "lua/shared.h"
#include "base/str.h"
#include "lua/lua_private.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#define CLASS "qhost.Shared"
#define MAX_SECONDS (86400.0 * 365)
enum { DEFAULT_KEYS = 1000 };

static qh_shared *check(lua_State *L) { return *(qh_shared **)luaL_checkudata(L, 1, CLASS); }

static const char *check_key(lua_State *L, size_t *len)
{
    const char *key = luaL_checklstring(L, 2, len);
    luaL_argcheck(L, *len && *len <= QH_SHARED_MAX_KEY_BYTES, 2, "a key of 1 to 1024 bytes");
    return key;
}

/* Seconds at index as microseconds; otherwise when there are none. */
static int64_t opt_ttl(lua_State *L, int index, int64_t otherwise)
{
    if (lua_isnoneornil(L, index)) return otherwise;
    lua_Number s = luaL_checknumber(L, index);
    luaL_argcheck(L, s > 0 && s <= MAX_SECONDS, index, "seconds, more than 0, at most a year");
    return (int64_t)ceil(s * 1e6);
}

/* The text lives until the stack at index, or the VM's scratch, changes. */
static qh_shared_value to_value(lua_State *L, int index)
{
    qh_shared_value v = {0};
    qh_err err = {0};
    switch (lua_type(L, index)) {
    case LUA_TBOOLEAN:
        v.kind = QH_SHARED_BOOL;
        v.integer = lua_toboolean(L, index);
        return v;
    case LUA_TNUMBER:
        v.kind = lua_isinteger(L, index) ? QH_SHARED_INT : QH_SHARED_FLOAT;
        if (v.kind == QH_SHARED_INT) v.integer = lua_tointeger(L, index);
        else v.number = lua_tonumber(L, index);
        return v;
    case LUA_TSTRING:
        v.kind = QH_SHARED_TEXT;
        v.text = lua_tolstring(L, index, &v.len_bytes);
        return v;
    case LUA_TTABLE: {
        qh_str *out = qh_vm_scratch(L);
        if (qh_json_encode(L, index, false, out, &err)) luaL_error(L, "only plain data is shared: %s", err.msg);
        v.kind = QH_SHARED_JSON;
        v.text = qh_str_z(out);
        v.len_bytes = out->len;
        return v;
    }
    default:
        luaL_error(L, "only plain data is shared, not a %s", luaL_typename(L, index));
        return v;
    }
}

static void push_value(lua_State *L, const qh_shared_value *v)
{
    qh_err err = {0};
    if (!v) {
        lua_pushnil(L);
        return;
    }
    switch (v->kind) {
    case QH_SHARED_BOOL: lua_pushboolean(L, (int)v->integer); break;
    case QH_SHARED_INT: lua_pushinteger(L, v->integer); break;
    case QH_SHARED_FLOAT:
    case QH_SHARED_BUCKET: lua_pushnumber(L, v->number); break;
    case QH_SHARED_TEXT: lua_pushlstring(L, v->text, v->len_bytes); break;
    case QH_SHARED_JSON:
        if (qh_json_decode(L, v->text, v->len_bytes, &err)) luaL_error(L, "a shared table: %s", err.msg);
    }
}

static void store(lua_State *L, qh_shared *s, const char *key, size_t len, int index, int64_t ttl_us)
{
    qh_err err = {0};
    qh_shared_value v = to_value(L, index);
    if (qh_shared_set(s, key, len, &v, ttl_us, &err)) luaL_error(L, "%s", err.msg);
}

/* open(name, max_bytes?, is_evicting) */
static int open_table(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    lua_Integer max_bytes = luaL_optinteger(L, 2, 0);
    luaL_argcheck(L, len && len <= 100 && strlen(name) == len, 1, "a name of 1 to 100 bytes");
    luaL_argcheck(L, !max_bytes || (max_bytes >= 1024 && max_bytes <= QH_SHARED_MAX_BYTES), 2,
                  "from 1 KiB to 256 MiB");
    qh_shared *s;
    qh_err err = {0};
    if (qh_shareds_get(qh_app_of(L)->lua->shareds, name, (size_t)max_bytes, lua_toboolean(L, 3), &s, &err))
        return luaL_error(L, "%s", err.msg);
    *(qh_shared **)lua_newuserdatauv(L, sizeof s, 0) = s;
    luaL_setmetatable(L, CLASS);
    return 1;
}

/* get(key) -> value | nil */
static int get(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    push_value(L, qh_shared_get(s, key, len));
    return 1;
}

/* set(key, value, ttl?); nil: del */
static int set(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    int64_t ttl_us = opt_ttl(L, 4, 0);
    if (lua_isnoneornil(L, 3)) qh_shared_del(s, key, len);
    else store(L, s, key, len, 3, ttl_us);
    return 0;
}

/* add(key, value, ttl?) -> true | false: it is there already */
static int add(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    int64_t ttl_us = opt_ttl(L, 4, 0);
    bool is_there = qh_shared_get(s, key, len) != NULL;
    if (!is_there) store(L, s, key, len, 3, ttl_us);
    lua_pushboolean(L, !is_there);
    return 1;
}

/* incr(key, by?, ttl?) -> the new number; ttl counts from the first */
static int incr(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    if (lua_isnoneornil(L, 3)) lua_settop(L, 4), lua_pushinteger(L, 1), lua_replace(L, 3);
    luaL_checknumber(L, 3);
    int64_t ttl_us = opt_ttl(L, 4, 0);
    const qh_shared_value *old = qh_shared_get(s, key, len);
    if (old && old->kind != QH_SHARED_INT && old->kind != QH_SHARED_FLOAT)
        return luaL_error(L, "shared:incr: '%s' holds no number", key);
    if (old) push_value(L, old);
    else lua_pushinteger(L, 0);
    lua_pushvalue(L, 3);
    lua_arith(L, LUA_OPADD);
    store(L, s, key, len, lua_gettop(L), old ? -1 : ttl_us);
    return 1;
}

static bool is_equal(const qh_shared_value *a, const qh_shared_value *b)
{
    return a->kind == b->kind && a->integer == b->integer && !(a->number < b->number) &&
           !(a->number > b->number) && a->len_bytes == b->len_bytes &&
           (!a->len_bytes || !memcmp(a->text, b->text, a->len_bytes));
}

/* cas(key, old, new, ttl?) -> whether it held old (nil: nothing) and now holds new (nil: nothing) */
static int cas(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    lua_settop(L, 5);
    int64_t ttl_us = opt_ttl(L, 5, -1);
    const qh_shared_value *now = qh_shared_get(s, key, len);
    bool is_same = !now == lua_isnil(L, 3);
    if (is_same && now) {
        qh_shared_value want = to_value(L, 3);
        is_same = is_equal(now, &want);
    }
    if (is_same && lua_isnil(L, 4)) qh_shared_del(s, key, len);
    else if (is_same) store(L, s, key, len, 4, ttl_us);
    lua_pushboolean(L, is_same);
    return 1;
}

/* update(key, fn, ttl?) -> fn(value | nil), which is stored; nothing comes in between, so fn cannot
 * wait */
static int update(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    int64_t ttl_us = opt_ttl(L, 4, -1);
    lua_pushvalue(L, 3);
    push_value(L, qh_shared_get(s, key, len));
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) qh_shared_del(s, key, len);
    else store(L, s, key, len, lua_gettop(L), ttl_us);
    return 1;
}

static double rate_field(lua_State *L, const char *name, double otherwise)
{
    if (lua_getfield(L, 4, name) == LUA_TNIL && otherwise > 0) {
        lua_pop(L, 1);
        return otherwise;
    }
    double v = lua_tonumber(L, -1);
    if (!(v > 0 && v <= 1e15)) luaL_error(L, "shared:take: %s must be a positive number", name);
    lua_pop(L, 1);
    return v;
}

/* take(key, cost, {rate, per?, burst?}) -> is_taken, seconds to wait */
static int take(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    lua_Number cost = luaL_checknumber(L, 3);
    luaL_argcheck(L, cost >= 0 && cost <= 1e15, 3, "a number of tokens, not negative");
    luaL_checktype(L, 4, LUA_TTABLE);
    qh_shared_rate rate = {.rate = rate_field(L, "rate", 0)};
    rate.per_us = (int64_t)ceil(fmin(rate_field(L, "per", 1), MAX_SECONDS) * 1e6);
    rate.size = rate_field(L, "burst", rate.rate);
    bool is_taken;
    double wait_s;
    qh_err err = {0};
    if (qh_shared_take(s, key, len, cost, &rate, &is_taken, &wait_s, &err))
        return luaL_error(L, "shared:take: '%s': %s", key, err.msg);
    lua_pushboolean(L, is_taken);
    lua_pushnumber(L, wait_s);
    return 2;
}

/* settle(key, tokens): put back what was taken too much, or with a negative number take more */
static int settle(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    lua_Number tokens = luaL_checknumber(L, 3);
    luaL_argcheck(L, tokens >= -1e15 && tokens <= 1e15, 3, "a number of tokens");
    qh_shared_settle(s, key, len, tokens);
    return 0;
}

/* del(key) -> whether it was there */
static int del(lua_State *L)
{
    size_t len;
    qh_shared *s = check(L);
    const char *key = check_key(L, &len);
    lua_pushboolean(L, qh_shared_del(s, key, len));
    return 1;
}

/* keys(prefix?, limit?) -> keys, used most recently first */
static int keys(lua_State *L)
{
    size_t prefix_len, len, last_len = 0;
    qh_shared *s = check(L);
    const char *prefix = luaL_optlstring(L, 2, "", &prefix_len), *last = NULL;
    lua_Integer limit = luaL_optinteger(L, 3, DEFAULT_KEYS);
    luaL_argcheck(L, limit >= 1 && limit <= 100000, 3, "from 1 to 100000");
    qh_steps steps = qh_steps_begin("shared:keys");
    lua_newtable(L);
    for (lua_Integer n = 1; n <= limit; n++) {
        last = qh_shared_next(s, last, last_len, prefix, prefix_len, &len);
        if (!last) break;
        last_len = len;
        qh_steps_take(L, &steps, len + 16);
        lua_pushlstring(L, last, len);
        lua_rawseti(L, -2, n);
    }
    return 1;
}

void qh_bind_shared(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"get", get},       {"set", set},   {"add", add},       {"incr", incr},
                                       {"cas", cas},       {"take", take}, {"update", update}, {"settle", settle},
                                       {"del", del},       {"keys", keys}, {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"open", open_table}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, NULL);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "shared");
}
