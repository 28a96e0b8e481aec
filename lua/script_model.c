/* script_model.c - see script_model.h */
#include "lua/script_model.h"
#include "base/mem.h"
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct qh_script_model {
    qh_vm *vm;
    int ask_ref;                    /* registry */
    qh_script_model_facts facts;
    char *chat_template;
    qh_str text;                    /* of the tokens asked about */
};

/* ---- opening ---- */

static int open_script(lua_State *L)
{
    qh_module_require(L, "qhost.scripted");
    lua_getfield(L, -1, "open");
    lua_pushvalue(L, 1);
    lua_call(L, 1, 5);
    return 5;
}

typedef struct {
    qh_script_model *m;
    qh_err *err;
    qh_status status;
} opening;

static qh_status fail_with(qh_err *err, lua_State *L)
{
    lua_getfield(L, -1, "message");
    const char *message = lua_tostring(L, -1);
    qh_status st = qh_fail(err, QH_ESCRIPT, "%s", message ? message : "error");
    lua_pop(L, 1);
    return st;
}

static void on_opened(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    opening *o = user;
    if (end) {
        o->status = fail_with(o->err, L);
        return;
    }
    qh_script_model *m = o->m;
    m->facts.rate = lua_tonumber(L, -4);
    m->facts.prefill_rate = lua_tonumber(L, -3);
    m->facts.n_ctx = (int)lua_tointeger(L, -2);
    m->facts.chat_template = m->chat_template = qh_strdup(lua_tostring(L, -1));
    lua_pushvalue(L, -5);
    m->ask_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

qh_status qh_script_model_open(qh_script_model **out, const char *path, qh_err *err)
{
    static const qh_task_ops OPS = {on_opened};
    *out = NULL;
    char real[PATH_MAX];
    if (!realpath(path, real)) return qh_fail(err, QH_ENOTFOUND, "%s: no such file", path);
    char *slash = strrchr(real, '/'), *folder = qh_strndup(real, (size_t)(slash - real));
    qh_script_model *m = qh_new0(qh_script_model);
    qh_vm_opts opts = {.app_dir = folder, .bind = qh_bind_base};
    qh_status st = qh_vm_new(&m->vm, &opts, err);
    qh_free(folder);
    if (!st) {
        opening o = {m, err, QH_OK};
        lua_State *L = qh_vm_lua(m->vm);
        lua_pushcfunction(L, open_script);
        lua_pushstring(L, real);
        qh_task_run(qh_task_new(m->vm, 1, &qh_task_limits_default, &OPS, &o));
        st = o.status;
    }
    if (st) qh_script_model_close(m);
    else *out = m;
    return st;
}

void qh_script_model_close(qh_script_model *m)
{
    if (!m) return;
    qh_vm_free(m->vm);
    qh_free(m->chat_template);
    qh_str_deinit(&m->text);
    qh_free(m);
}

qh_script_model_facts qh_script_model_get_facts(const qh_script_model *m) { return m->facts; }

/* ---- asking ---- */

typedef struct {
    qh_token *ids;
    float *weights;
    int max, n;
    qh_err *err;
    qh_status status;
} asking;

static void on_said(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t, (void)n;
    asking *a = user;
    if (end) {
        a->status = fail_with(a->err, L);
        return;
    }
    int n_ids = (int)lua_rawlen(L, -2);
    for (a->n = 0; a->n < n_ids && a->n < a->max; a->n++) {
        lua_rawgeti(L, -2, a->n + 1);
        lua_rawgeti(L, -2, a->n + 1);
        a->ids[a->n] = (qh_token)lua_tointeger(L, -2);
        a->weights[a->n] = (float)lua_tonumber(L, -1);
        lua_pop(L, 2);
        if (!(a->weights[a->n] > 0))
            a->status = qh_fail(a->err, QH_ESCRIPT, "weight %d is not above 0", a->n + 1);
    }
    if (!a->n) a->status = qh_fail(a->err, QH_ESCRIPT, "next returned an empty table");
}

static void append_token(qh_str *out, qh_token id)
{
    static const char *const NAMES[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    if (id < 256) qh_str_append_c(out, (char)id);
    else qh_str_append_z(out, NAMES[id - 256]);
}

qh_status qh_script_model_next(qh_script_model *m, const qh_token *tokens, int n, qh_token *ids,
                               float *weights, int max, int *n_out, qh_err *err)
{
    static const qh_task_ops OPS = {on_said};
    lua_State *L = qh_vm_lua(m->vm);
    asking a = {.ids = ids, .weights = weights, .max = max, .err = err};
    qh_str_clear(&m->text);
    for (int i = 0; i < n; i++) append_token(&m->text, tokens[i]);
    qh_vm_privileged_begin(m->vm);
    lua_rawgeti(L, LUA_REGISTRYINDEX, m->ask_ref);
    lua_pushlstring(L, qh_str_z(&m->text), m->text.len);
    qh_vm_privileged_end(m->vm);
    qh_task_run(qh_task_new(m->vm, 1, &qh_task_limits_default, &OPS, &a));
    *n_out = a.n;
    return a.status;
}
