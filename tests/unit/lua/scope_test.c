/* Tasks that tasks start: their scope, their failures, their share of the request's budgets. */
#include "vm_fixture.h"
#include <time.h>

#define QH "local qh = require 'qhost' "

TEST(spawned_tasks_run_beside_the_caller_and_are_waited_for)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, QH "local t = qh.spawn(function(a, b) qh.sleep(0.001) return a + b, 'x' end, 1, 2) "
              "local n, s = t:wait() return n .. s .. t:wait()", "3x3");
    CHECK_RUN(&f, QH "local t = qh.spawn(function() error 'broken' end) "
              "local ok, e = pcall(t.wait, t) return tostring(ok) .. e", "falsetest:1: broken");
    CHECK_RUN(&f, QH "local t = qh.spawn(function() qh.sleep(100) end) t:cancel() "
              "local v, message, name = t:wait() return tostring(v) .. message .. name",
              "nilthe task was cancelledECANCELED");
    CHECK_RUN(&f, QH "local e = setmetatable({}, {__tostring = function() return 'own' end}) "
              "local t = qh.spawn(error, e) local _, got = pcall(t.wait, t) return got == e", "true");
    CHECK_FAILS(&f, QH "local t t = qh.spawn(function() t:wait() end) t:wait()", QH_TASK_FAILED,
                "a task cannot wait for its own end");
    fixture_close(&f);
}

TEST(leaving_a_scope_cancels_and_unwinds_what_it_started)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, QH "local log = {} do local t <close> = qh.spawn(function() local g <close> = "
              "setmetatable({}, {__close = function(_, e) log[1] = e and 'unwound' end}) qh.sleep(100) end) "
              "qh.sleep(0.001) end return log[1]", "unwound");
    CHECK_RUN(&f, QH "local log = {} local function guard(n) return setmetatable({}, {__close = "
              "function() log[#log + 1] = n end}) end "
              "qh.race{function() local g <close> = guard 'a' qh.sleep(100) end, "
              "function() local g <close> = guard 'b' qh.spawn(function() local h <close> = guard "
              "'c' qh.sleep(100) end) qh.sleep(100) end, function() qh.sleep(0.001) end} "
              "table.sort(log) return table.concat(log)", "abc");
    /* a child that had not begun never runs */
    CHECK_RUN(&f, QH "local ran = false do local t <close> = qh.spawn(function() ran = true end) end "
              "return tostring(ran)", "false");
    int64_t start = qh_now_us();
    CHECK_RUN(&f, QH "for i = 1, 100 do qh.spawn(qh.sleep, 100) end return 'left'", "left");
    CHECK(qh_now_us() - start < 20000000);
    CHECK_INT(qh_vm_n_tasks(f.vm), 0);
    fixture_close(&f);
}

TEST(a_cancelled_parent_takes_its_children_along)
{
    fixture f = fixture_open(NULL);
    outcome o;
    qh_task *t = task_of(&f, "return 1", &o);
    qh_task_cancel(t);
    qh_task_start(t);
    CHECK_INT(o.end, QH_TASK_CANCELLED);
    qh_str_deinit(&o.text);
    t = task_of(&f, QH "qh.map({1, 2, 3}, function(i) qh.all{function() pcall(qh.sleep, 100) "
                "pcall(qh.sleep, 100) end, function() qh.sleep(100) end} end)", &o);
    qh_task_start(t);
    for (int i = 0; i < 4; i++) qh_loop_turn(f.loop, false);
    CHECK_INT(qh_vm_n_tasks(f.vm), 10);
    qh_task_cancel(t);
    finish(&f, &o);
    CHECK_INT(o.end, QH_TASK_CANCELLED);
    CHECK_INT(qh_vm_n_tasks(f.vm), 0);
    qh_str_deinit(&o.text);
    fixture_close(&f);
}

TEST(one_failing_child_cancels_its_siblings_and_its_error_has_its_place)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f, QH "qh.map({1, 2, 3}, function(i)\n if i == 2 then error 'two' end qh.sleep(100) "
                "end)", QH_TASK_FAILED, "test:2: two");
    CHECK_FAILS(&f, QH "qh.all{a = function() qh.sleep(100) end, b = function()\nlocal t t.x = 1 end}",
                QH_TASK_FAILED, "test:2: attempt to index");
    /* raised where the parent waits for something else */
    CHECK_RUN(&f, QH "local other = qh.spawn(qh.sleep, 100) qh.spawn(function() qh.sleep(0.001) error 'lost' end) "
              "local ok, e = pcall(qh.sleep, 100) local v, why = other:wait() return e .. ', ' .. why",
              "test:1: lost, the task was cancelled");
    /* or when it ends without having waited */
    CHECK_FAILS(&f, QH "qh.spawn(function() error 'unheard' end) qh.sleep(0)", QH_TASK_FAILED, "test:1: unheard");
    CHECK_RUN(&f, QH "qh.spawn(function() error 'never begun' end) return 'fine'", "fine");
    CHECK_FAILS(&f, QH "qh.spawn(function() qh.spawn(function() error 'deep' end) qh.sleep(1) end) qh.sleep(100)",
                QH_TASK_FAILED, "test:1: deep");
    CHECK_INT(qh_vm_n_tasks(f.vm), 0);
    fixture_close(&f);
}

TEST(map_keeps_order_and_limit)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, QH "local now, most = 0, 0 local out = qh.map({5, 4, 3, 2, 1}, function(n, i) "
              "now = now + 1 most = math.max(most, now) qh.sleep(n / 1000) now = now - 1 "
              "return n * 10 + i end, {limit = 2}) return table.concat(out, ' ') .. ' / ' .. most",
              "51 42 33 24 15 / 2");
    CHECK_RUN(&f, QH "return #qh.map({}, print)", "0");
    CHECK_RUN(&f, QH "return table.concat(qh.flatmap({1, 2, 3}, function(n) qh.sleep(0.003 - n / 1000) "
              "local t = {} for i = 1, n do t[i] = n end return t end))", "122333");
    CHECK_RUN(&f, QH "local r = qh.all{a = function() return 1 end, b = function() qh.sleep(0) return 2 end, "
              "function() return 3 end} return r.a .. r.b .. r[1]", "123");
    CHECK_FAILS(&f, QH "qh.map(3, print)", QH_TASK_FAILED, "test:1: qh.map takes a list, not a number");
    CHECK_FAILS(&f, QH "qh.map({}, 3)", QH_TASK_FAILED, "test:1: qh.map: fn is no function");
    CHECK_FAILS(&f, QH "qh.map({}, print, {limit = 0})", QH_TASK_FAILED, "limit must be a positive integer");
    CHECK_FAILS(&f, QH "qh.flatmap({1}, function() end)", QH_TASK_FAILED, "fn returned a nil for item 1, no list");
    fixture_close(&f);
}

TEST(race_and_timeout)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, QH "return table.concat({qh.race{function() qh.sleep(100) return 'slow' end, "
              "function() qh.sleep(0.001) return 'quick', 'two' end}})", "quicktwo");
    CHECK_FAILS(&f, QH "qh.race{function() qh.sleep(100) end, function() error 'first' end}",
                QH_TASK_FAILED, "test:1: first");
    CHECK_RUN(&f, QH "local v, why, name = qh.timeout(0.005, function() qh.sleep(100) end) "
              "return tostring(v) .. ' ' .. why .. ' ' .. name", "nil timed out after 0.005 s ETIMEDOUT");
    CHECK_RUN(&f, QH "return table.concat({qh.timeout(5, function(a) qh.sleep(0.001) return a, 2 end, 1)})", "12");
    CHECK_FAILS(&f, QH "qh.timeout(5, function() error 'inside' end)", QH_TASK_FAILED, "test:1: inside");
    CHECK_FAILS(&f, QH "qh.timeout(-1, print)", QH_TASK_FAILED, "takes seconds");
    /* the body cannot swallow the end of its time */
    CHECK_RUN(&f, QH "local v, why = qh.timeout(0.005, function() while true do pcall(qh.sleep, 1) end end) "
              "return why", "timed out after 0.005 s");
    fixture_close(&f);
}

TEST(places_that_cannot_wait_are_named)
{
    fixture f = fixture_open(NULL);
    CHECK_FAILS(&f, QH "table.sort({3, 2, 1}, function(a, b)\nqh.map({1}, qh.sleep) end)", QH_TASK_FAILED,
                "cannot wait inside table.sort");
    CHECK_FAILS(&f, QH "local t = qh.spawn(qh.sleep, 1) table.sort({3, 2, 1}, function() t:wait() end)",
                QH_TASK_FAILED, "qh.spawn cannot wait inside table.sort");
    CHECK_FAILS(&f, QH "local function nest() qh.spawn(nest) qh.sleep(1) end nest()", QH_TASK_FAILED,
                "nested too deeply in tasks");
    CHECK_FAILS(&f, QH "for i = 1, 1e5 do qh.spawn(qh.sleep, 9) end", QH_TASK_FAILED,
                "has too many tasks at work already");
    f.limits.is_pure = true;
    CHECK_FAILS(&f, QH "qh.spawn(print)", QH_TASK_FAILED, "qh.spawn cannot be used while the app loads");
    fixture_close(&f);
}

TEST(children_spend_the_budgets_of_their_request)
{
    fixture f = fixture_open(NULL);
    static const char *const SPINNERS[] = {
        QH "qh.spawn(function() while true do end end) qh.sleep(100)",
        QH "pcall(qh.map, {1, 2, 3, 4, 5, 6, 7, 8, 9}, function() while true do end end) while true do end",
        /* none of them runs long, all of them never wait for the outside */
        QH "while true do qh.all{function() for i = 1, 1e5 do end end} end",
        QH "local a, b = qh.channel(1), qh.channel(1) qh.spawn(function() for v in a do b:send(v) end end) "
           "while true do a:send(1) b:recv() end",
        QH "local function again() qh.spawn(again) for i = 1, 1e5 do end qh.channel(1):recv() end "
           "for i = 1, 1e6 do qh.all{function() pcall(again) end} end",
    };
    for (size_t i = 0; i < sizeof SPINNERS / sizeof *SPINNERS; i++) {
        outcome o = run(&f, SPINNERS[i]);
        if (o.end != QH_TASK_CPU)
            print_error("%s\n  ended %d: %s\n", SPINNERS[i], (int)o.end, qh_str_z(&o.text));
        CHECK_INT(o.end, QH_TASK_CPU);
        CHECK(o.lua_us < 600000);
        CHECK_INT(qh_vm_n_tasks(f.vm), 0);
        qh_str_deinit(&o.text);
    }
    f.limits.heap_bytes = 8 << 20;
    CHECK_FAILS(&f, QH "qh.map({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, function(i) local s = ('x'):rep(1000000) .. i "
                "qh.sleep(0.01) return s end)", QH_TASK_MEMORY, "too much memory");
    CHECK_RUN(&f, QH "return #qh.map({1, 2, 3, 4, 5}, function(i) local s = ('x'):rep(1000000) .. i "
              "qh.sleep(0.01) return s end)", "5");
    /* work after each real wait is no endless loop, however many do it */
    f.limits.cpu_us = 30000;
    CHECK_RUN(&f, QH "local list = {} for i = 1, 40 do list[i] = i end return #qh.map(list, function() "
              "qh.sleep(0.01) local t = qh.clock() while qh.clock() < t + 0.003 do end return 1 end, {limit = 40})", "40");
    CHECK_INT(qh_vm_n_tasks(f.vm), 0);
    fixture_close(&f);
}

TEST(a_request_of_many_tasks_gets_one_turn_like_the_others)
{
    fixture f = fixture_open(NULL);
    outcome many, one;
    qh_task_start(task_of(&f, QH "local list = {} for i = 1, 400 do list[i] = i end qh.map(list, function() "
                          "qh.sleep(0) for i = 1, 20 do local t = qh.clock() while qh.clock() < t + 0.001 do end "
                          "qh.sleep(0) end end, {limit = 400})", &many));
    for (int i = 0; i < 20; i++) qh_loop_turn(f.loop, false);
    clock_t start = clock();                    /* CPU: the machine may be busy with others */
    qh_task_start(task_of(&f, QH "for i = 1, 10 do qh.sleep(0) end", &one));
    finish(&f, &one);
    CHECK(!many.is_done);
    CHECK(clock() - start < CLOCKS_PER_SEC / 2); /* in the line of all tasks: 10 times 400 ms */
    qh_str_deinit(&one.text);
    qh_vm_free(f.vm);
    f.vm = NULL;
    CHECK_INT(many.end, QH_TASK_CANCELLED);
    qh_str_deinit(&many.text);
    fixture_close(&f);
}

TEST(channels_hold_back_the_faster_side)
{
    fixture f = fixture_open(NULL);
    CHECK_RUN(&f, QH "local c, out, sent = qh.channel(2), {}, 0 "
              "qh.spawn(function() for i = 1, 6 do c:send(i) sent = i end c:close() end) "
              "qh.sleep(0.002) local before = sent for v in c do out[#out + 1] = v end "
              "return before .. ' ' .. table.concat(out)", "2 123456");
    CHECK_RUN(&f, QH "local c = qh.channel() c:send 'a' c:close() local _, why = c:send 'b' "
              "return c:recv() .. tostring(c:recv()) .. why .. c:len()", "anilthe channel is closed0");
    /* several on either side, each item once */
    CHECK_RUN(&f, QH "local c, sum = qh.channel(3), 0 local readers = {} "
              "for i = 1, 4 do readers[i] = qh.spawn(function() for v in c do sum = sum + v qh.sleep(0) end end) end "
              "qh.map({1, 2, 3}, function() for v = 1, 50 do c:send(v) end end) c:close() "
              "for i = 1, 4 do readers[i]:wait() end return sum", "3825");
    /* a receiver that is woken and cancelled at once passes the item on */
    CHECK_RUN(&f, QH "local c, got = qh.channel(1), nil local first = qh.spawn(function() c:recv() end) "
              "local second = qh.spawn(function() got = c:recv() end) qh.sleep(0.001) "
              "c:send 'item' first:cancel() second:wait() return got", "item");
    CHECK_FAILS(&f, QH "qh.channel(0)", QH_TASK_FAILED, "a size from 1 to 65536");
    CHECK_FAILS(&f, QH "qh.channel(1):send(nil)", QH_TASK_FAILED, "nil cannot be sent");
    fixture_close(&f);
}

TEST(an_ending_vm_unwinds_children_too)
{
    fixture f = fixture_open(NULL);
    outcome o;
    qh_task_start(task_of(&f, QH "qh.map({1, 2, 3}, function() while true do pcall(qh.sleep, 1) end end)", &o));
    for (int i = 0; i < 4; i++) qh_loop_turn(f.loop, false);
    qh_vm_free(f.vm);
    f.vm = NULL;
    CHECK(o.is_done);
    CHECK_INT(o.end, QH_TASK_CANCELLED);
    qh_str_deinit(&o.text);
    fixture_close(&f);
}

TEST_MAIN()
