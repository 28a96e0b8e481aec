--- response.lua: the reply of a request: whole (json, text, html, send) or in pieces (write, event,
--- stream). Pieces wait while the client is slower than we are.
local core = require "qhost.core"
local sse = require "qhost.sse"

---@class qhost.Response
local Response = {}
Response.__index = Response
Response.__name = "qhost.Response"

local M = {}

function M.new(x, req)
  return setmetatable({ x = x, req = req, code = 200, fields = {} }, Response)
end

--- Set the status of the reply. Returns the response.
---@param code integer
function Response:status(code)
  self.code = code
  return self
end

--- Add a header. Returns the response.
---@param name string
---@param value string|number
function Response:header(name, value)
  self.fields[#self.fields + 1] = { name, tostring(value) }
  return self
end

local function has_field(res, name)
  for _, field in ipairs(res.fields) do
    if field[1]:lower() == name then return true end
  end
  return false
end

--- A whole reply of that content type.
---@param content_type string
---@param body string
function Response:send(content_type, body)
  if not has_field(self, "content-type") then self:header("content-type", content_type) end
  self.x:reply(self.code, self.fields, body)
  self.is_ended = true
  return self
end

---@param value any
function Response:json(value) return self:send("application/json", core.json.encode(value)) end
---@param text string
function Response:text(text) return self:send("text/plain; charset=utf-8", text) end
---@param html string
function Response:html(html) return self:send("text/html; charset=utf-8", html) end

local function begin(res, content_type)
  if res.x:is_begun() then return end
  if not has_field(res, "content-type") then res:header("content-type", content_type) end
  res.is_sse = content_type == "text/event-stream"
  if not has_field(res, "cache-control") then res:header("cache-control", "no-cache") end
  res.x:begin(res.code, res.fields)
end

--- Send a piece of a reply of unknown length. Yields while the client is slow.
---@param text string
function Response:write(text)
  begin(self, "text/plain; charset=utf-8")
  if text ~= "" then self.x:write(text) end
  return self
end

--- Send a server-sent event; value is text or becomes JSON. Yields while the client is slow.
---@param name string?  nil: an event without a name
---@param value any
function Response:event(name, value)
  begin(self, "text/event-stream")
  self.x:write(sse.event(name, type(value) == "string" and value or core.json.encode(value)))
  return self
end

--- Send a comment that clients ignore, to keep the connection alive.
function Response:ping()
  begin(self, "text/event-stream")
  self.x:write ": ping\n\n"
  return self
end

--- End a reply that was sent in pieces. The end of the handler does this too.
function Response:finish()
  if not self.is_ended then
    begin(self, "text/plain; charset=utf-8")
    self.x:finish()
    self.is_ended = true
  end
  return self
end

local function wanted_form(req)
  local accept = req.headers.accept or ""
  if accept:find("text/event-stream", 1, true) then return "openai" end
  if accept:find("application/x-ndjson", 1, true) then return "ndjson" end
  return "text"
end

local FORMS = {}
function FORMS.text(res, source)
  begin(res, "text/plain; charset=utf-8")
  for ev in source do
    if ev.type == "text" then res:write(ev.text) end
  end
end
function FORMS.ndjson(res, source)
  begin(res, "application/x-ndjson")
  for ev in source do res:write(core.json.encode(ev) .. "\n") end
end
function FORMS.openai(res, source, opts) require("api.openai").stream_events(res, source, opts and opts.usage) end

--- Send what a model or an agent streams. as: "text", "ndjson", "openai", or "auto" (the default):
--- what the Accept header asks for, else text. Yields.
---@param source any  what model:stream returns, or any iterator of such events
---@param opts? {as?: "auto"|"text"|"ndjson"|"openai", usage?: boolean}  usage: a chunk of it at the end ("openai")
function Response:stream(source, opts)
  local as = opts and opts.as or "auto"
  if as == "auto" then as = wanted_form(self.req) end
  local form = FORMS[as]
  if not form then error(("res:stream: unknown form '%s'; text, ndjson, openai and auto are known"):format(as), 2) end
  form(self, source, opts)
  return self:finish()
end

return M
