/* The pure parts of the official test suite of Lua 5.4.4, run inside the sandbox. */
#include "vm_fixture.h"
#include <lualib.h>

/* What the suite asks of its surroundings that scripts do not have: globals that can be set,
 * `debug`, and some names of io and os. On one line, so that the lines of a file keep their
 * numbers. */
static const char PROLOGUE[] =
    "local debug_library, read, stdin = ... local real, env = _G, {} for k, v in pairs(real) do "
    "env[k] = v end local _ENV = env "
    "_G, _U, _port, _soft, _nomsg = env, true, true, true, true "
    "function print() end "
    "local file = setmetatable({}, {__name = 'FILE*'}) function file.write() return file end "
    "io = {stdin = stdin, stdout = file, stderr = file, write = file.write} "
    "os = setmetatable({setlocale = function(l) return (l == nil or l == 'C') and 'C' or nil end}, "
    "{__index = real.os}) "
    "function load(c, n, m, ...) if real.select('#', ...) == 0 then return real.load(c, n, m, env) "
    "end return real.load(c, n, m, ...) end "
    "package = {preload = {}, loaded = setmetatable({package = true, io = true}, {__index = "
    "real})} "
    "local own = {debug = debug_library, tracegc = {start = print, stop = print}} "
    "function require(name) if package.preload[name] then own[name] = package.preload[name]() end "
    "if own[name] then return own[name] end if real[name] then return real[name] end "
    "own[name] = assert(real.load(read(name), '@' .. name, 't', setmetatable({getmetatable = "
    "debug_library.getmetatable}, {__index = real})))() or true "
    "return own[name] end ";

/* Parts that need what the sandbox is there to refuse: bytecode, hooks, new names in a library. */
static const struct {
    const char *file, *from, *to;
} CUTS[] = {
    {"calls", "-- another small bug (in 5.2.1)",
     "cannotload(\"unexpected symbol\", load(read1(\"*a = 123\")))"},
    {"calls", "local d = string.dump(h)", "assert(assert(load(\"return XX + ...\""},
    {"calls", "-- repeat the test loading a binary chunk",
     "-- test for dump/undump with many upvalues"},
    {"calls", "f = load(string.dump(f))", "\nend\n\n-- test for long method names"},
    {"calls", "local c = string.dump(function ()", "\nend\n\nprint('OK')"},
    {"nextvar", "function table.maxn (t)", "-- int overflow"},
    {"coroutine", "debug.sethook(co, dotrace, \"clr\")", "\nend\n\n-- errors in coroutines"},
};

/* Blank, so that lines keep their numbers. */
static void cut(const char *name, char *text)
{
    for (size_t i = 0; i < sizeof CUTS / sizeof *CUTS; i++) {
        if (strcmp(CUTS[i].file, name) != 0) continue;
        char *from = strstr(text, CUTS[i].from);
        char *to = from ? strstr(from, CUTS[i].to) : NULL;
        if (!to)
            fail_msg("%s.lua: nothing to cut from '%s' to '%s'", name, CUTS[i].from, CUTS[i].to);
        for (char *p = from; p < to; p++)
            if (*p != '\n') *p = ' ';
    }
}

static char *read_file(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/lua-tests/%s.lua", qh_test_data(), name);
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    qh_str text = {0};
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, file)) > 0;) qh_str_append(&text, buf, n);
    fclose(file);
    return qh_str_steal(&text);
}

static int read_module(lua_State *L)
{
    char *text = read_file(luaL_checkstring(L, 1));
    if (!text) return luaL_error(L, "no module '%s' in the suite", lua_tostring(L, 1));
    lua_pushstring(L, text);
    qh_free(text);
    return 1;
}

static void run_file(const char *name)
{
    char *text = read_file(name);
    if (!text) SKIP("no QH_TEST_DATA/lua-tests");
    cut(name, text);
    fixture f = fixture_open(NULL);
    f.limits = (qh_task_limits){.slice_us = 1000000};
    outcome o = {0};
    lua_State *L = qh_vm_lua(f.vm);
    qh_vm_privileged_begin(f.vm);
    qh_str source = {0};
    qh_str_append_z(&source, PROLOGUE);
    qh_str_append_z(&source, text + (*text == '#' ? strcspn(text, "\n") : 0));
    char chunk[64];
    snprintf(chunk, sizeof chunk, "@%s.lua", name);
    if (luaL_loadbufferx(L, source.data, source.len, chunk, "t"))
        fail_msg("%s", lua_tostring(L, -1));
    lua_pushcfunction(L, luaopen_debug);
    lua_call(L, 0, 1);
    lua_pushcfunction(L, read_module);
    lua_newuserdatauv(L, 0, 0);
    qh_vm_privileged_end(f.vm);
    qh_task_start(qh_task_new(f.vm, 3, &f.limits, &OUTCOME_OPS, &o));
    finish(&f, &o);
    if (o.end) print_error("%s: %s\n", name, qh_str_z(&o.text));
    qh_str_deinit(&o.text), qh_str_deinit(&source);
    qh_free(text);
    fixture_close(&f);
    CHECK_INT(o.end, QH_TASK_OK);
}

#define SUITE(name) TEST(name) { run_file(#name); }
SUITE(strings)
SUITE(math)
SUITE(tpack)
SUITE(utf8)
SUITE(pm)
SUITE(sort)
SUITE(nextvar)
SUITE(closure)
SUITE(events)
SUITE(calls)
SUITE(coroutine)
SUITE(literals)
SUITE(vararg)
SUITE(constructs)
SUITE(bitwise)
SUITE(locals)
TEST(goto_) { run_file("goto"); }

TEST_MAIN()
