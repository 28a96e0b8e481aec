/* call.c - see call.h */
#include "lua/vm/call.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include <lauxlib.h>

typedef struct {
    qh_str *out;
    qh_err *err;
    qh_status status;
} call;

static const char *text_at(lua_State *L, int at, const char *otherwise)
{
    const char *s = lua_tostring(L, at);
    return s ? s : otherwise;
}

static void keep_result(call *c, lua_State *L, int n)
{
    size_t len;
    const char *text = n >= 1 && lua_type(L, -n) == LUA_TSTRING ? lua_tolstring(L, -n, &len) : NULL;
    if (text) qh_str_append(c->out, text, len);
    else
        c->status =
            qh_fail(c->err, QH_ESCRIPT, "%s", text_at(L, n >= 2 ? 1 - n : -1, "no text came back"));
}

static void on_done(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    (void)t;
    call *c = user;
    if (end == QH_TASK_OK) {
        keep_result(c, L, n);
        return;
    }
    lua_getfield(L, -1, "message");
    qh_status st = end == QH_TASK_FAILED      ? QH_ESCRIPT
                   : end == QH_TASK_CANCELLED ? QH_ECANCELED
                                              : QH_ELIMIT;
    c->status = qh_fail(c->err, st, "%s", text_at(L, -1, "error"));
    lua_pop(L, 1);
}

static int call_library(lua_State *L)           /* module, fn, arg */
{
    qh_module_require(L, luaL_checkstring(L, 1));
    lua_getfield(L, -1, luaL_checkstring(L, 2));
    lua_pushvalue(L, 3);
    lua_call(L, 1, LUA_MULTRET);
    return lua_gettop(L) - 4;
}

qh_status qh_vm_call(qh_vm *vm, const char *module, const char *fn, const char *arg, size_t len,
                     qh_str *out, qh_err *err)
{
    static const qh_task_ops OPS = {on_done};
    lua_State *L = qh_vm_lua(vm);
    call c = {out, err, QH_OK};
    lua_pushcfunction(L, call_library);
    lua_pushstring(L, module);
    lua_pushstring(L, fn);
    lua_pushlstring(L, arg, len);
    qh_task_run(qh_task_new(vm, 3, &qh_task_limits_default, &OPS, &c));
    return c.status;
}
