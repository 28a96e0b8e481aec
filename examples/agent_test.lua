-- agent_test.lua: qhost test examples/agent.lua examples/agent_test.lua
local test, qh = require "qhost.test", require "qhost"

local function call(name, arguments) return { tool_calls = { { name = name, arguments = arguments } } } end

local function text_of(reply)
  local parts = {}
  for _, event in ipairs(reply:events()) do
    local choice = type(event.data) == "table" and event.data.choices[1]
    if choice and choice.delta.content then parts[#parts + 1] = choice.delta.content end
  end
  return table.concat(parts)
end

local function ask(text) return { path = "/agent", json = { messages = { { role = "user", content = text } } } } end

test.test("the agent asks the weather service and answers with what it says", function()
  qh.mock.model("smollm2-135m", { call("weather", { city = "São Paulo" }), "It is 21 degrees." })
  qh.mock.fetch("http://127.0.0.1:9000/v1*", { json = { temp = { c = 21, f = 70 } } })
  test.match(text_of(test.request(ask "Weather in São Paulo?")), "It is 21 degrees")
  test.equal(qh.mock.fetched()[1].url, "http://127.0.0.1:9000/v1?q=S%C3%A3o%20Paulo")
  test.match(qh.mock.prompts "smollm2-135m"[2], '{"temp":21,"unit":"c"}')
end)

test.test("a service that is down is something that the model reads", function()
  qh.mock.model("smollm2-135m", { call("weather", { city = "Oslo" }), "I cannot say." })
  qh.mock.fetch("http://127.0.0.1:9000/v1*", { status = 503 })
  test.match(text_of(test.request(ask "Weather in Oslo?")), "I cannot say")
  test.match(qh.mock.prompts "smollm2-135m"[2], "Error: weather service answered 503")
end)

test.test("a note is saved once somebody has approved it", function()
  qh.mock.model("smollm2-135m", { call("save_note", { text = "buy milk" }), "Saved." })
  local run = qh.spawn(test.request, ask "Note: buy milk")
  local waiting
  repeat
    qh.sleep(0.02)
    waiting = test.request { path = "/approvals" }:json().approvals[1]
  until waiting
  test.match(waiting.calls[1].arguments, "buy milk")
  test.request { path = "/approvals", json = { id = waiting.id, approve = true } }
  test.match(text_of(run:wait()), "Saved")
  test.match(qh.mock.prompts "smollm2-135m"[2], '{"id":1}')
end)
