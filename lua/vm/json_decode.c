/* json_decode.c - JSON text to Lua values; see convert.h
 *
 * The containers that are open stand in a list of frames, not on the C stack, so that decoding can be
 * left before any value and gone on with after the turns of others. */
#include "lua/vm/convert.h"
#include "lua/vm/json_shape.h"
#include "lua/vm/task.h"
#include "text/utf8.h"
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DECODE_US = 25000,              /* of CPU, for one document */
    FIRST_FRAMES = 8
};

/* An object or a list that is open. Its values stand on the Lua stack. */
typedef struct {
    bool is_object;
    lua_Integer n;                  /* items so far, of a list */
    qh_object_builder object;
} frame;

/* In a userdata; the frames are in another one, at frames_at. */
struct qh_json_decoder {
    lua_State *L;
    const char *at, *end, *start;
    int top, frames_at;             /* stack: top, this, frames, shapes, values */
    frame *frames;
    int depth, cap_frames;
    bool may_pause;
    qh_steps steps;
    qh_str *scratch;
    qh_shape_list shapes;
    qh_err *err;
};
typedef qh_json_decoder decoder;

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

/* Whether eight bytes are ASCII without a control, a quote or a backslash: x - 1 borrows into the
 * high bit of a byte that is zero. */
static bool is_plain(const char *p)
{
    const uint64_t ones = 0x0101010101010101u, highs = ones << 7;
    uint64_t v, quote, slash;
    memcpy(&v, p, 8);
    quote = v ^ (ones * '"');
    slash = v ^ (ones * '\\');
    return !((v | (v - ones * 0x20) | (quote - ones) | (slash - ones)) & highs);
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
        if (c < 0x80) {
            d->at++;
            while (d->end - d->at >= 8 && is_plain(d->at)) d->at += 8;
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

static bool take_word(decoder *d, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(d->end - d->at) < n || memcmp(d->at, word, n) != 0) return false;
    d->at += n;
    return true;
}

/* ---- containers ---- */

static frame *open_frame(decoder *d)
{
    if (d->depth == d->cap_frames) {
        int cap = d->cap_frames ? d->cap_frames * 2 : FIRST_FRAMES;
        frame *more = lua_newuserdatauv(d->L, sizeof *more * (size_t)cap, 0);
        if (d->depth) memcpy(more, d->frames, sizeof *more * (size_t)d->depth);
        lua_replace(d->L, d->frames_at);
        d->frames = more;
        d->cap_frames = cap;
    }
    frame *f = &d->frames[d->depth++];
    f->n = 0;
    return f;
}

/* Push the key of the next value, and go behind its colon. */
static qh_status decode_key(decoder *d, frame *f)
{
    skip_space(d);
    if (d->at == d->end || *d->at != '"') return fail_at(d, d->at, "expected a key in quotes");
    d->at++;
    qh_status st = decode_string(d);
    if (st) return st;
    qh_object_note_key(&f->object, d->L);
    skip_space(d);
    if (d->at == d->end || *d->at != ':') return fail_at(d, d->at, "expected ':'");
    d->at++;
    return QH_OK;
}

static bool is_next(decoder *d, char c)
{
    skip_space(d);
    if (d->at == d->end || *d->at != c) return false;
    d->at++;
    return true;
}

/* At the brace; *is_whole: it is empty. */
static qh_status open_object(decoder *d, bool *is_whole)
{
    d->at++;
    frame *f = open_frame(d);
    f->is_object = true;
    qh_object_begin(&f->object, d->L);
    *is_whole = is_next(d, '}');
    if (!*is_whole) return decode_key(d, f);
    qh_object_end(&f->object, d->L, &d->shapes);
    d->depth--;
    return QH_OK;
}

static void open_list(decoder *d, bool *is_whole)
{
    d->at++;
    frame *f = open_frame(d);
    f->is_object = false;
    lua_createtable(d->L, 4, 0);
    *is_whole = is_next(d, ']');
    if (!*is_whole) return;
    qh_shapes_mark_array(&d->shapes);
    d->depth--;
}

/* The value on top goes into the innermost container. *is_over: which is whole now, and on top. */
static qh_status put_value(decoder *d, bool *is_over)
{
    lua_State *L = d->L;
    frame *f = &d->frames[d->depth - 1];
    if (f->is_object) lua_rawset(L, f->object.obj_at);
    else lua_rawseti(L, -2, ++f->n);
    *is_over = is_next(d, f->is_object ? '}' : ']');
    if (*is_over) {
        if (f->is_object) qh_object_end(&f->object, L, &d->shapes);
        d->depth--;
        return QH_OK;
    }
    if (d->at == d->end)
        return fail_at(d, d->at, f->is_object ? "object without an end" : "array without an end");
    if (*d->at != ',')
        return fail_at(d, d->at, f->is_object ? "expected ',' or '}'" : "expected ',' or ']'");
    d->at++;
    return f->is_object ? decode_key(d, f) : QH_OK;
}

/* ---- values ---- */

/* Push what begins here; *is_whole false: a container was opened, and its first value comes. */
static qh_status begin_value(decoder *d, bool *is_whole)
{
    skip_space(d);
    *is_whole = true;
    if (d->at == d->end) return fail_at(d, d->at, "unexpected end");
    if (d->depth >= QH_JSON_MAX_DEPTH) return fail_at(d, d->at, "nested too deep");
    luaL_checkstack(d->L, 12, NULL);
    switch (*d->at) {
    case '{': return open_object(d, is_whole);
    case '[': open_list(d, is_whole); return QH_OK;
    case '"': d->at++; return decode_string(d);
    case 't':
    case 'f':
    case 'n':
        if (take_word(d, "true")) lua_pushboolean(d->L, 1);
        else if (take_word(d, "false")) lua_pushboolean(d->L, 0);
        else if (take_word(d, "null")) qh_json_push_null(d->L);
        else return fail_at(d, d->at, "unexpected word");
        return QH_OK;
    default: return decode_number(d);
    }
}

/* QH_OK, QH_AGAIN: its turn is over, QH_ELIMIT */
static qh_status count_step(decoder *d)
{
    if ((d->steps.left -= 8) > 0) return QH_OK;
    if (qh_steps_are_over(d->L, &d->steps))
        return qh_fail(d->err, QH_ELIMIT, "it takes too long to decode");
    if (!d->may_pause || !qh_steps_want_pause(d->L, &d->steps)) return QH_OK;
    int64_t left_us = d->steps.end_us - d->steps.used_us;
    d->steps = qh_steps_begin("decoding JSON");
    d->steps.limit_us = left_us;
    return QH_AGAIN;
}

static qh_status decode_rest(decoder *d)
{
    for (;;) {
        bool is_whole;
        qh_status st = count_step(d);
        if (!st) st = begin_value(d, &is_whole);
        if (st) return st;
        while (is_whole) {
            if (!d->depth) return QH_OK;
            st = put_value(d, &is_whole);
            if (st) return st;
        }
    }
}

qh_json_decoder *qh_json_decoder_push(lua_State *L, const char *text, size_t len, bool may_pause)
{
    luaL_checkstack(L, 12, NULL);
    int top = lua_gettop(L);
    decoder *d = lua_newuserdatauv(L, sizeof *d, 0);
    *d = (decoder){.L = L, .at = text, .start = text, .end = text + len, .top = top,
                   .frames_at = top + 2, .may_pause = may_pause,
                   .steps = qh_steps_begin("decoding JSON")};
    d->steps.limit_us = DECODE_US;
    lua_pushnil(L);                             /* no frames yet */
    qh_shapes_begin(&d->shapes, L);
    return d;
}

qh_status qh_json_decoder_go_on(qh_json_decoder *d, qh_err *err)
{
    lua_State *L = d->L;
    d->err = err;
    d->scratch = qh_vm_scratch(L);
    qh_status st = decode_rest(d);
    if (st == QH_AGAIN) return st;
    if (!st) {
        skip_space(d);
        if (d->at != d->end) st = fail_at(d, d->at, "unexpected text behind the value");
    }
    int top = d->top;
    if (!st) lua_replace(L, top + 1);           /* where d was, which may be gone now */
    lua_settop(L, top + !st);
    return st;
}

qh_status qh_json_decode(lua_State *L, const char *text, size_t len, qh_err *err)
{
    return qh_json_decoder_go_on(qh_json_decoder_push(L, text, len, false), err);
}
