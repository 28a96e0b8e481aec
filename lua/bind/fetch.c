/* fetch.c - one HTTP request of a script to somebody else: what qh.fetch is made of.
 *
 * The reply's body waits in a queue here. Streamed, the queue holds little and the sender waits while
 * nobody reads; whole, it holds all of the body. Either way its bytes count for the request's heap. */
#include "base/mem.h"
#include "lua/lua_private.h"
#include "net/egress.h"
#include "net/fetch.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#define CLASS "qhost.fetch"
enum {
    MAX_FETCHES = 1024,         /* at work, of all requests */
    MAX_FIELDS = 100,
    MAX_REDIRECTS = 20,
    QUEUE_BYTES = 64 << 10      /* of a streamed body, before its sender waits */
};
#define MAX_SECONDS 86400.0

typedef struct fetch fetch;
typedef struct {
    fetch *f;                   /* NULL: closed */
} box;

struct fetch {
    qh_scoped scoped;
    box *box; /* the userdata; whoever comes first, script, collector or scope, closes both */
    qh_lua *lua;
    qh_fetch *x;
    qh_task *payer;             /* whose heap the queue counts for; outlives the scope */
    qh_waiters waiters;
    qh_str queue;
    bool is_streamed, is_full, has_head, is_over, is_late;
    qh_timer *timer;            /* of read(seconds); made on first use */
    qh_status end;              /* is_over only */
    qh_err err;
};

/* ---- life ---- */

static void fetch_close(fetch *f)
{
    f->box->f = NULL;
    qh_scope_remove(&f->scoped);
    qh_waiters_wake_all(&f->waiters);
    qh_timer_free(f->timer);
    qh_fetch_free(f->x);
    qh_task_hold(f->payer, -(int64_t)f->queue.len);
    qh_str_deinit(&f->queue);
    f->lua->n_fetches--;
    qh_free(f);
}

static void on_scope_end(qh_scoped *s) { fetch_close((fetch *)s); }

/* ---- from libcurl ---- */

static qh_status allow(void *user, const char *scheme, const char *host, int port, qh_err *err)
{
    (void)scheme;
    const fetch *f = user;
    qh_egress e = {f->lua->opts.allow_net, f->lua->opts.n_allow_net};
    return qh_egress_allow(&e, host, port, err);
}

static void on_head(void *user)
{
    fetch *f = user;
    f->has_head = true;
    qh_waiters_wake_all(&f->waiters);
}

static qh_status on_body(void *user, const char *data, size_t len)
{
    fetch *f = user;
    if (f->is_streamed && f->queue.len >= QUEUE_BYTES) {
        f->is_full = true;
        return QH_AGAIN;
    }
    if (!qh_task_hold(f->payer, (int64_t)len))
        return qh_fail(&f->err, QH_ELIMIT, "%s: the reply takes more memory than the request may use",
                       qh_fetch_url(f->x));
    qh_str_append(&f->queue, data, len);
    if (f->is_streamed) qh_waiters_wake_all(&f->waiters);
    return QH_OK;
}

static void on_done(void *user, qh_status st, const qh_err *err)
{
    fetch *f = user;
    f->is_over = true;
    f->end = st;
    if (st && !f->err.status) f->err = *err;
    qh_waiters_wake_all(&f->waiters);
}

/* ---- beginning ---- */

static bool take_field(lua_State *L, int index, const char *key, int type)
{
    int got = lua_getfield(L, index, key);
    if (got != LUA_TNIL && got != type)
        luaL_error(L, "qh.fetch: %s must be a %s, not a %s", key, lua_typename(L, type), lua_typename(L, got));
    return got != LUA_TNIL;                     /* stays on the stack, which keeps its text alive */
}

static int64_t take_seconds(lua_State *L, int index, const char *key)
{
    if (!take_field(L, index, key, LUA_TNUMBER)) return 0;
    lua_Number s = lua_tonumber(L, -1);
    if (!(s > 0 && s <= MAX_SECONDS)) luaL_error(L, "qh.fetch: %s must be seconds, up to a day", key);
    return (int64_t)ceil(s * 1e6);
}

static lua_Integer take_integer(lua_State *L, int index, const char *key, lua_Integer min, lua_Integer max,
                                lua_Integer otherwise)
{
    if (!take_field(L, index, key, LUA_TNUMBER)) return otherwise;
    int is_integer;
    lua_Integer n = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || n < min || n > max)
        luaL_error(L, "qh.fetch: %s must be a whole number from %I to %I", key, min, max);
    return n;
}

static int take_headers(lua_State *L, int index, qh_http_field *out)
{
    if (!take_field(L, index, "headers", LUA_TTABLE)) return 0;
    int list = lua_gettop(L), n = (int)lua_rawlen(L, list);
    if (n > MAX_FIELDS) luaL_error(L, "qh.fetch: more than %d headers", MAX_FIELDS);
    luaL_checkstack(L, 3 * n + 4, NULL);
    for (int i = 0; i < n; i++) {
        const char *text[2];
        lua_rawgeti(L, list, i + 1);
        for (int k = 0; k < 2; k++) {
            size_t len;
            if (lua_rawgeti(L, -1 - k, k + 1) != LUA_TSTRING) luaL_error(L, "qh.fetch: a header is no text");
            text[k] = lua_tolstring(L, -1, &len);
            if (strlen(text[k]) != len) luaL_error(L, "qh.fetch: a header holds a NUL byte");
        }
        out[i] = (qh_http_field){text[0], text[1]};
    }
    return n;
}

static qh_status begin(fetch *f, const qh_fetch_opts *opts)
{
    qh_lua *lua = f->lua;
    if (lua->n_fetches > MAX_FETCHES)
        return qh_fail(&f->err, QH_AGAIN, "%s: %d fetches are at work already", opts->url, MAX_FETCHES);
    qh_status st = lua->fetcher ? QH_OK : qh_fetcher_new(&lua->fetcher, lua->opts.loop, &f->err);
    return st ? st : qh_fetch_start(&f->x, lua->fetcher, opts, &f->err);
}

/* start(url, {method, headers = {{name, value}...}, body, timeout, connect_timeout, max_bytes,
 * redirects, stream}) -> fetch | nil, message, name */
static int start(lua_State *L)
{
    size_t len, body_len = 0;
    qh_http_field fields[MAX_FIELDS];
    const char *url = luaL_checklstring(L, 1, &len);
    luaL_argcheck(L, strlen(url) == len, 1, "a URL without NUL bytes");
    luaL_checktype(L, 2, LUA_TTABLE);
    qh_task_may_park(L, "qh.fetch");
    qh_fetch_opts o = {.url = url, .fields = fields, .allow = allow, .on_head = on_head, .on_body = on_body, .on_done = on_done};
    if (take_field(L, 2, "method", LUA_TSTRING)) o.method = lua_tostring(L, -1);
    o.n_fields = take_headers(L, 2, fields);
    if (take_field(L, 2, "body", LUA_TSTRING)) o.body = lua_tolstring(L, -1, &body_len);
    o.body_len_bytes = body_len;
    o.timeout_us = take_seconds(L, 2, "timeout");
    o.connect_us = take_seconds(L, 2, "connect_timeout");
    o.max_body_bytes = take_integer(L, 2, "max_bytes", 1, (lua_Integer)1 << 40, 0);
    o.max_redirects = (int)take_integer(L, 2, "redirects", 0, MAX_REDIRECTS, 5);
    bool is_streamed = take_field(L, 2, "stream", LUA_TBOOLEAN) && lua_toboolean(L, -1);

    box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->f = NULL;
    luaL_setmetatable(L, CLASS);
    fetch *f = b->f = qh_new0(fetch);
    f->box = b;
    f->lua = qh_app_of(L)->lua;
    f->payer = qh_task_root(qh_task_running(L));
    f->is_streamed = is_streamed;
    f->scoped.close = on_scope_end;
    f->scoped.is_handed_up = true;
    qh_scope_add(qh_task_running(L), &f->scoped);
    f->lua->n_fetches++;
    o.user = f;
    qh_status st = begin(f, &o);
    if (!st) return 1;
    qh_err err = f->err;
    fetch_close(f);
    return qh_push_status(L, st, &err);
}

/* ---- what the library calls ---- */

static fetch *check(lua_State *L)
{
    box *b = luaL_checkudata(L, 1, CLASS);
    if (!b->f) luaL_error(L, "this fetch is closed");
    if (!qh_tasks_are_kin(b->f->scoped.task, qh_task_running(L)))
        luaL_error(L, "this fetch belongs to another request");
    return b->f;
}

static int head_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    fetch *f = check(L);
    if (f->is_over && f->end) return qh_push_status(L, f->end, &f->err);
    if (!f->has_head) return qh_task_wait(L, &f->waiters, "qh.fetch", ctx, head_go_on);
    lua_pushinteger(L, qh_fetch_status(f->x));
    return 1;
}

/* head() (y) -> status | nil, message, name */
static int head(lua_State *L) { return head_go_on(L, LUA_OK, 0); }

/* headers() -> {{name, value}, ...}, once the head is there */
static int headers(lua_State *L)
{
    fetch *f = check(L);
    int n = f->has_head ? qh_fetch_n_headers(f->x) : 0;
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        qh_http_field h = qh_fetch_header_at(f->x, i);
        lua_createtable(L, 2, 0);
        lua_pushstring(L, h.name);
        lua_rawseti(L, -2, 1);
        lua_pushstring(L, h.value);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* url() -> where the reply came from, after redirects */
static int url(lua_State *L) { return lua_pushstring(L, qh_fetch_url(check(L)->x)), 1; }

static int push_queue(lua_State *L, fetch *f)
{
    lua_pushlstring(L, qh_str_z(&f->queue), f->queue.len);
    qh_task_hold(f->payer, -(int64_t)f->queue.len);
    qh_str_clear(&f->queue);
    bool was_full = f->is_full;
    f->is_full = false;
    if (was_full) qh_fetch_resume(f->x);
    return 1;
}

static int read_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    fetch *f = check(L);
    if (f->queue.len) return push_queue(L, f);
    if (f->is_over && f->end) return qh_push_status(L, f->end, &f->err);
    if (f->is_over) return lua_pushnil(L), 1;
    if (f->is_late) return lua_pushboolean(L, 0), 1;
    return qh_task_wait(L, &f->waiters, "reading a reply", ctx, read_go_on);
}

static void late(void *arg)
{
    fetch *f = arg;
    f->is_late = true;
    qh_waiters_wake_all(&f->waiters);
}

/* read(seconds?) (y) -> what has come | nil at the end | false: nothing within that time
 * | nil, message, name */
static int read_piece(lua_State *L)
{
    qh_task_may_park(L, "reading a reply");
    fetch *f = check(L);
    lua_Number seconds = luaL_optnumber(L, 2, 0);
    f->is_late = false;
    if (f->timer) qh_timer_cancel(f->timer);
    if (seconds > 0 && seconds <= MAX_SECONDS) {
        if (!f->timer) f->timer = qh_timer_new(f->lua->opts.loop, late, f);
        qh_timer_set(f->timer, (int64_t)ceil(seconds * 1e6));
    }
    return read_go_on(L, LUA_OK, 0);
}

static int body_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    fetch *f = check(L);
    if (!f->is_over) return qh_task_wait(L, &f->waiters, "qh.fetch", ctx, body_go_on);
    if (f->end) return qh_push_status(L, f->end, &f->err);
    return push_queue(L, f);
}

/* body() (y) -> all that has not been read | nil, message, name. Not of a streamed one: its sender
 * would wait for a reader. */
static int body(lua_State *L)
{
    qh_task_may_park(L, "qh.fetch");
    return body_go_on(L, LUA_OK, 0);
}

static int cancel(lua_State *L)
{
    box *b = luaL_checkudata(L, 1, CLASS);
    if (b->f) fetch_close(b->f);
    return 0;
}

void qh_bind_fetch(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"head", head}, {"headers", headers}, {"url", url},    {"read", read_piece},
                                       {"body", body}, {"cancel", cancel},   {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"start", start}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, cancel);
    luaL_getmetatable(L, CLASS);
    lua_pushcfunction(L, cancel);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "fetch");
}
