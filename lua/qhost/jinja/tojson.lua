--- tojson.lua: values as JSON text, byte for byte as Python's json.dumps(ensure_ascii=False).
---
--- The text is foreign, except that a string keeps the origin of its parts.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local fail = limits.fail
local kind, keys, text = value.kind, value.keys, text_of.text
local type, format, find, gsub, rep = type, string.format, string.find, string.gsub, string.rep
local mtype = math.type

local M = {}

local ESCAPE = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t",
  ["\b"] = "\\b", ["\f"] = "\\f", ["\x7f"] = "\x7f",
}
for code = 0, 31 do
  local c = string.char(code)
  ESCAPE[c] = ESCAPE[c] or format("\\u%04x", code)
end

local function escape(s)
  if find(s, '[%c"\\]') then return (gsub(s, '[%c"\\]', ESCAPE)) end
  return s
end

-- ensure_ascii=True: everything else beyond ASCII as \u escapes, in surrogate pairs where needed.
local function escape_ascii(s)
  s = gsub(escape(s), "\x7f", "\\u007f")
  return (gsub(s, "[\xc2-\xf4][\x80-\xbf]*", function(c)
    local code = utf8.codepoint(c)
    if code <= 0xffff then return format("\\u%04x", code) end
    code = code - 0x10000
    return format("\\u%04x\\u%04x", 0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff))
  end))
end

local function number_text(v)
  if mtype(v) == "integer" then return format("%d", v) end
  if v ~= v then return "NaN" end
  if v == math.huge then return "Infinity" end
  if v == -math.huge then return "-Infinity" end
  return value.float_repr(v)
end

local function key_text(k)
  local t = type(k)
  if t == "string" then return k end
  if t == "number" then return number_text(k) end
  if t == "boolean" then return k and "true" or "false" end
  if kind(k) == "none" then return "null" end
  fail("type", "keys must be str, int, float, bool or None, not %s", value.type_name(k))
end

-- A key with its quotes and colon; the same few names fill every schema, so they are kept.
local function name_text(w, k)
  local s = '"' .. w.escape(key_text(k)) .. '"' .. w.colon
  w.left = w.left - 2 * #s - 64
  w.names[k] = s
  return s
end

-- Writing: `w` holds the pieces (w[1..w.n]), the style, and the meters.
local write

local function write_list(w, v, level)
  local n = #v
  if n == 0 then
    w.n = w.n + 1
    w[w.n] = "[]"
    return
  end
  local inner = w.indent and "\n" .. rep(w.indent, level) or ""
  local comma = w.comma .. inner
  w.n = w.n + 1
  w[w.n] = "[" .. inner
  for i = 1, n do
    if i > 1 then
      w.n = w.n + 1
      w[w.n] = comma
    end
    write(w, v[i], level)
  end
  w.n = w.n + 1
  w[w.n] = w.indent and "\n" .. rep(w.indent, level - 1) .. "]" or "]"
end

local function write_dict(w, v, level)
  local order = keys(w.st, v)
  local n = #order
  if n == 0 then
    w.n = w.n + 1
    w[w.n] = "{}"
    return
  end
  if w.sort_keys then
    order = table.move(order, 1, n, 1, {})
    table.sort(order, function(a, b) return key_text(a) < key_text(b) end)
  end
  local inner = w.indent and "\n" .. rep(w.indent, level) or ""
  local comma = w.comma .. inner
  local names = w.names
  local at = w.n + 1
  w[at] = "{" .. inner
  for i = 1, n do
    local k = order[i]
    if i > 1 then
      at = at + 1
      w[at] = comma
    end
    at = at + 1
    w[at] = names[k] or name_text(w, k)
    local item = v[k]
    if type(item) == "string" then             -- most values of schemas and arguments
      w[at + 1], w[at + 2], w[at + 3] = '"', w.escape(item), '"'
      at = at + 3
      w.left = w.left - #item - 80
    else
      w.n = at
      write(w, item, level)
      at = w.n
    end
  end
  at = at + 1
  w[at] = w.indent and "\n" .. rep(w.indent, level - 1) .. "}" or "}"
  w.n = at
end

function write(w, v, level)
  local t = type(v)
  local left = w.left - 64
  local s
  if t == "string" then
    left = left - #v
    s = '"' .. w.escape(v) .. '"'
  elseif t == "number" then
    s = number_text(v)
  elseif t == "boolean" then
    s = v and "true" or "false"
  else
    local k = kind(v)
    if k == "none" then
      s = "null"
    elseif k == "str" then
      left = left - text_of.size(v)
      s = '"' .. w.escape(text(v)) .. '"'
    elseif k == "dict" or k == "list" or k == "tuple" then
      w.left = left - (w.indent and #w.indent * level or 0)
      if w.left < 0 then fail("limit", "the JSON text grows past %d bytes", w.max) end
      if level >= limits.MAX_NESTING then fail("limit", "values nest too deep for JSON") end
      return (k == "dict" and write_dict or write_list)(w, v, level + 1)
    else
      fail("type", "Object of type %s is not JSON serializable", value.type_name(v))
    end
  end
  w.left = left
  w.n = w.n + 1
  w[w.n] = s
end

--- Style of the output.
---@class qhost.jinja.JsonStyle
---@field indent? string        one level of indentation; nil: all on one line
---@field comma? string
---@field colon? string
---@field sort_keys? boolean
---@field ensure_ascii? boolean

--- Write a value as JSON; a string value.
---@param st table  meters of the rendering
---@param v any
---@param style qhost.jinja.JsonStyle
function M.dump(st, v, style)
  local esc = style.ensure_ascii and escape_ascii or escape
  if text_of.is(v) then
    limits.take(st, 2 * text_of.size(v) + 64)
    return text_of.join(st, { '"', text_of.map(v, esc), '"' }, 3)
  end
  local colon = style.colon or ": "
  local names = {}
  if not style.ensure_ascii and colon == ": " then      -- the usual style shares them in a rendering
    names = st.json_names or names
    st.json_names = names
  end
  local w = {
    st = st, n = 0, names = names, indent = style.indent, comma = style.comma or (style.indent and "," or ", "),
    colon = colon, sort_keys = style.sort_keys, escape = esc,
    left = st.bytes, max = st.max.bytes,
  }
  write(w, v, 0)
  limits.work(st, w.n)
  limits.take(st, st.bytes - w.left)
  return table.concat(w, "", 1, w.n)
end

return M
