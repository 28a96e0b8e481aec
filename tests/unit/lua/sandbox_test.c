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
