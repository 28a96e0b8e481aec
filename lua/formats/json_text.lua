--- json_text.lua: JSON as text that arrives in pieces: where a value ends, what an object's members
--- are, and how a string is written.
---
--- Arguments of a tool call are passed on as the model wrote them, so a call is cut from its text;
--- whether the text is valid is for a JSON decoder to say.
local M = {}
local find, sub, byte, match = string.find, string.sub, string.byte, string.match

-- Finding the end ------------------------------------------------------------------------------------
---@class qhost.formats.JsonScanner
---@field depth integer     open brackets
---@field in_string boolean
---@field stray boolean     it stopped at a character that JSON has not outside strings
local Scanner = {}
Scanner.__index = Scanner

local OPENS, CLOSES = { [123] = true, [91] = true }, { [125] = true, [93] = true }     -- { [  } ]

--- A scanner that stands before the first bracket of an object or array.
function M.scanner()
  return setmetatable({ depth = 0, in_string = false, after_escape = false, stray = false }, Scanner)
end

--- Scan the next piece of text: the position after the value's end, or nil when it goes on.
---@param s string
---@return integer?
function Scanner:feed(s)
  local pos = 1
  while pos <= #s do
    if self.after_escape then
      self.after_escape = false
      pos = pos + 1
    elseif self.in_string then
      local at = find(s, '["\\]', pos)
      if not at then return nil end
      if byte(s, at) == 34 then self.in_string = false else self.after_escape = true end
      pos = at + 1
    else
      local at = find(s, '[^%s%w,:.+-]', pos)       -- anything but numbers, words and separators
      if not at then return nil end
      local c = byte(s, at)
      if c == 34 then
        self.in_string = true
      elseif OPENS[c] then
        self.depth = self.depth + 1
      elseif CLOSES[c] then
        self.depth = self.depth - 1
        if self.depth <= 0 then return at + 1 end
      else
        self.stray = true
        return at
      end
      pos = at + 1
    end
  end
  return nil
end

-- Taking apart ---------------------------------------------------------------------------------------
-- Position after the value that begins at `at`, in valid JSON.
local function skip_value(s, at)
  local c = byte(s, at)
  if c and OPENS[c] then return at - 1 + M.scanner():feed(sub(s, at)) end
  if c == 34 then
    local pos = at + 1
    while true do
      pos = find(s, '["\\]', pos)
      if byte(s, pos) == 34 then return pos + 1 end
      pos = pos + 2
    end
  end
  return match(s, "^[%w.+-]+()", at)
end

local function skip_space(s, at)
  return match(s, "^%s*()", at)
end

--- Members of an object as text: { name = '"as written"', ... }. `s` must be valid JSON whose
--- names have no escapes worth reading (they are compared as written).
---@param s string
---@return table<string, string>
function M.members(s)
  local out, at = {}, skip_space(s, skip_space(s, 1) + 1)
  while byte(s, at) == 34 do
    local past = skip_value(s, at)
    local name = sub(s, at + 1, past - 2)
    local from = skip_space(s, skip_space(s, past) + 1)
    past = skip_value(s, from)
    out[name] = sub(s, from, past - 1)
    at = skip_space(s, past)
    if byte(s, at) ~= 44 then break end
    at = skip_space(s, at + 1)
  end
  return out
end

--- Elements of an array as text. `s` must be valid JSON.
---@param s string
---@return string[]
function M.elements(s)
  local out, at = {}, skip_space(s, skip_space(s, 1) + 1)
  while byte(s, at) ~= 93 do
    local past = skip_value(s, at)
    out[#out + 1] = sub(s, at, past - 1)
    at = skip_space(s, past)
    if byte(s, at) ~= 44 then break end
    at = skip_space(s, at + 1)
  end
  return out
end

-- Writing --------------------------------------------------------------------------------------------
local ESCAPE = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\127"] = "\127" }

--- A string as JSON.
function M.quote(s)
  return '"' .. s:gsub('[%c"\\]', function(c) return ESCAPE[c] or ("\\u%04x"):format(byte(c)) end) .. '"'
end

return M
