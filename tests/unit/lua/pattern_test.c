/* Our string functions against those of the Lua library, which are the oracle. */
#include "lua/vm/pattern.h"
#include "base/rng.h"
#include "vm_fixture.h"
#include <lualib.h>

static uint64_t counter;
static unsigned draw(unsigned n) { return qh_rng_philox(20260101, 0, counter++).v[0] % n; }

/* A pattern out of pieces that meet each other in odd ways, often malformed. */
static void random_pattern(qh_str *out)
{
    static const char *const PIECES[] = {
        "a",    "b",        "ab",     ".",     "%a",  "%A",   "%d",   "%s",       "%w+", "%p",
        "[ab]", "[^a]",     "[a-c]",  "[%a_]", "[]]", "[^]]", "[a-]", "[%]]",     "*",   "+",
        "-",    "?",        "(",      ")",     "()",  "(a",   "b)",   "%1",       "%2",  "%b()",
        "%bxy", "%f[%w]",   "%f[^a]", "^",     "$",   "%$",   "%%",   "[",        "%",   "%f",
        "%b",   "\xc3\xa9", "x",      "y",     ".-",  ".*",   "%z",   "[%z\1-\3]"};
    qh_str_clear(out);
    if (draw(6) == 0) qh_str_append_c(out, '^');
    for (unsigned n = draw(7); n > 0; n--)
        qh_str_append_z(out, PIECES[draw(sizeof PIECES / sizeof *PIECES)]);
    if (draw(6) == 0) qh_str_append_c(out, '$');
}

static void random_subject(qh_str *out)
{
    static const char LETTERS[] = "aaabbbcxy()1 _]-%^$\xc3\xa9";
    qh_str_clear(out);
    for (unsigned n = draw(20); n > 0; n--)
        qh_str_append_c(out, draw(40) ? LETTERS[draw(sizeof LETTERS - 1)] : 0);
}

/* Call function `at` with subject, pattern and n further arguments on top; leave the results as
 * one line. */
static void call(lua_State *L, int at, int n_args, qh_str *out)
{
    int base = lua_gettop(L) - n_args;
    lua_pushvalue(L, at);
    for (int i = 1; i <= n_args; i++) lua_pushvalue(L, base + i);
    int status = lua_pcall(L, n_args, LUA_MULTRET, 0);
    qh_str_clear(out);
    for (int i = base + n_args + 1; i <= lua_gettop(L); i++) {
        size_t len;
        const char *s = luaL_tolstring(L, i, &len);
        qh_str_appendf(out, "%s:", luaL_typename(L, i));
        qh_str_append(out, s, len);
        qh_str_append_c(out, '|');
        lua_pop(L, 1);
    }
    if (status) qh_str_append_z(out, " (error)");
    lua_settop(L, base + n_args);
}

typedef struct {
    lua_State *L;
    int ours, theirs;           /* stack indices of functions of one kind */
    qh_str a, b;
} duel;

static void compare(duel *d, int n_args, const char *what)
{
    call(d->L, d->ours, n_args, &d->a);
    call(d->L, d->theirs, n_args, &d->b);
    if (strstr(qh_str_z(&d->a), "(error)") && strstr(qh_str_z(&d->b), "(error)"))
        return; /* words may differ */
    if (d->a.len == d->b.len && memcmp(qh_str_z(&d->a), qh_str_z(&d->b), d->a.len) == 0) return;
    print_error("%s\n  subject %s\n  pattern %s\n  ours    %s\n  theirs  %s\n", what,
                lua_tostring(d->L, -n_args), lua_tostring(d->L, -n_args + 1), qh_str_z(&d->a),
                qh_str_z(&d->b));
    fail();
}

/* gmatch gives an iterator: a function that collects what it yields, made once for each side. */
static const char COLLECT[] =
    "local gmatch = ... return function(...) local t = {} for a, b in gmatch(...) do t[#t + 1] = "
    "tostring(a) .. ',' .. tostring(b) end return table.concat(t, ';') end";

static void push_collector(lua_State *L, int gmatch)
{
    CHECK(luaL_loadbufferx(L, COLLECT, sizeof COLLECT - 1, "=collect", "t") == LUA_OK);
    lua_pushvalue(L, gmatch);
    lua_call(L, 1, 1);
}

TEST(patterns_mean_what_they_mean_in_lua)
{
    static const struct {
        const char *name;
        lua_CFunction ours;
    } KINDS[] = {{"find", qh_string_find},
                 {"match", qh_string_match},
                 {"gsub", qh_string_gsub},
                 {"gmatch", qh_string_gmatch}};
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    qh_str s = {0}, p = {0};
    luaL_requiref(L, "test_string", luaopen_string, 0);
    for (int k = 0; k < 4; k++) {
        lua_settop(L, 1);
        lua_pushcfunction(L, KINDS[k].ours);
        lua_getfield(L, 1, KINDS[k].name);
        duel d = {.L = L, .ours = 2, .theirs = 3};
        if (k == 3) {
            push_collector(L, 2);
            push_collector(L, 3);
            d.ours = 4, d.theirs = 5;
        }
        for (int i = 0; i < 40000; i++) {
            random_pattern(&p);
            random_subject(&s);
            lua_pushlstring(L, qh_str_z(&s), s.len);
            lua_pushlstring(L, qh_str_z(&p), p.len);
            int n_args = 2;
            if (k == 2) {
                static const char *const REPLACEMENTS[] = {"",  "<%0>", "%1%1", "%%",
                                                           "x", "%2",   "%"};
                lua_pushstring(L, REPLACEMENTS[draw(7)]);
                n_args = 3;
            }
            if (draw(3) == 0) lua_pushinteger(L, (lua_Integer)draw(30) - 12), n_args++;
            if (k == 0 && n_args == 3 && draw(3) == 0) lua_pushboolean(L, 1), n_args++;
            compare(&d, n_args, KINDS[k].name);
            lua_pop(L, n_args);
        }
        qh_str_deinit(&d.a), qh_str_deinit(&d.b);
    }
    qh_str_deinit(&s), qh_str_deinit(&p);
    fixture_close(&f);
}

TEST_MAIN()
