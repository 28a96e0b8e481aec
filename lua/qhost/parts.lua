--- parts.lua: what an app file makes besides its routes, noted for the story of a reload.
local core = require "qhost.core"
local M = {}

local noted = {}

--- A part as the host compares it: its function's source text and `more` make its fingerprint.
---@param kind "route"|"tool"|"middleware"
---@param name string
---@param fn? function
---@param more? table  plain data
function M.part(kind, name, fn, more)
  local is_plain, text = pcall(core.json.encode, more or core.json.null, { sort = true })
  return { kind, name, fn, is_plain and text or nil }
end

--- Note a part while the app loads; afterwards nothing.
function M.note(...)
  if noted then noted[#noted + 1] = M.part(...) end
end

--- The load is over: what was noted.
---@return table[]
function M.take()
  local list = noted or {}
  noted = nil
  return list
end

return M
