/* re.c - c.re: regular expressions; qhost/re.lua makes qh.re of it */
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include "lua/vm/task.h"
#include "text/re.h"
#include <lauxlib.h>

#define CLASS "qhost.re"

static int re_gc(lua_State *L)
{
    qh_re **re = luaL_checkudata(L, 1, CLASS);
    qh_re_free(*re);
    *re = NULL;
    return 0;
}

/* compile(pattern, flags) -> re | nil, message, name */
static int compile(lua_State *L)
{
    size_t len;
    const char *pattern = luaL_checklstring(L, 1, &len), *flags = luaL_checkstring(L, 2);
    qh_err err = {0};
    qh_re **re = lua_newuserdatauv(L, sizeof(qh_re *), 0);
    *re = NULL;
    luaL_setmetatable(L, CLASS);
    qh_status st = qh_re_new(re, pattern, len, flags, &err);
    return st ? qh_push_status(L, st, &err) : 1;
}

/* (re, text, init, is_not_empty): the spans, or NULL for no match. Raises when it takes too long.
 */
static const qh_re_span *search(lua_State *L, qh_re **re)
{
    size_t len;
    *re = *(qh_re **)luaL_checkudata(L, 1, CLASS);
    const char *text = luaL_checklstring(L, 2, &len);
    lua_Integer init = luaL_checkinteger(L, 3);
    if (init < 1 || (lua_Unsigned)init > len + 1) return NULL;
    qh_err err = {0};
    qh_steps steps = qh_steps_begin("the regular expression");
    qh_re_search s;
    qh_re_begin(&s, *re, text, len, (size_t)init - 1, lua_toboolean(L, 4));
    qh_status st;
    while ((st = qh_re_go_on(&s, &err)) == QH_AGAIN) qh_steps_look(L, &steps);
    if (st == QH_ENOTFOUND) return NULL;
    if (st) {
        qh_push_app_line(L);
        lua_pushstring(L, err.msg);
        lua_concat(L, 2);
        lua_error(L);
    }
    return qh_re_spans(*re);
}

/* Where it is in the text: from and to as string.find has them. */
static int push_place(lua_State *L, qh_re_span span)
{
    lua_pushinteger(L, (lua_Integer)span.from + 1);
    lua_pushinteger(L, (lua_Integer)span.to);
    return 2;
}

/* find(re, text, init, is_not_empty) -> from, to | nil */
static int find(lua_State *L)
{
    qh_re *re;
    const qh_re_span *spans = search(L, &re);
    return spans ? push_place(L, spans[0]) : 0;
}

static void push_span(lua_State *L, const char *text, qh_re_span span)
{
    if (span.from == QH_RE_UNSET)
        lua_pushboolean(L, 0);
    else
        lua_pushlstring(L, text + span.from, span.to - span.from);
}

/* exec(re, text, init, is_not_empty) -> from, to, {[0] = all, first, ..., name = } | nil */
static int exec(lua_State *L)
{
    qh_re *re;
    const qh_re_span *spans = search(L, &re);
    if (!spans) return 0;
    const char *text = lua_tostring(L, 2);
    push_place(L, spans[0]);
    int n = qh_re_n_groups(re);
    lua_createtable(L, n, 1);
    for (int i = 0; i <= n; i++) {
        const char *name = i ? qh_re_group_name(re, i) : NULL;
        push_span(L, text, spans[i]);
        if (name) {
            lua_pushvalue(L, -1);
            lua_setfield(L, -3, name);
        }
        lua_rawseti(L, -2, i);
    }
    return 3;
}

void qh_bind_re(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {
        {"compile", compile}, {"find", find}, {"exec", exec}, {NULL, NULL}};
    static const luaL_Reg METHODS[] = {{NULL, NULL}};
    qh_bind_class(L, CLASS, METHODS, re_gc);
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "re");
}
