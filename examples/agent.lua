-- agent.lua: an agent with two tools; one of them asks before it does anything.
--   qhost serve examples/agent.lua         with MODEL=... in the environment for a model that knows tools
--   curl -N http://127.0.0.1:8080/agent -d '{"messages": [{"role": "user", "content": "Is it cold in Oslo?"}]}'
-- The OpenAI packages read the stream as well: it has the shape of their chat completions.
local qh = require "qhost"

local t, app = qh.schema, qh.app()
local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local SERVICE = qh.env("WEATHER_URL", "http://127.0.0.1:9000/v1")

local weather = qh.tool {
  name = "weather", description = "Current weather for a city", timeout = 5,
  input = t.object { { "city", t.string "City name" }, { "unit", t.enum { "c", "f", default = "c" } } },
  run = function(args, ctx)
    local r = qh.fetch(SERVICE .. "?q=" .. qh.url.encode(args.city), { timeout = 4 })
    if r.status ~= 200 then return ctx:fail("weather service answered " .. r.status) end
    return { temp = r:json().temp[args.unit], unit = args.unit }
  end,
}

local note = qh.tool {
  name = "save_note", description = "Save a note for the user", approve = "ask",
  input = t.object { { "text", t.string { max = 2000 } } },
  run = function(args, ctx) return { id = qh.store("notes"):append(ctx.user, args.text) } end,
}

local agent = qh.agent {
  model = llm:with { sampler = qh.sampler { { "temp", 0 } } }, tools = { weather, note },
  max_steps = 6, max_tokens = 1000, timeout = 120,
}

local ask = t.object { { "messages", t.messages(), optional = true }, { "resume", t.string(), optional = true } }

app:post("/agent", function(req, res)
  local body = req:json(ask)
  local run <close> = agent:run { messages = body.messages, resume = body.resume, user = req:bearer() or "guest" }
  return res:stream(run, { as = "openai" })
end)

-- GET lists the calls that wait for a decision, POST {"id": ..., "approve": true} decides; put a key before it.
app:approvals "/approvals"

return app
