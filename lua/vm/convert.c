/* convert.c - see convert.h */
#include "lua/vm/convert.h"
#include "lua/vm/task.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SHAPES = 8,             /* key lists remembered while one document is decoded */
    SHAPE_KEYS = 16,            /* longer ones are not remembered */
    PATH_BYTES = 200
};

/* ---- marks ---- */

void qh_json_push_null(lua_State *L) { lua_pushlightuserdata(L, NULL); }

bool qh_json_is_null(lua_State *L, int index)
{
    return lua_islightuserdata(L, index) && !lua_touserdata(L, index);
}

static void mark(lua_State *L, const char *type)
{
    lua_createtable(L, 0, 1);
    lua_pushstring(L, type);
    lua_setfield(L, -2, "__jsontype");
    lua_setmetatable(L, -2);
}

void qh_json_mark_array(lua_State *L) { mark(L, "array"); }
void qh_json_mark_object(lua_State *L) { mark(L, "object"); }

/* ---- shapes: objects with the same keys in the same order share a metatable ----
 * A document of many equal objects (messages, tools) would otherwise pay two tables for each. */

typedef struct {
    int n_keys;
    const char *keys[SHAPE_KEYS];       /* Lua's own interned strings: equal keys, equal pointers */
} shape;

typedef struct {
    lua_State *L;
    int shapes_at;                      /* stack index of the list of metatables */
    int n_shapes;
    shape shapes[MAX_SHAPES];
} shape_list;

static void shapes_begin(shape_list *s, lua_State *L)
{
    s->L = L;
    s->n_shapes = 0;
    lua_createtable(L, MAX_SHAPES, 0);
    s->shapes_at = lua_gettop(L);
}

static void push_object_metatable(lua_State *L, int order_at)
{
    lua_createtable(L, 0, 2);
    lua_pushliteral(L, "object");
    lua_setfield(L, -2, "__jsontype");
    lua_pushvalue(L, order_at);
    lua_setfield(L, -2, "__jsonorder");
}

/* Give the object on top the metatable of its shape. */
static void set_shape(shape_list *s, const shape *of)
{
    lua_State *L = s->L;
    for (int i = 0; i < s->n_shapes; i++) {
        if (s->shapes[i].n_keys != of->n_keys) continue;
        if (memcmp(s->shapes[i].keys, of->keys, sizeof *of->keys * (size_t)of->n_keys) != 0) continue;
        lua_rawgeti(L, s->shapes_at, i + 1);
        lua_setmetatable(L, -2);
        return;
    }
    lua_createtable(L, of->n_keys, 0);
    for (int i = 0; i < of->n_keys; i++) {
        lua_pushstring(L, of->keys[i]);
        lua_rawseti(L, -2, i + 1);
    }
    push_object_metatable(L, lua_gettop(L));
    lua_remove(L, -2);
    if (s->n_shapes < MAX_SHAPES) {
        s->shapes[s->n_shapes++] = *of;
        lua_pushvalue(L, -1);
        lua_rawseti(L, s->shapes_at, s->n_shapes);
    }
    lua_setmetatable(L, -2);
}

/* The empty lists of a document share a metatable too. */
static void mark_empty_array(shape_list *s)
{
    lua_State *L = s->L;
    if (lua_rawgeti(L, s->shapes_at, MAX_SHAPES + 1) == LUA_TNIL) {
        lua_pop(L, 1);
        qh_json_mark_array(L);
        lua_getmetatable(L, -1);
        lua_rawseti(L, s->shapes_at, MAX_SHAPES + 1);
        return;
    }
    lua_setmetatable(L, -2);
}

/* An object under construction: table at obj_at, its key order in the shape, or, once that is full
 * or a key does not compare by pointer, in a list at obj_at + 1. */
typedef struct {
    int obj_at;
    bool has_list;
    int n_keys;
    shape shape;
} object_builder;

static void object_begin(object_builder *o, lua_State *L)
{
    lua_createtable(L, 0, 4);
    o->obj_at = lua_gettop(L);
    o->has_list = false;
    o->n_keys = 0;
    o->shape.n_keys = 0;
}

static void spill_shape(object_builder *o, lua_State *L)
{
    lua_createtable(L, 2 * SHAPE_KEYS, 0);
    for (int i = 0; i < o->shape.n_keys; i++) {
        lua_pushstring(L, o->shape.keys[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_insert(L, o->obj_at + 1);
    o->has_list = true;
}

/* Stack: ... key. Note it unless the object has it. */
static void object_note_key(object_builder *o, lua_State *L)
{
    lua_pushvalue(L, -1);
    bool is_known = lua_rawget(L, o->obj_at) != LUA_TNIL;
    lua_pop(L, 1);
    if (is_known) return;
    size_t len;
    const char *key = lua_tolstring(L, -1, &len);
    bool is_short = len <= 40 && !memchr(key, 0, len);  /* interned, and pushstring gives it back */
    if (!o->has_list && (o->shape.n_keys == SHAPE_KEYS || !is_short)) spill_shape(o, L);
    o->n_keys++;
    if (o->has_list) {
        lua_pushvalue(L, -1);
        lua_rawseti(L, o->obj_at + 1, o->n_keys);
    } else {
        o->shape.keys[o->shape.n_keys++] = key;
    }
}

/* Leaves the object on top. */
static void object_end(object_builder *o, lua_State *L, shape_list *shapes)
{
    if (!o->has_list) {
        set_shape(shapes, &o->shape);
        return;
    }
    push_object_metatable(L, o->obj_at + 1);
    lua_setmetatable(L, o->obj_at);
    lua_settop(L, o->obj_at);
}

/* ---- decoding ---- */

typedef struct {
    lua_State *L;
    const char *at, *end, *start;
    int depth;
    qh_steps steps;
    qh_str *scratch;
    shape_list shapes;
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
    while (d->at < d->end && (*d->at == ' ' || *d->at == '\n' || *d->at == '\r' || *d->at == '\t')) d->at++;
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
    else if (c < 0x10000) b[0] = (char)(0xe0 | c >> 12), b[1] = (char)(0x80 | (c >> 6 & 63)), b[2] = (char)(0x80 | (c & 63)), n = 3;
    else b[0] = (char)(0xf0 | c >> 18), b[1] = (char)(0x80 | (c >> 12 & 63)), b[2] = (char)(0x80 | (c >> 6 & 63)), b[3] = (char)(0x80 | (c & 63)), n = 4;
    qh_str_append(s, b, (size_t)n);
}

/* Bytes of the well-formed character at p (RFC 3629), 0: none. */
static int utf8_len(const unsigned char *p, const unsigned char *end)
{
    if (*p < 0x80) return 1;
    int n = *p >= 0xc2 && *p <= 0xdf ? 2 : *p >= 0xe0 && *p <= 0xef ? 3 : *p >= 0xf0 && *p <= 0xf4 ? 4 : 0;
    if (!n || end - p < n) return 0;
    unsigned char low = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80;
    unsigned char high = *p == 0xed ? 0x9f : *p == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high) return 0;
    for (int i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
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
        int n = utf8_len((const unsigned char *)d->at, (const unsigned char *)d->end);
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

static bool is_digit(const decoder *d, const char *p) { return p < d->end && *p >= '0' && *p <= '9'; }

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
        mark_empty_array(&d->shapes);
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
    object_builder o;
    object_begin(&o, L);
    skip_space(d);
    bool is_empty = d->at < d->end && *d->at == '}';
    if (is_empty) d->at++;
    while (!is_empty) {
        skip_space(d);
        if (d->at == d->end || *d->at != '"') return fail_at(d, d->at, "expected a key in quotes");
        d->at++;
        qh_status st = decode_string(d);
        if (st) return st;
        object_note_key(&o, L);
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
    object_end(&o, L, &d->shapes);
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
    shapes_begin(&d.shapes, L);
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

/* ---- walking a Lua value: shared by the text encoder and the reader to jansson ---- */

typedef struct {
    const char *s;
    size_t len;
} key_ref;

typedef struct {
    lua_State *L;
    bool is_sorted;
    int depth;
    qh_steps steps;
    char path[PATH_BYTES];
    size_t path_len;
    qh_str *out;
    qh_err *err;
} encoder;

static qh_status fail_value(encoder *e, qh_status st, const char *what)
{
    const char *path = e->path_len ? e->path : "the value";
    return qh_fail(e->err, st, "%s: %s", path, what);
}

static size_t path_add_key(encoder *e, key_ref k)
{
    size_t old = e->path_len;
    int room = (int)(sizeof e->path - old);
    int len = k.len < 60 ? (int)k.len : 60;
    int n = snprintf(e->path + old, (size_t)room, "%s%.*s", old ? "." : "", len, k.s);
    e->path_len += (size_t)(n < room ? n : room - 1);
    return old;
}

static size_t path_add_index(encoder *e, lua_Integer i)
{
    size_t old = e->path_len;
    int room = (int)(sizeof e->path - old);
    int n = snprintf(e->path + old, (size_t)room, "[%lld]", (long long)i);
    e->path_len += (size_t)(n < room ? n : room - 1);
    return old;
}

static void path_cut(encoder *e, size_t len)
{
    e->path_len = len;
    e->path[len] = 0;
}

typedef enum { TABLE_ARRAY, TABLE_OBJECT } table_kind;

/* Raw metafield of the table at t: pushes it, or nothing. */
static bool push_meta(lua_State *L, int t, const char *name)
{
    if (!lua_getmetatable(L, t)) return false;
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) return true;
    lua_pop(L, 1);
    return false;
}

static table_kind kind_of(lua_State *L, int t)
{
    if (push_meta(L, t, "__jsontype")) {
        bool is_array = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "array") == 0;
        lua_pop(L, 1);
        return is_array ? TABLE_ARRAY : TABLE_OBJECT;
    }
    bool is_array = lua_rawgeti(L, t, 1) != LUA_TNIL;
    lua_pop(L, 1);
    return is_array ? TABLE_ARRAY : TABLE_OBJECT;
}

static int compare_keys(const void *pa, const void *pb)
{
    const key_ref *a = pa, *b = pb;
    size_t n = a->len < b->len ? a->len : b->len;
    int c = memcmp(a->s, b->s, n);
    return c ? c : a->len < b->len ? -1 : a->len > b->len;
}

/* The keys of an object in the order of writing. They are anchored by the table itself. */
typedef struct {
    key_ref fixed[32], *keys;
    int n, cap;
} key_list;

static void keys_deinit(key_list *k)
{
    if (k->keys != k->fixed) free(k->keys);
}

static qh_status keys_add(encoder *e, key_list *k, const char *s, size_t len)
{
    if (k->n == k->cap) {
        key_ref *more = malloc(sizeof *more * (size_t)k->cap * 2);
        if (!more) return fail_value(e, QH_ENOMEM, "out of memory");
        memcpy(more, k->keys, sizeof *more * (size_t)k->n);
        keys_deinit(k);
        k->keys = more;
        k->cap *= 2;
    }
    k->keys[k->n++] = (key_ref){s, len};
    return QH_OK;
}

static bool has_key(const key_list *k, int n, const char *s, size_t len)
{
    for (int i = 0; i < n; i++)
        if (k->keys[i].s == s || (k->keys[i].len == len && memcmp(k->keys[i].s, s, len) == 0)) return true;
    return false;
}

/* Keys that __jsonorder names and the table has. A longer list than this is not looked at: the search
 * for repeated keys is quadratic. */
enum { MAX_ORDERED_KEYS = 256 };

static qh_status add_ordered_keys(encoder *e, int t, key_list *k)
{
    lua_State *L = e->L;
    if (e->is_sorted || !push_meta(L, t, "__jsonorder")) return QH_OK;
    qh_status st = QH_OK;
    if (lua_istable(L, -1)) {
        lua_Unsigned n = lua_rawlen(L, -1);
        if (n > MAX_ORDERED_KEYS) n = 0;
        for (lua_Unsigned i = 1; !st && i <= n; i++) {
            lua_rawgeti(L, -1, (lua_Integer)i);
            size_t len;
            bool is_string = lua_type(L, -1) == LUA_TSTRING;
            const char *s = is_string ? lua_tolstring(L, -1, &len) : NULL;
            bool is_new = is_string && !has_key(k, k->n, s, len);
            if (is_string && lua_rawget(L, t) != LUA_TNIL && is_new) st = keys_add(e, k, s, len);
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
    return st;
}

static qh_status collect_keys(encoder *e, int t, key_list *k)
{
    lua_State *L = e->L;
    *k = (key_list){.cap = 32};
    k->keys = k->fixed;
    qh_status st = add_ordered_keys(e, t, k);
    int n_total = 0;
    for (lua_pushnil(L); !st && lua_next(L, t); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            st = fail_value(e, QH_EFORMAT, "an object may have string keys only");
            lua_pop(L, 2);
            return st;
        }
        n_total++;
    }
    if (st || n_total == k->n) return st;
    int n_ordered = k->n;
    for (lua_pushnil(L); !st && lua_next(L, t); lua_pop(L, 1)) {
        size_t len;
        const char *s = lua_tolstring(L, -2, &len);
        if (!has_key(k, n_ordered, s, len)) st = keys_add(e, k, s, len);
    }
    if (st) lua_settop(L, lua_gettop(L) - 1);   /* the loop popped the value, the key is left */
    else qsort(k->keys + n_ordered, (size_t)(k->n - n_ordered), sizeof *k->keys, compare_keys);
    return st;
}

/* Length of an array that has no other keys. */
static qh_status array_len(encoder *e, int t, lua_Integer *n)
{
    lua_State *L = e->L;
    lua_Integer n_keys = 0;
    *n = (lua_Integer)lua_rawlen(L, t);
    for (lua_pushnil(L); lua_next(L, t); lua_pop(L, 1)) {
        if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1 || lua_tointeger(L, -2) > *n) {
            lua_pop(L, 2);
            return fail_value(e, QH_EFORMAT, "a list may have the keys 1..n only, without holes");
        }
        n_keys++;
    }
    if (n_keys != *n) return fail_value(e, QH_EFORMAT, "a list may have the keys 1..n only, without holes");
    return QH_OK;
}

static qh_status enter(encoder *e)
{
    if (e->depth >= QH_JSON_MAX_DEPTH) return fail_value(e, QH_ELIMIT, "nested too deep, or within itself");
    if ((e->steps.left -= 8) <= 0 && qh_steps_are_over(e->L, &e->steps))
        return fail_value(e, QH_ELIMIT, "encoding it takes too long");
    if (!lua_checkstack(e->L, 12)) return fail_value(e, QH_ELIMIT, "Lua stack overflow");
    e->depth++;
    return QH_OK;
}

/* ---- text ---- */

static void write_string(qh_str *out, const char *s, size_t len)
{
    static const char HEX[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)s, *end = p + len, *from = p;
    qh_str_append_c(out, '"');
    while (p < end) {
        unsigned char c = *p;
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            p++;
            continue;
        }
        int n = c >= 0x80 ? utf8_len(p, end) : 0;
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

static qh_status encode_value(encoder *e, int index);

static qh_status encode_array(encoder *e, int t)
{
    lua_Integer n;
    qh_status st = array_len(e, t, &n);
    if (st) return st;
    qh_str_append_c(e->out, '[');
    for (lua_Integer i = 1; !st && i <= n; i++) {
        if (i > 1) qh_str_append_c(e->out, ',');
        size_t path = path_add_index(e, i);
        lua_rawgeti(e->L, t, i);
        st = encode_value(e, lua_gettop(e->L));
        lua_pop(e->L, 1);
        path_cut(e, path);
    }
    qh_str_append_c(e->out, ']');
    return st;
}

static qh_status encode_object(encoder *e, int t)
{
    key_list keys;
    qh_status st = collect_keys(e, t, &keys);
    qh_str_append_c(e->out, '{');
    for (int i = 0; !st && i < keys.n; i++) {
        if (i) qh_str_append_c(e->out, ',');
        size_t path = path_add_key(e, keys.keys[i]);
        write_string(e->out, keys.keys[i].s, keys.keys[i].len);
        qh_str_append_c(e->out, ':');
        lua_pushlstring(e->L, keys.keys[i].s, keys.keys[i].len);
        lua_rawget(e->L, t);
        st = encode_value(e, lua_gettop(e->L));
        lua_pop(e->L, 1);
        path_cut(e, path);
    }
    qh_str_append_c(e->out, '}');
    keys_deinit(&keys);
    return st;
}

static qh_status encode_number(encoder *e, int index)
{
    if (lua_isinteger(e->L, index)) {
        qh_str_appendf(e->out, "%lld", (long long)lua_tointeger(e->L, index));
        return QH_OK;
    }
    double v = lua_tonumber(e->L, index);
    if (!isfinite(v)) return fail_value(e, QH_EFORMAT, "JSON has no NaN and no infinity");
    write_float(e->out, v);
    return QH_OK;
}

static qh_status fail_type(encoder *e, int index)
{
    char what[80];
    snprintf(what, sizeof what, "a %s has no JSON form", luaL_typename(e->L, index));
    return fail_value(e, QH_EUNSUPPORTED, what);
}

static qh_status encode_value(encoder *e, int index)
{
    lua_State *L = e->L;
    qh_status st = enter(e);
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
    case LUA_TTABLE: st = kind_of(L, index) == TABLE_ARRAY ? encode_array(e, index) : encode_object(e, index); break;
    default:
        if (qh_json_is_null(L, index)) qh_str_append_z(e->out, "null");
        else st = fail_type(e, index);
    }
    if (!st && e->out->len > QH_JSON_MAX_BYTES) st = fail_value(e, QH_ELIMIT, "more than 32 MiB of JSON");
    e->depth--;
    return st;
}

qh_status qh_json_encode(lua_State *L, int index, bool is_sorted, qh_str *out, qh_err *err)
{
    qh_vm *vm = qh_vm_of(L);
    encoder e = {.L = L, .is_sorted = is_sorted, .steps = qh_steps_begin("encoding JSON"), .out = out, .err = err};
    index = lua_absindex(L, index);
    qh_vm_privileged_begin(vm);                 /* the few strings it pushes must not raise */
    qh_status st = encode_value(&e, index);
    qh_vm_privileged_end(vm);
    return st;
}

/* ---- jansson ---- */

static void push_jansson(lua_State *L, const json_t *v, shape_list *shapes, int depth);

static void push_jansson_object(lua_State *L, const json_t *v, shape_list *shapes, int depth)
{
    object_builder o;
    object_begin(&o, L);
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        lua_pushstring(L, json_object_iter_key(it));
        object_note_key(&o, L);
        push_jansson(L, json_object_iter_value(it), shapes, depth + 1);
        lua_rawset(L, o.obj_at);
    }
    object_end(&o, L, shapes);
}

static void push_jansson(lua_State *L, const json_t *v, shape_list *shapes, int depth)
{
    if (depth > QH_JSON_MAX_DEPTH) luaL_error(L, "JSON nested too deep");
    luaL_checkstack(L, 12, NULL);
    switch (json_typeof(v)) {
    case JSON_OBJECT: push_jansson_object(L, v, shapes, depth); break;
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(v), 0);
        for (size_t i = 0; i < json_array_size(v); i++) {
            push_jansson(L, json_array_get(v, i), shapes, depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        if (!json_array_size(v)) mark_empty_array(shapes);
        break;
    case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(v)); break;
    case JSON_TRUE: lua_pushboolean(L, 1); break;
    case JSON_FALSE: lua_pushboolean(L, 0); break;
    case JSON_NULL: qh_json_push_null(L); break;
    }
}

void qh_json_push(lua_State *L, const json_t *v)
{
    shape_list shapes;
    shapes_begin(&shapes, L);
    push_jansson(L, v, &shapes, 0);
    lua_remove(L, shapes.shapes_at);
}

static qh_status read_value(encoder *e, int index, json_t **out);

static qh_status read_array(encoder *e, int t, json_t **out)
{
    lua_Integer n;
    qh_status st = array_len(e, t, &n);
    *out = json_array();
    for (lua_Integer i = 1; !st && i <= n; i++) {
        json_t *item = NULL;
        size_t path = path_add_index(e, i);
        lua_rawgeti(e->L, t, i);
        st = read_value(e, lua_gettop(e->L), &item);
        lua_pop(e->L, 1);
        if (!st && json_array_append_new(*out, item)) st = fail_value(e, QH_ENOMEM, "out of memory");
        path_cut(e, path);
    }
    return st;
}

static qh_status read_object(encoder *e, int t, json_t **out)
{
    key_list keys;
    qh_status st = collect_keys(e, t, &keys);
    *out = json_object();
    for (int i = 0; !st && i < keys.n; i++) {
        json_t *item = NULL;
        size_t path = path_add_key(e, keys.keys[i]);
        lua_pushlstring(e->L, keys.keys[i].s, keys.keys[i].len);
        if (strlen(keys.keys[i].s) != keys.keys[i].len) st = fail_value(e, QH_EFORMAT, "a NUL byte in a key");
        lua_rawget(e->L, t);
        if (!st) st = read_value(e, lua_gettop(e->L), &item);
        if (!st && json_object_set_new(*out, keys.keys[i].s, item))
            st = fail_value(e, QH_EFORMAT, "a key that is not UTF-8");
        lua_pop(e->L, 1);
        path_cut(e, path);
    }
    keys_deinit(&keys);
    return st;
}

static qh_status read_value(encoder *e, int index, json_t **out)
{
    lua_State *L = e->L;
    size_t len;
    qh_status st = enter(e);
    if (st) return st;
    switch (lua_type(L, index)) {
    case LUA_TNIL: *out = json_null(); break;
    case LUA_TBOOLEAN: *out = json_boolean(lua_toboolean(L, index)); break;
    case LUA_TNUMBER:
        *out = lua_isinteger(L, index) ? json_integer(lua_tointeger(L, index)) : json_real(lua_tonumber(L, index));
        if (!*out) st = fail_value(e, QH_EFORMAT, "JSON has no NaN and no infinity");
        break;
    case LUA_TSTRING: {
        const char *s = lua_tolstring(L, index, &len);
        *out = json_stringn(s, len);
        if (!*out) st = fail_value(e, QH_EFORMAT, "a string that is not UTF-8");
        break;
    }
    case LUA_TTABLE: st = kind_of(L, index) == TABLE_ARRAY ? read_array(e, index, out) : read_object(e, index, out); break;
    default:
        if (qh_json_is_null(L, index)) *out = json_null();
        else st = fail_type(e, index);
    }
    if (st) {
        json_decref(*out);
        *out = NULL;
    }
    e->depth--;
    return st;
}

qh_status qh_json_read(lua_State *L, int index, json_t **out, qh_err *err)
{
    qh_vm *vm = qh_vm_of(L);
    encoder e = {.L = L, .steps = qh_steps_begin("reading JSON"), .err = err};
    *out = NULL;
    index = lua_absindex(L, index);
    qh_vm_privileged_begin(vm);
    qh_status st = read_value(&e, index, out);
    qh_vm_privileged_end(vm);
    return st;
}
