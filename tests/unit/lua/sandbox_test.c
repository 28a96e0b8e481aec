#include "vm_fixture.h"

TEST(pure_code_runs_and_returns)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, "return 6 * 7", "42");
    CHECK_RUN(&f, "local t = {} for i = 1, 10 do t[i] = i end return table.concat(t, ',')",
              "1,2,3,4,5,6,7,8,9,10");
    CHECK_RUN(&f, "return ('abc'):upper() .. #string.format('%5d', 3)", "ABC5");
    CHECK_RUN(&f, "local n = 0 for k in pairs(string) do n = n + 1 end return n > 10", "true");
    fixture_close(&f);
}

TEST(what_the_sandbox_leaves_out_is_gone)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(
        &f,
        "local t = {} for _, n in ipairs{'io','debug','package','dofile','loadfile','warn'} do "
        "  t[#t + 1] = tostring(_G[n]) end "
        "for _, n in ipairs{'execute','exit','getenv','remove','rename','tmpname','setlocale'} do "
        "  t[#t + 1] = tostring(os[n]) end "
        "t[#t + 1] = tostring(string.dump) return table.concat(t, ' ')",
        "nil nil nil nil nil nil nil nil nil nil nil nil nil nil");
    fixture_close(&f);
}

TEST(globals_and_libraries_are_read_only)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f, "x = 1", QH_TASK_FAILED,
                "test:1: there are no global variables: make 'x' local");
    CHECK_FAILS(&f, "string.format = print", QH_TASK_FAILED, "string.format cannot be changed");
    CHECK_FAILS(&f, "rawset(string, 'format', print)", QH_TASK_FAILED, "read-only");
    CHECK_FAILS(&f, "rawset(_G, 'x', 1)", QH_TASK_FAILED, "read-only");
    CHECK_FAILS(&f, "setmetatable(_G, {})", QH_TASK_FAILED, "protected metatable");
    CHECK_FAILS(&f, "table.insert(string, 1)", QH_TASK_FAILED, "cannot be changed");
    CHECK_RUN(&f, "return tostring(getmetatable('')) .. tostring(getmetatable(_G))", "falsefalse");
    CHECK_RUN(&f, "return _G._G == _G and _G.string == string", "true");
    CHECK_RUN(&f,
              "local s, real, nope = pairs(string) return real == string and next(string) == nil",
              "true");
    fixture_close(&f);
}

TEST(escape_attempts_are_refused)
{
    fixture f = fixture_open(NULL);
    f.limits.cpu_us = 0;
    f.limits.heap_bytes = 8 << 20;
    CHECK_RUN(&f, "return select(2, load('\\27Lua'))",
              "attempt to load a binary chunk (mode is 't')");
    CHECK_RUN(&f, "return select(2, load('\\27Lua', 'x', 'b'))",
              "attempt to load a binary chunk (mode is 't')");
    CHECK_RUN(&f, "return select(2, load('return 1', 'x', 'b'))",
              "attempt to load a text chunk (mode is 'b')");
    CHECK_FAILS(&f, "setmetatable({}, {__gc = function() end})", QH_TASK_FAILED, "__gc");
    CHECK_FAILS(&f, "error(setmetatable({}, {__tostring = function() error('ha') end}))",
                QH_TASK_FAILED, "(error object is a table value)");
    CHECK_FAILS(&f, "error(setmetatable({trace = 'x'}, {__index = function() error('ha') end}))",
                QH_TASK_FAILED, "table: ");
    CHECK_FAILS(&f, "error(setmetatable({trace = 'x'}, {__name = 'Mine', __metatable = 1}))",
                QH_TASK_FAILED, "Mine: ");
    CHECK_FAILS(&f, "error()", QH_TASK_FAILED, "nil");
    CHECK_FAILS(&f, "xpcall(error, function() error('again') end) error('end')", QH_TASK_FAILED,
                "end");
    CHECK_FAILS(&f, "return table.unpack({}, 1, 1e8)", QH_TASK_FAILED, "too many results");
    CHECK_FAILS(&f,
                "local t = {} for i = 1, 100 do t[i] = i % 7 end "
                "table.sort(t, function() return true end)",
                QH_TASK_FAILED, "invalid order function");
    CHECK_FAILS(&f, "local function f() return f() + 1 end return f()", QH_TASK_MEMORY,
                "stack overflow");
    CHECK_FAILS(&f, "local s = string.rep('(', 300) return load('return ' .. s)() ", QH_TASK_FAILED,
                "");
    CHECK_RUN(&f, "local e = load('y = 1', 'c', 't', {}) e() return y", "nil");
    fixture_close(&f);
}

/* What a script may try in order to get out, to run without limits, or to reach the host: each fails
 * with the words given, or returns the value that shows that nothing happened. */
TEST(a_table_of_escapes_and_what_becomes_of_each)
{
    static const struct {
        const char *source, *result;
    } RETURNS[] = {
        /* bytecode */
        {"return tostring(string.dump)", "nil"},
        {"local n = 0 return select(2, load(function() n = n + 1 return n == 1 and '\\27Lua' or nil end, 'x', 'b'))",
         "attempt to load"},
        {"local f = load('return 1', '=x', 'bt') return f()", "1"},
        /* the metatable of strings */
        {"return tostring(getmetatable('').__index)", "attempt to index a boolean"},
        {"return tostring(pcall(setmetatable, '', {}))", "false"},
        {"return tostring(pcall(function() string.upper = 1 end)) .. ('a'):upper()", "falseA"},
        {"return tostring(pcall(rawset, getmetatable(_G), '__index', 1))", "false"},
        /* debug, package, io, os */
        {"return tostring(debug) .. tostring(package) .. tostring(io)", "nilnilnil"},
        {"return tostring(os.execute) .. tostring(os.exit) .. tostring(os.getenv)", "nilnilnil"},
        {"return select(2, pcall(require, '/etc/passwd'))", "no"},
        {"return select(2, pcall(require, '..up'))", "no"},
        {"return select(2, pcall(require, 'qhost.nothing'))", "not part of the qhost library"},
        /* _ENV */
        {"local _ENV = {} x = 1 return x", "1"},
        {"local f = load('x = 1 return _ENV', 'c', 't', {}) return type(f().x)", "number"},
        {"return select(2, pcall(load('y = 1', 'c')))", "no global variables"},
        {"local function f() local _ENV <const> = {} return tostring(print) end return pcall(f)", "false"},
        /* __gc and __close */
        {"return select(2, pcall(setmetatable, {}, {__gc = 1}))", "__gc is not available"},
        {"local t = setmetatable({}, {}) getmetatable(t).__gc = function() error 'ran' end t = nil "
         "collectgarbage() return 'nothing ran'", "nothing ran"},
        {"return select(2, pcall(function() local x <close> = 5 end))", "non-closable value"},
        {"return select(2, pcall(function() local x <close> = setmetatable({}, {__close = function() "
         "error 'in close' end}) error 'first' end))", "in close"},
        /* errors that are objects */
        {"local e = setmetatable({}, {__tostring = function() error 'again' end, __index = error}) "
         "return select('#', pcall(error, e))", "2"},
        {"return select(2, xpcall(error, function(m) return xpcall(error, error, m) end, 1))", "false"},
        {"local co = coroutine.create(error) return type(select(2, coroutine.resume(co, {})))", "table"},
        /* sizes */
        {"return select(2, pcall(table.unpack, {}, 1, 1 << 40))", "too many results"},
        {"return select(2, pcall(table.unpack, {}, math.mininteger, math.maxinteger))", "too many results"},
        {"return select(2, pcall(string.rep, 'x', math.maxinteger))", "too large"},
        {"return #string.rep('', 1 << 40)", "0"},
        {"return select(2, pcall(table.concat, setmetatable({}, {__len = function() return 1 << 40 end})))",
         "invalid value"},
        {"return select(2, pcall(string.format, '%' .. ('0'):rep(200) .. 'd', 1))", "invalid"},
        {"return select(2, pcall(utf8.char, -1))", "value out of range"},
        {"return select(2, pcall(string.pack, 'i17', 1))", "out of limits"},
        /* comparisons that lie */
        {"local t = {} for i = 1, 200 do t[i] = i * 7 % 31 end "
         "return select(2, pcall(table.sort, t, function() return true end))", "invalid order function"},
        {"local t = {} for i = 1, 200 do t[i] = i end "
         "pcall(table.sort, t, function(a, b) t[a] = nil return false end) return 'done'", "done"},
        {"local t = {3, 2, 1} return select(2, pcall(table.sort, t, function() error 'no' end))", "no"},
        {"local t = {3, 1, 2} pcall(table.sort, t, function() error 'no' end) "
         "local co = coroutine.wrap(function() coroutine.yield 'yields' end) return co()", "yields"},
        {"return select(2, pcall(table.sort, {3, 2, 1}, function() coroutine.yield() end))", "yield"},
        /* turns */
        {"return select(2, pcall(string.gsub, 'x', 'x', function() coroutine.yield() end))", "yield"},
        {"local function deep(n) return n == 0 and 'up' or (pcall(deep, n - 1) and 'down') end "
         "return select(2, pcall(deep, 1e5))", ""},
    };
    fixture f = fixture_open(NULL);
    int n_bad = 0;
    f.limits.heap_bytes = 16 << 20;
    for (size_t i = 0; i < sizeof RETURNS / sizeof *RETURNS; i++) {
        outcome o = run(&f, RETURNS[i].source);
        bool is_as_told = strstr(qh_str_z(&o.text), RETURNS[i].result) != NULL;
        n_bad += !is_as_told;
        if (!is_as_told)
            print_error("%s\n  gives %s\n  not   %s\n", RETURNS[i].source, qh_str_z(&o.text),
                        RETURNS[i].result);
        qh_str_deinit(&o.text);
    }
    CHECK_INT(n_bad, 0);
    fixture_close(&f);
}

TEST(load_takes_reader_functions)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, "local p = {'return ', '1 +', ' 2'} local i = 0 "
                  "return load(function() i = i + 1 return p[i] end)()", "3");
    CHECK_RUN(&f,
              "local ok, e = load(function() error('reader broke') end) return tostring(ok) .. e",
              "niltest:1: reader broke");
    CHECK_RUN(&f, "return select(2, load(function() return {} end))",
              "reader function must return a string");
    fixture_close(&f);
}

TEST(pcall_returns_values_and_errors)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, "return select('#', pcall(function() return 1, 2, 3 end))", "4");
    CHECK_RUN(&f, "local ok, e = pcall(error, {code = 5}) return tostring(ok) .. e.code", "false5");
    CHECK_RUN(&f,
              "local ok, e = xpcall(function(a, b) error(a .. b, 0) end, function(m) return m .. "
              "'!' end, 'x', 'y') return e",
              "xy!");
    CHECK_RUN(&f, "return select(2, pcall(pcall))", "bad argument #1 to 'pcall' (value expected)");
    fixture_close(&f);
}

TEST(a_broken_error_names_its_place_and_has_a_trace)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f, "local t\n\nreturn t.x", QH_TASK_FAILED,
                "test:3: attempt to index a nil value (local 't')");
    fixture_close(&f);
}

TEST_MAIN()
