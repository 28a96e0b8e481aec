/* log.c - c.log.write: one line of the log, an event name and key=value pairs. */
#include "base/log.h"
#include "lua/bind/bind.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME_BYTES = 80, MAX_FIELDS = 32, MAX_VALUE_BYTES = 1000 };

static bool is_word(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return n && !s[n] && n <= MAX_NAME_BYTES;
}

/* Bare when it is one word, else in quotes, so that a value cannot forge a field. */
static void append_value(qh_str *line, const char *s, size_t len)
{
    bool is_bare = len > 0;
    if (len > MAX_VALUE_BYTES) len = MAX_VALUE_BYTES;
    for (size_t i = 0; i < len; i++)
        is_bare &= s[i] > ' ' && s[i] != '"' && s[i] != '=' && s[i] != 127;
    if (is_bare) {
        qh_str_append(line, s, len);
        return;
    }
    qh_str_append_c(line, '"');
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '"' || s[i] == '\\') qh_str_append_c(line, '\\');
        qh_str_append_c(line, s[i]);
    }
    qh_str_append_c(line, '"');
}

/* The value on top of the stack; popped. */
static void append_field(lua_State *L, qh_str *line, const char *key)
{
    size_t len;
    qh_str_appendf(line, "%s%s=", line->len ? " " : "", key);
    if (lua_istable(L, -1)) {
        qh_str json = {0};
        qh_err err = {0};
        if (qh_json_encode(L, -1, true, &json, &err)) append_value(line, err.msg, strlen(err.msg));
        else append_value(line, qh_str_z(&json), json.len);
        qh_str_deinit(&json);
    } else {
        const char *s = lua_type(L, -1) == LUA_TBOOLEAN ? lua_toboolean(L, -1) ? "true" : "false"
                                                        : lua_tostring(L, -1);
        len = s ? strlen(s) : 0;
        if (lua_type(L, -1) == LUA_TSTRING) s = lua_tolstring(L, -1, &len);
        append_value(line, s ? s : luaL_typename(L, -1), s ? len : strlen(luaL_typename(L, -1)));
    }
    lua_pop(L, 1);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The table at 3, keys in order. */
static void append_fields(lua_State *L, qh_str *line)
{
    const char *keys[MAX_FIELDS];
    int n = 0;
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (!is_word(key)) luaL_error(L, "a field's name is letters, digits, '_', '.' and '-'");
        if (n == MAX_FIELDS) luaL_error(L, "more than %d fields", MAX_FIELDS);
        keys[n++] = key;
    }
    qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    for (int i = 0; i < n; i++) {
        lua_pushstring(L, keys[i]);
        lua_rawget(L, 3);
        append_field(L, line, keys[i]);
    }
}

/* write(level, event, fields | text | nil) */
static int write_line(lua_State *L)
{
    static const char *const LEVELS[] = {"debug", "info", "warn", "error", NULL};
    qh_log_level level = (qh_log_level)luaL_checkoption(L, 1, NULL, LEVELS);
    const char *event = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    luaL_argcheck(L, is_word(event), 2, "an event name is letters, digits, '_', '.' and '-'");
    bool is_text = lua_type(L, 3) == LUA_TSTRING;
    if (!is_text && !lua_isnil(L, 3)) luaL_checktype(L, 3, LUA_TTABLE);
    if (level < qh_log_get_level()) return 0;
    qh_str *line = qh_vm_scratch(L);
    if (lua_istable(L, 3)) append_fields(L, line);
    qh_log_at(level, event, "%s", is_text ? lua_tostring(L, 3) : qh_str_z(line));
    return 0;
}

void qh_bind_log(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {{"write", write_line}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "log");
}
