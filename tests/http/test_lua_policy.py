"""Sampling policies of an app: admitted, chosen by a request, reloaded, and harmless to the neighbours."""
import json
import threading
import time

from lua_client import Host, error_of

# What comes next are weights by byte; it never ends by itself.
BABBLE = """
return { rate = %s, ctx = 8192, next = function(text)
  local n = #text
  return { a = 0.5, b = 0.25, c = 0.125, d = 0.0625, e = 0.03, [" "] = 0.03 }
end }
"""

APP = """
local qh = require "qhost"
local llm = qh.model "babble"
local app = qh.app()
local p = { mine = qh.policy "policies.mine", cautious = qh.policy "qhost.policies.cautious",
  mirostat = qh.policy "qhost.policies/mirostat.lua" }
app:post("/say", function(req, res)
  local b = req:json()
  local r, message, status = llm:generate { prompt = b.prompt or "x", max_tokens = b.n or 20, seed = b.seed or 1,
    temperature = b.temperature, top_k = b.top_k, stop = b.stop, n = b.choices,
    policy = b.policy and p[b.policy](b.params or {}) or nil }
  if not r then qh.abort(400, status, { message = message }) end
  local texts = {}
  for i, c in ipairs(r.choices or { r }) do texts[i] = c.text end
  return res:json { text = r.text, texts = qh.json.array(texts), finish = r.finish, message = r.message, usage = r.usage }
end)
app:openai { models = { llm }, policies = { p.cautious, mine = p.mine { min_lead = 0.5 } } }
app:get("/say", function(req, res)
  res:write "|"
  for ev in llm:stream { prompt = "x", max_tokens = 300, seed = 1, raw = true, policy = p.mine } do
    if ev.text then res:write(ev.text) end
  end
  return res:finish()
end)
return app
"""

# The example of the script API, as written there.
MINE = """
local P = { name = "cautious", top = 128, budget_us = 50 }     -- wants the best 128 candidates
function P.check(p) assert(not p.min_lead or p.min_lead < 1, "min_lead must be under 1") end   -- admission: a 400
function P.init(seq, p) return { min_lead = p.min_lead or 0.35, low = 0 } end                  -- plain data, copied on fork
function P.logits(cand, st, row)                               -- PURE
  if row.n_out == 0 then cand:ban(row.eos) end
  cand:min_p(0.05):temperature(cand:prob(1) - cand:prob(2) > st.min_lead and 0.3 or 0.9)
end
function P.accept(st, tok, row)                                -- committed tokens only, in order
  st.low = row.prob < 0.2 and st.low + 1 or 0
  if st.low >= 12 then return "stop", "low_confidence" end
end
return P
"""


def host(mine=MINE, rate="nil", **more):
    return Host(APP, {"babble": BABBLE % rate}, {"policies/mine.lua": mine}, **more)


def say(h, **body):
    reply = h.post("/say", {k: v for k, v in body.items() if v is not None})
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def test_the_example_of_the_script_api_runs_as_written():
    with host() as h:
        h.wait_log("app.loaded")
        r = say(h, policy="mine")
        assert r["finish"] == "length" and len(r["text"]) == 20
        assert say(h, policy="mine")["text"] == r["text"]
        assert say(h, policy="mine", n=300)["text"] != say(h, n=300)["text"]
        reply = h.post("/say", {"policy": "mine", "params": {"min_lead": 1.5}})
        assert reply.status == 400 and "policy 'cautious'" in error_of(reply)["message"]
        assert "min_lead must be under 1" in error_of(reply)["message"]


def test_a_policy_that_does_nothing_changes_nothing():
    with host("return { logits = function() end }") as h:
        h.wait_log("app.loaded")
        for seed in range(5):
            plain = say(h, seed=seed, n=60, choices=2)
            with_policy = say(h, seed=seed, n=60, choices=2, policy="mine")
            assert plain["texts"] == with_policy["texts"] and len(set(plain["texts"])) == 2
        plain = say(h, seed=3, n=60, stop=["ca"])
        assert plain["finish"] == "stop"
        assert say(h, seed=3, n=60, stop=["ca"], policy="mine")["text"] == plain["text"]


def test_policies_that_ship_are_there_and_check_their_parameters():
    with host() as h:
        h.wait_log("app.loaded")
        assert len(say(h, policy="mirostat", params={"tau": 1.5})["text"]) == 20
        for params, word in [({"tau": -1}, "tau must be"), ({"nu": 1}, "there is no 'nu'")]:
            reply = h.post("/say", {"policy": "mirostat", "params": params})
            assert reply.status == 400 and word in error_of(reply)["message"]
        r = say(h, policy="cautious", params={"patience": 3, "low": 0.3, "warm": 5, "min_p": 0.01}, n=400)
        assert r["finish"] == "low_confidence" and r["usage"]["completion"] < 400


def test_a_failing_policy_has_a_named_end_and_the_others_go_on():
    bad = """
    return { init = function(_, p) return p end, logits = function(_, st, row)
      if row.n_out == 5 and st.how == "fail" then error "no more" end
      if row.n_out == 5 and st.how == "spin" then while true do end end
      if row.n_out == 5 and st.how == "eat" then local t = {} for i = 1, 1e9 do t[i] = { i } end end
    end }
    """
    with host(bad, rate=50) as h:
        h.wait_log("app.loaded")
        want = say(h, n=60)["text"]
        results = {}
        threads = [threading.Thread(target=lambda k=k, how=how: results.update({k: say(h, n=60, policy=how and "mine", params={"how": how})}))
                   for k, how in enumerate(["fail", "spin", "eat", "well", None, "fail", "spin"])]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for k, (finish, part) in enumerate([("policy_error", "mine.lua:3: no more"), ("policy_timeout", "CPU a call"),
                                            ("policy_error", "not enough memory"), ("length", None), ("length", None)]):
            assert results[k]["finish"] in ((finish, "policy_timeout") if k == 2 else (finish,)), results[k]
            assert (part or "") in (results[k].get("message") or "") or k == 2
            assert results[k]["usage"]["completion"] == (60 if finish == "length" else 5)
        assert results[3]["text"] == results[4]["text"] == want
        h.wait_stats(lambda s: s["engines"][0]["running"] == 0)


def test_what_is_no_policy_does_not_load():
    cases = [("return 5", "returned a number"), ("return {}", "neither logits nor accept"),
             ("return { logits = 1 }", "logits is a number"), ("return { logit = function() end }", "field 'logit'"),
             ("return { logits = function() end, top = 1000 }", "top is 1000"), ("\nreturn {", "policies/mine.lua:2:"),
             ("x = 1 return {}", "make 'x' local"), ("return { accept = function() end, name = 'a b' }", "no word")]
    with host() as h:
        h.wait_log("app.loaded")
        for source, part in cases:
            n = len(h.lines)
            h.write("policies/mine.lua", source)
            line = h.wait_log("app.failed", start=n)
            assert part in line, (source, line)
            assert say(h, policy="mine")["finish"] == "length"
        n = len(h.lines)
        h.write("app.lua", APP.replace("policies.mine", "policies.none"))
        assert "none.lua" in h.wait_log("app.failed", start=n)
        h.write("policies/mine.lua", MINE)
        n = len(h.lines)
        h.write("app.lua", APP.replace('p[b.policy]', 'qh.policy "policies.mine"'))
        h.wait_log("app.loaded", start=n)
        assert h.post("/say", {"policy": "mine"}).status == 500
        h.wait_log("must be named while the app loads")


def test_a_saved_policy_serves_new_requests_and_old_ones_keep_theirs():
    only = "return {{ logits = function(cand) cand:keep{{{0}}} end }}"
    with host(only.format(97), rate=100) as h:
        h.wait_log("app.loaded")
        streamed = []
        reader = threading.Thread(target=lambda: streamed.append(h.get("/say").body))
        reader.start()
        time.sleep(0.5)
        n = len(h.lines)
        h.write("policies/mine.lua", only.format(98))
        h.wait_log("gen=2", start=n)
        assert say(h, policy="mine")["text"] == "b" * 20
        assert h.stats()["generations"] == 2
        reader.join()
        assert streamed == [b"|" + b"a" * 300]
        h.wait_stats(lambda s: s["generations"] == 1)


def test_a_client_that_leaves_takes_its_policy_along():
    with host(rate=100) as h:
        h.wait_log("app.loaded")
        for _ in range(20):
            with h.connect() as s:
                s.sendall(b"GET /say HTTP/1.1\r\nHost: x\r\n\r\n")
                s.recv(100)
        h.wait_stats(lambda s: s["engines"][0]["running"] == 0 and s["requests"] == 0)
        assert say(h, policy="mine")["finish"] == "length"


def test_a_request_of_the_dialect_names_a_policy_that_the_app_allows():
    def complete(h, path="/v1/completions", **body):
        return h.post(path, {"model": "babble", "prompt": "x", "max_tokens": 30, "seed": 1} | body)

    stop = "return { init = function(_, p) return p end, logits = function(_, st) assert(not st.bad) end, accept = function(st, tok, row) if row.n_out == st.at then return 'stop', 'enough' end end }"
    with host(stop) as h:
        h.wait_log("app.loaded")
        choice = json.loads(complete(h, policy={"name": "mine", "at": 7}).body)["choices"][0]
        assert len(choice["text"]) == 7 and choice["finish_reason"] == "stop"
        assert len(json.loads(complete(h, policy="mine").body)["choices"][0]["text"]) == 30
        assert len(json.loads(complete(h, policy=None).body)["choices"][0]["text"]) == 30
        chat = h.post("/v1/chat/completions", {"model": "babble", "messages": [{"role": "user", "content": "x"}], "seed": 1,
                                               "policy": {"name": "mine", "at": 5}})
        assert len(json.loads(chat.body)["choices"][0]["message"]["content"]) == 5
        choice = json.loads(complete(h, policy={"name": "mine", "bad": True}).body)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("", "policy_error")
        for value, part in [({"name": "mirostat"}, "this server has cautious, mine"), ("none", "there is no policy 'none'"),
                            ({"at": 1}, "no name"), (7, "neither a name"), ({"name": "cautious", "min_lead": 2}, "min_lead must be under 1"),
                            ({"name": "cautious", "x": 2}, "there is no 'x'")]:
            reply = complete(h, policy=value)
            assert reply.status == 400 and part in error_of(reply)["message"], (value, reply.body)
        n = len(h.lines)
        h.write("app.lua", APP.replace("{ p.cautious,", "{ 'cautious',"))
        assert "was not made by qh.policy" in h.wait_log("app.failed", start=n)


PAIRS_APP = """
local qh = require "qhost"
local llm = qh.model "babble"
local app = qh.app()
local picky = qh.policy "policies.picky"
app:post("/say", function(req, res)
  local o = req:json()
  o.prompt, o.policy, o.seed, o.max_tokens = ("xyz "):rep(20), picky { strict = true }, o.seed or 5, o.max_tokens or 40
  if o.logit_bias then o.logit_bias = { [97] = 1.5, [98] = -math.huge } end
  if o.on then o.on = { every = { 9, function(n) return n >= 27 and "stop" or nil end } } end
  local r, message = llm:generate(o)
  if not r then qh.abort(400, "refused", { message = message }) end
  local out = {}
  for i, c in ipairs(r.choices or { r }) do
    out[i] = { text = c.text, finish = c.finish, n = c.usage.completion, stop_match = c.stop_match, tokens = c.tokens,
      prompt_tokens = c.prompt_tokens and #c.prompt_tokens }
    for _, t in ipairs(c.tokens or {}) do t.bytes = nil for _, a in ipairs(t.top or {}) do a.bytes = nil end end
  end
  return res:json(out)
end)
return app
"""
PICKY = """
return { init = function(_, p) return { strict = p.strict, seen = {}, n = 0 } end,
  logits = function(cand, st, row)
    if row.n_out % 3 == 2 and #cand > 2 then cand:ban(cand:id(2)) end
    if st.n > 4 then cand:bias(97, -0.5):min_p(0.01) end
    if cand:temperature() > 0 then cand:temperature(0.6 + 0.2 * (st.n % 4)) end
  end,
  accept = function(st, tok, row)
    st.n = st.n + 1
    st.seen[tok] = (st.seen[tok] or 0) + 1
    if st.n > 20 and st.seen[tok] > 14 then return "stop", "seen_enough" end
  end }
"""
OPTIONS = {
    "stop": {"stop": ["ca", "dd"]}, "keep_stop": {"stop": ["ab"], "keep_stop": True}, "stop_ids": {"stop_ids": [101]},
    "penalties": {"repeat_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2, "penalty_window": -1},
    "dry": {"dry_multiplier": 0.8}, "xtc": {"xtc_probability": 0.6, "xtc_threshold": 0.05}, "seed": {"seed": 99}, "n": {"n": 3},
    "truncation": {"top_k": 4, "top_p": 0.95, "min_p": 0.02}, "typical": {"typical_p": 0.9}, "greedy": {"temperature": 0},
    "logit_bias": {"logit_bias": {}}, "logprobs": {"logprobs": True, "top_logprobs": 3}, "prompt_logprobs": {"prompt_logprobs": True},
    "min_tokens": {"min_tokens": 12}, "max_tokens": {"max_tokens": 13}, "priority": {"priority": 1}, "salt": {"cache_salt": "s"},
    "on": {"on": True},
}


def test_every_pair_of_options_gives_with_a_policy_the_same_alone_and_in_a_crowd():
    names = sorted(OPTIONS)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]

    def ask(h, pair):
        reply = h.post("/say", OPTIONS[pair[0]] | OPTIONS[pair[1]])
        assert reply.status == 200, (pair, reply.body)
        return json.loads(reply.body)

    with Host(PAIRS_APP, {"babble": BABBLE % "nil"}, {"policies/picky.lua": PICKY}) as h:
        h.wait_log("app.loaded")
        alone = {pair: ask(h, pair) for pair in pairs}
    assert len({r["finish"] for rs in alone.values() for r in rs}) == 3, "stop, length and seen_enough"
    with Host(PAIRS_APP, {"babble": BABBLE % "nil"}, {"policies/picky.lua": PICKY}, ["--pages", "16"]) as h:
        h.wait_log("app.loaded")
        crowd, left = {}, list(pairs)

        def work():
            while left:
                pair = left.pop()
                crowd[pair] = ask(h, pair)
        threads = [threading.Thread(target=work) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for pair in pairs:
        assert crowd[pair] == alone[pair], pair
