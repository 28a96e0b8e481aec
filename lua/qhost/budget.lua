--- budget.lua: what a request may use, settable for an app and for a route of it.
local core = require "qhost.core"
local M = {}

-- name -> least, most; heap in bytes
local RANGES = { cpu_ms = { 1, 60000 }, slice_ms = { 1, 20 }, heap = { 1 << 20, 4 << 30 } }

--- Check a budget; raises, blaming the app.
---@param what string  whose it is, for the message
---@param b? table
---@return table?
function M.check(what, b)
  if b == nil then return nil end
  if type(b) ~= "table" then error(("%s: a budget is a table { cpu_ms, slice_ms, heap }"):format(what), 4) end
  for name, value in pairs(b) do
    local range = RANGES[name]
    if not range then
      error(("%s: a budget has cpu_ms, slice_ms and heap, no '%s'"):format(what, tostring(name)), 4)
    end
    if math.type(value) ~= "integer" or value < range[1] or value > range[2] then
      error(("%s: budget.%s is an integer from %d to %d"):format(what, name, range[1], range[2]), 4)
    end
  end
  return b
end

--- The running request has this budget from now on; what one leaves out the next one gives.
---@param b? table  of the route
---@param other? table  of the app
function M.apply(b, other)
  if not b and not other then return end
  b, other = b or {}, other or {}
  core.budget(b.cpu_ms or other.cpu_ms or 0, b.slice_ms or other.slice_ms or 0, b.heap or other.heap or 0)
end

return M
