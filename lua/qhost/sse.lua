--- sse.lua: server-sent events (WHATWG HTML, section 9.2).
local M = {}

--- One event. Every line of data gets its own "data:" field.
---@param name string?
---@param data string
---@return string
function M.event(name, data)
  local head = name and "event: " .. name:gsub("[\r\n]", " ") .. "\n" or ""
  if not data:find "[\r\n]" then return head .. "data: " .. data .. "\n\n" end
  local lines = data:gsub("\r\n?", "\n"):gsub("\n", "\ndata: ")
  return head .. "data: " .. lines .. "\n\n"
end

return M
