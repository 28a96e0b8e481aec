-- background_test.lua: qhost test examples/background.lua
local test, qh = require "qhost.test", require "qhost"

test.test("stories are written after the reply, and forgotten after ten minutes", function()
  local clock = qh.mock.clock { auto = false }
  qh.mock.model(qh.env("MODEL", "smollm2-135m"), function(prompt) return "Once there was " .. prompt:match "about (.-)%." end)
  local reply = test.request { path = "/stories", json = { topics = { "a fox", "rain" } } }
  test.equal(reply.status, 202)
  local where = reply.headers.location
  clock:advance(1)
  local job = test.request { path = where }:json()
  test.equal({ job.status, job.done, job.of }, { "done", 2, 2 })
  test.equal(job.stories[1], { topic = "a fox", text = "Once there was a fox" })
  clock:advance(620)
  test.equal(test.request { path = where }.status, 404)
end)

test.test("no topics is a 400 that says so", function()
  local reply = test.request { path = "/stories", json = { topics = {} } }
  test.equal({ reply.status, reply:json().error.param }, { 400, "topics" })
end)
