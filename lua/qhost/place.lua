--- place.lua: where in a value a check is at work, what kind of value it finds there, and failures that say so.
local core = require "qhost.core"
local M = {}

local null = core.json.null

---@class qhost.Mismatch
---@field path string  "messages[0].role"; lists count from 0; "" is the value itself
---@field code "missing"|"type"|"value"|"unknown"
---@field message string  "expected a string, got a number"
---@field depth integer  steps from the value to the place
local Mismatch = { __name = "qhost.Mismatch" }
function Mismatch.__tostring(e) return e.path == "" and e.message or e.path .. ": " .. e.message end

--- The most steps between a value and a place in it, and the most schemas on the way.
M.MAX_DEPTH = 200

function M.new() return { n = 0, depth = 0 } end

--- Go to the member or the item (an integer, from 0) of that name.
function M.enter(place, key)
  local n = place.n + 1
  place.n, place[n] = n, key
end

function M.leave(place) place.n = place.n - 1 end

local function text_of(place, key)
  local out = {}
  for i = 1, place.n + (key ~= nil and 1 or 0) do
    local k = i > place.n and key or place[i]
    if math.type(k) == "integer" then
      out[i] = "[" .. k .. "]"
    elseif k:find "^[%a_][%w_-]*$" then
      out[i] = (i > 1 and "." or "") .. k
    else
      out[i] = "[" .. core.json.encode(#k > 60 and k:sub(1, 60) .. "..." or k) .. "]"
    end
  end
  return table.concat(out)
end

--- nil and a failure there, or at its member `key`.
---@return nil
---@return qhost.Mismatch
function M.fail(place, code, message, key)
  return nil, setmetatable({ path = text_of(place, key), code = code, message = message,
    depth = place.n + (key ~= nil and 1 or 0) }, Mismatch)
end

local function mark_of(v)
  local mt = getmetatable(v)
  return type(mt) == "table" and mt.__jsontype or nil
end

--- A table that may be a list: marked so, or with [1], or empty without a mark.
function M.is_list(v)
  if type(v) ~= "table" then return false end
  local mark = mark_of(v)
  if mark then return mark == "array" end
  return v[1] ~= nil or next(v) == nil
end

--- A table that may be an object: marked so, or without [1].
function M.is_object(v)
  if type(v) ~= "table" then return false end
  local mark = mark_of(v)
  if mark then return mark == "object" end
  return v[1] == nil
end

function M.is_null(v) return v == null end

--- Whether a checked value is another one than was given: 3 for 3.0 is.
function M.is_changed(got, given) return got ~= given or math.type(got) ~= math.type(given) end

--- A number without a fraction: 3, 3.0, 1e300.
function M.is_whole(v)
  return math.type(v) == "integer" or (type(v) == "number" and v == math.floor(v) and v - v == 0)
end

local WORDS = { string = "a string", boolean = "a boolean", number = "a number", ["nil"] = "nothing" }

--- What a value is, in words.
function M.kind(v)
  if v == null then return "null" end
  if type(v) == "table" then
    return M.is_list(v) and next(v) ~= nil and "a list" or mark_of(v) == "array" and "a list" or "an object"
  end
  return WORDS[type(v)] or "a " .. type(v)
end

--- A value as a short text for a message.
function M.show(v)
  local text = type(v) == "table" and M.kind(v) or core.json.encode(v)
  return #text > 60 and text:sub(1, 60) .. "..." or text
end

--- Equal as JSON: 1 is 1.0, the order of keys is no matter.
function M.equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  if a == b then return true end
  if M.is_list(a) ~= M.is_list(b) and M.is_object(a) ~= M.is_object(b) then return false end
  for k, v in pairs(a) do
    if b[k] == nil or not M.equal(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

--- Characters of a text; bytes when it is not UTF-8.
function M.n_chars(s) return utf8.len(s) or #s end

--- A copy of an object, with its mark and the order of its keys; further keys go to the end.
function M.copy_object(v)
  local copy, order = {}, {}
  for k, item in pairs(v) do copy[k] = item end
  local mt = getmetatable(v)
  local old = type(mt) == "table" and mt.__jsonorder
  if type(old) == "table" then table.move(old, 1, #old, 1, order) end
  return core.json.object(copy, order), order
end

return M
