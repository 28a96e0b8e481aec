-- chat_test.lua: qhost test examples/chat.lua
local test, qh = require "qhost.test", require "qhost"

test.test("the answer comes as text, and the model has read the whole conversation", function()
  local name = qh.env("MODEL", "smollm2-135m")
  qh.mock.model(name, "Nice to meet you, Ann.")
  local reply = test.request { path = "/chat", json = { messages = { { role = "user", content = "I am Ann." },
    { role = "assistant", content = "Hello." }, { role = "user", content = "Who am I?" } } } }
  test.equal(reply.body, "Nice to meet you, Ann.")
  test.match(qh.mock.prompts(name)[1], "I am Ann%..*Hello%..*Who am I%?")
end)

test.test("a message without a role is refused at its place", function()
  local reply = test.request { path = "/chat", json = { messages = { { content = "x" } } } }
  test.equal({ reply.status, reply:json().error.param }, { 400, "messages[0].role" })
end)

test.test("the page is there", function()
  test.match(test.request { path = "/" }.headers["content-type"], "^text/html")
end)
