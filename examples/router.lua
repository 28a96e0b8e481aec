-- router.lua: who may ask, how much, and which model answers: keys, limits and an A/B test.
--   qhost serve examples/router.lua
--   curl http://127.0.0.1:8080/v1/chat/completions -H 'authorization: Bearer demo-ann' \
--     -H 'content-type: application/json' -d '{"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}'
local qh = require "qhost"

local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

-- Keys stand here as their SHA-256, so that whoever reads this file cannot use them:
-- printf %s demo-ann | sha256sum
local USERS = {
  ["cc95fdbd8c1e6f6f78b32e93d6b8d3713761748e8f6f865ae0f8e1572e2107d4"] = { id = "ann", per_minute = 30 },
  ["cfdd601be826835d6a59c993254eb5786da08ee32379b680795ebe708f0060f9"] = { id = "bob", per_minute = 3 },
}

app:use("auth", function(req, next)
  req.user = USERS[qh.crypto.sha256(req:bearer() or "")]
    or qh.abort(401, "invalid_api_key", { message = "give a key: Authorization: Bearer KEY" })
  req:tag("user", req.user.id)
  return next()
end)

-- A bucket for each user that fills at a steady rate; a request takes one out of it. Reloads do not refill it.
app:use("limit", { after = "auth" }, function(req, next)
  local user = req.user
  local ok, wait = qh.shared("limits"):take(user.id, 1, { rate = user.per_minute, per = 60 })
  if not ok then
    local message = user.per_minute .. " requests a minute are yours"
    qh.abort(429, "rate_limit_exceeded", { retry_after = wait, message = message })
  end
  return next()
end)

-- Two ways to answer, each with a name of its own for who wants to choose.
local calm = llm:with { as = "calm", defaults = { temperature = 0.2, max_tokens = 200 } }
local lively = llm:with { as = "lively", defaults = { temperature = 1.0, min_p = 0.05, max_tokens = 200 } }

-- The same user always gets the same one: one in ten is lively.
app:openai { models = { calm, lively, auto = function(req)
  local chosen = qh.bucket(req.user.id, "ab-1") < 0.1 and lively or calm
  req:tag("variant", chosen.name)
  return chosen
end } }

return app
