-- hello.lua: a model over HTTP: OpenAI-compatible, and a route of our own.
--   qhost serve examples/hello.lua
--   curl -N http://127.0.0.1:8080/haiku -d '{"topic": "autumn rain"}'
local qh = require "qhost"

local llm = qh.model "smollm2-135m"
local app = qh.app()

app:openai { models = { llm } }

app:post("/haiku", function(req, res)
  local topic = req:json().topic or "rain"
  return res:stream(llm:stream { system = "Answer only in haiku.", prompt = topic, max_tokens = 64 })
end)

app:get("/", function(_, res)
  return res:text("qhost serves " .. llm.name .. ". Try POST /v1/chat/completions or POST /haiku.\n")
end)

return app
