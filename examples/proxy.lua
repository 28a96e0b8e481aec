-- proxy.lua: answer here, or where there is room: what this server cannot take goes on to an upstream.
--   UPSTREAM=http://127.0.0.1:8081/v1 UPSTREAM_KEY=... qhost serve examples/proxy.lua
-- An upstream that is no loopback address must be allowed: --allow-net HOST.
local qh = require "qhost"

local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()
local UPSTREAM = qh.env("UPSTREAM", "http://127.0.0.1:8081/v1")
local KEY = qh.env("UPSTREAM_KEY")

-- The queue is full, there is no memory, it took too long, or the model is one that is not here.
local GOES_ON = { [429] = true, [503] = true, [504] = true, [404] = true }

local function forward(req, res)
  local path = req.path:gsub("^/v1", "")
  local reply <close> = qh.fetch(UPSTREAM .. path, { method = req.method,
    body = req.method ~= "GET" and req:text() or nil,
    headers = { ["content-type"] = "application/json", authorization = KEY and "Bearer " .. KEY or nil },
    stream = true, timeout = 300, connect_timeout = 3 })
  req:tag("upstream", reply.status)
  res:status(reply.status):header("content-type", reply.headers["content-type"] or "application/json")
  for piece in reply:chunks() do res:write(piece) end
end

-- Around all routes: what fails before the first byte has gone out may still be answered by somebody else.
app:use("upstream", function(req, next, res)
  local ok, e = pcall(next)
  if ok then return end
  if res:is_begun() or type(e) ~= "table" or not GOES_ON[e.status] then error(e, 0) end
  qh.log.info("proxy.forward", { because = e.code, path = req.path })
  return forward(req, res)
end)

app:openai { models = { llm } }

return app
