/* topic.c - one says it, all who listen hear it: qh.topic.
 *
 * A topic is there while somebody listens. What is published goes as JSON, once for all listeners, so
 * that it reaches those of an older generation too. Each has a bounded queue that counts for its
 * request's heap; the publisher never waits: who is too slow loses the oldest, and can see how many. */
#include "base/mem.h"
#include "base/str.h"
#include "lua/lua_private.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <string.h>

#define CLASS "qhost.Subscription"
enum { DEFAULT_SIZE = 64, MAX_SIZE = 1024, MAX_NAME_BYTES = 100 };
enum { MAX_MESSAGE_BYTES = 1 << 20, MAX_QUEUE_BYTES = 8 << 20 };

typedef struct {
    int n_refs;
    size_t len;
    char text[];
} message;

typedef struct subscription subscription;
typedef struct {
    subscription *s;            /* NULL: closed */
} box;

struct subscription {
    qh_scoped scoped;
    box *box;
    qh_topic *topic;
    subscription *next;
    qh_task *payer;
    qh_waiters waiters;
    int size, n_items, first;   /* a ring */
    int64_t n_lost;
    size_t queued_bytes;
    message **items;
};

struct qh_topic {
    qh_topic *next;
    qh_lua *lua;
    char *name;
    subscription *listeners;
};

static qh_topic **find(qh_lua *lua, const char *name)
{
    qh_topic **at = &lua->topics;
    while (*at && strcmp((*at)->name, name) != 0) at = &(*at)->next;
    return at;
}

static void drop_first(subscription *s)
{
    message *m = s->items[s->first];
    s->first = (s->first + 1) % s->size;
    s->n_items--;
    s->queued_bytes -= m->len;
    qh_task_hold(s->payer, -(int64_t)m->len);
    if (!--m->n_refs) qh_free(m);
}

static void subscription_close(subscription *s)
{
    qh_topic *t = s->topic;
    subscription **at = &t->listeners;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    if (!t->listeners) {
        qh_topic **in = find(t->lua, t->name);
        *in = t->next;
        qh_free(t->name);
        qh_free(t);
    }
    s->box->s = NULL;
    qh_scope_remove(&s->scoped);
    qh_waiters_wake_all(&s->waiters);
    while (s->n_items) drop_first(s);
    qh_free(s->items);
    qh_free(s);
}

static void on_scope_end(qh_scoped *s) { subscription_close((subscription *)s); }

static const char *check_name(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    luaL_argcheck(L, len && len <= MAX_NAME_BYTES && strlen(name) == len, 1, "a name of 1 to 100 bytes");
    return name;
}

static void push(subscription *s, message *m)
{
    if (s->n_items == s->size) drop_first(s), s->n_lost++;
    while (s->queued_bytes + m->len > MAX_QUEUE_BYTES) drop_first(s), s->n_lost++;
    while (!qh_task_hold(s->payer, (int64_t)m->len)) {
        s->n_lost++;
        if (!s->n_items) return;
        drop_first(s);
    }
    m->n_refs++;
    s->queued_bytes += m->len;
    s->items[(s->first + s->n_items++) % s->size] = m;
    qh_waiters_wake_one(&s->waiters);
}

/* publish(name, value) -> how many listen */
static int publish(lua_State *L)
{
    qh_err err = {0};
    qh_app *app = qh_app_of(L);
    const char *name = check_name(L);
    luaL_checkany(L, 2);
    if (app->load && qh_task_running(L) == app->load)
        return luaL_error(L, "topic:publish cannot be used while the app loads");
    qh_str *out = qh_vm_scratch(L);
    if (qh_json_encode(L, 2, false, out, &err)) return luaL_error(L, "topic:publish: %s", err.msg);
    if (out->len > MAX_MESSAGE_BYTES) return luaL_error(L, "topic:publish: a message is at most 1 MiB");
    qh_topic *t = *find(app->lua, name);
    int n = 0;
    if (t) {
        message *m = qh_alloc0(sizeof *m + out->len + 1);
        m->n_refs = 1;
        m->len = out->len;
        memcpy(m->text, qh_str_z(out), out->len);
        for (subscription *s = t->listeners; s; s = s->next, n++) push(s, m);
        if (!--m->n_refs) qh_free(m);
    }
    lua_pushinteger(L, n);
    return 1;
}

/* subscribe(name, size?) -> subscription, in the scope of the running task */
static int subscribe(lua_State *L)
{
    qh_lua *lua = qh_app_of(L)->lua;
    const char *name = check_name(L);
    lua_Integer size = luaL_optinteger(L, 2, DEFAULT_SIZE);
    luaL_argcheck(L, size >= 1 && size <= MAX_SIZE, 2, "a size from 1 to 1024");
    qh_task_may_start(L, "topic:subscribe");
    box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->s = NULL;
    luaL_setmetatable(L, CLASS);
    qh_topic **at = find(lua, name);
    if (!*at) {
        *at = qh_new0(qh_topic);
        (*at)->lua = lua;
        (*at)->name = qh_strdup(name);
    }
    subscription *s = b->s = qh_new0(subscription);
    s->box = b;
    s->topic = *at;
    s->size = (int)size;
    s->items = qh_alloc0((size_t)size * sizeof *s->items);
    s->payer = qh_task_root(qh_task_running(L));
    s->next = s->topic->listeners;
    s->topic->listeners = s;
    s->scoped.close = on_scope_end;
    s->scoped.is_handed_up = true;
    qh_scope_add(qh_task_running(L), &s->scoped);
    return 1;
}

static int recv_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    box *b = luaL_checkudata(L, 1, CLASS);
    subscription *s = b->s;
    if (s && s->n_items && qh_task_must_raise(L)) qh_waiters_wake_one(&s->waiters);
    qh_task_check(L);
    if (!s) return lua_pushnil(L), 1;
    if (!s->n_items) return qh_task_wait(L, &s->waiters, "subscription:recv", ctx, recv_go_on);
    qh_err err = {0};
    message *m = s->items[s->first];
    m->n_refs++;                                /* decoding may raise: the queue is right by then */
    drop_first(s);
    lua_pushlstring(L, m->text, m->len);
    if (!--m->n_refs) qh_free(m);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    if (qh_json_decode(L, text, len, &err)) return luaL_error(L, "subscription:recv: %s", err.msg);
    return 1;
}

/* recv() (y) -> value | nil: closed */
static int recv_value(lua_State *L)
{
    box *b = luaL_checkudata(L, 1, CLASS);
    lua_settop(L, 1);
    if (b->s && !qh_tasks_are_kin(b->s->scoped.task, qh_task_running(L)))
        return luaL_error(L, "this subscription belongs to another request");
    return recv_go_on(L, LUA_OK, 0);
}

/* lost() -> how many messages it was too slow for */
static int lost(lua_State *L)
{
    box *b = luaL_checkudata(L, 1, CLASS);
    lua_pushinteger(L, b->s ? b->s->n_lost : 0);
    return 1;
}

static int close_subscription(lua_State *L)
{
    box *b = luaL_checkudata(L, 1, CLASS);
    if (b->s) subscription_close(b->s);
    return 0;
}

void qh_bind_topic(lua_State *L)
{
    static const luaL_Reg METHODS[] = {
        {"recv", recv_value}, {"lost", lost}, {"close", close_subscription}, {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"publish", publish}, {"subscribe", subscribe}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, close_subscription);
    luaL_getmetatable(L, CLASS);
    lua_pushcfunction(L, recv_value);
    lua_setfield(L, -2, "__call");
    lua_pushcfunction(L, close_subscription);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "topic");
}
