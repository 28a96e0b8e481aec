/* channel.c - a bounded queue of values between tasks: qh.channel.
 *
 * A full channel holds its senders back, an empty one its receivers; each wakes the one that waits
 * longest. Whoever is woken and then dies passes the word on, so that none is lost. The values are
 * in a ring in the user value. */
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include <lauxlib.h>

#define CLASS "qhost.Channel"
enum { RING = 1, MAX_SIZE = 65536 };

typedef struct {
    int size, n_items, first;
    bool is_closed;
    qh_waiters senders, receivers;
} channel;

static channel *check(lua_State *L) { return luaL_checkudata(L, 1, CLASS); }

/* channel(size) */
static int new_channel(lua_State *L)
{
    lua_Integer size = luaL_optinteger(L, 1, 1);
    luaL_argcheck(L, size >= 1 && size <= MAX_SIZE, 1, "a size from 1 to 65536");
    channel *c = lua_newuserdatauv(L, sizeof *c, 1);
    *c = (channel){.size = (int)size};
    luaL_setmetatable(L, CLASS);
    lua_newtable(L);
    lua_setiuservalue(L, -2, RING);
    return 1;
}

static void wake(channel *c)
{
    if (c->is_closed || c->n_items < c->size) qh_waiters_wake_one(&c->senders);
    if (c->is_closed || c->n_items) qh_waiters_wake_one(&c->receivers);
}

/* Raises when the task may not go on; somebody else gets the turn it was woken for. */
static void check_task(lua_State *L, channel *c)
{
    if (qh_task_must_raise(L)) wake(c);
    qh_task_check(L);
}

static int send_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    channel *c = check(L);
    check_task(L, c);
    if (c->is_closed) {
        lua_pushnil(L);
        lua_pushliteral(L, "the channel is closed");
        lua_pushliteral(L, "ECLOSED");
        return 3;
    }
    if (c->n_items == c->size)
        return qh_task_wait(L, &c->senders, "channel:send", ctx, send_go_on);
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, RING);
    lua_insert(L, 2);
    lua_rawseti(L, 2, (c->first + c->n_items) % c->size + 1);
    c->n_items++;
    wake(c);
    lua_pushboolean(L, 1);
    return 1;
}

/* send(value) (y) -> true | nil, message, "ECLOSED" */
static int send_value(lua_State *L)
{
    check(L);
    luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be sent: it would mean the end");
    lua_settop(L, 2);
    return send_go_on(L, LUA_OK, 0);
}

static int recv_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    channel *c = check(L);
    check_task(L, c);
    if (!c->n_items && c->is_closed) return lua_pushnil(L), 1;
    if (!c->n_items) return qh_task_wait(L, &c->receivers, "channel:recv", ctx, recv_go_on);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, RING);
    lua_rawgeti(L, 2, c->first + 1);
    lua_pushnil(L);
    lua_rawseti(L, 2, c->first + 1);
    c->first = (c->first + 1) % c->size;
    c->n_items--;
    wake(c);
    return 1;
}

/* recv() (y) -> value | nil: closed and empty. Also what calling the channel does. */
static int recv_value(lua_State *L)
{
    check(L);
    lua_settop(L, 1);
    return recv_go_on(L, LUA_OK, 0);
}

/* close(): no more is sent; what is in it can still be received */
static int close_channel(lua_State *L)
{
    channel *c = check(L);
    c->is_closed = true;
    qh_waiters_wake_all(&c->senders);
    qh_waiters_wake_all(&c->receivers);
    return 0;
}

static int len(lua_State *L) { return lua_pushinteger(L, check(L)->n_items), 1; }

void qh_bind_channel(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"send", send_value},
                                       {"recv", recv_value},
                                       {"close", close_channel},
                                       {"len", len},
                                       {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"new", new_channel}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, NULL);
    luaL_getmetatable(L, CLASS);
    lua_pushcfunction(L, recv_value);
    lua_setfield(L, -2, "__call");
    lua_pushcfunction(L, close_channel);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "channel");
}
