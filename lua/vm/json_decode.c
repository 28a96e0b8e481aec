/* json_decode.c - JSON text to Lua values; see convert.h */
#include "lua/vm/convert.h"
#include "lua/vm/json_shape.h"
#include "lua/vm/task.h"
#include "text/utf8.h"
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    lua_State *L;
    const char *at, *end, *start;
    int depth;
    qh_steps steps;
    qh_str *scratch;
    qh_shape_list shapes;
    qh_err *err;
} decoder;

static qh_status fail_at(decoder *d, const char *where, const char *what)
{
    int line = 1, column = 1;
    for (const char *p = d->start; p < where; p++) {
        if (*p == '\n') line++, column = 1;
        else if (((unsigned char)*p & 0xc0) != 0x80) column++;
    }
    return qh_fail(d->err, QH_EFORMAT, "%s at line %d, column %d", what, line, column);
}

static void skip_space(decoder *d)
{
    while (d->at < d->end && (*d->at == ' ' || *d->at == '\n' || *d->at == '\r' || *d->at == '\t'))
        d->at++;
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int h = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
              : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (h < 0) return -1;
        v = v << 4 | h;
    }
    return v;
}

static void append_utf8(qh_str *s, int c)
{
    char b[4];
    int n;
    if (c < 0x80) b[0] = (char)c, n = 1;
    else if (c < 0x800) b[0] = (char)(0xc0 | c >> 6), b[1] = (char)(0x80 | (c & 63)), n = 2;
    else if (c < 0x10000)
        b[0] = (char)(0xe0 | c >> 12), b[1] = (char)(0x80 | (c >> 6 & 63)),
        b[2] = (char)(0x80 | (c & 63)), n = 3;
    else
        b[0] = (char)(0xf0 | c >> 18), b[1] = (char)(0x80 | (c >> 12 & 63)),
        b[2] = (char)(0x80 | (c >> 6 & 63)), b[3] = (char)(0x80 | (c & 63)), n = 4;
    qh_str_append(s, b, (size_t)n);
}

/* At the backslash. Appends the character to scratch. */
static qh_status decode_escape(decoder *d)
{
    const char *from = d->at;
    static const char NAMES[] = "\"\\/bfnrt", VALUES[] = "\"\\/\b\f\n\r\t";
    if (d->end - d->at < 2) return fail_at(d, from, "unfinished escape");
    const char *name = memchr(NAMES, d->at[1], sizeof NAMES - 1);
    if (name) {
        qh_str_append_c(d->scratch, VALUES[name - NAMES]);
        d->at += 2;
        return QH_OK;
    }
    int c = d->at[1] == 'u' && d->end - d->at >= 6 ? hex4(d->at + 2) : -1;
    if (c < 0) return fail_at(d, from, "bad escape");
    d->at += 6;
    if (c >= 0xd800 && c <= 0xdbff && d->end - d->at >= 6 && d->at[0] == '\\' && d->at[1] == 'u') {
        int low = hex4(d->at + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            d->at += 6;
        }
    }
    if (c >= 0xd800 && c <= 0xdfff) c = 0xfffd;
    append_utf8(d->scratch, c);
    return QH_OK;
}

/* Behind the opening quote. Pushes the string. */
static qh_status decode_string(decoder *d)
{
    const char *begin = d->at, *from = begin;
    bool has_escape = false;
    qh_str_clear(d->scratch);
    for (;;) {
        if (d->at == d->end) return fail_at(d, from - 1, "string without an end");
        unsigned char c = (unsigned char)*d->at;
        if (c == '"') break;
        if (c < 0x20) return fail_at(d, d->at, "control character in a string");
        if (c == '\\') {
            qh_str_append(d->scratch, from, (size_t)(d->at - from));
            qh_status st = decode_escape(d);
            if (st) return st;
            from = d->at;
            has_escape = true;
            continue;
        }
        int n = qh_utf8_len(d->at, (size_t)(d->end - d->at));
        if (!n) return fail_at(d, d->at, "invalid UTF-8");
        d->at += n;
    }
    ptrdiff_t n_steps = (d->at - begin) / 8;
    d->steps.left -= n_steps < QH_STEPS_A_LOOK ? (int)n_steps : QH_STEPS_A_LOOK;
    if (has_escape) {
        qh_str_append(d->scratch, from, (size_t)(d->at - from));
        lua_pushlstring(d->L, d->scratch->data, d->scratch->len);
    } else {
        lua_pushlstring(d->L, from, (size_t)(d->at - from));
    }
    d->at++;
    return QH_OK;
}

static bool is_digit(const decoder *d, const char *p)
{
    return p < d->end && *p >= '0' && *p <= '9';
}

static qh_status decode_number(decoder *d)
{
    const char *from = d->at, *p = from;
    bool is_integer = true;
    if (*p == '-') p++;
    if (!is_digit(d, p)) return fail_at(d, from, "unexpected character");
    if (*p == '0') p++;
    else while (is_digit(d, p)) p++;
    if (is_digit(d, p)) return fail_at(d, from, "number with a leading zero");
    if (p < d->end && *p == '.') {
        is_integer = false;
        if (!is_digit(d, ++p)) return fail_at(d, from, "number without a digit behind its point");
        while (is_digit(d, p)) p++;
    }
    if (p < d->end && (*p == 'e' || *p == 'E')) {
        is_integer = false;
        if (++p < d->end && (*p == '+' || *p == '-')) p++;
        if (!is_digit(d, p)) return fail_at(d, from, "number without a digit in its exponent");
        while (is_digit(d, p)) p++;
    }
    size_t len = (size_t)(p - from);
    d->at = p;
    if (is_integer) {
        lua_Integer v = 0;
        bool fits = true, is_negative = *from == '-';
        for (const char *q = from + is_negative; q < p && fits; q++)
            fits = !__builtin_mul_overflow(v, 10, &v) && !__builtin_sub_overflow(v, *q - '0', &v);
        if (!is_negative && v == LUA_MININTEGER) fits = false;
        if (fits) {                             /* counted downward, so that the least one fits */
            lua_pushinteger(d->L, is_negative ? v : -v);
            return QH_OK;
        }
    }
    qh_str_clear(d->scratch);
    qh_str_append(d->scratch, from, len);
    double v = strtod(d->scratch->data, NULL);
    if (!isfinite(v)) return fail_at(d, from, "number out of range");
    lua_pushnumber(d->L, v);
    return QH_OK;
}

static qh_status decode_value(decoder *d);

static qh_status decode_array(decoder *d)
{
    lua_State *L = d->L;
    lua_createtable(L, 4, 0);
    skip_space(d);
    if (d->at < d->end && *d->at == ']') {
        d->at++;
        qh_shapes_mark_array(&d->shapes);
        return QH_OK;
    }
    for (lua_Integer i = 1;; i++) {
        qh_status st = decode_value(d);
        if (st) return st;
        lua_rawseti(L, -2, i);
        skip_space(d);
        if (d->at == d->end) return fail_at(d, d->at, "array without an end");
        char c = *d->at++;
        if (c == ']') return QH_OK;
        if (c != ',') return fail_at(d, d->at - 1, "expected ',' or ']'");
    }
}

static qh_status decode_object(decoder *d)
{
    lua_State *L = d->L;
    qh_object_builder o;
    qh_object_begin(&o, L);
    skip_space(d);
    bool is_empty = d->at < d->end && *d->at == '}';
    if (is_empty) d->at++;
    while (!is_empty) {
        skip_space(d);
        if (d->at == d->end || *d->at != '"') return fail_at(d, d->at, "expected a key in quotes");
        d->at++;
        qh_status st = decode_string(d);
        if (st) return st;
        qh_object_note_key(&o, L);
        skip_space(d);
        if (d->at == d->end || *d->at != ':') return fail_at(d, d->at, "expected ':'");
        d->at++;
        st = decode_value(d);
        if (st) return st;
        lua_rawset(L, o.obj_at);
        skip_space(d);
        if (d->at == d->end) return fail_at(d, d->at, "object without an end");
        char c = *d->at++;
        if (c == '}') break;
        if (c != ',') return fail_at(d, d->at - 1, "expected ',' or '}'");
    }
    qh_object_end(&o, L, &d->shapes);
    return QH_OK;
}

static bool take_word(decoder *d, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(d->end - d->at) < n || memcmp(d->at, word, n) != 0) return false;
    d->at += n;
    return true;
}

static qh_status decode_value(decoder *d)
{
    skip_space(d);
    if (d->at == d->end) return fail_at(d, d->at, "unexpected end");
    if (d->depth >= QH_JSON_MAX_DEPTH) return fail_at(d, d->at, "nested too deep");
    luaL_checkstack(d->L, 12, NULL);
    if ((d->steps.left -= 8) <= 0 && qh_steps_are_over(d->L, &d->steps))
        return qh_fail(d->err, QH_ELIMIT, "it takes too long to decode");
    qh_status st = QH_OK;
    d->depth++;
    switch (*d->at) {
    case '{': d->at++, st = decode_object(d); break;
    case '[': d->at++, st = decode_array(d); break;
    case '"': d->at++, st = decode_string(d); break;
    case 't':
    case 'f':
    case 'n':
        if (take_word(d, "true")) lua_pushboolean(d->L, 1);
        else if (take_word(d, "false")) lua_pushboolean(d->L, 0);
        else if (take_word(d, "null")) qh_json_push_null(d->L);
        else st = fail_at(d, d->at, "unexpected word");
        break;
    default: st = decode_number(d);
    }
    d->depth--;
    return st;
}

qh_status qh_json_decode(lua_State *L, const char *text, size_t len, qh_err *err)
{
    int top = lua_gettop(L);
    decoder d = {.L = L, .at = text, .start = text, .end = text + len, .err = err,
                 .steps = qh_steps_begin("decoding JSON"), .scratch = qh_vm_scratch(L)};
    luaL_checkstack(L, 8, NULL);
    qh_shapes_begin(&d.shapes, L);
    qh_status st = decode_value(&d);
    if (!st) {
        skip_space(&d);
        if (d.at != d.end) st = fail_at(&d, d.at, "unexpected text behind the value");
    }
    if (st) {
        lua_settop(L, top);
        return st;
    }
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return QH_OK;
}
