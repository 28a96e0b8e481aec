"""Saving the app swaps it: requests in flight finish on the old one, a broken file changes nothing."""
import json
import re
import threading
import time

from lua_client import ECHO, Host, is_sanitized
from net_client import Reply, request

APP = """
local qh = require "qhost"
local part = require "part"
local llm = qh.model "echo"
local app = qh.app()
app:get("/version", function(_, res) return res:text("app %s part " .. part.version) end)
app:get("/stream", function(req, res)
  res:write "app %s|"
  for ev in llm:stream { prompt = req.query.text, max_tokens = 400 } do
    if ev.type == "text" then res:write(ev.text) end
  end
  return res:write("|app %s"):finish()
end)
%s
return app
"""


def app(n, more=""):
    return APP % (n, n, n, more)


def part(n):
    return f"return {{ version = '{n}' }}"


def host(**more):
    return Host(app(1), {"echo": ECHO % 100}, {"part.lua": part(1)}, **more)


def version(h):
    return h.get("/version").body.decode()


def wait_version(h, want, seconds=5):
    start = time.time()
    while version(h) != want:
        assert time.time() - start < seconds, (version(h), want, h.log()[-2000:])
        time.sleep(0.002)
    return time.time() - start


def test_saving_the_app_or_a_module_of_it_swaps_it():
    with host() as h:
        h.wait_log("app.loaded")
        assert version(h) == "app 1 part 1"
        h.write("app.lua", app(2, 'app:get("/new", function(_, res) return res:text "new" end)'))
        assert wait_version(h, "app 2 part 1") < 1
        line = h.wait_log("gen=2")
        assert 'added="GET /new"' in line
        h.write("part.lua", part(2))
        wait_version(h, "app 2 part 2")
        h.write("app.lua", app(3))
        wait_version(h, "app 3 part 2")
        assert 'removed="GET /new"' in h.wait_log("gen=4")
        h.wait_stats(lambda s: s["generations"] == 1)


def test_editors_that_write_in_place_are_seen():
    with host() as h:
        h.wait_log("app.loaded")
        (h.path / "part.lua").write_text(part("in place"))
        wait_version(h, "app 1 part in place")


def test_a_broken_file_leaves_the_old_one_serving_and_says_where():
    with host() as h:
        h.wait_log("app.loaded")
        cases = [
            ("app.lua", "local qh = require 'qhost'\nlocal app = = qh.app()\nreturn app", "app.lua:2:", 'line="local app = = qh.app()"'),
            ("app.lua", "error 'at load'", "app.lua:1: at load", 'line="error \'at load\'"'),
            ("app.lua", "return 5", "the app file returned a number; it must return an app", ""),
            ("app.lua", "local app = require 'qhost'.app()\napp:get('/x', 5)\nreturn app", "app.lua:2: route GET /x", ""),
            ("app.lua", "while true do end", "app.lua:1: the script ran too long without waiting (loading may take 500 ms)", ""),
            ("app.lua", "require 'qhost'.sleep(1)", "qh.sleep cannot be used while the app loads", ""),
            ("app.lua", "local m = require 'qhost'.model 'none'", "app.lua:1: no model 'none'", ""),
            ("app.lua", "require 'missing'", "missing", ""),
            ("app.lua", "x = 1", "there are no global variables: make 'x' local", 'line="x = 1"'),
            ("part.lua", "return {", "part.lua:1:", ""),
        ]
        for name, source, message, excerpt in cases:
            start = len(h.lines)
            h.write(name, source)
            line = h.wait_log("app.failed", start=start)
            assert message in line and excerpt in line, line
            assert version(h) == "app 1 part 1"
            h.write("app.lua", app(1))
        h.write("part.lua", part("whole"))
        wait_version(h, "app 1 part whole")
        h.wait_stats(lambda s: s["generations"] == 1 and not s["failed"])


def test_a_missing_module_is_picked_up_when_it_is_made():
    with Host("local app = require 'qhost'.app() app:get('/version', function(_, r) return r:text(require 'late') end) require 'late' return app",
              files={}) as h:
        h.wait_log("app.failed")
        assert h.get("/version").status == 503
        h.write("late.lua", "return 'here'")
        h.wait_log("app.loaded")
        assert version(h) == "here"


def test_streams_finish_on_the_generation_they_began_with():
    with host() as h:
        h.wait_log("app.loaded")
        s = h.connect()
        s.sendall(request("GET", "/stream?text=" + "q" * 100) + request("GET", "/version"))
        data = s.recv(65536)
        assert b"app 1|" in data
        h.write("app.lua", app(2))
        wait_version(h, "app 2 part 1")
        assert h.stats()["generations"] == 2
        r = Reply(s, data)
        assert r.body.decode() == "app 1|" + "q" * 100 + "|app 1"
        assert Reply(s, r.rest).body.decode() == "app 2 part 1"      # the next request of the connection
        h.wait_stats(lambda st: st["generations"] == 1)


def test_with_three_generations_alive_a_change_waits():
    with host() as h:
        h.wait_log("app.loaded")
        socks = []
        for n in (2, 3):
            s = h.connect()
            s.sendall(request("GET", "/stream?text=" + "q" * 150))
            assert b"app" in s.recv(4096)
            socks.append(s)
            h.write("app.lua", app(n))
            wait_version(h, f"app {n} part 1")
        h.write("app.lua", app(4))
        h.wait_log("app.pending")
        assert version(h) == "app 3 part 1" and h.stats()["generations"] == 3
        socks[0].close()
        wait_version(h, "app 4 part 1")
        socks[1].close()


def test_a_storm_of_reloads_changes_no_stream():
    """Streams run while the app is saved 60 times, every third time broken."""
    with host() as h:
        h.wait_log("app.loaded")
        stop, bad, served = threading.Event(), [], []

        def stream(i):
            while not stop.is_set():
                text = f"{i:02d}" * 30
                body = h.get("/stream?text=" + text).body.decode()
                m = re.fullmatch(r"app (\d+)\|(.*)\|app (\d+)", body)
                if not m or m[2] != text or m[1] != m[3]:
                    bad.append(body)

        def ask():
            while not stop.is_set():
                v = version(h)
                served.append(v)
                if not re.fullmatch(r"app \d+ part \d+", v):
                    bad.append(v)

        threads = [threading.Thread(target=stream, args=(i,)) for i in range(12)] + [threading.Thread(target=ask)]
        for t in threads:
            t.start()
        for n in range(2, 62):
            h.write("app.lua", app(n) if n % 3 else "return nothing(")
            time.sleep(0.07)
        h.write("app.lua", app(99))
        wait_version(h, "app 99 part 1", 10)
        stop.set()
        for t in threads:
            t.join()
        assert not bad, bad[:3]
        assert len(set(served)) > 3
        h.wait_stats(lambda s: s["generations"] == 1 and s["requests"] == 0)


def test_memory_is_flat_over_many_reloads():
    with host() as h:
        h.wait_log("app.loaded")
        rss = []
        for n in range(2, 82):
            start = len(h.lines)
            h.write("app.lua", app(n))
            h.wait_log("app.loaded", start=start)
            if n in (20, 81):
                rss.append(int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{h.proc.pid}/status").read())[1]))
        if not is_sanitized():                  # which keeps freed memory for a while
            assert rss[1] - rss[0] < 4000, rss
        assert h.stats()["generations"] <= 2


def test_from_save_to_served_takes_under_200_ms():
    with host() as h:
        h.wait_log("app.loaded")
        times = []
        for n in range(2, 22):
            h.write("app.lua", app(n))
            times.append(wait_version(h, f"app {n} part 1"))
        times.sort()
        print(f"save to served: median {times[10] * 1e3:.0f} ms, p95 {times[18] * 1e3:.0f} ms")
        assert times[18] < 0.5                  # 0.2 on a machine of its own; neighbours share this one
