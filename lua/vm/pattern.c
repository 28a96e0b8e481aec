/* pattern.c - see pattern.h
 *
 * A pattern is a sequence of items; match_here(s, p) says where the items from p on end when
 * they begin to match at s. Plain items advance in a loop; an item with a choice (?, *, +, -, a
 * capture) tries the rest of the pattern by recursion, so its depth is limited. */
#include "lua/vm/pattern.h"
#include "lua/vm/task.h"
#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

enum {
    MAX_CAPTURES = 32,
    MAX_DEPTH = 200,
    ATTEMPT_US = 4000,          /* to match at one place; between two places the call may pause */
    OPEN = -1,                  /* length of a capture that has not been closed */
    POSITION = -2               /* "()" */
};

typedef struct {
    lua_State *L;
    qh_steps steps;
    const char *s, *s_end, *p_end;
    int depth;
    int n_captures;
    struct {
        const char *at;
        ptrdiff_t len;
    } captures[MAX_CAPTURES];
} matcher;

/* ---- single characters ---- */

static bool in_class(int c, int letter)
{
    bool yes;
    switch (tolower(letter)) {
    case 'a': yes = isalpha(c); break;
    case 'c': yes = iscntrl(c); break;
    case 'd': yes = isdigit(c); break;
    case 'g': yes = isgraph(c); break;
    case 'l': yes = islower(c); break;
    case 'p': yes = ispunct(c); break;
    case 's': yes = isspace(c); break;
    case 'u': yes = isupper(c); break;
    case 'w': yes = isalnum(c); break;
    case 'x': yes = isxdigit(c); break;
    case 'z': yes = c == 0; break;              /* of Lua 5.1; still understood */
    default: return letter == c;
    }
    return isupper(letter) ? !yes : yes;
}

/* One past the single-character item at p: "x", "%a", "[set]". Checks its form. */
static const char *item_end(matcher *m, const char *p)
{
    char first = *p++;
    if (first == '%') {
        if (p == m->p_end) luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (first != '[') return p;
    if (p < m->p_end && *p == '^') p++;
    do {                                        /* a ']' in first place is a member */
        if (p == m->p_end) luaL_error(m->L, "malformed pattern (missing ']')");
        char c = *p++;
        qh_steps_take(m->L, &m->steps, 1);
        if (c == '%') {
            if (p == m->p_end) luaL_error(m->L, "malformed pattern (missing ']')");
            p++;
        }
    } while (p == m->p_end || *p != ']');
    return p + 1;
}

/* Whether c is in the set at p ("["); last points at its "]". */
static bool in_set(int c, const char *p, const char *last)
{
    bool is_member = true;
    if (*++p == '^') is_member = false, p++;
    for (; p < last; p++) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p)) return is_member;
        } else if (p[1] == '-' && p + 2 < last) {
            if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2]) return is_member;
            p += 2;
        } else if ((unsigned char)*p == c) {
            return is_member;
        }
    }
    return !is_member;
}

static bool matches_one(matcher *m, const char *s, const char *p, const char *end)
{
    if (s >= m->s_end) return false;
    int c = (unsigned char)*s;
    qh_steps_take(m->L, &m->steps, *p == '[' ? 1 + (size_t)(end - p) / 4 : 1);
    switch (*p) {
    case '.': return true;
    case '%': return in_class(c, (unsigned char)p[1]);
    case '[': return in_set(c, p, end - 1);
    default: return (unsigned char)*p == c;
    }
}

/* ---- items ---- */

static const char *match_here(matcher *m, const char *s, const char *p);

/* "%bxy": from an x to the y that balances it. */
static const char *match_balanced(matcher *m, const char *s, const char *p)
{
    if (p + 1 >= m->p_end) luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (s >= m->s_end || *s != *p) return NULL;
    char open = p[0], close = p[1];
    int level = 1;
    for (s++; s < m->s_end; s++) {
        qh_steps_take(m->L, &m->steps, 1);
        if (*s == close) {
            if (--level == 0) return s + 1;
        } else if (*s == open) {
            level++;
        }
    }
    return NULL;
}

/* "%f[set]": between a character outside the set and one inside; the ends of s count as NUL. */
static bool at_frontier(matcher *m, const char *s, const char *p, const char *end)
{
    int before = s == m->s ? 0 : (unsigned char)s[-1];
    int after = s < m->s_end ? (unsigned char)*s : 0;
    qh_steps_take(m->L, &m->steps, 1 + (size_t)(end - p) / 4);
    return !in_set(before, p, end - 1) && in_set(after, p, end - 1);
}

/* As many as there are, then fewer. */
static const char *match_most(matcher *m, const char *s, const char *p, const char *end)
{
    ptrdiff_t n = 0;
    while (matches_one(m, s + n, p, end)) n++;
    for (; n >= 0; n--) {
        const char *found = match_here(m, s + n, end + 1);
        if (found) return found;
    }
    return NULL;
}

/* As few as possible, then more. */
static const char *match_least(matcher *m, const char *s, const char *p, const char *end)
{
    for (;; s++) {
        const char *found = match_here(m, s, end + 1);
        if (found) return found;
        if (!matches_one(m, s, p, end)) return NULL;
    }
}

static const char *open_capture(matcher *m, const char *s, const char *p, ptrdiff_t len)
{
    if (m->n_captures >= MAX_CAPTURES) luaL_error(m->L, "too many captures");
    m->captures[m->n_captures].at = s;
    m->captures[m->n_captures].len = len;
    m->n_captures++;
    const char *found = match_here(m, s, p);
    if (!found) m->n_captures--;
    return found;
}

static const char *close_capture(matcher *m, const char *s, const char *p)
{
    int i = m->n_captures - 1;
    while (i >= 0 && m->captures[i].len != OPEN) i--;
    if (i < 0) luaL_error(m->L, "invalid pattern capture");
    m->captures[i].len = s - m->captures[i].at;
    const char *found = match_here(m, s, p);
    if (!found) m->captures[i].len = OPEN;
    return found;
}

/* "%1": what that capture holds, once more. */
static const char *match_again(matcher *m, const char *s, char digit)
{
    int i = digit - '1';
    if (i < 0 || i >= m->n_captures || m->captures[i].len == OPEN)
        luaL_error(m->L, "invalid capture index %%%d", i + 1);
    if (m->captures[i].len == POSITION) return NULL;            /* it holds no text */
    size_t len = (size_t)m->captures[i].len;
    if ((size_t)(m->s_end - s) < len) return NULL;
    qh_steps_take(m->L, &m->steps, 1 + len / 16);
    return memcmp(m->captures[i].at, s, len) == 0 ? s + len : NULL;
}

/* A special item at p: sets *next to what follows it and returns where it ends in s, or NULL
 * when it does not match. Items that decide about the whole rest set *next to NULL. */
static bool is_special_item(const matcher *m, const char *p)
{
    if (*p == '(' || *p == ')') return true;
    if (*p == '$') return p + 1 == m->p_end;
    return *p == '%' && p + 1 < m->p_end &&
           (p[1] == 'b' || p[1] == 'f' || isdigit((unsigned char)p[1]));
}

static const char *match_special(matcher *m, const char *s, const char *p, const char **next)
{
    *next = NULL;
    switch (*p) {
    case '(':
        return p + 1 < m->p_end && p[1] == ')' ? open_capture(m, s, p + 2, POSITION)
                                               : open_capture(m, s, p + 1, OPEN);
    case ')': return close_capture(m, s, p + 1);
    case '$': return s == m->s_end ? s : NULL;
    default: break;
    }
    if (p[1] == 'b') {
        *next = p + 4;
        return match_balanced(m, s, p + 2);
    }
    if (p[1] == 'f') {
        p += 2;
        if (p == m->p_end || *p != '[') luaL_error(m->L, "missing '[' after '%%f' in pattern");
        *next = item_end(m, p);
        return at_frontier(m, s, p, *next) ? s : NULL;
    }
    *next = p + 2;
    return match_again(m, s, p[1]);
}

static const char *match_here(matcher *m, const char *s, const char *p)
{
    if (m->depth-- == 0) luaL_error(m->L, "pattern too complex");
    while (s && p && p < m->p_end) {
        qh_steps_take(m->L, &m->steps, 1);
        if (is_special_item(m, p)) {
            s = match_special(m, s, p, &p);
            continue;
        }
        const char *end = item_end(m, p);
        char suffix = end < m->p_end ? *end : 0;
        if (suffix == '?') {
            const char *found = matches_one(m, s, p, end) ? match_here(m, s + 1, end + 1) : NULL;
            if (found) s = found, p = NULL;
            else p = end + 1;
        } else if (suffix == '+') {
            s = matches_one(m, s, p, end) ? match_most(m, s + 1, p, end) : NULL;
            p = NULL;
        } else if (suffix == '*') {
            s = match_most(m, s, p, end);
            p = NULL;
        } else if (suffix == '-') {
            s = match_least(m, s, p, end);
            p = NULL;
        } else {
            s = matches_one(m, s, p, end) ? s + 1 : NULL;
            p = end;
        }
    }
    m->depth++;
    return s;
}

/* ---- captures as values ---- */

static void matcher_init(matcher *m, lua_State *L, const char *s, size_t s_len, const char *p,
                         size_t p_len, const char *what)
{
    m->L = L;
    m->steps = qh_steps_begin(what);
    m->steps.limit_us = ATTEMPT_US;
    m->s = s;
    m->s_end = s + s_len;
    m->p_end = p + p_len;
}

/* Try at s; every attempt has its own time. */
static const char *match_from(matcher *m, const char *s, const char *p)
{
    m->depth = MAX_DEPTH;
    m->n_captures = 0;
    m->steps.end_us = 0;
    return match_here(m, s, p);
}

/* Capture i of a match from s to e; without captures the first is the whole match. */
static void push_capture(matcher *m, int i, const char *s, const char *e)
{
    if (i >= m->n_captures) {
        if (i) luaL_error(m->L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(m->L, s, (size_t)(e - s));
        return;
    }
    ptrdiff_t len = m->captures[i].len;
    if (len == OPEN) luaL_error(m->L, "unfinished capture");
    if (len == POSITION) lua_pushinteger(m->L, m->captures[i].at - m->s + 1);
    else lua_pushlstring(m->L, m->captures[i].at, (size_t)len);
}

/* All captures; s NULL: none when the pattern has none. */
static int push_captures(matcher *m, const char *s, const char *e)
{
    int n = m->n_captures == 0 && s ? 1 : m->n_captures;
    luaL_checkstack(m->L, n, "too many captures");
    for (int i = 0; i < n; i++) push_capture(m, i, s, e);
    return n;
}

/* ---- find and match ---- */

static size_t start_of(lua_Integer init, size_t len)
{
    if (init > 0) return (size_t)init - 1;
    if (init == 0) return 0;
    return init < -(lua_Integer)len ? 0 : len - (size_t)-init;
}

static bool is_plain(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i] && strchr("^$*+?.([%-", p[i])) return false;
    return true;
}

static int find_plain(lua_State *L, const char *s, size_t s_len, const char *p, size_t p_len,
                      size_t from)
{
    const char *at = p_len ? memmem(s + from, s_len - from, p, p_len) : s + from;
    if (!at) return lua_pushnil(L), 1;
    lua_pushinteger(L, at - s + 1);
    lua_pushinteger(L, at - s + (lua_Integer)p_len);
    return 2;
}

static int search(lua_State *L, size_t from, bool is_find);

/* ctx: where to go on, and whether it is find */
static int search_more(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    qh_task_check(L);
    return search(L, (size_t)ctx >> 1, ctx & 1);
}

/* Stack: 1 subject, 2 pattern. */
static int search(lua_State *L, size_t from, bool is_find)
{
    size_t s_len, p_len;
    const char *s = lua_tolstring(L, 1, &s_len), *p = lua_tolstring(L, 2, &p_len);
    bool is_anchored = p_len && *p == '^';
    matcher m;
    matcher_init(&m, L, s, s_len, p, p_len, is_find ? "string.find" : "string.match");
    if (is_anchored) p++;
    for (const char *at = s + from;; at++) {
        const char *end = match_from(&m, at, p);
        if (end) {
            if (!is_find) return push_captures(&m, at, end);
            lua_pushinteger(L, at - s + 1);
            lua_pushinteger(L, end - s);
            return push_captures(&m, NULL, NULL) + 2;
        }
        if (is_anchored || at == m.s_end) return lua_pushnil(L), 1;
        if (qh_steps_want_pause(L, &m.steps))
            return qh_task_pause(L, (lua_KContext)((size_t)(at + 1 - s) << 1 | is_find),
                                 search_more);
    }
}

static int find_or_match(lua_State *L, bool is_find)
{
    size_t s_len, p_len;
    const char *s = luaL_checklstring(L, 1, &s_len), *p = luaL_checklstring(L, 2, &p_len);
    size_t from = start_of(luaL_optinteger(L, 3, 1), s_len);
    if (from > s_len) return lua_pushnil(L), 1;
    if (is_find && (lua_toboolean(L, 4) || is_plain(p, p_len)))
        return find_plain(L, s, s_len, p, p_len, from);
    return search(L, from, is_find);
}

int qh_string_find(lua_State *L) { return find_or_match(L, true); }
int qh_string_match(lua_State *L) { return find_or_match(L, false); }

/* ---- gmatch ---- */

typedef struct {
    size_t from;                /* where to look next */
    size_t last_end;            /* of the last match: an empty one does not follow it */
    bool has_last;
} gmatch_state;

static int gmatch_next(lua_State *L);

static int gmatch_more(lua_State *L, int status, lua_KContext ctx)
{
    (void)status, (void)ctx;
    qh_task_check(L);
    return gmatch_next(L);
}

/* upvalues: subject, pattern, gmatch_state */
static int gmatch_next(lua_State *L)
{
    size_t s_len, p_len;
    const char *s = lua_tolstring(L, lua_upvalueindex(1), &s_len),
               *p = lua_tolstring(L, lua_upvalueindex(2), &p_len);
    gmatch_state *g = lua_touserdata(L, lua_upvalueindex(3));
    matcher m;
    matcher_init(&m, L, s, s_len, p, p_len, "string.gmatch");
    for (size_t at = g->from; at <= s_len; at++) {
        const char *end = match_from(&m, s + at, p);
        if (!end || (g->has_last && (size_t)(end - s) == g->last_end)) {
            if (!qh_steps_want_pause(L, &m.steps)) continue;
            g->from = at + 1;
            return qh_task_pause(L, 0, gmatch_more);
        }
        g->from = g->last_end = (size_t)(end - s);
        g->has_last = true;
        return push_captures(&m, s + at, end);
    }
    return 0;
}

int qh_string_gmatch(lua_State *L)
{
    size_t s_len;
    luaL_checklstring(L, 1, &s_len);
    luaL_checkstring(L, 2);
    size_t from = start_of(luaL_optinteger(L, 3, 1), s_len);
    lua_settop(L, 2);
    gmatch_state *g = lua_newuserdatauv(L, sizeof *g, 0);
    *g = (gmatch_state){.from = from > s_len ? s_len + 1 : from};
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

/* ---- gsub: 1 subject, 2 pattern, 3 replacement ---- */

/* The replacement string, its %0..%9 filled in. */
static void add_expanded(matcher *m, luaL_Buffer *b, const char *s, const char *e)
{
    size_t len;
    const char *r = lua_tolstring(m->L, 3, &len), *r_end = r + len;
    for (const char *mark; (mark = memchr(r, '%', (size_t)(r_end - r))); r = mark + 2) {
        luaL_addlstring(b, r, (size_t)(mark - r));
        char c = mark + 1 < r_end ? mark[1] : 0;
        qh_steps_take(m->L, &m->steps, 1);
        if (c == '%') {
            luaL_addchar(b, '%');
        } else if (c == '0') {
            luaL_addlstring(b, s, (size_t)(e - s));
        } else if (isdigit((unsigned char)c)) {
            int i = c - '1';
            if (i && i >= m->n_captures)
                luaL_error(m->L, "invalid capture index %%%d in replacement string", i + 1);
            push_capture(m, i, s, e);
            luaL_tolstring(m->L, -1, NULL);
            lua_remove(m->L, -2);
            luaL_addvalue(b);
        } else {
            luaL_error(m->L, "invalid use of '%%' in replacement string");
        }
    }
    luaL_addlstring(b, r, (size_t)(r_end - r));
}

/* Append what replaces the match; false: it stays as it is. */
static bool add_replacement(matcher *m, luaL_Buffer *b, const char *s, const char *e)
{
    lua_State *L = m->L;
    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION: {
        lua_pushvalue(L, 3);
        int n = push_captures(m, s, e);
        lua_call(L, n, 1);
        m->steps.end_us = m->steps.used_us = 0; /* the function's time was its own */
        break;
    }
    case LUA_TTABLE:
        push_capture(m, 0, s, e);
        lua_gettable(L, 3);
        break;
    default: add_expanded(m, b, s, e); return true;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(b, s, (size_t)(e - s));
        return false;
    }
    if (!lua_isstring(L, -1))
        return luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    luaL_addvalue(b);
    return true;
}

typedef struct {
    lua_Integer max, n;         /* replacements */
    size_t at;                  /* in the subject */
    size_t last_end;            /* of the last match, counted from 1; 0: none yet */
    bool is_changed;
} gsub_state;

static int gsub_run(lua_State *L, gsub_state g, bool is_resumed);

static int gsub_more(lua_State *L, int status, lua_KContext ctx)
{
    (void)status, (void)ctx;
    qh_task_check(L);
    return gsub_run(L, *(gsub_state *)lua_touserdata(L, 4), true);
}

/* Stack: 1 subject, 2 pattern, 3 replacement; after a pause 4 state, 5 what is done so far. */
static int gsub_pause(lua_State *L, luaL_Buffer *b, const gsub_state *g)
{
    luaL_pushresult(b);
    *(gsub_state *)lua_newuserdatauv(L, sizeof *g, 0) = *g;
    lua_insert(L, -2);
    lua_replace(L, 5);
    lua_replace(L, 4);
    return qh_task_pause(L, 0, gsub_more);
}

static int gsub_run(lua_State *L, gsub_state g, bool is_resumed)
{
    size_t s_len, p_len;
    const char *s = lua_tolstring(L, 1, &s_len), *p = lua_tolstring(L, 2, &p_len);
    bool is_anchored = p_len && *p == '^';
    const char *at = s + g.at, *last_end = g.last_end ? s + g.last_end - 1 : NULL;
    matcher m;
    luaL_Buffer b;
    matcher_init(&m, L, s, s_len, p, p_len, "string.gsub");
    if (is_anchored) p++;
    lua_settop(L, 5);
    luaL_buffinit(L, &b);
    if (is_resumed) {
        lua_pushvalue(L, 5);
        luaL_addvalue(&b);
    }
    while (g.n < g.max) {
        const char *end = match_from(&m, at, p);
        if (end && end != last_end) {
            g.n++;
            g.is_changed |= add_replacement(&m, &b, at, end);
            at = last_end = end;
        } else if (at < m.s_end) {
            luaL_addchar(&b, *at);
            at++;
        } else {
            break;
        }
        if (is_anchored) break;
        if (qh_steps_want_pause(L, &m.steps)) {
            g.at = (size_t)(at - s);
            g.last_end = last_end ? (size_t)(last_end - s) + 1 : 0;
            return gsub_pause(L, &b, &g);
        }
    }
    if (!g.is_changed) {
        lua_pushvalue(L, 1);
    } else {
        luaL_addlstring(&b, at, (size_t)(m.s_end - at));
        luaL_pushresult(&b);
    }
    lua_pushinteger(L, g.n);
    return 2;
}

int qh_string_gsub(lua_State *L)
{
    size_t s_len;
    luaL_checklstring(L, 1, &s_len);
    luaL_checkstring(L, 2);
    int type = lua_type(L, 3);
    luaL_argexpected(L,
                     type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION ||
                         type == LUA_TTABLE,
                     3, "string/function/table");
    gsub_state g = {.max = luaL_optinteger(L, 4, (lua_Integer)s_len + 1)};
    return gsub_run(L, g, false);
}
