"""qhost test: what runs, what the doubles do, what a failure looks like, and the exit code."""
import textwrap

import pytest
from conftest import ROOT

APP = """
    local qh = require "qhost"
    local llm = qh.model "small"
    local app, t = qh.app(), qh.schema
    local ticks = 0
    qh.every(10, function() ticks = ticks + 1 end, { name = "tick" })
    app:openai { models = { llm } }
    app:get("/hello", function(_, res) res:text "hello" end)
    app:post("/sum", function(req, res)
      local b = req:json(t.object { { "a", t.int() }, { "b", t.int() } })
      res:json { sum = b.a + b.b }
    end)
    app:get("/slow", function(_, res) qh.sleep(3600) res:json { ticks = ticks, at = qh.time.iso() } end)
    app:get("/timeout", function(_, res)
      local _, message = qh.timeout(30, function() qh.sleep(60) end)
      res:text(message)
    end)
    app:get("/bad", function() error "oh no" end)
    app:get("/spin", function() while true do end end)
    app:get("/ask", function(_, res) res:json { text = llm:chat { prompt = "why?", stop = { "STOP" } }.text } end)
    local weather = qh.tool { name = "weather", description = "w", input = t.object { { "city", t.string() } },
      run = function() error "there is no network here" end }
    local agent = qh.agent { model = llm, tools = { weather }, max_steps = 4 }
    app:post("/agent", function(req, res)
      local run <close> = agent:run { messages = req:json().messages }
      return res:stream(run, { as = "text" })
    end)
    app:post("/count", function(_, res)
      local s = qh.store "c"
      s:set("n", (s:get "n" or 0) + 1)
      res:json(s:get "n")
    end)
    app:get("/steady", function(_, res)
      local ok, message = qh.timeout(1, function()
        for i = 1, 50 do qh.store("c"):set("k", i) end
        return llm:chat { prompt = ("word "):rep(300) }.text
      end)
      res:text(ok and "done" or message)
    end)
    app:get("/later", function(_, res)
      qh.background("later", function() error "in the background" end)
      res:text "ok"
    end)
    app:get("/events", function(_, res) res:event("a", { n = 1 }) res:event(nil, "two") end)
    return app
"""

GOOD = """
    local test, qh = require "qhost.test", require "qhost"
    test.test("a reply has a status, headers and a body", function()
      local r = test.request { path = "/hello?x=1", headers = { ["x-y"] = "z" } }
      test.equal({ r.status, r.body, r.headers["content-type"] }, { 200, "hello", "text/plain; charset=utf-8" })
      test.equal(test.request { path = "/nowhere" }.status, 404)
    end)
    test.test("JSON goes in and out", function()
      test.equal(test.request { path = "/sum", json = { a = 1, b = 2 } }:json(), { sum = 3 })
      local bad = test.request { path = "/sum", json = { a = 1, b = "2" } }
      test.equal(bad.status, 400)
      test.match(bad:json().error.message, "^b: expected an integer")
    end)
    test.test("an hour passes at once, and what is periodic happens in it", function()
      local clock = qh.mock.clock { at = 0 }
      test.equal(test.request { path = "/slow" }:json(), { ticks = 359, at = "1970-01-01T01:00:00Z" })
      test.equal(clock:now(), 3600)
      test.equal(test.request { path = "/timeout" }.body, "timed out after 30 s")
      test.equal(clock:now(), 3630)
    end)
    test.test("time stands still while stores and models are at work", function()
      local clock = qh.mock.clock { at = 0 }
      test.equal(test.request { path = "/steady" }.body, "done")
      test.equal(clock:now(), 0)
    end)
    test.test("time moves by hand", function()
      local clock, woken = qh.mock.clock { at = 100, auto = false }, {}
      local task <close> = qh.spawn(function()
        for i = 1, 3 do qh.sleep(10) woken[i] = qh.time() end
      end)
      clock:advance(5)
      test.equal(woken, {})
      clock:advance(16)
      test.equal(woken, { 110, 120 })
      test.equal(clock:now(), 121)
    end)
    test.test("an error of the app is a 500 with its log", function()
      local r = test.request { path = "/bad" }
      test.equal(r.status, 500)
      test.match(r.log, "app.lua:%d+: oh no")
      test.equal(test.request { path = "/spin" }.status, 500)
    end)
    test.test("a model repeats the user, or says what it is told", function()
      test.equal(test.request { path = "/ask" }:json().text, "why?")
      qh.mock.model("small", { "because", "so it is STOP here" })
      test.equal(test.request { path = "/ask" }:json().text, "because")
      test.equal(test.request { path = "/ask" }:json().text, "so it is ")
      test.match(qh.mock.prompts "small"[2], "user\\nwhy%?")
      test.match(test.request { path = "/ask" }.log, "more often than the 2 times")
      qh.mock.model("small", function(prompt, n) return n .. ":" .. #prompt end)
      test.match(test.request { path = "/ask" }:json().text, "^1:%d+$")
    end)
    test.test("the OpenAI dialect streams", function()
      qh.mock.model("small", "one two three")
      local events = test.request { path = "/v1/chat/completions", json = { model = "small", stream = true,
        messages = { { role = "user", content = "x" } } } }:events()
      local text = ""
      for _, e in ipairs(events) do
        if e.data ~= "[DONE]" and e.data.choices[1] then text = text .. (e.data.choices[1].delta.content or "") end
      end
      test.equal(text, "one two three")
      test.equal(events[#events].data, "[DONE]")
    end)
    test.test("an agent calls a tool that is a double", function()
      qh.mock.tool("weather", function(args) return { temp = 21, city = args.city } end)
      qh.mock.model("small", { { tool_calls = { { name = "weather", arguments = { city = "Oslo" } } } }, "It is 21 degrees." })
      local r = test.request { path = "/agent", json = { messages = { { role = "user", content = "weather in Oslo?" } } } }
      test.match(r.body, "21 degrees")
      test.match(qh.mock.prompts "small"[2], '"temp":21')
    end)
    test.test("stores begin empty", function()
      test.equal(test.request { method = "POST", path = "/count" }.body, "1")
      test.equal(test.request { method = "POST", path = "/count" }.body, "2")
    end)
    test.test("events", function()
      test.equal(test.request { path = "/events" }:events(), { { event = "a", data = { n = 1 } }, { data = "two" } })
    end)
    test.test("left out", { skip = "not today" }, function() error "never" end)
"""

BAD = """
    local test, qh = require "qhost.test", require "qhost"
    test.test("differs", function() test.equal({ a = 1, b = { 1, 2, "x" } }, { a = 1, b = { 1, 3, "x" }, c = true }, "tables") end)
    test.test("long text", function() test.equal(("ab\\n"):rep(100) .. "x", ("ab\\n"):rep(100) .. "y") end)
    test.test("too slow", { timeout = 0.2 }, function() qh.sleep(5) end)
    test.test("no error", function() test.error(function() end, "boom") end)
    test.test("raises", function() local t = nil; return t.x end)
    test.test("in the background", function()
      test.request { path = "/later" }
      qh.sleep(0.05)
    end)
    test.test("no match", function() test.match("abc", "^x") end)
    test.test("mocks of one test", function() qh.mock.model("small", "mine") end)
    test.test("are not those of the next", function()
      test.equal(test.request { path = "/ask" }:json().text, "why?")
    end)
"""


@pytest.fixture
def folder(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return tmp_path / name
    write("app.lua", APP)
    return write


def test_good_tests_pass(cli, folder, tmp_path):
    folder("app_test.lua", GOOD)
    r = cli.run("test", tmp_path / "app.lua")
    lines = r.stdout.splitlines()
    assert lines[-1] == "11 passed, 0 failed, 1 skipped", r.stdout
    assert "SKIP  left out (not today)" in lines and sum(line.startswith("ok    ") for line in lines) == 11


FETCHING = """
    local qh = require "qhost"
    local app = qh.app()
    app:get("/", function(_, res)
      local r = qh.fetch("http://api.example/v1?q=x", { json = { a = 1 }, timeout = 20 })
      res:json { s = r.status, j = r:json(), h = r.headers["x-y"] }
    end)
    app:get("/stream", function(_, res)
      local r <close> = qh.fetch("http://api.example/s", { stream = true })
      for piece in r:chunks() do res:write(piece) end
    end)
    return app
"""

FETCHED = """
    local test, qh = require "qhost.test", require "qhost"
    test.test("other servers say what the test says", function()
      qh.mock.fetch("http://api.example/*", function(q)
        return { status = 201, headers = { ["X-Y"] = "z" }, json = { got = q.json.a } }
      end)
      test.equal(test.request { path = "/" }:json(), { s = 201, j = { got = 1 }, h = "z" })
      test.equal(qh.mock.fetched()[1].method, "POST")
      qh.mock.fetch("http://api.example/s", "whole")
      test.equal(test.request { path = "/stream" }.body, "whole")
    end)
    test.test("or fail, or are late", function()
      test.check(test.request { path = "/" }.status >= 500)
      qh.mock.fetch("*", { error = "connection refused" })
      test.equal(test.request { path = "/" }.status, 502)
      local clock = qh.mock.clock { at = 0 }
      qh.mock.fetch("*", { delay = 15, json = {} })
      test.equal(test.request { path = "/" }.status, 200)
      qh.mock.fetch("*", { delay = 60, json = {} })
      test.equal(test.request { path = "/" }.status, 504)
      test.equal(clock:now(), 35)
    end)
"""


def test_fetches_are_doubles(cli, folder, tmp_path):
    folder("app.lua", FETCHING)
    folder("app_test.lua", FETCHED)
    r = cli.run("test", tmp_path / "app.lua", ok=False)
    assert r.stdout.splitlines()[-1] == "2 passed, 0 failed, 0 skipped", r.stdout


def test_bad_tests_tell_what_and_where(cli, folder, tmp_path):
    folder("bad_test.lua", BAD)
    folder("also_test.lua", GOOD)
    r = cli.run("test", tmp_path / "app.lua", tmp_path / "bad_test.lua", ok=False)
    out = r.stdout
    assert r.returncode == 1 and out.splitlines()[-1] == "2 passed, 7 failed, 0 skipped", out
    for part in ["FAIL  differs\n      bad_test.lua:3: tables: b[2]: got 2, want 3\n      c: missing, want true",
                 "differs at byte 301 (line 101)", "FAIL  too slow\n      it took longer than 0.2 s",
                 'no error was raised, want "boom"', "bad_test.lua:7: attempt to index a nil value (local 't')",
                 "'later' failed: app.lua:", "in the background", '"abc" does not match "^x"']:
        assert part in out, (part, out)


def test_the_tests_of_the_examples_pass(cli):
    tests = sorted(ROOT.glob("examples/*_test.lua"))
    assert len(tests) >= 5
    for test in tests:
        r = cli.run("test", test.with_name(test.name.replace("_test", "")))
        assert r.stdout.splitlines()[0] == str(test) and " 0 failed" in r.stdout and "\n0 passed" not in r.stdout


def test_apps_may_share_a_folder(cli, folder, tmp_path):
    one = 'local t = require "qhost.test" t.test("x", function() end)'
    folder("users_test.lua", one)
    assert "users_test.lua" in cli.run("test", tmp_path / "app.lua").stdout
    folder("app_test.lua", one)
    folder("app_more_test.lua", one)
    r = cli.run("test", tmp_path / "app.lua")
    assert "2 passed" in r.stdout and "users_test.lua" not in r.stdout
    assert "1 other test files beside it are left out: their names do not begin with app_" in r.stderr


def test_a_filter_and_all_files_beside_the_app(cli, folder, tmp_path):
    folder("b_test.lua", 'local t = require "qhost.test" t.test("in b", function() end)')
    folder("a_test.lua", 'local t = require "qhost.test" t.test("in a", function() end) t.test("x", function() error() end)')
    r = cli.run("test", tmp_path / "app.lua", "--filter", "in ")
    assert r.stdout.splitlines() == [str(tmp_path / "a_test.lua"), "ok    in a", str(tmp_path / "b_test.lua"), "ok    in b",
                                     "2 passed, 0 failed, 0 skipped"]


def test_what_cannot_run_is_told(cli, folder, tmp_path):
    assert cli.run("test", tmp_path / "app.lua", ok=False).returncode == 2      # no tests
    folder("a_test.lua", "this is no Lua")
    r = cli.run("test", tmp_path / "app.lua", ok=False)
    assert r.returncode == 1 and "a_test.lua:1: syntax error" in r.stdout
    r = cli.run("test", tmp_path / "app.lua", tmp_path / "missing_test.lua", ok=False)
    assert r.returncode == 1 and "No such file" in r.stdout
    folder("app.lua", "return 1")
    r = cli.run("test", tmp_path / "app.lua", ok=False)
    assert r.returncode == 1 and "the app file returned a number" in r.stdout
    assert cli.run("test", ok=False).returncode == 2
    folder("app.lua", APP)
    folder("a_test.lua", 'local t = require "qhost.test" t.test("x", function() end)')
    r = cli.run("test", tmp_path / "app.lua", "--filter", "nothing", ok=False)
    assert r.returncode == 2 and "no test has this in its name: nothing" in r.stderr


def test_mocks_are_for_tests_only(cli, folder, tmp_path):
    folder("app.lua", 'local qh = require "qhost" qh.mock.model("x", "y") return qh.app()')
    folder("a_test.lua", 'local t = require "qhost.test" t.test("x", function() end)')
    r = cli.run("test", tmp_path / "app.lua", ok=False)
    assert "app.lua:1: qh.mock.model is for the tests of `qhost test`" in r.stdout
