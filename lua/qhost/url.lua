--- url.lua: URLs taken apart and put together, percent-encoding, query strings (RFC 3986; "+" is a space in queries).
local M = {}

local function from_hex(hex) return string.char(tonumber(hex, 16)) end

--- Decode %XX. A "%" that starts no escape stays.
---@param s string
---@return string
function M.decode(s) return (s:gsub("%%(%x%x)", from_hex)) end

local function to_hex(c) return ("%%%02X"):format(c:byte()) end

--- Encode all but unreserved characters.
---@param s string
---@return string
function M.encode(s) return (s:gsub("[^%w%-._~]", to_hex)) end

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

local function scalar(name, v)
  local kind = type(v)
  if kind == "string" or kind == "boolean" or math.type(v) == "integer" then return tostring(v) end
  if kind == "number" then return ("%.14g"):format(v) end
  error(("qh.url.query: '%s' is a %s; strings, numbers, booleans and lists of them are expected"):format(name, kind), 4)
end

--- A table to "a=1&b=x%20y", names sorted; a list gives its name several times.
---@param t table<string, string|number|boolean|table>
---@return string
function M.query(t)
  local names, out = {}, {}
  for name in pairs(t) do
    if type(name) ~= "string" then error("qh.url.query: names are strings, not " .. type(name) .. "s", 2) end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local v = t[name]
    for _, item in ipairs(type(v) == "table" and v or { v }) do
      out[#out + 1] = M.encode(name) .. "=" .. M.encode(scalar(name, item))
    end
  end
  return table.concat(out, "&")
end

---@class qhost.Url
---@field scheme? string  in lower case
---@field user? string  decoded, as password is
---@field password? string
---@field host? string  in lower case; an IPv6 address without its brackets
---@field port? integer
---@field path string  as it stands, encoded; "" when there is none
---@field query? string  as it stands, without "?"
---@field fragment? string  as it stands, without "#"

local function read_port(url, text)
  if text == "" then return true end
  local port = text:match "^:(%d*)$"
  if not port then return false end
  if port == "" then return true end
  url.port = math.tointeger(tonumber(port))
  return url.port and url.port <= 65535
end

local function read_authority(url, authority)
  local user, rest = authority:match "^(.*)@(.*)$"
  if user then
    local name, password = user:match "^([^:]*):(.*)$"
    url.user, url.password = M.decode(name or user), password and M.decode(password)
    authority = rest
  end
  local host, port = authority:match "^%[([%x:.]+)%](.*)$"
  if not host then host, port = authority:match "^([^:%[%]]*)(.*)$" end
  if not host or not read_port(url, port) then return nil, "the host or the port is malformed" end
  url.host = M.decode(host):lower()
  if url.host:find "[%c%s/?#@\\]" then return nil, "the host holds a character that no host has" end
  return true
end

--- Take a URL apart; a relative one has no scheme or no host. nil and a message when it is none.
---@param text string
---@return qhost.Url?
---@return string? message
function M.parse(text)
  local function no(why) return nil, ("%q is no URL: %s"):format(tostring(text):sub(1, 100), why) end
  if type(text) ~= "string" then return no "a text is expected" end
  if text:find "[%c ]" then return no "it holds a space or a control character" end
  local url, rest = {}, text
  local function cut(pattern, key)
    local before, part = rest:match(pattern)
    if before then rest, url[key] = before, part end
  end
  cut("^([^#]*)#(.*)$", "fragment")
  cut("^([^?]*)%?(.*)$", "query")
  local scheme, after = rest:match "^(%a[%w+.-]*):(.*)$"
  if scheme then url.scheme, rest = scheme:lower(), after end
  local authority, path = rest:match "^//([^/]*)(.*)$"
  if authority then
    local ok, why = read_authority(url, authority)
    if not ok then return no(why) end
    rest = path
  end
  url.path = rest
  return url
end

local function authority_of(u)
  local host = u.host:find(":", 1, true) and "[" .. u.host .. "]" or M.encode(u.host)
  local user = u.user and M.encode(u.user) .. (u.password and ":" .. M.encode(u.password) or "") .. "@" or ""
  return user .. host .. (u.port and ":" .. ("%d"):format(u.port) or "")
end

-- What may not stand in a part is encoded; escapes that are there stay.
local function made_safe(part) return (part:gsub("[^%w%-._~!$&'()*+,;=:@/?%%]", to_hex)) end

--- Put a URL together; query may be a table. What parse gave gives the same URL again, but for the case of letters
--- and escapes that say the same.
---@param u qhost.Url
---@return string
function M.build(u)
  local query = type(u.query) == "table" and M.query(u.query) or u.query
  local path = u.path or ""
  if u.host and path ~= "" and path:sub(1, 1) ~= "/" then path = "/" .. path end
  return (u.scheme and u.scheme .. ":" or "") .. (u.host and "//" .. authority_of(u) or "")
    .. made_safe(path):gsub("?", "%%3F") .. (query and query ~= "" and "?" .. made_safe(query) or "")
    .. (u.fragment and "#" .. made_safe(u.fragment) or "")
end

return M
