/* system.c - the environment, clocks, sleep, random bits: qh.env, qh.time, qh.sleep */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>

/* env(name, default?) -> string | default */
static int env(lua_State *L)
{
    const char *value = getenv(luaL_checkstring(L, 1));
    lua_settop(L, 2);
    if (value) lua_pushstring(L, value);
    return 1;
}

/* wall() -> seconds since 1970, with a fraction */
static int wall(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)qh_wall_us() / 1e6);
    return 1;
}

/* local_wall() -> the same in the time zone of this machine */
static int local_wall(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)qh_local_wall_us() / 1e6);
    return 1;
}

/* mono() -> seconds of a clock that never jumps */
static int mono(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)qh_now_us() / 1e6);
    return 1;
}

/* random() -> integer: 64 bits from the system */
static int random_bits(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)qh_rng_entropy());
    return 1;
}

/* traceback(message) -> message and the calls that led here */
static int traceback(lua_State *L)
{
    qh_push_trace(L, luaL_optstring(L, 1, NULL));
    return 1;
}

/* place() -> "app.lua:12", the line of the app that is at work */
static int place(lua_State *L)
{
    size_t len;
    qh_push_app_line(L);
    const char *s = lua_tolstring(L, -1, &len);
    lua_pushlstring(L, s, len > 2 ? len - 2 : 0);
    return 1;
}

typedef struct {
    qh_scoped scoped;
    qh_timer *timer;
    bool is_done;
} sleep_op;

static void sleep_free(sleep_op *s)
{
    qh_timer_free(s->timer);
    qh_free(s);
}

static void sleep_close(qh_scoped *s) { sleep_free((sleep_op *)s); }

static void sleep_over(void *arg)
{
    sleep_op *s = arg;
    s->is_done = true;
    qh_task_wake(s->scoped.task);
}

static int sleep_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    sleep_op *s = (sleep_op *)ctx;
    qh_task_check(L);
    if (!s->is_done) return qh_task_park(L, "qh.sleep", ctx, sleep_go_on);
    qh_scope_remove(&s->scoped);
    sleep_free(s);
    return 0;
}

/* sleep(seconds) (y) */
static int sleep_for(lua_State *L)
{
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_argcheck(L, seconds >= 0 && seconds <= 86400 * 365, 1, "seconds, from 0 to a year");
    qh_task_may_park(L, "qh.sleep");
    sleep_op *s = qh_new0(sleep_op);
    s->scoped.close = sleep_close;
    s->timer = qh_timer_new(qh_task_loop(L), sleep_over, s);
    qh_timer_set(s->timer, (int64_t)ceil(seconds * 1e6));
    qh_scope_add(qh_task_running(L), &s->scoped);
    return sleep_go_on(L, LUA_OK, (lua_KContext)s);
}

/* budget(cpu_ms, slice_ms, heap_bytes): of the running request; 0: as it was. The library has checked
 * them. */
static int budget(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t)
        qh_task_set_budget(t, luaL_checkinteger(L, 1) * 1000, luaL_checkinteger(L, 2) * 1000,
                           luaL_checkinteger(L, 3));
    return 0;
}

void qh_bind_system(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {{"env", env},
                                         {"wall", wall},
                                         {"local_wall", local_wall},
                                         {"mono", mono},
                                         {"random", random_bits},
                                         {"traceback", traceback},
                                         {"place", place},
                                         {"sleep", sleep_for},
                                         {"budget", budget},
                                         {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "system");
}
