/* model.c - c.model: open, list; handles: meta, encode, encode_segments, decode, piece, submit */
#include "base/mem.h"
#include "lua/bind/generation.h"
#include "lua/bind/spec.h"
#include "lua/vm/module.h"
#include "lua/vm/work.h"
#include "text/detok.h"
#include <lauxlib.h>
#include <string.h>

#define CLASS "qhost.model"
enum {
    INLINE_BYTES = 32 << 10, /* shorter texts are tokenized on the loop thread, in about 2 ms */
    MAX_SEGMENTS = 100000
};

typedef struct {
    const qh_named_model *m;        /* lives as long as the host object */
} handle;

static const qh_named_model *check(lua_State *L)
{
    return ((handle *)luaL_checkudata(L, 1, CLASS))->m;
}
static const qh_vocab *vocab_of(const qh_named_model *m)
{
    return qh_tokenizer_vocab(m->model.tokenizer);
}

static void push_handle(lua_State *L, const qh_named_model *m)
{
    handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->m = m;
    luaL_setmetatable(L, CLASS);
}

/* ---- opening: only while the app loads ---- */

struct qh_lua_question {
    qh_scoped scoped;
    qh_lua *lua;
    char *name;
    qh_task *task;                  /* NULL: the load is over */
    qh_named_model *answer;
    qh_err err;
    bool is_answered;
};

static void question_free(qh_lua_question *q)
{
    qh_free(q->name);
    qh_free(q);
}

static void question_close(qh_scoped *s)
{
    qh_lua_question *q = (qh_lua_question *)s;
    q->task = NULL;
    if (q->is_answered) question_free(q);
}

static qh_named_model *add_model(qh_lua *lua, const char *name, const qh_lua_model *m)
{
    qh_named_model *n = qh_new0(qh_named_model), **at = &lua->models;
    n->name = qh_strdup(name);
    n->model = *m;
    while (*at) at = &(*at)->next;
    *at = n;
    return n;
}

void qh_lua_answer(qh_lua_question *q, const qh_lua_model *m, const qh_err *err)
{
    q->is_answered = true;
    if (m && !(q->answer = qh_lua_find_model(q->lua, q->name)))
        q->answer = add_model(q->lua, q->name, m);
    if (!m) q->err = err ? *err : (qh_err){.status = QH_ENOTFOUND};
    if (!q->task) question_free(q);
    else qh_task_wake(q->task);
}

/* Note that the app uses the model, once, and push its handle. */
static int use_model(lua_State *L, qh_named_model *m)
{
    qh_app *app = qh_app_of(L);
    for (int i = 0; i < app->n_models; i++)
        if (app->models[i] == m) return push_handle(L, m), 1;
    app->models = qh_realloc(app->models, sizeof *app->models * (size_t)(app->n_models + 1));
    app->models[app->n_models++] = m;
    push_handle(L, m);
    return 1;
}

static int open_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_lua_question *q = (qh_lua_question *)ctx;
    qh_task_check(L);
    if (!q->is_answered) return qh_task_park(L, "qh.model", ctx, open_go_on);
    qh_named_model *m = q->answer;
    if (!m)
        lua_pushfstring(L, "no model '%s': %s", q->name,
                        q->err.msg[0] ? q->err.msg : qh_status_text(q->err.status));
    qh_scope_remove(&q->scoped);
    question_free(q);
    if (m) return use_model(L, m);
    qh_push_app_line(L);
    lua_insert(L, -2);
    lua_concat(L, 2);
    return lua_error(L);
}

/* open(name) (y) -> handle; raises when there is no such model */
static int open_model(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    qh_app *app = qh_app_of(L);
    qh_task_check(L);
    for (int i = 0; i < app->n_models; i++)
        if (strcmp(app->models[i]->name, name) == 0) return push_handle(L, app->models[i]), 1;
    qh_task *t = qh_task_running(L);
    if (!t || t != app->load)
        return luaL_error(L, "model '%s' must be named while the app loads", name);
    qh_named_model *known = qh_lua_find_model(app->lua, name);
    if (known) return use_model(L, known);
    if (!app->lua->opts.resolve_model)
        return luaL_error(L, "no model '%s': none can be loaded here", name);
    qh_lua_question *q = qh_new0(qh_lua_question);
    q->lua = app->lua;
    q->name = qh_strdup(name);
    q->task = t;
    q->scoped.close = question_close;
    qh_scope_add(t, &q->scoped);
    app->lua->opts.resolve_model(app->lua->opts.arg, name, q);
    return open_go_on(L, LUA_OK, (lua_KContext)q);
}

/* list() -> handles of the models that this app has named */
static int list(lua_State *L)
{
    qh_app *app = qh_app_of(L);
    lua_createtable(L, app->n_models, 0);
    for (int i = 0; i < app->n_models; i++) {
        push_handle(L, app->models[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* ---- facts ---- */

static void set_string(lua_State *L, const char *key, const char *s)
{
    if (!s) return;
    lua_pushstring(L, s);
    lua_setfield(L, -2, key);
}

static void set_piece(lua_State *L, const char *key, const qh_vocab *v, qh_token id)
{
    if (id == QH_NO_TOKEN) return;
    qh_slice s = qh_vocab_piece(v, id);
    lua_pushlstring(L, s.data, s.len);
    lua_setfield(L, -2, key);
}

/* meta() -> {name, arch, n_ctx, n_vocab, chat_template?, bos?, eos?, path?} */
static int meta(lua_State *L)
{
    const qh_named_model *m = check(L);
    const qh_vocab *v = vocab_of(m);
    lua_createtable(L, 0, 8);
    set_string(L, "name", m->name);
    set_string(L, "arch", m->model.arch);
    set_string(L, "chat_template", m->model.chat_template);
    set_string(L, "path", m->model.path);
    lua_pushinteger(L, m->model.n_ctx);
    lua_setfield(L, -2, "n_ctx");
    lua_pushinteger(L, qh_vocab_len(v));
    lua_setfield(L, -2, "n_vocab");
    set_piece(L, "bos", v, qh_vocab_bos(v));
    set_piece(L, "eos", v, qh_vocab_eos(v));
    return 1;
}

/* ---- text to tokens ---- */

typedef struct {
    qh_work work;
    const qh_tokenizer *tokenizer;
    qh_segment *segs;               /* [n_segs]; of a long text, copies */
    int n_segs, flags;
    bool is_plain;                  /* one text with flags, not segments */
    char *copy;
    qh_tokens ids;
    qh_status status;
    qh_err err;
} encoding;

static void encoding_free(qh_work *w)
{
    encoding *e = (encoding *)w;
    qh_tokens_deinit(&e->ids);
    qh_free(e->segs);
    qh_free(e->copy);
    qh_free(e);
}

static void encoding_run(qh_work *w)
{
    encoding *e = (encoding *)w;
    if (e->is_plain)
        e->status = qh_tokenizer_encode(e->tokenizer, e->segs->text, e->segs->len, e->flags,
                                        &e->ids, &e->err);
    else
        e->status = qh_tokenizer_encode_segments(
            e->tokenizer, e->segs, e->n_segs, e->flags & QH_ENCODE_ADD_SPECIAL, &e->ids, &e->err);
}

static int push_ids(lua_State *L)
{
    const qh_tokens *ids = lua_touserdata(L, 1);
    lua_createtable(L, ids->len, 0);
    for (int i = 0; i < ids->len; i++) {
        lua_pushinteger(L, ids->ids[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int encode_go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    encoding *e = (encoding *)ctx;
    if (!qh_work_is_done(L, &e->work)) return qh_task_park(L, "tokenizing", ctx, encode_go_on);
    if (e->status) {
        qh_status st = e->status;
        qh_err err = e->err;
        qh_work_free(&e->work);
        return qh_push_status(L, st, &err);
    }
    lua_pushcfunction(L, push_ids);
    lua_pushlightuserdata(L, &e->ids);
    int failed = lua_pcall(L, 1, 1, 0);             /* e must not leak when memory is gone */
    qh_work_free(&e->work);
    return failed ? lua_error(L) : 1;
}

/* A worker may outlive the strings of Lua: a long text is copied for it. */
static void copy_texts(encoding *e, size_t n_bytes)
{
    char *to = e->copy = qh_alloc0(n_bytes ? n_bytes : 1);
    for (int i = 0; i < e->n_segs; i++) {
        memcpy(to, e->segs[i].text, e->segs[i].len);
        e->segs[i].text = to;
        to += e->segs[i].len;
    }
}

static int encode_begin(lua_State *L, encoding *e, size_t n_bytes)
{
    e->work.run = encoding_run;
    e->work.free = encoding_free;
    if (n_bytes <= INLINE_BYTES) {
        encoding_run(&e->work);
        e->work.is_done = true;
    } else {
        copy_texts(e, n_bytes);
        qh_work_begin(L, &e->work);
    }
    return encode_go_on(L, LUA_OK, (lua_KContext)e);
}

static int read_flags(lua_State *L, int index)
{
    int flags = 0;
    if (lua_isnoneornil(L, index)) return 0;
    luaL_checktype(L, index, LUA_TTABLE);
    lua_getfield(L, index, "add_special");
    if (lua_toboolean(L, -1)) flags |= QH_ENCODE_ADD_SPECIAL;
    lua_getfield(L, index, "parse_special");
    if (lua_toboolean(L, -1)) flags |= QH_ENCODE_PARSE_SPECIAL;
    lua_pop(L, 2);
    return flags;
}

/* encode(text, {add_special, parse_special}?) (y) -> ids | nil, message, name */
static int encode(lua_State *L)
{
    const qh_named_model *m = check(L);
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    int flags = read_flags(L, 3);
    qh_task_check(L);
    encoding *e = qh_new0(encoding);
    e->tokenizer = m->model.tokenizer;
    e->is_plain = true;
    e->flags = flags;
    e->n_segs = 1;
    e->segs = qh_new0(qh_segment);
    *e->segs = (qh_segment){.text = text, .len = len};
    return encode_begin(L, e, len);
}

/* Segment i of the table at 2; false: it is none. Does not raise. */
static bool read_segment(lua_State *L, int i, qh_segment *out)
{
    bool is_segment = false;
    lua_rawgeti(L, 2, i + 1);
    if (lua_istable(L, -1)) {
        lua_getfield(L, -1, "special");
        out->is_special = lua_toboolean(L, -1);
        lua_getfield(L, -2, "text");
        is_segment = lua_type(L, -1) == LUA_TSTRING;
        out->text = is_segment ? lua_tolstring(L, -1, &out->len) : NULL;
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return is_segment;
}

/* encode_segments({{text, special}, ...}, {add_special}?) (y) -> ids | nil, message, name */
static int encode_segments(lua_State *L)
{
    const qh_named_model *m = check(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    int flags = read_flags(L, 3);
    lua_Unsigned n = lua_rawlen(L, 2);
    luaL_argcheck(L, n <= MAX_SEGMENTS, 2, "too many segments");
    qh_task_check(L);
    size_t n_bytes = 0;
    qh_segment probe;
    for (int i = 0; i < (int)n; i++) {              /* may raise: nothing is held yet */
        if (!read_segment(L, i, &probe))
            return luaL_error(L, "segment %d is no {text = string, special = boolean}", i + 1);
        n_bytes += probe.len;
    }
    encoding *e = qh_new0(encoding);
    e->tokenizer = m->model.tokenizer;
    e->flags = flags;
    e->n_segs = (int)n;
    e->segs = qh_alloc0(sizeof *e->segs * (n ? n : 1));
    for (int i = 0; i < e->n_segs; i++) read_segment(L, i, &e->segs[i]);
    return encode_begin(L, e, n_bytes);
}

/* ---- tokens to text ---- */

static qh_token check_id(lua_State *L, int index, const qh_vocab *v, const char *what)
{
    int is_integer;
    lua_Integer id = lua_tointegerx(L, index, &is_integer);
    if (!is_integer || id < 0 || id >= qh_vocab_len(v))
        luaL_error(L, "%s is no token id from 0 to %d", what, qh_vocab_len(v) - 1);
    return (qh_token)id;
}

/* decode(ids, {special}?) -> the exact bytes */
static int decode(lua_State *L)
{
    const qh_vocab *v = vocab_of(check(L));
    luaL_checktype(L, 2, LUA_TTABLE);
    bool show_special = false;
    if (lua_istable(L, 3)) {
        lua_getfield(L, 3, "special");
        show_special = lua_toboolean(L, -1);
    }
    qh_str *out = qh_vm_scratch(L);
    lua_Unsigned n = lua_rawlen(L, 2);
    for (lua_Unsigned i = 1; i <= n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i);
        qh_token id = check_id(L, -1, v, "an id");
        qh_detok_all(v, &id, 1, show_special, out);
        lua_pop(L, 1);
    }
    lua_pushlstring(L, qh_str_z(out), out->len);
    return 1;
}

/* piece(id) -> its bytes; a control token's name */
static int piece(lua_State *L)
{
    const qh_vocab *v = vocab_of(check(L));
    qh_slice s = qh_vocab_bytes(v, check_id(L, 2, v, "the argument"));
    lua_pushlstring(L, s.data, s.len);
    return 1;
}

/* ---- a request to the engine ---- */

/* submit(spec) -> generation | nil, message, name */
static int submit(lua_State *L)
{
    const qh_named_model *m = check(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    luaL_checkstack(L, 20, NULL);
    qh_task_may_park(L, "a model");
    qh_generation_push(L);
    qh_err err = {0};
    bool is_known;
    qh_gen *gen = qh_gen_new();
    qh_status st = qh_spec_read(L, 2, gen, &is_known, &err);
    if (st) qh_gen_free(gen);
    else st = qh_generation_submit(L, 3, &m->model, gen, &err);
    if (!is_known) return luaL_error(L, "%s", err.msg);
    return st ? qh_push_status(L, st, &err) : 1;
}

/* name is a field, the rest are methods */
static int index_handle(lua_State *L)
{
    const char *key = lua_tostring(L, 2);
    if (key && strcmp(key, "name") == 0) {
        lua_pushstring(L, check(L)->name);
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

void qh_bind_model(lua_State *L)
{
    static const luaL_Reg METHODS[] = {
        {"meta", meta},     {"encode", encode}, {"encode_segments", encode_segments},
        {"decode", decode}, {"piece", piece},   {"submit", submit},
        {NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {{"open", open_model}, {"list", list}, {NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, NULL);
    luaL_getmetatable(L, CLASS);
    lua_getfield(L, -1, "__index");
    lua_pushcclosure(L, index_handle, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "model");
}
