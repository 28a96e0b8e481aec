"""Texts in handlers: regular expressions that would run away, and the rest of the library as scripts see it."""
import json
import os
import pathlib
import time

from lua_client import Host, error_of

APP = r"""
    local qh = require "qhost"
    local app = qh.app()
    app:post("/bomb", function(req, res)
      local q = req:json()
      res:json { qh.re.test(("a"):rep(q.n) .. "!", q.pattern) }
    end)
    app:get("/all", function(req, res)
      local u = qh.url.parse "http://h:81/a?b=c"
      res:json { re = qh.re.gsub("a-b", "(a)-(b)", "$2-$1"), sum = #qh.crypto.sha256 "x", host = u.host, port = u.port,
        now = qh.time(), also = qh.time.now(), text = qh.time.iso(0), same = qh.crypto.equal("a", "a"),
        b = qh.crypto.base64.encode "hi" }
    end)
    app:get("/frozen", function() qh.re.match = nil end)
    return app
"""


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_pattern_that_runs_away_ends_in_an_error_within_100_ms_of_cpu():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        for n, pattern in [(60, "(a+)+$"), (1 << 20, "(a|aa)+$"), (1 << 20, "(x+x+)+y|[^!]*y"), (5000, "(.*a){20}b")]:
            start = cpu_seconds(host.proc.pid)
            reply = host.post("/bomb", {"n": n, "pattern": pattern})
            took = cpu_seconds(host.proc.pid) - start
            if reply.status == 500:
                assert error_of(reply)["code"] == "script_error" and host.wait_log("the regular expression")
            else:
                assert json.loads(reply.body) == [False]
            assert took <= 0.1, (pattern, n, took)
        assert host.post("/bomb", {"n": 3, "pattern": "^a+!$"}).body == b"[true]"


def test_the_library_is_there_and_cannot_be_changed():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        got = json.loads(host.get("/all").body)
        assert abs(got.pop("now") - time.time()) < 5 and abs(got.pop("also") - time.time()) < 5
        assert got == {"re": "b-a", "sum": 64, "host": "h", "port": 81, "text": "1970-01-01T00:00:00Z", "same": True, "b": "aGk="}
        assert host.get("/frozen").status == 500
        assert "qhost.re.match cannot be changed" in host.wait_log("cannot be changed")
