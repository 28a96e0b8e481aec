--- fallback.lua: several models in order, each tried before anything was said: qh.fallback.
local asking = require "qhost.asking"
local core = require "qhost.core"
local tasks = require "qhost.tasks"
local M = {}

---@class qhost.Fallback
---@field name string
local Fallback = {}
Fallback.__index = Fallback
Fallback.__name = "qhost.Fallback"

--- What a status of the engine is called in `on`. The request's own faults are in none: another model
--- would say the same.
local REASON = { AGAIN = "busy", ENOMEM = "busy", ECLOSED = "busy", ETIMEDOUT = "timeout", EIO = "error", EFORMAT = "error",
  EDEVICE = "error", EACCES = "error", ESCRIPT = "error" }
local REASONS = { busy = true, timeout = true, error = true }

--- A model that asks each of a list in turn, until one begins to answer.
---@param def table  models, and on = {"busy", "timeout", "error"}, ttft = seconds to the first token, name
---@return qhost.Fallback
function M.new(def)
  if type(def) ~= "table" or #def == 0 then error("qh.fallback takes a list of models", 2) end
  for i, m in ipairs(def) do
    if type(m) ~= "table" or not m.submit then error(("qh.fallback: [%d] is no model"):format(i), 2) end
  end
  local on = {}
  for _, reason in ipairs(def.on or { "busy", "timeout", "error" }) do
    if not REASONS[reason] then error(("qh.fallback: on = '%s' is unknown; busy, timeout and error are"):format(tostring(reason)), 2) end
    on[reason] = true
  end
  if def.ttft and not (type(def.ttft) == "number" and def.ttft > 0) then error("qh.fallback: ttft must be seconds", 2) end
  return setmetatable({ models = table.move(def, 1, #def, 1, {}), on = on, ttft = def.ttft, name = def.name or def[1].name }, Fallback)
end

--- An answer whose first event was read already.
local Primed = {}
Primed.__index = Primed
Primed.__close = function(p) p.answer:cancel() end
function Primed:next(seconds)
  local ev = self.first
  if ev then
    self.first = nil
    return ev
  end
  return self.answer:next(seconds)
end
function Primed:cancel() self.answer:cancel() end
Primed.collect = asking.collect

--- Ask a model and wait until it says something: the answer, or nil, message, status name.
local function begin(m, o)
  local open, message, status = m:submit(o)
  if not open then return nil, message, status end
  local ev = open:next()
  if ev and ev.type == "done" and ev.finish == "error" then
    open:cancel()
    return nil, ev.message, ev.status
  end
  return setmetatable({ answer = open, first = ev }, Primed)
end

--- Ask them in turn. Yields until one begins to answer.
function Fallback:submit(o)
  local open, message, status
  for i, m in ipairs(self.models) do
    if self.ttft then open, message, status = tasks.timeout(self.ttft, begin, m, o)
    else open, message, status = begin(m, o) end
    if open then return open end
    local reason = REASON[status]
    if not reason or not self.on[reason] or i == #self.models then break end
    core.log("info", "fallback.next", { from = m.name, to = self.models[i + 1].name, reason = reason, error = message })
  end
  return nil, message, status
end

--- Token ids as its first model has them.
function Fallback:tokens(text) return self.models[1]:tokens(text) end

--- Answer a conversation, as model:chat does. Yields.
---@return qhost.Result? result
---@return string? message
---@return string? status
function Fallback:chat(o) return asking.chat(self, o) end

--- Answer a conversation piece by piece, as model:stream does. Yields.
---@return fun(): table?
function Fallback:stream(o) return asking.stream(self, o) end

function M.is_fallback(v) return getmetatable(v) == Fallback end
M.Fallback = Fallback
return M
