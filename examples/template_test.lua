-- template_test.lua: qhost test examples/template.lua
local test, qh = require "qhost.test", require "qhost"

local MESSAGES = { { role = "system", content = "An interview." }, { role = "user", content = "What is\n17?" } }

test.test("the prompt is an interview", function()
  local reply = test.request { path = "/prompt", json = { messages = MESSAGES } }
  test.match(reply.body, "%(An interview%.%)\n\nQ: What is 17%?\nA:$")
end)

test.test("the answer ends before the next question", function()
  qh.mock.model(qh.env("MODEL", "smollm2-135m"), " A prime number.\nQ: And 18?")
  local reply = test.request { path = "/v1/chat/completions", json = { model = "interview", messages = MESSAGES } }
  test.match(reply:json().choices[1].message.content, "A prime number%.$")
end)
