/* store.c - c.store: batches of SQL on a store's thread; qhost/store.lua makes qh.store of it */
#include "lua/store.h"
#include "base/mem.h"
#include "lua/lua_private.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include "lua/vm/work.h"
#include "text/utf8.h"
#include <lauxlib.h>
#include <string.h>

#define CLASS "qhost.store"
enum { MAX_PARAMS = 1000 };

typedef struct {
    qh_work work;
    qh_store *store;
    qh_store_batch batch;
} store_op;

/* open(name) -> handle | nil, message, name */
static int open_store(lua_State *L)
{
    qh_err err = {0};
    qh_store *s;
    qh_status st = qh_stores_get(qh_app_of(L)->lua->stores, luaL_checkstring(L, 1), &s, &err);
    if (st) return qh_push_status(L, st, &err);
    *(qh_store **)lua_newuserdatauv(L, sizeof s, 0) = s;
    luaL_setmetatable(L, CLASS);
    return 1;
}

/* ---- the batch, from a list of {sql, params} at index 2 ---- */

static void read_param(lua_State *L, qh_store_param *p)
{
    size_t len;
    const char *s;
    switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN: p->kind = QH_CELL_INT, p->integer = lua_toboolean(L, -1); break;
    case LUA_TNUMBER:
        p->kind = lua_isinteger(L, -1) ? QH_CELL_INT : QH_CELL_REAL;
        if (p->kind == QH_CELL_INT)
            p->integer = lua_tointeger(L, -1);
        else
            p->real = lua_tonumber(L, -1);
        break;
    case LUA_TSTRING:
        s = lua_tolstring(L, -1, &len);
        p->kind = qh_utf8_span(s, len) == len && !memchr(s, 0, len) ? QH_CELL_TEXT : QH_CELL_BLOB;
        p->data = qh_strndup(s, len);
        p->len_bytes = len;
        break;
    default:
        if (!qh_json_is_null(L, -1))
            luaL_error(L, "a value for SQL is a string, a number, a boolean or null, not a %s",
                       luaL_typename(L, -1));
    }
}

/* The table on top: a list, or by name. */
static void read_params(lua_State *L, qh_store_statement *q)
{
    lua_Unsigned n = lua_rawlen(L, -1);
    int t = lua_gettop(L), n_named = 0;
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1)) n_named += lua_type(L, -2) == LUA_TSTRING;
    if (n + (lua_Unsigned)n_named > MAX_PARAMS || (n && n_named))
        luaL_error(L, "the values for SQL are a list or have names, and are at most %d",
                   MAX_PARAMS);
    q->params = qh_alloc0(sizeof *q->params * (size_t)(n + (lua_Unsigned)n_named + 1));
    for (lua_Unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, t, (lua_Integer)i + 1);
        read_param(L, &q->params[q->n_params++]);
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); n_named && lua_next(L, t); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "the values for SQL are a list or have names");
        q->params[q->n_params].name = qh_strdup(lua_tostring(L, -2));
        read_param(L, &q->params[q->n_params++]);
    }
}

static int read_statement(lua_State *L, qh_store_statement *q)
{
    size_t len;
    luaL_checktype(L, -1, LUA_TTABLE);
    lua_rawgeti(L, -1, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        return luaL_error(L, "the SQL is a %s; a string is expected", luaL_typename(L, -1));
    const char *sql = lua_tolstring(L, -1, &len);
    if (len > QH_STORE_MAX_SQL_BYTES || strlen(sql) != len)
        return luaL_error(L, "the SQL is too long, or has a NUL byte");
    q->sql = qh_strdup(sql);
    lua_rawgeti(L, -2, 2);
    if (lua_istable(L, -1))
        read_params(L, q);
    else if (!lua_isnil(L, -1))
        return luaL_error(L, "the values for SQL are a %s; a table is expected",
                          luaL_typename(L, -1));
    lua_pop(L, 2);
    return 0;
}

/* (op, list) */
static int read_batch(lua_State *L)
{
    store_op *op = lua_touserdata(L, 1);
    lua_Unsigned n = lua_rawlen(L, 2);
    if (n < 1 || n > QH_STORE_MAX_STATEMENTS)
        return luaL_error(L, "a batch has 1 to %d statements, this one has %I",
                          QH_STORE_MAX_STATEMENTS, (lua_Integer)n);
    op->batch.statements = qh_alloc0(sizeof *op->batch.statements * (size_t)n);
    for (lua_Unsigned i = 0; i < n; i++) {
        op->batch.n = (int)i + 1;
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        read_statement(L, &op->batch.statements[i]);
        lua_pop(L, 1);
    }
    return 0;
}

/* ---- the results ---- */

static void push_cell(lua_State *L, qh_cell c)
{
    switch (c.kind) {
    case QH_CELL_INT: lua_pushinteger(L, c.integer); break;
    case QH_CELL_REAL: lua_pushnumber(L, c.real); break;
    case QH_CELL_NULL: lua_pushnil(L); break;
    default: lua_pushlstring(L, c.data, c.len_bytes);
    }
}

static void push_rows(lua_State *L, const qh_store_statement *q)
{
    size_t at = 0;
    lua_createtable(L, q->n_rows, 2);
    for (int i = 0; i < q->n_rows; i++) {
        lua_createtable(L, 0, q->n_columns);
        for (int k = 0; k < q->n_columns; k++) {
            push_cell(L, qh_cell_next(&q->cells, &at));
            lua_setfield(L, -2, q->columns[k]);
        }
        lua_rawseti(L, -2, i + 1);
    }
}

/* (op) -> {rows...}, {{changes=, last_id=}...} */
static int push_results(lua_State *L)
{
    const store_op *op = lua_touserdata(L, 1);
    lua_createtable(L, op->batch.n, 0);
    lua_createtable(L, op->batch.n, 0);
    for (int i = 0; i < op->batch.n; i++) {
        const qh_store_statement *q = &op->batch.statements[i];
        push_rows(L, q);
        lua_rawseti(L, 2, i + 1);
        lua_createtable(L, 0, 2);
        lua_pushinteger(L, q->n_changes);
        lua_setfield(L, -2, "changes");
        lua_pushinteger(L, q->last_id);
        lua_setfield(L, -2, "last_id");
        lua_rawseti(L, 3, i + 1);
    }
    return 2;
}

/* ---- running ---- */

static void op_run(qh_work *w)
{
    store_op *op = (store_op *)w;
    qh_store_run(op->store, &op->batch);
}

static void op_cancel(qh_work *w)
{
    atomic_store(&((store_op *)w)->batch.is_cancelled, true);
}

static void op_free(qh_work *w)
{
    store_op *op = (store_op *)w;
    qh_store_batch_deinit(&op->batch);
    qh_free(op);
}

static int go_on(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    store_op *op = (store_op *)ctx;
    if (!qh_work_is_done(L, &op->work)) return qh_task_park(L, "qh.store", ctx, go_on);
    if (op->batch.err.status) {
        qh_err err = op->batch.err;
        qh_work_free(&op->work);
        return qh_push_status(L, err.status, &err);
    }
    lua_pushcfunction(L, push_results);
    lua_pushlightuserdata(L, op);
    int rc = lua_pcall(L, 1, 2, 0);
    qh_work_free(&op->work);
    return rc ? lua_error(L) : 2;
}

/* run(handle, {{sql, params}...}, timeout_seconds) -> rows, infos | nil, message, name   (y) */
static int run(lua_State *L)
{
    qh_store *s = *(qh_store **)luaL_checkudata(L, 1, CLASS);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Number timeout = luaL_checknumber(L, 3);
    luaL_argcheck(L, timeout > 0 && timeout <= 3600, 3, "seconds up to an hour are expected");
    qh_task_may_park(L, "qh.store");
    store_op *op = qh_new0(store_op);
    *op = (store_op){.work = {.run = op_run, .free = op_free, .cancel = op_cancel},
                     .store = s,
                     .batch = {.timeout_us = (int64_t)(timeout * 1e6)}};
    lua_pushcfunction(L, read_batch);
    lua_pushlightuserdata(L, op);
    lua_pushvalue(L, 2);
    if (lua_pcall(L, 2, 0, 0)) {
        op_free(&op->work);
        return lua_error(L);
    }
    if (qh_work_begin_on(L, &op->work, qh_store_workers(s))) {
        op_free(&op->work);
        qh_err err = {0};
        qh_fail(&err, QH_AGAIN, "store '%s': too many calls wait for it", qh_store_name(s));
        return qh_push_status(L, QH_AGAIN, &err);
    }
    return go_on(L, LUA_OK, (lua_KContext)op);
}

void qh_bind_store(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {{"open", open_store}, {"run", run}, {NULL, NULL}};
    static const luaL_Reg METHODS[] = {{NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, NULL);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "store");
}
