-- router_test.lua: qhost test examples/router.lua examples/router_test.lua
local test, qh = require "qhost.test", require "qhost"

local function ask(key)
  return test.request { path = "/v1/chat/completions", headers = { authorization = key and "Bearer " .. key },
    json = { model = "auto", messages = { { role = "user", content = "Hi" } } } }
end

test.test("without a key nobody is answered", function()
  test.equal(ask(nil).status, 401)
  test.equal(ask("wrong").status, 401)
end)

test.test("a user's bucket empties, fills again, and is nobody else's", function()
  qh.mock.clock { auto = false }
  for _ = 1, 3 do test.equal(ask("demo-bob").status, 200) end
  local reply = ask "demo-bob"
  test.equal({ reply.status, reply.headers["retry-after"] }, { 429, "20" })
  test.equal(ask("demo-ann").status, 200)
end)
