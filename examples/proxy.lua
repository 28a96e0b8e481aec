-- proxy.lua: answer here, or where there is room: what this server cannot take goes on to an upstream.
--   UPSTREAM=http://127.0.0.1:8081/v1 UPSTREAM_MODEL=... UPSTREAM_KEY=... qhost serve examples/proxy.lua
--   curl -N http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
--     -d '{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
-- An upstream that is no loopback address must be allowed: --allow-net HOST.
local qh = require "qhost"

local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

-- Any server with OpenAI's chat API will do; another qhost, for one.
local far = qh.upstream {
  name = "far", url = qh.env("UPSTREAM", "http://127.0.0.1:8081/v1"), key = qh.env("UPSTREAM_KEY"),
  model = qh.env("UPSTREAM_MODEL", "smollm2-135m"), timeout = 300,
}

-- Here first; where the queue is full, something breaks, or ten seconds bring no first token, the other one is
-- asked. Once an answer has begun it stays where it is.
local both = qh.fallback { llm, far, on = { "busy", "timeout", "error" }, ttft = 10 }

app:openai { models = { llm, far = far, auto = function(req)
  req:tag("proxy", "auto")
  return both
end } }

return app
