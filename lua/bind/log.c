/* log.c - qh.log: debug, info, warn, error. One line: an event name and key=value pairs. */
#include "base/log.h"
#include "lua/bind/bind.h"
#include "lua/vm/convert.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <string.h>

enum { MAX_NAME_BYTES = 60 };

static bool is_word(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return n && !s[n] && n <= MAX_NAME_BYTES;
}

/* log(event, {key = value, ...}?): keys sorted; values as JSON, plain words without quotes. */
static int write_line(lua_State *L, qh_log_level level)
{
    const char *event = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    luaL_argcheck(L, is_word(event), 1, "an event name is letters, digits, '_', '.' and '-'");
    if (!lua_isnil(L, 2)) luaL_checktype(L, 2, LUA_TTABLE);
    if (level < qh_log_get_level()) return 0;
    qh_str *line = qh_vm_scratch(L);
    if (lua_istable(L, 2)) {
        qh_err err = {0};
        qh_status st = qh_json_encode(L, 2, true, line, &err);
        if (st) return luaL_argerror(L, 2, lua_pushstring(L, err.msg));
    }
    qh_log_at(level, "app", "event=%s%s%s", event, line->len ? " fields=" : "", qh_str_z(line));
    return 0;
}

static int debug(lua_State *L) { return write_line(L, QH_LOG_DEBUG); }
static int info(lua_State *L) { return write_line(L, QH_LOG_INFO); }
static int warn(lua_State *L) { return write_line(L, QH_LOG_WARN); }
static int error(lua_State *L) { return write_line(L, QH_LOG_ERROR); }

void qh_bind_log(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {
        {"debug", debug}, {"info", info}, {"warn", warn}, {"error", error}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "log");
}
