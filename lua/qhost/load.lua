--- load.lua: what a load of an app runs: its main file, then a look at what it returned.
local _, c = ...
local app = require "qhost.app"
local core = require "qhost.core"

--- Yields. Returns the app and its parts; raises when the file is broken or returns no app.
---@param path string
---@return qhost.App app
---@return table[] parts
return function(path)
  local chunk, where = c.load_file(path)
  local value = chunk("main", where)
  local parts = app.describe(value)
  local event = c.is_first and "start" or "reload"
  for i, fn in ipairs(value.hooks[event]) do core.background(("app:on %s %d"):format(event, i), fn) end
  return value, parts
end
