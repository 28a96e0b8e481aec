"""Scripts that use what they are given in the wrong order, too late, or from another request."""
import json

import pytest
from lua_client import ECHO, Host
from net_client import recv_until

APP = r"""
local qh = require "qhost"
local llm = qh.model "echo"
local app = qh.app()
local kept = {}

local function tried(...)
  local out = {}
  for i, fn in ipairs { ... } do
    local ok, value = pcall(fn)
    out[i] = ok and tostring(value) or "error: " .. tostring(value):gsub("^[^ ]+: ", "")
  end
  return out
end

app:get("/exchange", function(req, res)
  local x = req.x
  return res:json(tried(
    function() return x:write "early" end,
    function() return x:reply(100, {}, "") end,
    function() return x:reply(200, { { "a", 1 } }, "") end,
    function() return x:reply(200, { { "a\r\nb", "c" } }, "") end,
    function() return x:reply(200, { { "a", "b\0c" } }, "") end,
    function() return x:reply(200, { 5 }, "") end,
    function() local many = {} for i = 1, 101 do many[i] = { "a", "b" } end return x:reply(200, many, "") end,
    function() return x.method(5) end,
    function() return x.method(setmetatable({}, { __name = "qhost.exchange" })) end,
    function() return getmetatable(x) end,
    function() x.y = 1 end,
    function() return x:tag("bad key", "v") end,
    function() return x:body(-1) end
  ))
end)
app:get("/keep", function(req, res)
  kept.x, kept.gen = req.x, llm:submit { prompt = ("k"):rep(50) }
  kept.res = res
  return res:text(kept.gen:next().type)
end)
app:get("/kept", function(_, res)
  return res:json(tried(
    function() return kept.x:method() end,
    function() return kept.x:write "x" end,
    function() return kept.res:text "x" end,
    function() return kept.gen:next() end,
    function() return kept.gen:cancel() end
  ))
end)
app:get("/lend", function(_, res)
  kept.gen = llm:submit { prompt = ("k"):rep(400), max_tokens = 400 }
  res:write "lent"
  qh.sleep(5)
end)
app:get("/borrow", function(_, res)
  return res:json(tried(
    function() return kept.gen:next() end,
    function() for ev in coroutine.wrap(function() coroutine.yield(kept.gen:next()) end) do return ev.type end end
  ))
end)
app:get("/model", function(_, res)
  local h = llm.handle
  return res:json(tried(
    function() return h:submit { ids = {} } end,
    function() return select(2, h:submit { ids = { 1, 2 }, top_k = "many" }) end,
    function() return select(2, h:submit { ids = { 1, -2 } }) end,
    function() return select(2, h:submit { ids = { 1 }, logit_bias = { a = 1 } }) end,
    function() return select(2, h:submit { ids = { 1 }, stop = { "a\0b" } }) end,
    function() return select(2, h:submit { ids = { 1 }, stop = { 5 } }) end,
    function() return select(2, h:submit { ids = { 1e9 } }) end,
    function() return h:submit { ids = { 1 }, nonsense = 1 } end,
    function() return h:decode { 1e9 } end,
    function() return h:decode { "a" } end,
    function() return h:piece(-1) end,
    function() return h:encode_segments { { text = 5 } } end,
    function() return #h:encode(("x"):rep(100000)) end,
    function() return #h:encode_segments { { text = ("x"):rep(100000), special = true } } end,
    function() return select(2, h:submit { ids = { 1 }, temperature = 0 / 0 }) end,
    function() return select(2, h:submit { ids = { 1 }, n = 0 }) end
  ))
end)
app:get("/pairs", function(_, res) return res:json(tried(
    function() return llm:chat { prompt = "a", nonsense = 1 } end,
    function() return select(2, llm:generate { prompt = ("x"):rep(20000) }) end,
    function() return select(3, llm:generate { prompt = ("x"):rep(20000) }) end,
    function() return llm:chat {} end
  )) end)
return app
"""


@pytest.fixture(scope="module")
def host():
    with Host(APP, {"echo": ECHO % 400}) as h:
        h.wait_log("app.loaded")
        yield h


def answers(host, path):
    r = host.get(path)
    assert r.status == 200, r.body
    return json.loads(r.body)


def test_an_exchange_refuses_what_makes_no_sense(host):
    wanted = ["the reply has not begun", "a status from 200 to 599", "header 1 is no {name, value}", "a header is malformed",
              "header 1 holds a NUL byte", "header 1 is no {name, value}", "more than 100 headers", "qhost.exchange expected",
              "qhost.exchange expected", "false", "attempt to index", "a key is up to 40 letters", "a number of bytes"]
    got = answers(host, "/exchange")
    assert len(got) == len(wanted)
    for answer, want in zip(got, wanted):
        assert want in answer and (want == "false" or answer.startswith("error: ")), (answer, want)


def test_what_is_kept_beyond_a_request_says_so(host):
    assert host.get("/keep").body == b"text"
    assert answers(host, "/kept") == [
        "error: this request is over", "error: this request is over", "error: this request is over", "nil", "nil"]


def test_a_generation_cannot_be_read_by_another_request(host):
    with host.connect() as s:
        s.sendall(b"GET /lend HTTP/1.1\r\nHost: x\r\n\r\n")
        recv_until(s, b"", b"lent")
        for answer in answers(host, "/borrow"):
            assert answer.endswith("this generation belongs to another request")
    host.wait_stats(lambda st: st["requests"] == 0 and st["engines"][0]["running"] == 0)


def test_bad_options_are_told_by_name(host):
    got = answers(host, "/model")
    wanted = ["nil", "'top_k' is a string; an integer is expected", "'ids'[1] is no token id", "'logit_bias' is a table of",
              "'stop'[0] is no string without NUL bytes", "'stop'[0] is no string", "prompt[0] is token 1000000000", "error: submit has no field 'nonsense'",
              "error: an id is no token id from 0 to 258", "error: an id is no token id", "error: the argument is no token id",
              "error: segment 1 is no {text = string, special = boolean}", "100000", "100000", "temperature", "n"]
    assert len(got) == len(wanted)
    for answer, want in zip(got, wanted):
        assert want in answer, (answer, want)


def test_options_of_the_library_are_checked(host):
    got = answers(host, "/pairs")
    assert "has no option 'nonsense'" in got[0] and "context" in got[1] and got[2] == "ECONTEXT"
