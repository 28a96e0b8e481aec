/* mind.c - see mind.h */
#include "lua/vm/mind.h"
#include "base/mem.h"
#include "base/str.h"
#include "lua/vm/candidates.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_PARAM_DEPTH = 20, WATCH_US = QH_MIND_CREDIT_US + 1000 };

/* The upvalues of take_turn, which lies at the bottom of the state's stack for good. */
enum { LOGITS = 1, ACCEPT, STATE, VIEW, CANDIDATES, ROW, N_KEPT = ROW };
#define UP(what) lua_upvalueindex(what)

struct qh_mind {
    lua_State *L;
    size_t used_bytes;
    qh_candidates *candidates;  /* a userdata of L */
    bool has_logits, has_accept;
    int budget_us;
    int64_t credit_us, begin_us;    /* CPU left; of the thread when the call at work began */
    bool is_over;               /* stopped by the watchdog */
    const qh_turn *first;       /* while it opens */
    const qh_mind_module *module;
    const json_t *params;
    qh_turn *turn;              /* while it takes one */
};

/* ---- memory and time ---- */

static void *mind_alloc(void *ud, void *p, size_t old, size_t len)
{
    qh_mind *m = ud;
    if (!p) old = 0;
    if (len == 0) {
        free(p);
        m->used_bytes -= old;
        return NULL;
    }
    if (len > old && m->used_bytes + (len - old) > QH_MIND_BYTES) return NULL;
    void *q = realloc(p, len);
    if (!q) return len <= old ? p : NULL;
    m->used_bytes += len - old;
    return q;
}

static qh_mind *mind_of(lua_State *L)
{
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

static int64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Called from a hook, in the middle of whatever the policy does. */
static void overrun(lua_State *L)
{
    qh_mind *m = mind_of(L);
    if (cpu_us() - m->begin_us <= m->credit_us) return;
    m->is_over = true;
    luaL_where(L, 0);
    lua_pushfstring(L, "the policy uses more than %d us of CPU a call", m->budget_us);
    lua_concat(L, 2);
    lua_error(L);
}

/* Call the function on top as one piece of work of n_calls calls of the policy; LUA_OK or an error
 * status, message on top. */
static int run_watched(qh_mind *m, int n_calls, int n_results, qh_budget *budget)
{
    m->credit_us += (int64_t)n_calls * m->budget_us;
    m->begin_us = cpu_us();
    qh_budget_begin(budget, m->L, WATCH_US, overrun);
    int status = lua_pcall(m->L, 0, n_results, 0);
    qh_budget_end(budget);
    m->credit_us -= cpu_us() - m->begin_us;
    if (m->credit_us > QH_MIND_CREDIT_US) m->credit_us = QH_MIND_CREDIT_US;
    if (m->credit_us < 0) m->is_over = true;
    return status;
}

/* ---- globals ---- */

static void pick(lua_State *L, const char *lib, lua_CFunction open, const char *const *names)
{
    lua_pushcfunction(L, open);
    lua_pushstring(L, lib);
    lua_call(L, 1, 1);
    lua_createtable(L, 0, 16);
    for (; *names; names++) {
        lua_getfield(L, -2, *names);
        lua_setfield(L, -2, *names);
    }
    lua_remove(L, -2);
}

static int refuse_global(lua_State *L)
{
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    return luaL_error(L, "there are no global variables: make '%s' local", name);
}

/* Pushes what the module sees as its globals. */
static void push_globals(lua_State *L)
{
    static const char *const BASE[] = {"assert", "error",    "ipairs",   "next", "pairs",
                                       "select", "tonumber", "tostring", "type", NULL};
    static const char *const MATH[] = {
        "abs",  "acos", "asin",    "atan",       "ceil", "cos", "deg",  "exp", "floor", "fmod",
        "huge", "log",  "max",     "maxinteger", "min",  "mininteger", "modf", "pi", "rad", "sin",
        "sqrt", "tan",  "tointeger", "type",     "ult",  NULL};
    static const char *const STRING[] = {"byte",  "char",    "format", "len", "lower",
                                         "upper", "reverse", "sub",    NULL};
    static const char *const TABLE[] = {"concat", "insert", "pack", "remove", "sort", "unpack", NULL};
    static const char *const UTF8[] = {"char", "codepoint", "codes", "len", "offset", NULL};
    pick(L, LUA_GNAME, luaopen_base, BASE);
    pick(L, LUA_MATHLIBNAME, luaopen_math, MATH);
    lua_setfield(L, -2, LUA_MATHLIBNAME);
    pick(L, LUA_TABLIBNAME, luaopen_table, TABLE);
    lua_setfield(L, -2, LUA_TABLIBNAME);
    pick(L, LUA_UTF8LIBNAME, luaopen_utf8, UTF8);
    lua_setfield(L, -2, LUA_UTF8LIBNAME);
    pick(L, LUA_STRLIBNAME, luaopen_string, STRING);
    lua_pushliteral(L, "");                     /* its methods too are those of the list only */
    lua_getmetatable(L, -1);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 2);
    lua_setfield(L, -2, LUA_STRLIBNAME);

    lua_createtable(L, 0, 0);                   /* the globals: a table that is never written */
    lua_createtable(L, 0, 2);
    lua_rotate(L, -3, -1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, refuse_global);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
}

/* ---- opening ---- */

static void push_json(lua_State *L, const json_t *v, int depth)
{
    if (depth > MAX_PARAM_DEPTH) luaL_error(L, "parameters are nested too deeply");
    luaL_checkstack(L, 6, NULL);
    switch (json_typeof(v)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *item;
        lua_createtable(L, 0, (int)json_object_size(v));
        json_object_foreach((json_t *)v, key, item)
        {
            push_json(L, item, depth + 1);
            lua_setfield(L, -2, key);
        }
        break;
    }
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(v), 0);
        for (size_t i = 0; i < json_array_size(v); i++) {
            push_json(L, json_array_get(v, i), depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(v)); break;
    case JSON_TRUE: lua_pushboolean(L, true); break;
    case JSON_FALSE: lua_pushboolean(L, false); break;
    default: lua_pushnil(L);
    }
}

static void set_integer(lua_State *L, int at, const char *key, lua_Integer v)
{
    lua_pushinteger(L, v);
    lua_setfield(L, at, key);
}

/* Facts that stay the same, of the table at `at`. */
static void set_facts(lua_State *L, int at, const qh_turn *t)
{
    set_integer(L, at, "n_prompt", t->n_prompt);
    set_integer(L, at, "max_tokens", t->max_tokens);
    set_integer(L, at, "n_vocab", qh_vocab_len(t->vocab));
    if (qh_vocab_eos(t->vocab) != QH_NO_TOKEN) set_integer(L, at, "eos", qh_vocab_eos(t->vocab));
}

static int refuse_write(lua_State *L)
{
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    return luaL_error(L, "logits cannot change the state ('%s'): it may be asked for rows that are "
                         "thrown away; accept can", name);
}

static int view_next(lua_State *L)
{
    lua_settop(L, 2);
    return lua_next(L, lua_upvalueindex(1)) ? 2 : (lua_pushnil(L), 1);
}

static int view_pairs(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, view_next, 1);
    return 1;
}

static int view_len(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, lua_upvalueindex(1)));
    return 1;
}

/* Pushes what logits sees of the state on top: the same, but not to be written. */
static void push_view(lua_State *L)
{
    int real = lua_gettop(L);
    if (!lua_istable(L, real)) {
        lua_pushvalue(L, real);
        return;
    }
    lua_createtable(L, 0, 0);
    lua_createtable(L, 0, 4);
    lua_pushvalue(L, real);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, refuse_write);
    lua_setfield(L, -2, "__newindex");
    lua_pushvalue(L, real);
    lua_pushcclosure(L, view_pairs, 1);
    lua_setfield(L, -2, "__pairs");
    lua_pushvalue(L, real);
    lua_pushcclosure(L, view_len, 1);
    lua_setfield(L, -2, "__len");
    lua_setmetatable(L, -2);
}

/* The function `name` of the module at `at`, or nil. */
static bool push_function(lua_State *L, int at, const char *name)
{
    int type = lua_getfield(L, at, name);
    if (type != LUA_TNIL && type != LUA_TFUNCTION)
        luaL_error(L, "%s is a %s; a function is expected", name, lua_typename(L, type));
    return type == LUA_TFUNCTION;
}

static void push_state(lua_State *L, int module, const qh_mind *m)
{
    if (!push_function(L, module, "init")) {
        lua_pop(L, 1);
        lua_createtable(L, 0, 0);
        return;
    }
    lua_createtable(L, 0, 4);
    set_facts(L, lua_gettop(L), m->first);
    push_json(L, m->params, 0);
    lua_call(L, 2, 1);
}

static int take_turn(lua_State *L);

/* -> take_turn, with what it needs */
static int open_module(lua_State *L)
{
    qh_mind *m = mind_of(L);
    const qh_mind_module *mod = m->module;
    if (luaL_loadbufferx(L, mod->code, mod->len_bytes, mod->chunk, "b")) return lua_error(L);
    push_globals(L);
    lua_setupvalue(L, -2, 1);
    lua_call(L, 0, 1);
    if (!lua_istable(L, 1))
        return luaL_error(L, "the module returned a %s; a table is expected", luaL_typename(L, 1));
    m->has_logits = push_function(L, 1, "logits");
    m->has_accept = push_function(L, 1, "accept");
    push_state(L, 1, m);
    push_view(L);
    m->candidates = qh_candidates_push(L);
    lua_createtable(L, 0, 8);
    set_facts(L, lua_gettop(L), m->first);
    set_integer(L, -2, "n_out", 0);
    lua_pushnumber(L, 0);
    lua_setfield(L, -2, "prob");
    lua_pushcclosure(L, take_turn, N_KEPT);
    return 1;
}

/* ---- a turn ---- */

static void call_logits(lua_State *L, qh_mind *m)
{
    set_integer(L, UP(ROW), "n_out", m->turn->n_out);
    set_integer(L, UP(ROW), "position", m->turn->noise.position);
    lua_pushvalue(L, UP(LOGITS));
    lua_pushvalue(L, UP(CANDIDATES));
    lua_pushvalue(L, UP(VIEW));
    lua_pushvalue(L, UP(ROW));
    lua_call(L, 3, 0);
    if (m->turn->n == 0) luaL_error(L, "logits left no candidate");
}

static void read_reason(lua_State *L, int at, char *out)
{
    size_t len;
    const char *s = lua_type(L, at) == LUA_TSTRING ? lua_tolstring(L, at, &len) : NULL;
    bool is_word = s && len > 0 && len < QH_POLICY_REASON_BYTES;
    for (size_t i = 0; is_word && i < len; i++)
        is_word = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
                  (s[i] >= '0' && s[i] <= '9') || s[i] == '_' || s[i] == '-';
    if (!is_word)
        luaL_error(L, "the reason to stop is no word of at most %d letters, digits, '_' and '-'",
                   QH_POLICY_REASON_BYTES - 1);
    memcpy(out, s, len + 1);
}

static void call_accept(lua_State *L, qh_mind *m)
{
    qh_turn *t = m->turn;
    set_integer(L, UP(ROW), "n_out", t->n_out + 1);
    set_integer(L, UP(ROW), "position", t->noise.position);
    lua_pushnumber(L, qh_candidates_chance(m->candidates, t, t->token));
    lua_setfield(L, UP(ROW), "prob");
    lua_pushvalue(L, UP(ACCEPT));
    lua_pushvalue(L, UP(STATE));
    lua_pushinteger(L, t->token);
    lua_pushvalue(L, UP(ROW));
    lua_call(L, 3, 2);
    if (lua_isnil(L, -2)) return;
    if (lua_type(L, -2) != LUA_TSTRING || strcmp(lua_tostring(L, -2), "stop") != 0)
        luaL_error(L, "accept returned a %s; nil or \"stop\" is expected", luaL_typename(L, -2));
    t->verdict = QH_TURN_STOP;
    if (!lua_isnil(L, -1)) read_reason(L, lua_gettop(L), t->reason);
}

static int take_turn(lua_State *L)
{
    qh_mind *m = mind_of(L);
    qh_turn *t = m->turn;
    qh_candidates_begin(m->candidates, t);
    if (m->has_logits) call_logits(L, m);
    qh_candidates_end(m->candidates);
    t->token = qh_race_list(t->cands, t->n, t->max, t->temperature, &t->noise);
    if (m->has_accept) call_accept(L, m);
    return 0;
}

/* ---- from outside ---- */

static const char *message_of(lua_State *L)
{
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    return s ? s : "the error is no text";
}

void qh_mind_take_turn(qh_mind *m, qh_turn *t, qh_budget *budget)
{
    m->turn = t;
    t->verdict = QH_TURN_TOKEN;
    t->reason[0] = t->message[0] = 0;
    lua_pushvalue(m->L, 1);
    int status = run_watched(m, m->has_logits + m->has_accept, 0, budget);
    qh_candidates_end(m->candidates);
    m->turn = NULL;
    if (status) {
        t->verdict = m->is_over ? QH_TURN_TIMED_OUT : QH_TURN_FAILED;
        snprintf(t->message, sizeof t->message, "%s", message_of(m->L));
        lua_pop(m->L, 1);
    } else if (m->is_over) {
        t->verdict = QH_TURN_TIMED_OUT;
        snprintf(t->message, sizeof t->message, "the policy uses more than %d us of CPU a call",
                 m->budget_us);
    }
}

qh_status qh_mind_new(qh_mind **out, const qh_mind_module *mod, const qh_turn *turn,
                      const json_t *params, qh_budget *budget, qh_err *err)
{
    *out = NULL;
    qh_mind *m = qh_new0(qh_mind);
    m->budget_us = mod->budget_us;
    m->credit_us = QH_MIND_CREDIT_US;
    m->first = turn, m->module = mod, m->params = params;
    m->L = lua_newstate(mind_alloc, m);
    if (!m->L) {
        qh_free(m);
        return qh_fail(err, QH_ENOMEM, "no memory for a Lua state");
    }
    lua_pushcfunction(m->L, open_module);
    int status = run_watched(m, 1, 1, budget);
    m->first = NULL, m->module = NULL, m->params = NULL;
    if (status || m->is_over) {
        qh_status st = qh_fail(err, m->is_over ? QH_ETIMEDOUT : QH_ESCRIPT, "%s",
                               status ? message_of(m->L) : "init takes too long");
        qh_mind_free(m);
        return st;
    }
    *out = m;
    return QH_OK;
}

void qh_mind_free(qh_mind *m)
{
    if (!m) return;
    lua_close(m->L);
    qh_free(m);
}

static int append(lua_State *L, const void *p, size_t len, void *out)
{
    (void)L;
    qh_str_append(out, p, len);
    return 0;
}

qh_status qh_mind_compile(const qh_mind_module *mod, void **out, size_t *len_bytes, qh_err *err)
{
    *out = NULL;
    qh_mind m = {0};
    qh_str code = {0};
    lua_State *L = lua_newstate(mind_alloc, &m);
    if (!L) return qh_fail(err, QH_ENOMEM, "no memory for a Lua state");
    qh_status st = QH_OK;
    if (luaL_loadbufferx(L, mod->code, mod->len_bytes, mod->chunk, "t"))
        st = qh_fail(err, QH_ESCRIPT, "%s", message_of(L));
    else lua_dump(L, append, &code, 0);
    lua_close(L);
    if (st) return st;
    *len_bytes = code.len;
    *out = qh_str_steal(&code);
    return QH_OK;
}
