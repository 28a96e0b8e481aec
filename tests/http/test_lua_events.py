"""on = {text, every, token}: scripts look at an answer while it is written, and end it; exactly there."""
import json

from lua_client import ECHO, Host

APP = """
local qh = require "qhost"
local llm = qh.model "echo"
local app = qh.app()
-- calls: what the functions of `on` were given, in order
local function watch(b, calls)
  local function note(kind) return function(what, at)
    calls[#calls + 1] = { kind, type(what) == "table" and what.bytes or what, at.choice, at.n or at.to }
    if b.slow then qh.sleep(0.01) end
    if b.verdict then return b.verdict end
    if b.stop_at and (at.n or at.to) >= b.stop_at and at.choice <= (b.upto or 9) then return "stop" end
  end end
  local on = { text = {} }
  for _, p in ipairs(b.text or {}) do on.text[p] = note(p) end
  if b.every then on.every = { b.every, note "every" } end
  if b.token then on.token = note "token" end
  return on
end
local function spec(b, calls)
  return { prompt = b.prompt, n = b.n, logprobs = b.logprobs, stop = b.stop, seed = 1, max_tokens = b.max_tokens,
    on = b.on or watch(b, calls) }
end
app:post("/whole", function(req, res)
  local b, calls = req:json(), {}
  local r, message = llm:chat(spec(b, calls))
  if not r then qh.abort(400, "refused", { message = message }) end
  local texts = {}
  for i, c in ipairs(r.choices or { r }) do texts[i] = c.text end
  return res:json { text = r.text, finish = r.finish, n = r.usage.completion, calls = qh.json.array(calls),
    texts = texts, tokens = r.tokens and #r.tokens }
end)
app:post("/stream", function(req, res)
  local b, calls, out = req:json(), {}, {}
  local finish, n
  for ev in llm:stream(spec(b, calls)) do
    if ev.type == "text" then out[#out + 1] = ev.text end
    if ev.type == "usage" then n = ev.usage.completion end
    if ev.type == "done" then finish = ev.finish end
    if b.lag then qh.sleep(0.002) end
  end
  return res:json { text = table.concat(out), finish = finish, n = n, calls = qh.json.array(calls) }
end)
app:post("/splice", function(req, res)
  return res:json(llm:chat { prompt = "abc", on = { token = function() return qh.splice(1, "x") end } })
end)
return app
"""


def host(rate="nil"):
    return Host(APP, {"echo": ECHO % rate})


def ask(h, path="/whole", **body):
    reply = h.post(path, body)
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def both(h, **body):
    """The whole answer, which must be that of the streamed one however slowly it is read."""
    whole = ask(h, **body)
    for more in ({}, {"lag": True}, {"slow": True}):
        streamed = ask(h, "/stream", **body, **more)
        assert streamed == {k: whole[k] for k in streamed}
    return whole


def test_a_pattern_is_called_where_the_text_first_ends_in_it():
    with host() as h:
        h.wait_log("app.loaded")
        r = both(h, prompt="call 555-1234 or 555-9876 now", text=["%d%d%d%-%d%d%d%d", "or", "nothing"])
        assert r["text"] == "call 555-1234 or 555-9876 now" and r["finish"] == "stop"
        assert r["calls"] == [["%d%d%d%-%d%d%d%d", "555-1234", 1, 13], ["or", "or", 1, 16], ["%d%d%d%-%d%d%d%d", "555-9876", 1, 25]]
        r = both(h, prompt="aaab", text=["a+", "a+b"])
        assert [c[:2] for c in r["calls"]] == [["a+", "a"], ["a+", "a"], ["a+", "a"], ["a+b", "aaab"]]
        r = both(h, prompt="x" * 2000 + "a" + "y" * 300 + "b" + "a..b", text=["a.*b"])
        assert [c[1] for c in r["calls"]] == ["a..b"]              # the other one is longer than 256 bytes


def test_stop_ends_the_answer_behind_the_match():
    with host(rate=400) as h:
        h.wait_log("app.loaded")
        r = both(h, prompt="one two three four", text=["two", "three"], stop_at=8)
        assert r["text"] == "one two three" and r["finish"] == "stop" and r["n"] == 13
        r = both(h, prompt="grün und blau", text=["ü"], stop_at=1)
        assert r["text"] == "grü" and r["n"] == 4
        r = both(h, prompt="one two three four", text=["e"], stop_at=1, logprobs=True)
        assert r["text"] == "one" and r.get("tokens") == 3
        assert h.wait_stats(lambda s: s["engines"][0]["running"] == 0) < 2


def test_every_and_token_count_tokens():
    with host() as h:
        h.wait_log("app.loaded")
        r = both(h, prompt="abcdefghij", every=4, token=True)
        assert [c[0] for c in r["calls"]] == ["token"] * 4 + ["every"] + ["token"] * 4 + ["every"] + ["token"] * 3
        assert [c[1] for c in r["calls"] if c[0] == "token"][:3] == ["a", "b", "c"] and "tokens" not in r
        r = both(h, prompt="abcdefghij" * 10, every=7, stop_at=20)
        assert r["text"] == ("abcdefghij" * 3)[:21] and r["n"] == 21 and r["finish"] == "stop"
        r = both(h, prompt="abcdefghij", token=True, stop_at=3)
        assert (r["text"], r["n"]) == ("abc", 3)


def test_text_that_a_stop_string_holds_back_is_not_seen_before_it_is_certain():
    with host() as h:
        h.wait_log("app.loaded")
        r = both(h, prompt="ab<end!> cd<end>", text=["<", "cd"], stop=["<end>"])
        assert r["text"] == "ab<end!> cd" and r["calls"] == [["<", "<", 1, 3], ["cd", "cd", 1, 11]]
        r = both(h, prompt="ab<end>", token=True, stop=["<end>"], stop_at=4)
        assert r["text"] == "ab"


def test_each_choice_has_its_own_end():
    with host(rate=400) as h:
        h.wait_log("app.loaded")
        r = ask(h, prompt="one two three", n=3, text=["two"], stop_at=1, upto=2)
        assert r["texts"] == ["one two", "one two", "one two three"]
        r = ask(h, prompt="one two three" * 50, n=3, text=["two"], stop_at=1)
        assert r["texts"] == ["one two"] * 3
        assert h.wait_stats(lambda s: s["engines"][0]["running"] == 0) < 2


def test_misuse_is_an_error_that_says_so():
    with host() as h:
        h.wait_log("app.loaded")
        cases = [({"on": {"text": {"": 1}}}, "matches an empty text"), ({"text": ["a*"]}, "matches an empty text"),
                 ({"text": ["^a"]}, "no meaning"), ({"text": ["a$"]}, "no meaning"), ({"text": ["%f[a]a"]}, "no meaning"),
                 ({"text": ["[a"]}, "malformed pattern"), ({"on": {"text": {"a": 1}}}, "is no function"),
                 ({"on": {"every": [0]}}, "on.every"), ({"on": {"tokn": 1}}, "no 'tokn'"), ({"on": "x"}, "on is no table"),
                 ({"token": True, "verdict": 7}, "returned a number")]
        for body, part in cases:
            n = len(h.lines)
            assert h.post("/whole", {"prompt": "abc"} | body).status == 500
            assert part in h.wait_log("script.error", start=n), body
        assert h.post("/splice", {}).status == 500
        assert "cannot be taken back" in h.wait_log("qh.splice")
        assert ask(h, prompt="abc", text=["a%$"])["text"] == "abc"
