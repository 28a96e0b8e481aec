--- json.lua: a JSON reader for the tests only: objects and arrays carry the metatables that
--- qhost.jinja.value describes.
local value = require "qhost.jinja.value"

local M = {}
local LIST = { __jsontype = "array" }
local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function fail(s, at, message)
  local _, line = s:sub(1, at):gsub("\n", "")
  error({ message = ("JSON line %d: %s"):format(line + 1, message) }, 0)
end

local function read_string(s, at)
  local out, pos = {}, at + 1
  while true do
    local stop = s:find('["\\]', pos)
    if not stop then fail(s, at, "unterminated string") end
    out[#out + 1] = s:sub(pos, stop - 1)
    if s:sub(stop, stop) == '"' then return table.concat(out), stop + 1 end
    local c = s:sub(stop + 1, stop + 1)
    if c == "u" then
      local code = tonumber(s:match("^%x%x%x%x", stop + 2) or fail(s, stop, "bad \\u escape"), 16)
      pos = stop + 6
      if code >= 0xd800 and code < 0xdc00 then
        local low = s:match("^\\u(%x%x%x%x)", pos)
        if low then
          code = 0x10000 + ((code - 0xd800) << 10) + (tonumber(low, 16) - 0xdc00)
          pos = pos + 6
        end
      end
      out[#out + 1] = utf8.char(code)
    else
      out[#out + 1] = ESCAPES[c] or fail(s, stop, "bad escape")
      pos = stop + 2
    end
  end
end

local read_value

local function skip(s, at) return s:match("^[ \t\r\n]*()", at) end

local function read_object(s, at)
  local order, object = {}, {}
  at = skip(s, at + 1)
  while s:sub(at, at) ~= "}" do
    if #order > 0 then
      if s:sub(at, at) ~= "," then fail(s, at, "expected , or }") end
      at = skip(s, at + 1)
    end
    if s:sub(at, at) ~= '"' then fail(s, at, "expected a key") end
    local key
    key, at = read_string(s, at)
    at = skip(s, at)
    if s:sub(at, at) ~= ":" then fail(s, at, "expected :") end
    if object[key] == nil then order[#order + 1] = key end
    object[key], at = read_value(s, skip(s, at + 1))
    at = skip(s, at)
  end
  return setmetatable(object, { __jsontype = "object", __jsonorder = order }), at + 1
end

local function read_array(s, at)
  local list = {}
  at = skip(s, at + 1)
  while s:sub(at, at) ~= "]" do
    if #list > 0 then
      if s:sub(at, at) ~= "," then fail(s, at, "expected , or ]") end
      at = skip(s, at + 1)
    end
    list[#list + 1], at = read_value(s, at)
    at = skip(s, at)
  end
  return setmetatable(list, LIST), at + 1
end

function read_value(s, at)
  local c = s:sub(at, at)
  if c == "{" then return read_object(s, at) end
  if c == "[" then return read_array(s, at) end
  if c == '"' then return read_string(s, at) end
  local word = s:match("^%a+", at)
  if word == "true" then return true, at + 4 end
  if word == "false" then return false, at + 5 end
  if word == "null" then return value.null, at + 4 end
  local number = s:match("^-?%d+%.?%d*[eE]?[-+]?%d*", at)
  if not number then fail(s, at, "unexpected character") end
  return math.tointeger(number:find "[.eE]" and "" or number) or tonumber(number), at + #number
end

--- Decode a whole text; nil and a message when it is not JSON.
function M.decode(s)
  local ok, result, past = pcall(read_value, s, skip(s, 1))
  if not ok then return nil, type(result) == "table" and result.message or result end
  if skip(s, past) <= #s then return nil, "text after the JSON value" end
  return result
end

return M
