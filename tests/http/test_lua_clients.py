"""Clients that leave in every phase, and clients that read slowly: what they started comes back."""
import json
import threading
import time

import pytest
from lua_client import ECHO, Host
from net_client import Reply, request

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

APP = r"""
local qh = require "qhost"
local llm, prefill = qh.model "echo", qh.model "prefill"
local app = qh.app()
app:openai { models = { llm, prefill } }
app:get("/sleep", function(_, res) qh.sleep(60) return res:text "woke" end)
app:get("/unwind", function(_, res)
  local mark <close> = setmetatable({}, { __close = function() qh.log.info("unwound", { by = "close" }) end })
  pcall(qh.sleep, 60)
  qh.log.info("swallowed")
end)
app:get("/generator", function(_, res)
  local co = coroutine.wrap(function() for ev in llm:stream { prompt = ("y"):rep(1000) } do coroutine.yield(ev.text) end end)
  for text in co do if text then res:write(text) end end
end)
app:get("/flood", function(_, res) for i = 1, 1000 do res:write(("z"):rep(65536)) end qh.log.info("flooded") end)
return app
"""
# The second model reads 2000 prompt tokens a second, 512 a step.
MODELS = {"echo": ECHO % 200, "prefill": ECHO.replace("rate = %s", "prefill_rate = 2000")}


@pytest.fixture(scope="module")
def host():
    with Host(APP, MODELS, args=["--pages", "256"]) as h:
        h.wait_log("app.loaded")
        yield h


def chat(model, text, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return request("POST", "/v1/chat/completions", "", json.dumps(body).encode())


def is_quiet(stats):
    return stats["requests"] == 0 and all(
        e["running"] == 0 and e["queued"] == 0 and e["free"] + e["cached"] == e["pages"] for e in stats["engines"])


def is_busy(index):
    return lambda stats: stats["engines"][index]["running"] == 1


@pytest.mark.parametrize("model,index,text,stream", [
    ("echo", 0, "x" * 4000, True),          # decode, streamed
    ("echo", 0, "x" * 4000, False),         # decode, whole
    ("prefill", 1, "p" * 6000, True),       # in the middle of a prefill of 3 s
    ("prefill", 1, "p" * 6000, False),
])
def test_a_client_that_leaves_gives_its_pages_back_within_a_second(host, model, index, text, stream):
    s = host.connect()
    s.sendall(chat(model, text, stream=stream, max_tokens=4000))
    host.wait_stats(is_busy(index))
    if stream and model == "echo":
        assert b"200 OK" in s.recv(4096)
    time.sleep(0.1)
    s.close()
    assert host.wait_stats(is_quiet) < 1
    sampled = host.stats()["engines"][index]["sampled"]
    time.sleep(0.1)
    assert host.stats()["engines"][index]["sampled"] == sampled


def test_clients_that_leave_the_queue(host):
    """More requests than run at once; all leave while most of them wait."""
    socks = [host.connect() for _ in range(100)]
    for i, s in enumerate(socks):
        s.sendall(chat("echo", f"{i:03d}" * 100, stream=True, max_tokens=300))
    host.wait_stats(lambda st: st["engines"][0]["queued"] > 10)
    for s in socks:
        s.close()
    assert host.wait_stats(is_quiet) < 1


@pytest.mark.parametrize("path", ["/sleep", "/unwind", "/generator"])
def test_scripts_unwind_when_their_client_leaves(host, path):
    start = len(host.lines)
    s = host.connect()
    s.sendall(request("GET", path))
    host.wait_stats(lambda st: st["requests"] == 1)
    time.sleep(0.05)
    s.close()
    assert host.wait_stats(is_quiet) < 1
    if path == "/unwind":
        assert "unwound" in host.wait_log("unwound", start=start)
        assert not any("swallowed" in line for line in host.lines[start:])


def test_an_overfull_queue_is_a_429(host):
    socks = [host.connect() for _ in range(400)]
    for s in socks:
        s.sendall(chat("echo", "x" * 300, max_tokens=200))
    refused = None
    for s in reversed(socks):
        s.settimeout(0.2)
        try:
            r = Reply(s)
        except (TimeoutError, AssertionError):
            continue
        if r.status == 429:
            refused = r
            break
    for s in socks:
        s.close()
    assert refused and refused.fields["x-should-retry"] == "true" and "retry-after" in refused.fields
    assert json.loads(refused.body)["error"]["code"] == "queue_full"
    host.wait_stats(is_quiet)


def test_a_reader_that_stalls_costs_nobody_else_and_then_gets_all(host):
    def stream(pause):
        with host.connect(60) as s:
            s.setsockopt(1, 8, 4096)       # SO_RCVBUF
            s.sendall(chat("echo", "w" * 3000, stream=True, max_tokens=3000))
            time.sleep(pause)
            r = Reply(s)
        assert r.body.endswith(b"data: [DONE]\n\n")
        chunks = [json.loads(e.removeprefix(b"data: ")) for e in r.body.split(b"\n\n")[:-2]]
        return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)

    results = {}
    slow = threading.Thread(target=lambda: results.update(slow=stream(3)))
    slow.start()
    start = time.time()
    with host.connect() as s:
        s.sendall(chat("echo", "v" * 100, max_tokens=100))
        assert json.loads(Reply(s).body)["choices"][0]["message"]["content"] == "v" * 100
    assert time.time() - start < 2.5
    slow.join()
    assert results["slow"] == "w" * 3000


def test_a_writing_script_waits_for_its_reader(host):
    """64 MB are not buffered: the script stands still until the client reads."""
    start = len(host.lines)
    s = host.connect()
    s.sendall(request("GET", "/flood"))
    time.sleep(1)
    assert host.stats()["heap"] < 40 << 20
    assert not any("flooded" in line for line in host.lines[start:])
    s.close()
    assert host.wait_stats(is_quiet) < 1


def test_random_leaving_returns_every_page(host):
    import random
    rng = random.Random(5)
    baseline = host.stats()["heap"]

    def client(seed):
        r = random.Random(seed)
        with host.connect() as s:
            s.sendall(chat("echo", f"{seed}" * 50, stream=r.random() < 0.5, max_tokens=300))
            s.settimeout(r.random() * 0.3 + 0.001)
            try:
                while s.recv(65536):
                    pass
            except TimeoutError:
                pass

    for _ in range(4):
        threads = [threading.Thread(target=client, args=(rng.random(),)) for _ in range(25)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert host.wait_stats(is_quiet) < 1
    assert host.stats()["heap"] < baseline + (20 << 20)
