/* policy.c - c.policy: module, bind; the sampling policies of an app
 *
 * A userdata holds one reference, to a module (a version of a policy's file) or to a policy that is bound
 * to parameters; jobs and their sequences hold their own. */
#include "base/mem.h"
#include "lua/bind/policy.h"
#include "lua/lua_private.h"
#include "lua/policies.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include <lauxlib.h>

#define MODULE_CLASS "qhost.policy_module"
#define BOUND_CLASS "qhost.policy"

typedef struct {
    qh_policy_module *m;
} module_box;

typedef struct {
    qh_policy *p;
} bound_box;

static int module_gc(lua_State *L)
{
    module_box *b = luaL_checkudata(L, 1, MODULE_CLASS);
    qh_policy_module_unref(b->m);
    b->m = NULL;
    return 0;
}

static int bound_gc(lua_State *L)
{
    bound_box *b = luaL_checkudata(L, 1, BOUND_CLASS);
    qh_policy_unref(b->p);
    b->p = NULL;
    return 0;
}

qh_policy *qh_policy_at(lua_State *L, int index)
{
    bound_box *b = luaL_testudata(L, index, BOUND_CLASS);
    return b && b->p ? qh_policy_ref(b->p) : NULL;
}

/* module(name, chunk, text, top, budget_us) -> module | nil, message, status. While an app loads. */
static int module(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 3, &len);
    const qh_policy_spec spec = {.name = luaL_checkstring(L, 1),
                                 .chunk = luaL_checkstring(L, 2),
                                 .text = text,
                                 .len_bytes = len,
                                 .top = (int)luaL_checkinteger(L, 4),
                                 .budget_us = (int)luaL_checkinteger(L, 5)};
    qh_err err = {0};
    module_box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->m = NULL;
    luaL_setmetatable(L, MODULE_CLASS);
    qh_status st = qh_policy_module_new(&b->m, &spec, &err);
    return st ? qh_push_status(L, st, &err) : 1;
}

/* bind(module, params) -> policy | nil, message, status */
static int bind(lua_State *L)
{
    qh_lua *lua = qh_app_of(L)->lua;
    module_box *m = luaL_checkudata(L, 1, MODULE_CLASS);
    luaL_checktype(L, 2, LUA_TTABLE);
    qh_err err = {0};
    json_t *params = NULL;
    bound_box *b = lua_newuserdatauv(L, sizeof *b, 0);
    b->p = NULL;
    luaL_setmetatable(L, BOUND_CLASS);
    qh_status st = QH_OK;
    if (!lua->policies) st = qh_policies_new(&lua->policies, &err);
    if (!st) st = qh_json_read(L, 2, &params, &err);
    if (st) return qh_push_status(L, st, &err);
    b->p = qh_policies_bind(lua->policies, m->m, params);
    return 1;
}

/* is_loading() -> whether the running task loads the app */
static int is_loading(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    lua_pushboolean(L, t && t == qh_app_of(L)->load);
    return 1;
}

void qh_bind_policy(lua_State *L)
{
    static const luaL_Reg NONE[] = {{NULL, NULL}};
    static const luaL_Reg FUNCTIONS[] = {
        {"module", module}, {"bind", bind}, {"is_loading", is_loading}, {NULL, NULL}};
    qh_bind_class(L, MODULE_CLASS, NONE, module_gc);
    qh_bind_class(L, BOUND_CLASS, NONE, bound_gc);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "policy");
}
