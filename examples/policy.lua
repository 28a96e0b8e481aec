-- policy.lua: choosing tokens in Lua: a policy that ships, and one of our own in policies/lipogram.lua.
--   qhost serve examples/policy.lua
--   curl -N http://127.0.0.1:8080/without/e -d '{"prompt": "Tell me about the sea."}'
--   curl http://127.0.0.1:8080/careful -d '{"prompt": "What is the capital of Peru?"}'
-- Save policies/lipogram.lua with another rule: answers that run keep the one they began with.
local qh = require "qhost"

local t = qh.schema
local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

-- Lua runs for each token, on a thread beside the engine and with a budget: what is slow or broken here costs
-- its own answer only.
local lipogram = qh.policy "policies.lipogram"
local cautious = qh.policy "qhost.policies.cautious"

local ask = t.object {
  { "prompt", t.string { min = 1, max = 4000 } },
  { "max_tokens", t.int { min = 1, max = 500, default = 80 } },
  { "seed", t.int(), optional = true },
}

app:post("/without/:letter", function(req, res)
  local q = req:json(ask)
  return res:stream(llm:stream { prompt = q.prompt, max_tokens = q.max_tokens, seed = q.seed,
    policy = lipogram { letter = req.params.letter } }, { as = "text" })
end)

-- Sure tokens are drawn coldly, unsure ones warmly; an answer that has lost the thread ends itself, and says so.
app:post("/careful", function(req, res)
  local q = req:json(ask)
  local r, message, status = llm:chat { prompt = q.prompt, max_tokens = q.max_tokens, seed = q.seed,
    policy = cautious { min_lead = 0.4, low = 0.1, patience = 8 } }
  if not r then qh.abort(status == "AGAIN" and 429 or 400, "not_answered", { message = message }) end
  return res:json { text = r.text, finish = r.finish, is_sure = r.finish ~= "low_confidence" }
end)

return app
