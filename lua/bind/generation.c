/* generation.c - see generation.h */
#include "lua/bind/generation.h"
#include "base/clock.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#define CLASS "qhost.generation"
enum {
    PAUSE_BYTES = 32 << 10,     /* of text in the queue */
    EVENT_TOKENS = 128,         /* of one event; the engine joins as many as wait */
    REST_WEIGHT = 32, /* events and log-probabilities that a script is given in a row; then it waits for
                          a turn of the loop, so that a queue is no reason to count as one who never waits */
    EVENT_BYTES = 64            /* what an event without text counts */
};

typedef struct queued {
    struct queued *next;
    qh_event ev;
} queued;

typedef struct {
    qh_generation *g;           /* NULL: closed */
} box;

struct qh_generation {
    qh_scoped scoped;
    box *box; /* the userdata; whoever comes first, script, collector or scope, closes both */
    qh_generation *next;        /* in its bucket */
    qh_lua *lua;
    qh_engine *engine;
    const qh_vocab *vocab;
    qh_job_id id;
    qh_waiters readers;
    bool wants_tokens;          /* they or their logprobs were asked for */
    bool is_paused, is_timed_out;
    int n_left;                 /* choices that have not told their end */
    queued *first, **tail;
    size_t queued_bytes;
    int n_in_a_row;             /* given since the script last waited, weighed */
    qh_timer *timer;            /* of next(seconds); made on first use */
};

/* ---- life ---- */

static qh_generation **bucket_of(qh_lua *lua, qh_job_id id)
{
    return &lua->generations[id % QH_GENERATION_BUCKETS];
}

static qh_generation *find(qh_lua *lua, qh_job_id id)
{
    qh_generation *g = *bucket_of(lua, id);
    while (g && g->id != id) g = g->next;
    return g;
}

static void drop_first(qh_generation *g)
{
    queued *q = g->first;
    g->queued_bytes -= q->ev.text_len + EVENT_BYTES;
    g->first = q->next;
    if (!g->first) g->tail = &g->first;
    qh_event_deinit(&q->ev);
    qh_free(q);
}

static void generation_close(qh_generation *g)
{
    g->box->g = NULL;
    qh_scope_remove(&g->scoped);
    qh_generation **at = bucket_of(g->lua, g->id);
    while (*at != g) at = &(*at)->next;
    *at = g->next;
    if (g->n_left) qh_engine_cancel(g->engine, g->id);
    while (g->first) drop_first(g);
    qh_waiters_wake_all(&g->readers);
    qh_timer_free(g->timer);
    qh_free(g);
}

static void on_scope_end(qh_scoped *s) { generation_close((qh_generation *)s); }

void qh_generation_push(lua_State *L)
{
    box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->g = NULL;
    luaL_setmetatable(L, CLASS);
}

qh_status qh_generation_submit(lua_State *L, int index, const qh_lua_model *m, qh_gen *gen,
                               qh_err *err)
{
    qh_lua *lua = qh_app_of(L)->lua;
    box *b = lua_touserdata(L, index);
    bool wants_tokens = gen->logprobs || gen->prompt_logprobs || gen->wants_tokens;
    int n_choices = gen->n_choices;
    qh_job_id id;
    qh_status st = m->engine ? qh_engine_submit(m->engine, gen, &id, err)
                             : qh_fail(err, QH_EUNSUPPORTED,
                                       "nothing is computed while an app is only checked");
    if (st) {
        qh_gen_free(gen);
        return st;
    }
    qh_generation *g = b->g = qh_new0(qh_generation);
    g->box = b;
    g->scoped.close = on_scope_end;
    g->scoped.is_handed_up = true;
    g->lua = lua;
    g->engine = m->engine;
    g->vocab = qh_tokenizer_vocab(m->tokenizer);
    g->id = id;
    g->wants_tokens = wants_tokens;
    g->n_left = n_choices;
    g->tail = &g->first;
    g->next = *bucket_of(lua, id);
    *bucket_of(lua, id) = g;
    qh_scope_add(qh_task_running(L), &g->scoped);
    return QH_OK;
}

/* ---- from the engine ---- */

static void set_paused(qh_generation *g, bool is_paused)
{
    if (g->is_paused == is_paused || !g->n_left) return;
    g->is_paused = is_paused;
    qh_engine_pause(g->engine, g->id, is_paused);
}

/* Text that nobody has read yet and more text of the same choice become one event. */
static bool join(qh_generation *g, qh_event *ev)
{
    queued *last = g->first;
    if (!last || g->wants_tokens || ev->type != QH_EVENT_TEXT) return false;
    while (last->next) last = last->next;
    if (last->ev.type != QH_EVENT_TEXT || last->ev.choice != ev->choice) return false;
    last->ev.text = qh_realloc(last->ev.text, last->ev.text_len + ev->text_len + 1);
    memcpy(last->ev.text + last->ev.text_len, ev->text, ev->text_len);
    last->ev.text_len += ev->text_len;
    last->ev.text[last->ev.text_len] = 0;
    g->queued_bytes += ev->text_len;
    return true;
}

static void append(qh_generation *g, const qh_event *ev)
{
    queued *q = qh_new0(queued);
    q->ev = *ev;
    *g->tail = q;
    g->tail = &q->next;
    g->queued_bytes += ev->text_len + EVENT_BYTES;
}

/* The first tokens of an event that has many, as events before it: a script handles one in a
 * bounded time. */
static void split(qh_generation *g, qh_event *ev)
{
    int from = 0;
    for (; ev->n_tokens - from > EVENT_TOKENS; from += EVENT_TOKENS) {
        qh_event part = {.job = ev->job, .choice = ev->choice, .n_tokens = EVENT_TOKENS,
                         .type = ev->type == QH_EVENT_DONE ? QH_EVENT_TEXT : ev->type};
        part.tokens = qh_alloc0(sizeof *part.tokens * EVENT_TOKENS);
        memcpy(part.tokens, ev->tokens + from, sizeof *part.tokens * EVENT_TOKENS);
        append(g, &part);
    }
    ev->n_tokens -= from;
    if (from) memmove(ev->tokens, ev->tokens + from, sizeof *ev->tokens * (size_t)ev->n_tokens);
}

static void take(qh_generation *g, qh_event *ev)
{
    if (ev->type == QH_EVENT_DONE) g->n_left--;
    if (join(g, ev)) {
        qh_event_deinit(ev);
    } else {
        split(g, ev);
        append(g, ev);
    }
    if (g->queued_bytes > PAUSE_BYTES) set_paused(g, true);
    qh_waiters_wake_all(&g->readers);
}

void qh_generation_poll(qh_lua *lua, qh_engine *engine)
{
    qh_event ev;
    while (!qh_engine_poll(engine, &ev)) {
        qh_generation *g = lua ? find(lua, ev.job) : NULL;
        if (g) take(g, &ev);
        else qh_event_deinit(&ev);
    }
}

/* ---- events as tables ---- */

static void set_number(lua_State *L, const char *key, lua_Number v)
{
    lua_pushnumber(L, v);
    lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, lua_Integer v)
{
    lua_pushinteger(L, v);
    lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *s)
{
    lua_pushstring(L, s);
    lua_setfield(L, -2, key);
}

static void push_token(lua_State *L, const qh_vocab *v, qh_token id, float logprob)
{
    qh_slice bytes = qh_vocab_bytes(v, id);
    lua_createtable(L, 0, 4);
    set_integer(L, "id", id);
    if (!isnan(logprob)) set_number(L, "logprob", logprob); /* the first prompt token has none */
    lua_pushlstring(L, bytes.data, bytes.len);
    lua_setfield(L, -2, "bytes");
}

static void push_tokens(lua_State *L, const qh_vocab *v, const qh_event *ev)
{
    lua_createtable(L, ev->n_tokens, 0);
    for (int i = 0; i < ev->n_tokens; i++) {
        const qh_token_info *t = &ev->tokens[i];
        push_token(L, v, t->id, t->logprob);
        if (ev->type == QH_EVENT_TEXT) set_integer(L, "text_end", t->text_end);
        if (t->n_top) {
            lua_createtable(L, t->n_top, 0);
            for (int k = 0; k < t->n_top; k++) {
                push_token(L, v, t->top[k].id, t->top[k].logprob);
                lua_rawseti(L, -2, k + 1);
            }
            lua_setfield(L, -2, "top");
        }
        lua_rawseti(L, -2, i + 1);
    }
}

static void set_usage(lua_State *L, const qh_usage *u)
{
    lua_createtable(L, 0, 3);
    set_integer(L, "prompt", u->n_prompt);
    set_integer(L, "cached", u->n_cached);
    set_integer(L, "completion", u->n_completion);
    lua_setfield(L, -2, "usage");
    lua_createtable(L, 0, 4);
    set_number(L, "queue", (lua_Number)u->queue_us / 1e6);
    set_number(L, "prefill", (lua_Number)u->prefill_us / 1e6);
    set_number(L, "ttft", (lua_Number)u->first_token_us / 1e6);
    set_number(L, "decode", (lua_Number)u->decode_us / 1e6);
    lua_setfield(L, -2, "timings");
}

static const char *finish_name(const qh_event *ev)
{
    qh_finish f = ev->finish;
    if (f == QH_FINISH_POLICY) return ev->reason;
    return f == QH_FINISH_LENGTH     ? "length"
           : f == QH_FINISH_CANCELED ? "canceled"
           : f == QH_FINISH_ERROR    ? "error"
                                     : "stop";
}

static void push_event(lua_State *L, const qh_generation *g, const qh_event *ev)
{
    static const char *const TYPES[] = {
        [QH_EVENT_PROMPT] = "prompt", [QH_EVENT_TEXT] = "text", [QH_EVENT_DONE] = "done"};
    lua_createtable(L, 0, 4);
    set_string(L, "type", TYPES[ev->type]);
    set_integer(L, "choice", ev->choice + 1);
    if (ev->text_len || ev->type == QH_EVENT_TEXT) {
        lua_pushlstring(L, ev->text ? ev->text : "", ev->text_len);
        lua_setfield(L, -2, "text");
    }
    if (g->wants_tokens && ev->n_tokens) {
        push_tokens(L, g->vocab, ev);
        lua_setfield(L, -2, "tokens");
    }
    if (ev->type != QH_EVENT_DONE) return;
    set_string(L, "finish", finish_name(ev));
    if (ev->stop_match) set_string(L, "stop_match", ev->stop_match);
    if (ev->finish == QH_FINISH_ERROR) {
        set_string(L, "status", qh_status_name(ev->status));
        set_string(L, "message", ev->message ? ev->message : qh_status_text(ev->status));
    } else if (ev->message) {
        set_string(L, "message", ev->message);      /* of a policy that failed */
    }
    set_usage(L, &ev->usage);
}

/* ---- what scripts call ---- */

static box *check(lua_State *L) { return luaL_checkudata(L, 1, CLASS); }

static void time_out(void *arg)
{
    qh_generation *g = arg;
    g->is_timed_out = true;
    qh_waiters_wake_all(&g->readers);
}

static int weight(const qh_event *ev)
{
    return 1 + ev->n_tokens * (1 + (ev->n_tokens ? ev->tokens[0].n_top : 0));
}

static void set_timer(qh_generation *g, int64_t delay_us)
{
    if (!g->timer) g->timer = qh_timer_new(g->lua->opts.loop, time_out, g);
    qh_timer_set(g->timer, delay_us);
}

/* has_limit: the timer is the caller's, not that of a rest. */
static int next_go_on(lua_State *L, int status, lua_KContext has_limit)
{
    qh_task_check(L);
    qh_generation *g = check(L)->g;
    if (!g || (!g->first && !g->n_left)) return lua_pushnil(L), 1;
    if (status == LUA_YIELD) g->n_in_a_row = 0;
    if (g->first) {
        if (g->timer) qh_timer_cancel(g->timer);
        g->n_in_a_row += weight(&g->first->ev);
        push_event(L, g, &g->first->ev);
        drop_first(g);
        if (g->queued_bytes < PAUSE_BYTES / 2) set_paused(g, false);
        return 1;
    }
    if (g->is_timed_out && has_limit) return lua_pushboolean(L, 0), 1;
    return qh_task_wait(L, &g->readers, "waiting for a model", has_limit, next_go_on);
}

/* next(seconds?) (y) -> event | nil at the end | false when none came within that time */
static int next(lua_State *L)
{
    qh_generation *g = check(L)->g;
    lua_Number seconds = luaL_optnumber(L, 2, 0);
    qh_task_may_park(L, "waiting for a model");
    if (!g) return lua_pushnil(L), 1;
    if (!qh_tasks_are_kin(g->scoped.task, qh_task_running(L)))
        return luaL_error(L, "this generation belongs to another request");
    g->is_timed_out = false;
    bool has_limit = seconds > 0 && seconds < 1e6;
    if (g->first && g->n_in_a_row >= REST_WEIGHT) {
        set_timer(g, 0);
        return qh_task_wait(L, &g->readers, "waiting for a model", has_limit, next_go_on);
    }
    if (has_limit && !g->first) set_timer(g, (int64_t)(seconds * 1e6));
    return next_go_on(L, LUA_OK, has_limit);
}

static int cancel(lua_State *L)
{
    qh_generation *g = check(L)->g;
    if (g) generation_close(g);
    return 0;
}

/* stop(): nothing more is computed; what was, and the ends of the choices, can still be read */
static int stop(lua_State *L)
{
    qh_generation *g = check(L)->g;
    if (g && g->n_left) qh_engine_cancel(g->engine, g->id);
    return 0;
}

void qh_bind_generation(lua_State *L)
{
    static const luaL_Reg METHODS[] = {{"next", next}, {"cancel", cancel}, {"stop", stop}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, cancel);
    luaL_getmetatable(L, CLASS);
    lua_pushcfunction(L, cancel);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
}
