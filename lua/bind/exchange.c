/* exchange.c - see exchange.h */
#include "lua/bind/exchange.h"
#include <lauxlib.h>
#include <string.h>
#include <strings.h>

#define CLASS "qhost.exchange"
enum { MAX_FIELDS = 100 };

qh_exchange_box *qh_exchange_push(lua_State *L, qh_exchange *x)
{
    qh_exchange_box *b = lua_newuserdatauv(L, sizeof *b, 1);
    *b = (qh_exchange_box){.x = x};
    luaL_setmetatable(L, CLASS);
    return b;
}

void qh_exchange_box_close(qh_exchange_box *b)
{
    qh_exchange *x = b->x;
    b->x = NULL;
    qh_waiters_wake_all(&b->waiters);
    qh_exchange_unref(x);
}

void qh_exchange_box_wake(void *box)
{
    qh_exchange_box *b = box;
    qh_waiters_wake_all(&b->waiters);
}

static qh_exchange_box *check(lua_State *L)
{
    qh_exchange_box *b = luaL_checkudata(L, 1, CLASS);
    if (!b->x) luaL_error(L, "this request is over");
    return b;
}

/* ---- the request ---- */

static int method(lua_State *L) { return lua_pushstring(L, qh_exchange_method(check(L)->x)), 1; }
static int path(lua_State *L) { return lua_pushstring(L, qh_exchange_path(check(L)->x)), 1; }
static int query(lua_State *L) { return lua_pushstring(L, qh_exchange_query(check(L)->x)), 1; }
static int id(lua_State *L) { return lua_pushstring(L, qh_exchange_id(check(L)->x)), 1; }
static int peer(lua_State *L) { return lua_pushstring(L, qh_exchange_peer(check(L)->x)), 1; }
static int is_begun(lua_State *L)
{
    return lua_pushboolean(L, qh_exchange_is_begun(check(L)->x)), 1;
}

/* start() -> seconds of the monotonic clock when the head was complete */
static int start(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)qh_exchange_start_us(check(L)->x) / 1e6);
    return 1;
}

/* header(name) -> the first of that name | nil */
static int header(lua_State *L)
{
    lua_pushstring(L, qh_exchange_header(check(L)->x, luaL_checkstring(L, 2)));
    return 1;
}

/* headers() -> {{name, value}, ...} */
static int headers(lua_State *L)
{
    qh_exchange *x = check(L)->x;
    int n = qh_exchange_n_headers(x);
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        qh_http_field f = qh_exchange_header_at(x, i);
        lua_createtable(L, 2, 0);
        lua_pushstring(L, f.name);
        lua_rawseti(L, -2, 1);
        lua_pushstring(L, f.value);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int body_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    qh_exchange_box *b = check(L);
    if (!b->is_body_there && qh_exchange_is_closed(b->x))
        return luaL_error(L, "the client left before its body came");
    if (!b->is_body_there) return qh_task_wait(L, &b->waiters, "req:text", ctx, body_go_on);
    size_t len;
    const char *data = qh_exchange_body(b->x, &len);
    lua_pushlstring(L, data, len);
    return 1;
}

static void body_there(void *user)
{
    qh_exchange_box *b = user;
    b->is_body_there = true;
    qh_exchange_box_wake(b);
}

/* body(max_bytes?) (y) -> string. A body that is too large or does not come ends the request. */
static int body(lua_State *L)
{
    qh_exchange_box *b = check(L);
    lua_Integer max_bytes = luaL_optinteger(L, 2, 0);
    luaL_argcheck(L, max_bytes >= 0, 2, "a number of bytes");
    if (!b->is_body_asked) {
        qh_task_may_park(L, "req:text");
        b->is_body_asked = true;
        qh_exchange_read_body(b->x, max_bytes, body_there);
    }
    return body_go_on(L, LUA_OK, 0);
}

/* ---- the reply ---- */

/* Fields at index, {{name, value}, ...}; their strings stay on the stack of Lua, anchored by the
 * table. */
static int read_fields(lua_State *L, int index, qh_http_field *out, bool *is_sse)
{
    if (lua_isnoneornil(L, index)) return 0;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_Unsigned n = lua_rawlen(L, index);
    if (n > MAX_FIELDS) luaL_error(L, "more than %d headers", MAX_FIELDS);
    for (int i = 0; i < (int)n; i++) {
        const char *text[2];
        lua_rawgeti(L, index, i + 1);
        if (!lua_istable(L, -1)) luaL_error(L, "header %d is no {name, value}", i + 1);
        for (int k = 0; k < 2; k++) {
            size_t len;
            if (lua_rawgeti(L, -1, k + 1) != LUA_TSTRING)
                luaL_error(L, "header %d is no {name, value}", i + 1);
            text[k] = lua_tolstring(L, -1, &len);
            if (strlen(text[k]) != len) luaL_error(L, "header %d holds a NUL byte", i + 1);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
        out[i] = (qh_http_field){text[0], text[1]};
        if (strcasecmp(text[0], "content-type") == 0 &&
            strncasecmp(text[1], "text/event-stream", 17) == 0)
            *is_sse = true;
    }
    return (int)n;
}

static int check_code(lua_State *L)
{
    lua_Integer code = luaL_checkinteger(L, 2);
    luaL_argcheck(L, code >= 200 && code <= 599, 2, "a status from 200 to 599");
    return (int)code;
}

/* A closed exchange is no error here: its task is about to be cancelled. */
static int check_reply(lua_State *L, qh_status st)
{
    if (st == QH_EINVAL)
        return luaL_error(L, "the reply was begun before, or its status or a header is malformed");
    lua_pushboolean(L, st == QH_OK);
    return 1;
}

/* reply(status, fields, body): a whole one */
static int reply(lua_State *L)
{
    qh_exchange_box *b = check(L);
    qh_http_field fields[MAX_FIELDS];
    bool is_sse = false;
    size_t len;
    int code = check_code(L), n = read_fields(L, 3, fields, &is_sse);
    const char *data = luaL_optlstring(L, 4, "", &len);
    qh_status st = qh_exchange_reply(b->x, code, fields, n, data, len);
    if (!st) b->is_finished = true;
    return check_reply(L, st);
}

/* begin(status, fields): pieces follow */
static int begin(lua_State *L)
{
    qh_exchange_box *b = check(L);
    qh_http_field fields[MAX_FIELDS];
    int code = check_code(L), n = read_fields(L, 3, fields, &b->is_sse);
    return check_reply(L, qh_exchange_begin(b->x, code, fields, n));
}

static int write_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    qh_exchange_box *b = check(L);
    size_t len;
    const char *data = lua_tolstring(L, 2, &len);
    qh_status st = qh_exchange_write(b->x, data, len);
    if (st == QH_AGAIN) return qh_task_wait(L, &b->waiters, "res:write", ctx, write_go_on);
    lua_pushboolean(L, st == QH_OK);
    return 1;
}

/* write(data) (y): waits while the client is slow */
static int write_piece(lua_State *L)
{
    qh_exchange_box *b = check(L);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    if (b->is_finished || !qh_exchange_is_begun(b->x))
        return luaL_error(L, b->is_finished ? "the reply has ended" : "the reply has not begun");
    return write_go_on(L, LUA_OK, 0);
}

static int finish(lua_State *L)
{
    qh_exchange_box *b = check(L);
    b->is_finished = true;
    lua_pushboolean(L, qh_exchange_end(b->x) == QH_OK);
    return 1;
}

/* abort(): what was written goes out, then the connection is cut without an end mark */
static int abort_reply(lua_State *L)
{
    qh_exchange_box *b = check(L);
    b->is_finished = true;
    qh_exchange_abort(b->x);
    return 0;
}

/* tag(key, value): onto the access-log line */
/* add_field(name, value): for whatever reply comes. The library checks its words; what a client sent
 * is a valid value already. */
static int add_field(lua_State *L)
{
    qh_exchange_add_field(check(L)->x, luaL_checkstring(L, 2), luaL_checkstring(L, 3));
    return 0;
}

static int tag(lua_State *L)
{
    qh_exchange_box *b = check(L);
    const char *key = luaL_checkstring(L, 2), *value = luaL_checkstring(L, 3);
    size_t n = strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    luaL_argcheck(L, n && !key[n] && n <= 40, 2,
                  "a key is up to 40 letters, digits, '_', '.' and '-'");
    qh_exchange_tag(b->x, key, value);
    return 0;
}

int qh_exchange_push_on_abort(lua_State *L)
{
    return lua_getiuservalue(L, -1, 1) == LUA_TTABLE ? (int)lua_rawlen(L, -1) : 0;
}

/* on_abort(fn): call it when the client leaves before it has its reply */
static int on_abort(lua_State *L)
{
    check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    int n = qh_exchange_push_on_abort(L);
    if (n >= MAX_FIELDS) luaL_error(L, "more than %d functions for when the client leaves", n);
    if (!n) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, 1);
    }
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, n + 1);
    return 0;
}

/* outlive(): the task goes on when the client leaves */
static int outlive(lua_State *L)
{
    check(L)->outlives = true;
    return 0;
}

void qh_bind_exchange(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"method", method},
                                       {"path", path},
                                       {"query", query},
                                       {"id", id},
                                       {"peer", peer},
                                       {"start", start},
                                       {"header", header},
                                       {"headers", headers},
                                       {"body", body},
                                       {"is_begun", is_begun},
                                       {"reply", reply},
                                       {"begin", begin},
                                       {"write", write_piece},
                                       {"finish", finish},
                                       {"abort", abort_reply},
                                       {"tag", tag},
                                       {"add_field", add_field},
                                       {"on_abort", on_abort},
                                       {"outlive", outlive},
                                       {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, NULL);
}
