#include "vm_fixture.h"

TEST(sleeping_tasks_run_side_by_side)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, "local qh = require 'qhost' qh.sleep(0.01) return 'slept'", "slept");
    outcome a, b;
    qh_task_start(task_of(&f, "require 'qhost'.sleep(0.05) return 'a'", &a));
    qh_task_start(task_of(&f, "require 'qhost'.sleep(0.01) return 'b'", &b));
    CHECK(!a.is_done && !b.is_done);
    finish(&f, &b);
    CHECK(!a.is_done);
    finish(&f, &a);
    qh_str_deinit(&a.text), qh_str_deinit(&b.text);
    fixture_close(&f);
}

TEST(an_endless_loop_ends_after_its_cpu_budget_and_others_get_their_turns)
{
    fixture f = fixture_open(NULL);
    outcome spin, walk;
    qh_task *t = task_of(&f, "while true do end", &spin);
    int64_t start = qh_now_us();
    qh_task_start(t);
    qh_task_start(task_of(
        &f, "local n = 0 for i = 1, 8 do require 'qhost'.sleep(0.001) n = n + 1 end return n",
        &walk));
    finish(&f, &walk);
    CHECK(!spin.is_done);
    finish(&f, &spin);
    CHECK_INT(spin.end, QH_TASK_CPU);
    CHECK(spin.lua_us >= 95000 && spin.lua_us < 250000);
    CHECK(qh_now_us() - start < 2000000);
    qh_str_deinit(&spin.text), qh_str_deinit(&walk.text);
    fixture_close(&f);
}

TEST(the_cpu_budget_cannot_be_swallowed)
{
    fixture f = fixture_open(NULL);
    static const char *const CASES[] = {
        "while true do pcall(function() while true do end end) end",
        "local function again() while true do pcall(again) end end again()",
        "while true do xpcall(function() while true do end end, function() while true do end end) "
        "end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do pcall(coroutine.wrap(function() while true do end end)) end",
        "while true do load(function() while true do end end) end",
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) while true do "
        "pcall(function() return t[1] end) end",
        "while true do pcall(table.sort, {1, 2, 3}, function() while true do end end) end",
        "while true do pcall(string.gsub, 'aaa', 'a', function() while true do end end) end",
        "while true do local x <close> = setmetatable({}, {__close = function() while true do end "
        "end}) end",
        "local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = "
        "function() while true do end end}) coroutine.yield() end) "
        "coroutine.resume(co) while true do coroutine.close(co) end",
        "local co = coroutine.wrap(function() local x <close> = setmetatable({}, {__close = "
        "function() while true do end end}) error('x') end) "
        "while true do pcall(co) end",
        "coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function() while "
        "true do end end}) "
        "while true do end end)()",
        "coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function() while "
        "true do end end}) "
        "table.sort({1, 2, 3}, function() while true do end end) end)()",
        "xpcall(error, function() while true do end end)",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        outcome o = run(&f, CASES[i]);
        if (o.end != QH_TASK_CPU)
            print_error("%s\n  ended %d: %s\n", CASES[i], (int)o.end, qh_str_z(&o.text));
        CHECK_INT(o.end, QH_TASK_CPU);
        if (o.lua_us >= 400000) print_error("%s\n  took %lld us\n", CASES[i], (long long)o.lua_us);
        CHECK(o.lua_us < 400000);
        qh_str_deinit(&o.text);
    }
    fixture_close(&f);
}

/* Hundreds of thousands of open calls, which neither the watchdog nor the report may walk again and
 * again. */
TEST(an_endless_recursion_is_stopped_as_quickly_as_an_endless_loop)
{
    fixture f = fixture_open(NULL);
    static const char *const CASES[] = {
        "local function f() return 1 + f() end return f()",
        "local function f() return 1 + f() end while true do pcall(f) end",
    };
    for (int i = 0; i < 12; i++) {
        int64_t start = qh_now_us();
        outcome o = run(&f, CASES[i % 2]);
        CHECK(o.end == QH_TASK_CPU || o.end == QH_TASK_MEMORY);
        CHECK(o.lua_us < 1000000 && qh_now_us() - start < 4000000);
        qh_str_deinit(&o.text);
    }
    fixture_close(&f);
}

TEST(functions_that_loop_in_c_cannot_run_away)
{
    fixture f = fixture_open(NULL);
    static const char *const CASES[] = {
        /* each would take hours in plain Lua */
        "return ('a'):rep(50000):find(('.-'):rep(30) .. 'b')",
        "return ('a'):rep(3000):match(('a*'):rep(30) .. 'b')",
        "for _ in ('a'):rep(50000):gmatch(('.-'):rep(30) .. 'b') do end",
        "return ('a'):rep(50000):gsub(('.-'):rep(30) .. 'b', '')",
        "return ('x'):rep(1000000):find(('x?'):rep(100) .. ('x'):rep(100) .. 'y')",
        "table.move({}, 1, math.maxinteger - 1, 2)",
        "local huge = setmetatable({}, {__len = function() return 1 << 60 end}) table.insert(huge, "
        "1, 1)",
        "local huge = setmetatable({}, {__len = function() return 1 << 60 end}) table.remove(huge, "
        "1)",
        "return table.concat(setmetatable({}, {__len = function() return 1 << 60 end, __index = "
        "function() return '' end}))",
        "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(1 << 16) end table.sort(t)",
        "local s, t = ('x'):rep(1 << 19), {} for i = 1, 200000 do t[i] = s end table.sort(t)",
        "local s = '[' .. ('[],'):rep(1 << 20) .. '1]' assert(require 'qhost'.json.decode(s))",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        outcome o = run(&f, CASES[i]);
        bool is_stopped = o.end == QH_TASK_CPU || o.end == QH_TASK_MEMORY ||
                          (o.end == QH_TASK_FAILED && strstr(qh_str_z(&o.text), "takes too long"));
        if (i == 9) is_stopped |= o.end == QH_TASK_OK; /* 64 MB to compare: it may get through */
        if (!is_stopped)
            print_error("%s\n  ended %d: %s\n", CASES[i], (int)o.end, qh_str_z(&o.text));
        CHECK(is_stopped);
        if (o.lua_us > 400000) print_error("%s\n  took %lld us\n", CASES[i], (long long)o.lua_us);
        CHECK(o.lua_us <= 400000);
        qh_str_deinit(&o.text);
    }
    CHECK_FAILS(
        &f,
        "local n = 0 while true do pcall(string.find, ('a'):rep(50000), ('.-'):rep(30) .. 'b') end",
        QH_TASK_CPU, "ran too long");
    CHECK_RUN(&f, "return #(''):rep(1 << 60)", "0");
    CHECK_RUN(&f, "return #('ab'):rep(1001, ',')", "3002");
    CHECK_RUN(&f, "return ('ab'):rep(3, ',')", "ab,ab,ab");
    CHECK_FAILS(&f, "return ('x'):rep(1 << 40)", QH_TASK_FAILED, "resulting string too large");
    fixture_close(&f);
}

TEST(long_searches_let_the_others_run)
{
    fixture f = fixture_open(NULL);
    f.limits.cpu_us = 10000000;
    static const char *const CASES[][2] = {
        {"local s = ('ab '):rep(1 << 18) local r, n = s:gsub('%w+', 'x') return n .. ' ' .. #r .. "
         "r:sub(-4)",
         "262144 524288x x "},
        {"local s = ('ab '):rep(1 << 18) local r, n = s:gsub('()b', function(i) return i % 9 == 2 "
         "and 'B' end) return n .. r:sub(1, 9)",
         "262144aB ab ab "},
        {"local n = 0 for w in ('ab '):rep(1 << 18):gmatch('%a+') do n = n + 1 end return n",
         "262144"},
        {"return (('ab '):rep(1 << 18) .. 'xyz'):match('(x%a)z')", "xy"},
        {"return (('ab '):rep(1 << 18) .. 'xyz'):find('[x-z]+$')", "786433"},
        {"return tostring(('ab '):rep(1 << 18):find('a%d'))", "nil"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        outcome search, other;
        qh_task_start(task_of(&f, CASES[i][0], &search));
        CHECK(!search.is_done);                 /* its turn was over first */
        qh_task_start(task_of(&f, "return 'ran'", &other));
        CHECK(other.is_done && !search.is_done);
        finish(&f, &search);
        CHECK_STR(qh_str_z(&search.text), CASES[i][1]);
        qh_str_deinit(&search.text), qh_str_deinit(&other.text);
    }
    outcome gone;
    qh_task *t = task_of(
        &f, "while true do pcall(string.gsub, ('ab '):rep(1 << 18), '%w+', 'x') end", &gone);
    qh_task_start(t);
    qh_task_cancel(t);
    finish(&f, &gone);
    CHECK_INT(gone.end, QH_TASK_CANCELLED);
    qh_str_deinit(&gone.text);
    fixture_close(&f);
}

TEST(waiting_starts_the_cpu_budget_anew)
{
    fixture f = fixture_open(NULL);
    f.limits.cpu_us = 30000;
    CHECK_RUN(&f,
              "local qh = require 'qhost' for i = 1, 6 do local t = os.clock() "
              "while os.clock() - t < 0.01 do end qh.sleep(0) end return 'done'", "done");
    fixture_close(&f);
}

TEST(close_variables_unwind_when_the_budget_is_spent)
{
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    CHECK_FAILS(&f,
                "local log = setmetatable({}, {__close = function() require "
                "'qhost'.log.info('closed', {}) end}) "
                "local x <close> = log while true do end",
                QH_TASK_CPU, "test:1: the script ran too long");
    CHECK_INT(lua_gettop(L), 0);
    fixture_close(&f);
}

TEST(memory_beyond_the_limit_ends_the_task_and_comes_back)
{
    fixture f = fixture_open(NULL);
    f.limits.heap_bytes = 8 << 20;
    f.limits.cpu_us = 0;
    static const char *const CASES[] = {
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local t = {} while true do pcall(function() while true do t[#t + 1] = ('x'):rep(1000) .. "
        "#t end end) end",
        "return ('x'):rep(1 << 30)",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        outcome o = run(&f, CASES[i]);
        if (o.end != QH_TASK_MEMORY)
            print_error("%s\n  ended %d: %s\n", CASES[i], (int)o.end, qh_str_z(&o.text));
        CHECK_INT(o.end, QH_TASK_MEMORY);
        qh_str_deinit(&o.text);
    }
    lua_gc(qh_vm_lua(f.vm), LUA_GCCOLLECT, 0);
    CHECK(qh_vm_used_bytes(f.vm) < 2 << 20);
    CHECK_RUN(&f, "local n = 0 for i = 1, 2e4 do n = n + #('x'):rep(1000) end return n",
              "20000000");
    fixture_close(&f);
}

TEST(cancelling_unwinds_close_variables_and_cannot_be_swallowed)
{
    fixture f = fixture_open(NULL);
    outcome o, probe;
    qh_task *t = task_of(&f,
        "local qh = require 'qhost' "
        "local x <close> = setmetatable({}, {__close = function() qh.log.info('unwound') end}) "
        "while true do pcall(qh.sleep, 100) end", &o);
    qh_task_start(t);
    CHECK(!o.is_done);
    qh_task_cancel(t);
    finish(&f, &o);
    CHECK_INT(o.end, QH_TASK_CANCELLED);
    CHECK(strstr(qh_str_z(&o.text), "cancelled"));

    t = task_of(&f, "coroutine.wrap(function() require 'qhost'.sleep(100) end)()", &probe);
    qh_task_start(t);
    qh_task_cancel(t);
    finish(&f, &probe);
    CHECK_INT(probe.end, QH_TASK_CANCELLED);
    CHECK_INT(qh_vm_n_tasks(f.vm), 0);
    qh_str_deinit(&o.text), qh_str_deinit(&probe.text);
    fixture_close(&f);
}

TEST(a_task_cut_off_in_plain_code_is_cancelled_at_once)
{
    fixture f = fixture_open(NULL);
    f.limits.cpu_us = 0;
    outcome o;
    qh_task *t = task_of(&f, "while true do end", &o);
    qh_task_start(t);                           /* returns at the end of the slice */
    CHECK(!o.is_done);
    qh_task_cancel(t);
    finish(&f, &o);
    CHECK_INT(o.end, QH_TASK_CANCELLED);
    qh_str_deinit(&o.text);
    fixture_close(&f);
}

TEST(a_vm_that_is_freed_ends_its_tasks)
{
    fixture f = fixture_open(NULL);
    outcome a, b;
    qh_task_start(task_of(&f, "require 'qhost'.sleep(100)", &a));
    qh_task_start(
        task_of(&f,
                "local x <close> = setmetatable({}, {__close = function() while true do end end}) "
                "require 'qhost'.sleep(100)",
                &b));
    qh_vm_free(f.vm);
    f.vm = NULL;
    CHECK(a.is_done && b.is_done);
    CHECK_INT(a.end, QH_TASK_CANCELLED);
    qh_str_deinit(&a.text), qh_str_deinit(&b.text);
    fixture_close(&f);
}

TEST(waiting_passes_through_coroutines_and_pcall)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f,
              "local qh = require 'qhost' "
              "local gen = coroutine.wrap(function() for i = 1, 3 do qh.sleep(0.001) "
              "coroutine.yield(i) end end) "
              "local t = {} for v in gen do t[#t + 1] = v end return table.concat(t, ' ')",
              "1 2 3");
    CHECK_RUN(&f,
              "local qh = require 'qhost' local outer = coroutine.create(function(a) "
              "local inner = coroutine.create(function(b) qh.sleep(0.001) local c = "
              "coroutine.yield(b + 1) qh.sleep(0.001) return c * 2 end) "
              "local _, x = coroutine.resume(inner, a) coroutine.yield(x) local _, y = "
              "coroutine.resume(inner, 10) return y end) "
              "local _, p = coroutine.resume(outer, 1) local _, q = coroutine.resume(outer) "
              "return p .. ' ' .. q .. ' ' .. coroutine.status(outer)",
              "2 20 dead");
    CHECK_RUN(&f,
              "local qh = require 'qhost' return select(2, pcall(function() qh.sleep(0.001) return "
              "select(2, pcall(error, 'e')) end))",
              "e");
    CHECK_RUN(&f,
              "local qh = require 'qhost' local t = setmetatable({}, {__index = function(_, k) "
              "qh.sleep(0.001) return k end}) return t.late",
              "late");
    fixture_close(&f);
}

TEST(waiting_where_nothing_can_wait_names_the_place)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f,
                "local qh = require 'qhost'\ntable.sort({1, 2, 3}, function(a, b)\nqh.sleep(1) "
                "return a < b end)",
                QH_TASK_FAILED, "qh.sleep cannot wait inside table.sort, test:3");
    CHECK_FAILS(&f,
                "local qh = require 'qhost'\nreturn ('a'):gsub('a', function() pcall(qh.sleep, 1) "
                "qh.sleep(1) end)",
                QH_TASK_FAILED, "qh.sleep cannot wait inside string.gsub, test:2");
    CHECK_FAILS(&f,
                "local qh = require 'qhost'\ntable.sort({1, 2}, coroutine.wrap(function() "
                "qh.sleep(1) end))",
                QH_TASK_FAILED, "qh.sleep cannot wait inside table.sort");
    f.limits.is_pure = true;
    CHECK_FAILS(&f, "require 'qhost'.sleep(1)", QH_TASK_FAILED,
                "qh.sleep cannot be used while the app loads");
    fixture_close(&f);
}

TEST(nobody_resumes_a_coroutine_that_waits_for_the_scheduler)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f,
              "local qh = require 'qhost' return coroutine.wrap(function() "
              "local me = coroutine.running() return coroutine.status(me) .. tostring(select(2, "
              "coroutine.resume(me))) end)()",
              "runningcannot resume non-suspended coroutine");
    CHECK_RUN(&f,
              "local me, is_main = coroutine.running() return tostring(is_main) .. "
              "tostring(coroutine.isyieldable())",
              "truefalse");
    CHECK_FAILS(&f, "coroutine.yield(1)", QH_TASK_FAILED,
                "attempt to yield from outside a coroutine");
    fixture_close(&f);
}

TEST_MAIN()
