"""Calls that wait for somebody's word: parked as data, decided over HTTP, gone on with by the newest script."""
import json
import queue
import socket
import threading
import time

import pytest

from agent_client import by_type, call, events_of, model_source, text_of, turns

APP = r'''
local qh = require "qhost"
local t = qh.schema
local m = qh.model "m"
local app = qh.app()
local function def(more)
  local d = { name = more.name, model = m, approval_timeout = more.seconds, tools = {
    qh.tool { name = "pay", approve = "ask", input = t.object { { "sum", t.int() } },
      run = function(args, ctx) return "VERSION paid " .. args.sum .. " for " .. tostring(ctx.user) end },
    qh.tool { name = "look", run = function() return "looked" end },
    qh.tool { name = "big", input = t.object { { "sum", t.int() } }, run = function(args) return "big " .. args.sum end,
      approve = function(args) return args.sum > 10 and "ask" or true end } } }
  return qh.agent(d)
end
local agents = { clerk = def { name = "clerk" }, hasty = def { name = "hasty", seconds = 0.5 } }
app:post("/run/:agent", function(req, res)
  local body = req:json()
  local run <close> = agents[req.params.agent]:run { prompt = body.prompt, resume = body.resume, user = body.user or "ann", wait = body.wait }
  return res:stream(run, { as = "ndjson" })
end)
app:post("/odd", function(req, res)
  local run <close> = agents.clerk:run { prompt = req:json().prompt, user = function() end }
  return res:stream(run, { as = "ndjson" })
end)
app:approvals "/approvals"
app:get("/version", function(_, res) return res:text "VERSION" end)
return app
'''


class Reader:
    """Reads the events of a run as they come."""

    def __init__(self, server, path, **body):
        data = json.dumps(body).encode()
        self.sock = server.connect()
        self.sock.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        self.events, self.queue = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        f = self.sock.makefile("rb")
        for line in f:
            if line.startswith(b"{"):
                self.queue.put(json.loads(line))
        self.queue.put(None)

    def until(self, kind, timeout=10):
        """The next event of that type."""
        end = time.monotonic() + timeout
        while True:
            ev = self.queue.get(timeout=max(end - time.monotonic(), 0.01))
            assert ev is not None, (f"no {kind}", self.events)
            self.events.append(ev)
            if ev["type"] == kind:
                return ev

    def rest(self):
        self.until("done")
        return self.events


@pytest.fixture
def office(serve, tmp_path):
    path = tmp_path / "model.lua"
    path.write_text(model_source())
    app = tmp_path / "office.lua"

    def write(version):
        new = tmp_path / "office.new"
        new.write_text(APP.replace("VERSION", version))
        new.rename(app)
    write("v1")
    args = ["--model", f"m=scripted:{path}", "--data", tmp_path / "data"]

    def start():
        server = serve(app, *args)

        def post(path, **body):
            status, _, text = server.request("POST", path, json.dumps(body).encode())
            return status, text

        def decide(id, approve, **more):
            status, text = post("/approvals", id=id, approve=approve, **more)
            return status, json.loads(text)

        def reload(version, gen=2):
            write(version)
            server.wait_for(f"app.loaded gen={gen}", 10)
            server.wait_until(lambda: server.get("/version")[2] == version, what=f"{version} serving")
        server.post, server.decide, server.reload, server.again = post, decide, reload, start
        server.waiting = lambda: json.loads(server.get("/approvals")[2])["approvals"]
        server.start = lambda *said, agent="clerk", **body: Reader(server, f"/run/{agent}", prompt=turns(*said), **body)
        return server
    return start()


SAID = (call("pay", sum=7) + call("look"), "Done: $R")


def results_of(events):
    return {e["name"]: e["text"] for e in by_type(events, "tool_result")}


def test_an_approved_call_runs_in_the_stream_that_waits(office):
    reader = office.start(*SAID)
    asked = reader.until("approval")
    assert [c["name"] for c in asked["calls"]] == ["pay"] and json.loads(asked["calls"][0]["arguments"]) == {"sum": 7}
    assert results_of(reader.events) == {"look": "looked"}                # what needs no word does not wait for it
    listed = office.waiting()
    assert [(a["id"], a["agent"], a["user"]) for a in listed] == [(asked["id"], "clerk", "ann")]
    assert office.decide(asked["id"], True) == (200, {"id": asked["id"], "approve": True, "resumes": "now"})
    events = reader.rest()
    assert text_of(events) == "Done: v1 paid 7 for ann & looked" and events[-1]["finish"] == "stop" and office.waiting() == []


def test_a_denial_is_a_result_that_the_model_reads(office):
    reader = office.start(*SAID)
    assert office.decide(reader.until("approval")["id"], False, reason="too much")[0] == 200
    assert text_of(reader.rest()) == "Done: Error: this call was denied: too much & looked"


def test_a_function_says_which_calls_are_asked_about(office):
    reader = office.start(call("big", sum=3), call("big", sum=30), "$R")
    office.decide(reader.until("approval")["id"], True)
    assert text_of(reader.rest()) == "big 30"


def test_nobodys_word_in_time_is_a_denial(office):
    events = office.start(*SAID, agent="hasty").rest()
    assert "nobody decided in time" in results_of(events)["pay"] and events[-1]["finish"] == "stop"
    assert office.decide(by_type(events, "approval")[0]["id"], True)[0] == 404


def test_a_run_goes_on_in_a_new_request(office):
    events = events_of(office.post("/run/clerk", prompt=turns(*SAID), wait=False)[1])
    assert events[-1]["finish"] == "approval"
    id = by_type(events, "approval")[0]["id"]
    assert office.decide(id, True)[1]["resumes"] == "later"
    events = Reader(office, "/run/clerk", resume=id).rest()
    assert text_of(events) == "Done: v1 paid 7 for ann & looked" and by_type(events, "usage")[0]["steps"] == 2
    assert office.post("/run/clerk", resume=id)[0] == 404                 # once


def test_a_run_whose_client_left_waits_on(office):
    reader = office.start(*SAID)
    id = reader.until("approval")["id"]
    reader.sock.shutdown(socket.SHUT_RDWR)
    again = Reader(office, "/run/clerk", resume=id)
    assert again.until("approval")["id"] == id
    office.decide(id, True)
    assert text_of(again.rest()) == "Done: v1 paid 7 for ann & looked"


def test_a_word_counts_once_and_unknown_ids_are_a_404(office):
    reader = office.start(*SAID)
    id = reader.until("approval")["id"]
    answers = [office.decide(id, approve)[0] for approve in (True, False)]
    assert answers[0] == 200 and answers[1] in (404, 409)
    assert "paid 7" in text_of(reader.rest())
    assert office.decide("nonsense", True)[0] == 404 and office.post("/run/clerk", resume="nonsense")[0] == 404
    assert office.post("/approvals", id=id)[0] == 400 and office.post("/run/hasty", resume=5)[0] == 404


def test_a_user_that_is_no_data_is_refused_with_the_reason(office):
    reader = Reader(office, "/odd", prompt=turns(*SAID))
    office.wait_for("give agent:run a text or a table")
    assert reader.sock.fileno() > 0


def test_the_newest_script_carries_out_what_an_older_one_asked_in_the_same_stream(office):
    reader = office.start(call("pay", sum=7) + call("look"), call("pay", sum=8), "Done: $R")
    first = reader.until("approval")
    office.reload("v2")
    assert office.decide(first["id"], True)[1]["resumes"] == "now"
    second = reader.until("approval")
    assert second["id"] != first["id"] and results_of(reader.events)["pay"] == "v2 paid 7 for ann"
    office.reload("v3", gen=3)
    office.decide(second["id"], True)
    events = reader.rest()
    assert results_of(events)["pay"] == "v3 paid 8 for ann" and text_of(events) == "Done: v3 paid 8 for ann"
    assert [e["type"] for e in events].count("done") == 1 and events[-1]["finish"] == "stop"


def test_a_reload_and_a_new_request(office):
    id = by_type(events_of(office.post("/run/clerk", prompt=turns(*SAID), wait=False)[1]), "approval")[0]["id"]
    office.reload("v2")
    office.decide(id, True)
    assert text_of(Reader(office, "/run/clerk", resume=id).rest()) == "Done: v2 paid 7 for ann & looked"


def test_a_restart_loses_nothing(office):
    id = by_type(events_of(office.post("/run/clerk", prompt=turns(*SAID), wait=False)[1]), "approval")[0]["id"]
    assert office.stop() == 0
    office = office.again()
    assert [a["id"] for a in office.waiting()] == [id]
    office.decide(id, True)
    assert text_of(Reader(office, "/run/clerk", resume=id).rest()) == "Done: v1 paid 7 for ann & looked"


def test_a_client_that_leaves_after_a_reload_ends_the_run(office):
    reader = office.start(call("pay", sum=7), call("pay", sum=8), "Done: $R")
    first = reader.until("approval")
    office.reload("v2")
    office.decide(first["id"], True)
    second = reader.until("approval")
    reader.sock.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    assert [a["id"] for a in office.waiting()] == [second["id"]]          # it can still be gone on with by its id
    office.wait_until(lambda: office.pages_in_use() == 0, what="no pages in use")
