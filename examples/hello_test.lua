-- hello_test.lua: qhost test examples/hello.lua
local test, qh = require "qhost.test", require "qhost"

test.test("a haiku is about the topic, and streams as text", function()
  qh.mock.model("smollm2-135m", "old pond, a frog jumps in")
  local reply = test.request { path = "/haiku", json = { topic = "frogs" } }
  test.equal({ reply.status, reply.body }, { 200, "old pond, a frog jumps in" })
  test.match(qh.mock.prompts "smollm2-135m"[1], "Answer only in haiku.*frogs")
end)

test.test("without a topic it is about rain", function()
  test.request { path = "/haiku", json = {} }
  test.match(qh.mock.prompts "smollm2-135m"[1], "user\nrain")
end)

test.test("chat in the OpenAI dialect", function()
  qh.mock.model("smollm2-135m", "Hello!")
  local reply = test.request { path = "/v1/chat/completions",
    json = { model = "smollm2-135m", messages = { { role = "user", content = "Hi" } } } }
  test.equal(reply:json().choices[1].message.content, "Hello!")
end)

test.test("the front page says what is served", function()
  test.match(test.request { path = "/" }.body, "smollm2%-135m")
end)
