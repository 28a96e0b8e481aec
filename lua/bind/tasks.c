/* tasks.c - a group of tasks that a script starts: what qh.spawn, qh.map, qh.all, qh.race and
 * qh.timeout are made of.
 *
 * The children are in the scope of the task that starts them, which cancels them when it ends. The
 * group keeps what came out of each until somebody asks; it is anchored while one of them is alive.
 * Its user values: results by index, each {n = , ...}, and the name for error messages. */
#include "base/mem.h"
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include <lauxlib.h>

#define CLASS "qhost.group"
enum { RESULTS = 1, NAME = 2 };

typedef struct group group;

typedef struct child {
    group *group;
    qh_task *task;              /* NULL: it has ended */
    qh_task_end end;
    int index;
    struct child *prev, *next;  /* next also among those that have ended */
} child;

struct group {
    child *running;
    child *ended, **ended_tail; /* in the order of their ends, until next takes them */
    int n_running, n_started;
    bool is_loud;               /* a failure that nobody waits for fails the parent */
    int ref;                    /* anchors it; running only */
    qh_waiters waiters;
};

static group *check(lua_State *L) { return luaL_checkudata(L, 1, CLASS); }

static const char *name_of(lua_State *L)
{
    lua_getiuservalue(L, 1, NAME);
    const char *name = lua_tostring(L, -1);
    lua_pop(L, 1);                              /* the user value keeps it */
    return name;
}

/* group(name, is_loud) */
static int new_group(lua_State *L)
{
    luaL_checkstring(L, 1);
    group *g = lua_newuserdatauv(L, sizeof *g, 2);
    *g = (group){.is_loud = lua_toboolean(L, 2), .ref = LUA_NOREF};
    g->ended_tail = &g->ended;
    luaL_setmetatable(L, CLASS);
    lua_newtable(L);
    lua_setiuservalue(L, -2, RESULTS);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, NAME);
    return 1;
}

static void unlink_running(child *c)
{
    if (c->prev) c->prev->next = c->next;
    else c->group->running = c->next;
    if (c->next) c->next->prev = c->prev;
    c->prev = c->next = NULL;
    c->group->n_running--;
}

/* The n results, or the error's record, are on top of L. */
static void keep_results(child *c, lua_State *L, int n)
{
    lua_checkstack(L, 6);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->group->ref);
    lua_getiuservalue(L, -1, RESULTS);
    lua_createtable(L, n, 1);
    for (int i = 0; i < n; i++) {
        if (c->end) lua_getfield(L, -4, "value");
        else lua_pushvalue(L, -3 - n + i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushinteger(L, n);
    lua_setfield(L, -2, "n");
    lua_rawseti(L, -2, c->index);
    lua_pop(L, 2);
}

static void on_done(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    child *c = user;
    group *g = c->group;
    c->task = NULL;
    c->end = end;
    keep_results(c, L, n);
    unlink_running(c);
    *g->ended_tail = c;
    g->ended_tail = &c->next;
    if (end == QH_TASK_FAILED && g->is_loud && !g->waiters.first) qh_task_fail_parent(t, L);
    qh_waiters_wake_all(&g->waiters);
    if (g->n_running) return;
    luaL_unref(L, LUA_REGISTRYINDEX, g->ref);
    g->ref = LUA_NOREF;
}

static const qh_task_ops OPS = {on_done};

/* spawn(fn, ...) -> index. fn(...) runs from the next turn on. */
static int spawn(lua_State *L)
{
    group *g = check(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    qh_task_may_start(L, name_of(L));
    if (!g->n_running) {
        lua_pushvalue(L, 1);
        g->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    child *c = qh_new0(child);
    c->group = g;
    c->index = ++g->n_started;
    c->next = g->running;
    if (g->running) g->running->prev = c;
    g->running = c;
    g->n_running++;
    c->task = qh_task_new_child(L, lua_gettop(L) - 2, &OPS, c);
    qh_task_start(c->task);
    lua_pushinteger(L, c->index);
    return 1;
}

static void refuse_own_end(lua_State *L, const group *g)
{
    for (const child *c = g->running; c; c = c->next)
        if (c->task == qh_task_running(L)) luaL_error(L, "a task cannot wait for its own end");
}

/* index, true | false | nil for one that was cancelled, then its results or its error: on top */
static int push_ended(lua_State *L, const child *c)
{
    lua_getiuservalue(L, 1, RESULTS);
    lua_rawgeti(L, -1, c->index);
    lua_getfield(L, -1, "n");
    int n = (int)lua_tointeger(L, -1), results = lua_gettop(L) - 1;
    luaL_checkstack(L, n + 2, "too many results");
    lua_pushinteger(L, c->index);
    if (c->end == QH_TASK_CANCELLED) {
        lua_pushnil(L);
        return 2;
    }
    lua_pushboolean(L, c->end == QH_TASK_OK);
    for (int i = 1; i <= n; i++) lua_rawgeti(L, results, i);
    return 2 + n;
}

static int next_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    group *g = check(L);
    child *c = g->ended;
    lua_settop(L, 1);
    if (!c && !g->n_running) return lua_pushnil(L), 1;
    if (!c) return qh_task_wait(L, &g->waiters, name_of(L), ctx, next_go_on);
    int n = push_ended(L, c);
    lua_getiuservalue(L, 1, RESULTS);
    lua_pushnil(L);
    lua_rawseti(L, -2, c->index);
    lua_pop(L, 1);
    g->ended = c->next;
    if (!g->ended) g->ended_tail = &g->ended;
    qh_free(c);
    return n;
}

/* next() (y) -> index, ok, ... of a child that has ended, each told once; nil: none is left */
static int next(lua_State *L)
{
    refuse_own_end(L, check(L));
    return next_go_on(L, LUA_OK, 0);
}

static int wait_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    group *g = check(L);
    lua_settop(L, 1);
    if (g->n_running) return qh_task_wait(L, &g->waiters, name_of(L), ctx, wait_go_on);
    return g->ended ? push_ended(L, g->ended) : 0;
}

/* wait() (y) -> index, ok, ... of the first that ended, once all have; as often as one likes */
static int wait(lua_State *L)
{
    refuse_own_end(L, check(L));
    return wait_go_on(L, LUA_OK, 0);
}

static int cancel(lua_State *L)
{
    group *g = check(L);
    for (child *c = g->running, *next_child; c; c = next_child) {
        next_child = c->next;
        qh_task_cancel(c->task);
    }
    return 0;
}

static int close_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    group *g = check(L);
    if (!g->n_running || !qh_task_can_wait(L)) return 0;
    return qh_task_wait(L, &g->waiters, name_of(L), ctx, close_go_on);
}

/* close() (y): cancel those that run and wait until they have unwound; where nothing can wait, their
 * parent does when it ends. */
static int close_group(lua_State *L)
{
    cancel(L);
    return close_go_on(L, LUA_OK, 0);
}

static int collect(lua_State *L)
{
    group *g = check(L);
    while (g->ended) {
        child *c = g->ended;
        g->ended = c->next;
        qh_free(c);
    }
    return 0;
}

void qh_bind_tasks(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"spawn", spawn},   {"next", next},         {"wait", wait},
                                       {"cancel", cancel}, {"close", close_group}, {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"group", new_group}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, collect);
    luaL_getmetatable(L, CLASS);
    lua_pushcfunction(L, close_group);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "tasks");
}
