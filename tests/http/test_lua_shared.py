"""Data that survives a reload in memory, rate limits, metrics of apps, stable shares."""
import json
import time

import pytest
from lua_client import Host, error_of

APP = r"""
local qh = require "qhost"
local app = qh.app()
local s = qh.shared "things"
app:post("/run", function(req, res)
  local fn = assert(load("local qh, s = ... " .. req:text()))
  return res:json(qh.json.array { fn(qh, s) })
end)
return app
"""


@pytest.fixture(scope="module")
def host():
    with Host(APP) as h:
        h.wait_log("app.loaded")
        yield h


def run(host, code):
    r = host.post("/run", code.encode())
    assert r.status == 200, host.log()[-2000:]
    return json.loads(r.body)


def fails(host, code):
    return run(host, f"local ok, e = pcall(function() {code} end) return ok, tostring(e)")


def test_values_of_every_plain_kind(host):
    assert run(host, """
      s:set("i", 7) s:set("f", 1.5) s:set("b", false) s:set("t", "text\\0\\255") s:set("o", { a = { 1, 2 }, e = qh.json.array() })
      return math.type(s:get "i"), s:get "f", s:get "b", #s:get "t", s:get "o", s:get "none" == nil""") == \
        ["integer", 1.5, False, 6, {"a": [1, 2], "e": []}, True]
    assert run(host, 's:set("x", { n = 1 }) local t = s:get "x" t.n = 2 return s:get("x").n, s:del "x", s:del "x", s:get "x" == nil') == \
        [1, True, False, True]
    assert run(host, 's:set("x", 1) s:set("x", nil) return s:get "x" == nil, s:add("x", 2), s:add("x", 3), s:get "x"') == [True, True, False, 2]
    for bad in ("print", "{ f = print }", "coroutine.create(print)", "(function() local t = {} t.t = t return t end)()"):
        ok, e = fails(host, f's:set("bad", {bad})')
        assert not ok and "plain data" in e, (bad, e)
    assert fails(host, 's:set("", 1)')[0] is False and fails(host, 's:set(("k"):rep(1025), 1)')[0] is False


def test_counting_and_swapping(host):
    assert run(host, 'return s:incr "n", s:incr("n", 2), s:incr("n", 0.5), s:get "n"') == [1, 3, 3.5, 3.5]
    assert "holds no number" in fails(host, 's:set("w", "x") s:incr "w"')[1]
    assert run(host, 's:del "c" return s:cas("c", 1, 2), s:cas("c", nil, { 1 }), s:cas("c", { 2 }, 3), s:cas("c", { 1 }, 3), s:cas("c", 3, nil), s:get "c" == nil') == \
        [False, True, False, True, True, True]
    assert run(host, 's:set("u", 1) return s:update("u", function(v) return v + 1 end), s:update("new", function(v) return v == nil end)') == [2, True]
    assert "cannot wait inside" in fails(host, 's:update("u", function() qh.sleep(1) end)')[1]
    assert run(host, 'qh.map({ 1, 2, 3, 4 }, function() for i = 1, 50 do s:incr "many" qh.sleep(0) end end) return s:get "many"') == [200]


def test_values_may_end_by_themselves(host):
    assert run(host, 's:set("ttl", 1, 0.03) local a = s:get "ttl" qh.sleep(0.05) return a, s:get "ttl" == nil, s:add("ttl", 2)') == [1, True, True]
    assert run(host, 's:incr("hits", 1, 0.05) qh.sleep(0.03) s:incr("hits", 1, 0.05) qh.sleep(0.03) return s:get "hits" == nil') == [True]
    assert fails(host, 's:set("x", 1, -1)')[0] is False


def test_keys(host):
    assert run(host, """
      local t = qh.shared "keys" for i = 1, 5 do t:set("a:" .. i, i) end t:set("b", 1) t:get "a:2" t:set("a:gone", 1, 0.001) qh.sleep(0.01)
      return t:keys "a:", t:keys("a:", 2), #t:keys()""") == [["a:2", "a:5", "a:4", "a:3", "a:1"], ["a:2", "a:5"], 6]


def test_a_full_table_drops_what_was_not_used(host):
    got = run(host, """
      local t = qh.shared("small", { max_bytes = 10000 })
      t:set("kept", ("k"):rep(100))
      for i = 1, 200 do t:set("x" .. i, ("x"):rep(500)) t:get "kept" end
      return t:get "kept" ~= nil, t:get "x200" ~= nil, t:get "x1" == nil, #t:keys() < 20""")
    assert got == [True] * 4
    assert "holds at most 10000 bytes" in fails(host, 'qh.shared("small"):set("big", ("x"):rep(20000))')[1]
    assert "shared tables already" in fails(host, 'for i = 1, 100 do qh.shared("many" .. i) end')[1]


def test_buckets_limit_rates(host):
    assert run(host, """
      local b, n = { rate = 10, per = 60 }, 0
      for i = 1, 15 do if s:take("user", 1, b) then n = n + 1 end end
      local ok, wait = s:take("user", 1, b)
      return n, ok, wait > 5.9 and wait <= 6""") == [10, False, True]
    assert run(host, 'local b = { rate = 1000, per = 1, burst = 1 } local a = s:take("fast", 1, b) local c = s:take("fast", 1, b) qh.sleep(0.005) return a, c, (s:take("fast", 1, b))') == \
        [True, False, True]
    # more than it holds: given when it is full, paid for by those who follow
    assert run(host, """
      local b = { rate = 10, per = 10 } local ok = s:take("big", 25, b) local no, wait = s:take("big", 1, b)
      s:settle("big", 20) local after, left = s:take("big", 5, b) local over = s:take("big", 1, b)
      s:settle("big", 1000) local most = s:take("big", 10, b) return ok, no, wait > 15.9 and wait <= 16, after, over, most, (s:take("big", 1, b))""") == \
        [True, False, True, True, False, True, False]
    for bad in ("{}", "{rate=0}", "{rate=-1}", "{rate=0/0}", "{rate=1,per=0}"):
        assert fails(host, f's:take("user2", 1, {bad})')[0] is False, bad
    assert "no bucket" in fails(host, 's:set("plain", 1) s:take("plain", 1, { rate = 1 })')[1]


def test_shares_are_stable_and_even(host):
    got = run(host, """
      local n, sum = 0, 0 for i = 1, 2000 do local b = qh.bucket(i, "ab") sum = sum + b if b < 0.1 then n = n + 1 end end
      return qh.bucket("alice", "ab"), n, sum / 2000, qh.bucket("alice", "other") ~= qh.bucket("alice", "ab"), qh.bucket(1) == qh.bucket "1" """)
    import hashlib
    want = int.from_bytes(hashlib.sha256(b"ab\0alice").digest()[:7], "big") >> 3
    assert got[0] == pytest.approx(want / 2**53, abs=1e-12)
    assert 150 < got[1] < 250 and 0.47 < got[2] < 0.53 and got[3] and got[4]


def test_metrics_have_names_kinds_and_a_limit(host):
    assert run(host, """
      return qh.metrics.count "orders_total", qh.metrics.count("orders_total", 2), qh.metrics.gauge("open", 3.6),
        qh.metrics.observe("wait_seconds", 0.2, { kind = 'a"b', zone = 1 })""") == [True] * 4
    for bad in ("Orders", "a-b", "", "1a", "x" * 61):
        assert "a name is" in fails(host, f"qh.metrics.count '{bad}'")[1], bad
    assert "is used with qh.metrics.count" in fails(host, "qh.metrics.gauge('orders_total', 1)")[1]
    assert fails(host, "qh.metrics.count('neg', -1)")[0] is False and fails(host, "qh.metrics.gauge('nan', 0/0)")[0] is False
    assert "no name of a label" in fails(host, "qh.metrics.count('labelled', 1, { ['a b'] = 1 })")[1]
    assert run(host, "local kept for i = 1, 1100 do kept = qh.metrics.count('flood', 1, { i = i }) end return kept, qh.metrics.count 'orders_total'") == [False, True]


def test_topics_reach_all_who_listen(host):
    assert run(host, """
      local t, out = qh.topic "news", {}
      local first = t:publish "nobody hears"
      local a, b = t:subscribe(), t:subscribe(2)
      qh.spawn(function() for v in a do out[#out + 1] = v.n end end)
      for i = 1, 5 do t:publish { n = i } end
      qh.sleep(0.001)
      return first, t:publish { n = 6 }, table.concat(out), b:lost(), b:recv().n, b:recv().n, b:close() == nil, b:recv() == nil, t:publish(1)""") == \
        [0, 2, "12345", 4, 5, 6, True, True, 1]
    got = run(host, """
      local t = qh.topic "mem" local s = t:subscribe(1000) local big = ("x"):rep(1000000)
      for i = 1, 100 do t:publish(big .. i) qh.sleep(0) end return s:lost() > 90, #s:recv() > 1000000""")
    assert got == [True, True]
    assert "at most 1 MiB" in fails(host, "qh.topic('x'):publish(('x'):rep(1100000))")[1]
    assert "topic:publish" in fails(host, "qh.topic('x'):publish(print)")[1]
    assert fails(host, "qh.topic(''):subscribe()")[0] is False and fails(host, "qh.topic('x'):subscribe(0)")[0] is False


def test_a_topic_reaches_older_generations():
    app = """
    local qh = require "qhost"
    local app = qh.app()
    app:get("/listen", function(_, res)
      local s = qh.topic("t"):subscribe()
      res:write "listening "
      return res:write(s:recv().text)
    end)
    app:get("/say", function(_, res) return res:json { n = qh.topic("t"):publish { text = "from %d" } } end)
    return app
    """
    with Host(app % 1) as h:
        h.wait_log("app.loaded gen=1")
        with h.connect() as s:
            s.sendall(b"GET /listen HTTP/1.1\r\nHost: a\r\n\r\n")
            data = s.recv(1000)
            while b"listening" not in data:
                data += s.recv(1000)
            h.write("app.lua", app % 2)
            h.wait_log("app.loaded gen=2")
            assert json.loads(h.get("/say").body) == {"n": 1}
            while b"from 2" not in data:
                piece = s.recv(1000)
                assert piece
                data += piece
        h.wait_stats(lambda s: s["requests"] == 0 and s["generations"] == 1)
        assert json.loads(h.get("/say").body) == {"n": 0}


def test_what_survives_a_reload():
    app = """
    local qh = require "qhost"
    local app = qh.app()
    local p = qh.persist("state", function(old, version) return { n = old and old.n * 10 or 0, from = version } end, { version = %d })
    local locals = 0
    app:get("/", function(_, res)
      locals = locals + 1
      local v = p:update(function(v) v.n = v.n + 1 return v end)
      return res:json { gen = %d, n = v.n, from = v.from, shared = qh.shared("s"):incr "n", locals = locals }
    end)
    app:get("/bad", function() p:set(print) end)
    app:get("/full", function() p:set(("x"):rep(17000000)) end)
    return app
    """
    with Host(app % (1, 1)) as h:
        h.wait_log("app.loaded gen=1")
        for n in (1, 2):
            assert json.loads(h.get("/").body) == {"gen": 1, "n": n, "shared": n, "locals": n}
        h.write("app.lua", app % (1, 2))
        h.wait_log("app.loaded gen=2")
        assert json.loads(h.get("/").body) == {"gen": 2, "n": 3, "shared": 3, "locals": 1}
        h.write("app.lua", app % (2, 3))
        h.wait_log("app.loaded gen=3")
        assert json.loads(h.get("/").body) == {"gen": 3, "n": 31, "from": 1, "shared": 4, "locals": 1}
        assert error_of(h.get("/bad"))["code"] == "script_error"
        assert error_of(h.get("/full"))["code"] == "script_error"
        h.wait_log("holds at most")
        h.write("app.lua", app % (1, 4))
        h.wait_log("app.loaded gen=4")
        assert json.loads(h.get("/").body)["n"] == 4        # the older version has its own value still


def test_metrics_of_an_app_are_on_metrics(serve):
    server = serve("""
    local qh = require "qhost"
    local app = qh.app()
    app:get("/", function(_, res)
      qh.metrics.count("orders_total", 2, { kind = 'a"b' })
      qh.metrics.observe("wait_seconds", 0.2)
      return res:text "ok"
    end)
    return app
    """)
    server.get("/")
    text = server.get("/metrics")[2]
    assert 'qhost_app_orders_total{kind="a\\"b"} 2' in text
    assert 'qhost_app_wait_seconds_bucket{le="0.25"} 1' in text and "qhost_app_wait_seconds_count 1" in text
