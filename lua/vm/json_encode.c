/* json_encode.c - Lua values to JSON text; see convert.h */
#include "lua/vm/convert.h"
#include "lua/vm/json_walk.h"
#include "lua/vm/vm_private.h"
#include "text/utf8.h"
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_string(qh_str *out, const char *s, size_t len)
{
    static const char HEX[] = "0123456789abcdef";
    const char *p = s, *end = s + len, *from = s;
    qh_str_append_c(out, '"');
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            p++;
            continue;
        }
        int n = c >= 0x80 ? qh_utf8_len(p, (size_t)(end - p)) : 0;
        if (n) {
            p += n;
            continue;
        }
        qh_str_append(out, from, (size_t)(p - from));
        char esc[6] = {'\\', 'u', '0', '0', HEX[c >> 4], HEX[c & 15]};
        switch (c) {
        case '"': qh_str_append(out, "\\\"", 2); break;
        case '\\': qh_str_append(out, "\\\\", 2); break;
        case '\n': qh_str_append(out, "\\n", 2); break;
        case '\r': qh_str_append(out, "\\r", 2); break;
        case '\t': qh_str_append(out, "\\t", 2); break;
        default:
            if (c >= 0x80) qh_str_append(out, "\xef\xbf\xbd", 3);
            else qh_str_append(out, esc, sizeof esc);
        }
        from = ++p;
    }
    qh_str_append(out, from, (size_t)(p - from));
    qh_str_append_c(out, '"');
}

/* The shortest form that reads back as the same number. */
static void write_float(qh_str *out, double v)
{
    char buf[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buf, sizeof buf, "%.*g", digits, v);
        if (strtod(buf, NULL) == v) break;
    }
    qh_str_append_z(out, buf);
    if (!strpbrk(buf, ".e")) qh_str_append_z(out, ".0");
}

static qh_status encode_value(qh_json_walk *e, int index);

static qh_status encode_array(qh_json_walk *e, int t)
{
    lua_Integer n;
    qh_status st = qh_walk_array_len(e, t, &n);
    if (st) return st;
    qh_str_append_c(e->out, '[');
    for (lua_Integer i = 1; !st && i <= n; i++) {
        if (i > 1) qh_str_append_c(e->out, ',');
        size_t path = qh_walk_index(e, i);
        lua_rawgeti(e->L, t, i);
        st = encode_value(e, lua_gettop(e->L));
        lua_pop(e->L, 1);
        qh_walk_back(e, path);
    }
    qh_str_append_c(e->out, ']');
    return st;
}

static qh_status encode_object(qh_json_walk *e, int t)
{
    qh_key_list keys;
    qh_status st = qh_walk_keys(e, t, &keys);
    qh_str_append_c(e->out, '{');
    for (int i = 0; !st && i < keys.n; i++) {
        if (i) qh_str_append_c(e->out, ',');
        size_t path = qh_walk_key(e, keys.keys[i]);
        write_string(e->out, keys.keys[i].data, keys.keys[i].len);
        qh_str_append_c(e->out, ':');
        lua_pushlstring(e->L, keys.keys[i].data, keys.keys[i].len);
        lua_rawget(e->L, t);
        st = encode_value(e, lua_gettop(e->L));
        lua_pop(e->L, 1);
        qh_walk_back(e, path);
    }
    qh_str_append_c(e->out, '}');
    qh_key_list_deinit(&keys);
    return st;
}

static qh_status encode_number(qh_json_walk *e, int index)
{
    if (lua_isinteger(e->L, index)) {
        qh_str_appendf(e->out, "%lld", (long long)lua_tointeger(e->L, index));
        return QH_OK;
    }
    double v = lua_tonumber(e->L, index);
    if (!isfinite(v)) return qh_walk_fail(e, QH_EFORMAT, "JSON has no NaN and no infinity");
    write_float(e->out, v);
    return QH_OK;
}

static qh_status encode_value(qh_json_walk *e, int index)
{
    lua_State *L = e->L;
    qh_status st = qh_walk_enter(e);
    if (st) return st;
    switch (lua_type(L, index)) {
    case LUA_TNIL: qh_str_append_z(e->out, "null"); break;
    case LUA_TBOOLEAN: qh_str_append_z(e->out, lua_toboolean(L, index) ? "true" : "false"); break;
    case LUA_TNUMBER: st = encode_number(e, index); break;
    case LUA_TSTRING: {
        size_t len;
        const char *s = lua_tolstring(L, index, &len);
        write_string(e->out, s, len);
        break;
    }
    case LUA_TTABLE:
        st = qh_walk_kind(L, index) == QH_TABLE_ARRAY ? encode_array(e, index)
                                                      : encode_object(e, index);
        break;
    default:
        if (qh_json_is_null(L, index)) qh_str_append_z(e->out, "null");
        else st = qh_walk_fail_type(e, index);
    }
    if (!st && e->out->len > QH_JSON_MAX_BYTES)
        st = qh_walk_fail(e, QH_ELIMIT, "more than 32 MiB of JSON");
    e->depth--;
    return st;
}

qh_status qh_json_encode(lua_State *L, int index, bool is_sorted, qh_str *out, qh_err *err)
{
    qh_vm *vm = qh_vm_of(L);
    qh_json_walk e = {.L = L,
                      .is_sorted = is_sorted,
                      .steps = qh_steps_begin("encoding JSON"),
                      .out = out,
                      .err = err};
    index = lua_absindex(L, index);
    qh_vm_privileged_begin(vm);                 /* the few strings it pushes must not raise */
    qh_status st = encode_value(&e, index);
    qh_vm_privileged_end(vm);
    return st;
}
