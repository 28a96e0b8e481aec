--- url.lua: percent-encoding and query strings (RFC 3986; "+" is a space in queries).
local M = {}

local function from_hex(hex) return string.char(tonumber(hex, 16)) end

--- Decode %XX. A "%" that starts no escape stays.
---@param s string
---@return string
function M.decode(s) return (s:gsub("%%(%x%x)", from_hex)) end

--- Encode all but unreserved characters.
---@param s string
---@return string
function M.encode(s)
  return (s:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- "a=1&b=x+y" to a table; the last value of a repeated name wins.
---@param query string
---@return table<string, string>
function M.decode_query(query)
  local out = {}
  for pair in query:gmatch "[^&]+" do
    local name, value = pair:match "^([^=]*)=?(.*)$"
    out[M.decode((name:gsub("+", " ")))] = M.decode((value:gsub("+", " ")))
  end
  return out
end

return M
