"""qh.upstream against another qhost and against servers that misbehave; qh.fallback over both."""
import http.server
import json
import os
import threading
import time

import pytest
from lua_client import ECHO, Host, error_of
from net_client import request

FAR = """
local qh = require "qhost"
local app = qh.app()
app:use("key", function(req, next)
  if req:bearer() ~= "sesame" then qh.abort(401, "invalid_api_key") end
  return next()
end)
return app:openai { models = { qh.model "echo" } }
"""
NEAR = r"""
local qh = require "qhost"
local local_model = qh.model "near"
local app = qh.app()
local far_url, bad_url = qh.env "FAR_URL", qh.env "BAD_URL"
local far = qh.upstream { kind = "openai", url = far_url .. "/v1/", key = "sesame", model = "echo", name = "far" }
local wrong_key = qh.upstream { url = far_url .. "/v1", key = "wrong", model = "echo" }
local function bad(how) return qh.upstream { url = bad_url .. "/" .. how, model = "m", name = how } end
local dead = qh.upstream { url = "http://127.0.0.1:9", model = "m", name = "dead" }
local hang = bad "hang"
app:openai { models = { far, dead = dead, hang = qh.upstream { url = bad_url .. "/hang", model = "m", timeout = 0.2 },
  chain = qh.fallback { dead, bad "busy", hang, far, ttft = 0.2, name = "chain" },
  picky = qh.fallback { dead, far, on = { "busy" } }, faulty = qh.fallback { bad "e400", far },
  local_first = qh.fallback { local_model, far },
  auto = function(req) return qh.fallback { bad "e500", far } end } }
local kinds = { wrong_key = wrong_key, far = far }
app:get("/chat/:kind", function(req, res)
  local m = kinds[req.params.kind] or bad(req.params.kind)
  local r, message, status = m:chat { prompt = "hi", max_tokens = 50 }
  return res:json { text = r and r.text, status = status, message = message, finish = r and r.finish, calls = r and r.tool_calls,
    usage = r and r.usage, reasoning = r and r.reasoning }
end)
app:get("/stream/:kind", function(req, res) return res:stream((kinds[req.params.kind] or bad(req.params.kind)):stream { prompt = "one two three" }, { as = "text" }) end)
app:get("/refused", function(_, res)
  local _, message, status = far:chat { prompt = "x", logprobs = true }
  return res:json { message, status }
end)
return app
"""


def sse(*chunks):
    return b"".join(b"data: " + (c if isinstance(c, bytes) else json.dumps(c).encode()) + b"\r\n\r\n" for c in chunks)


def delta(finish=None, **d):
    return {"choices": [{"index": 0, "delta": d, "finish_reason": finish}]}


REPLIES = {
    "calls": sse(delta(role="assistant", content=None), delta(reasoning_content="hm"), delta(content="a"),
                 delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\""}}]),
                 delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
                 delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "g", "arguments": ""}}]),
                 delta("tool_calls"), {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}},
                 b"[DONE]"),
    "cut": sse(delta(content="half")),
    "nothing": sse(b"[DONE]"),
    "inband": sse(delta(content="a"), {"error": {"message": "it broke"}}),
    "nojson": sse(b"{nope"),
    "noend": sse(delta(content="a"), delta("stop")),
    "endless": b"data: " + b"x" * 3_000_000,
    "odd": sse([], {"choices": 3}, {"choices": [4]}, {"usage": 1}, delta(content=5, tool_calls=7), delta("weird", content="ok"), b"[DONE]"),
}


class Bad(http.server.BaseHTTPRequestHandler):
    asked = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        how = self.path.split("/")[1]
        Bad.asked.append((how, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        if how in REPLIES:
            self.send_response(200)
            self.end_headers()
            data = REPLIES[how]
            for i in range(0, len(data), 7 if len(data) < 10000 else len(data)):
                self.wfile.write(data[i:i + (7 if len(data) < 10000 else len(data))])
                self.wfile.flush()
        elif how == "hang":
            time.sleep(1)
        else:
            self.send_response({"busy": 429}.get(how) or int(how[1:]))
            self.end_headers()
            self.wfile.write(b'{"error":{"message":"says no"}}')


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    bad = Server(("127.0.0.1", 0), Bad)
    threading.Thread(target=bad.serve_forever, daemon=True).start()
    with Host(FAR, {"echo": ECHO % 400}) as far:
        far.wait_log("app.loaded")
        os.environ.update(FAR_URL=far.url, BAD_URL=f"http://127.0.0.1:{bad.server_port}")
        with Host(NEAR, {"near": ECHO % 400}) as h:
            h.wait_log("app.loaded")
            h.far = far
            yield h
    bad.shutdown()


def chat(host, model, stream=False, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "hello there"}], "stream": stream, **more}
    return host.post("/v1/chat/completions", body)


def test_whole_and_streamed_answers_pass_through(host):
    r = json.loads(chat(host, "far").body)
    assert r["choices"][0]["message"]["content"] == "hello there" and r["choices"][0]["finish_reason"] == "stop"
    direct = json.loads(host.far.post("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "hello there"}]},
                                      "Authorization: Bearer sesame\r\n").body)
    assert r["usage"]["completion_tokens"] == direct["usage"]["completion_tokens"]
    assert r["usage"]["prompt_tokens"] == direct["usage"]["prompt_tokens"]
    events = [line[6:] for line in chat(host, "far", True, stream_options={"include_usage": True}).body.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(e) for e in events[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == "hello there"
    assert chunks[-1]["usage"]["completion_tokens"] == r["usage"]["completion_tokens"]
    assert host.get("/stream/far").body == b"one two three"
    assert len(json.loads(chat(host, "far", n=3).body)["choices"]) == 3


def test_calls_and_reasoning_are_read(host):
    r = json.loads(host.get("/chat/calls").body)
    assert (r["text"], r["reasoning"], r["finish"]) == ("a", "hm", "tool_calls")
    assert r["calls"][0] == {"id": "c1", "name": "f", "arguments": {"x": 1}, "raw": '{"x":1}'}
    assert r["calls"][1]["name"] == "g" and r["usage"] == {"prompt": 5, "cached": 2, "completion": 7}


def test_failures_have_a_name(host):
    want = {"cut": "EIO", "nothing": "EIO", "inband": "EIO", "nojson": "EIO", "endless": "EIO", "busy": "AGAIN", "e400": "EINVAL",
            "e404": "EIO", "e500": "EIO", "e503": "AGAIN", "e504": "ETIMEDOUT", "wrong_key": "EIO"}
    for how, status in want.items():
        r = json.loads(host.get(f"/chat/{how}").body)
        assert r.get("status") == status, (how, r)
    assert "says no" in json.loads(host.get("/chat/e400").body)["message"]
    assert json.loads(host.get("/chat/noend").body)["text"] == "a"       # finished, though nobody said [DONE]
    assert json.loads(host.get("/chat/odd").body)["text"] == "ok"
    message, status = json.loads(host.get("/refused").body)
    assert status == "EUNSUPPORTED" and "'logprobs'" in message


def test_uncaught_failures_over_http(host):
    for model, status, code in (("dead", 502, "upstream_unreachable"), ("hang", 504, "timeout")):
        r = chat(host, model)
        assert (r.status, error_of(r)["code"]) == (status, code)
    assert "127.0.0.1" not in error_of(chat(host, "dead"))["message"]
    r = host.get("/stream/cut")
    assert r.body.startswith(b"half") or r.status == 502


def test_fallback_asks_the_next_before_the_first_token_only(host):
    start = time.time()
    r = json.loads(chat(host, "chain").body)
    assert r["choices"][0]["message"]["content"] == "hello there"
    assert 0.15 < time.time() - start < 5
    assert [m for m, _ in Bad.asked[-2:]] == ["busy", "hang"]
    assert json.loads(chat(host, "auto").body)["choices"][0]["message"]["content"] == "hello there"
    body = chat(host, "chain", True).body
    chunks = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "hello there" and body.rstrip().endswith(b"[DONE]")
    assert chat(host, "picky").status == 502                              # unreachable is not busy
    r = chat(host, "faulty")
    assert (r.status, "says no" in error_of(r)["message"]) == (400, True)  # nobody else would like it better
    n = len(Bad.asked)
    assert json.loads(chat(host, "local_first").body)["choices"][0]["message"]["content"] == "hello there"
    assert len(Bad.asked) == n


def test_clients_that_leave_cancel_the_far_generation(host):
    for _ in range(5):
        with host.connect() as s:
            body = json.dumps({"model": "chain", "stream": True, "messages": [{"role": "user", "content": "long " * 300}]}).encode()
            s.sendall(request("POST", "/v1/chat/completions", "", body))
            time.sleep(0.7)
    host.wait_stats(lambda s: s["requests"] == 0)
    host.far.wait_stats(lambda s: s["requests"] == 0 and s["engines"][0]["running"] == 0)
