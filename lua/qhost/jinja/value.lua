--- value.lua: what a template value is, and what Python would say about it.
---
--- Data from outside is ordinary Lua: strings, integers, floats, booleans, and tables. Whether a
--- table is an object or an array, and in which order its keys stand, is told by its metatable:
---
---     __jsontype  = "object" | "array"
---     __jsonorder = { "first", "second", ... }     keys of an object in order
---
--- Two objects with the same keys may share one metatable. A table without one is an array when
--- t[1] is set, else an object with its keys sorted. Keys that __jsonorder does not name come
--- last, sorted; names in it without a value are skipped. JSON null is `null` below, or any
--- userdata. Values that only templates know are tables with a tag in slot 1, so that neither
--- kind of data can be mistaken for them.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local fail, work, take = limits.fail, limits.work, limits.take
local STR, text = text_of.STR, text_of.text
local type, getmetatable, setmetatable, next = type, getmetatable, setmetatable, next
local format, mtype = string.format, math.type

local M = {}

-- Tags -----------------------------------------------------------------------------------------------
local UNDEF, NONE, NAMESPACE, MACRO = {}, {}, {}, {}
local LOOP, FUNCTION, METHOD, GENERATOR = {}, {}, {}, {}
M.UNDEF, M.NONE, M.NAMESPACE, M.MACRO = UNDEF, NONE, NAMESPACE, MACRO
M.LOOP, M.FUNCTION, M.METHOD, M.GENERATOR = LOOP, FUNCTION, METHOD, GENERATOR

local KIND_OF_TAG = {
  [UNDEF] = "undefined", [NONE] = "none", [STR] = "str", [NAMESPACE] = "namespace",
  [MACRO] = "macro", [LOOP] = "loop", [FUNCTION] = "function", [METHOD] = "method",
  [GENERATOR] = "generator",
}

local LIST = { __jsontype = "array" }
local TUPLE = { __jsontype = "array", __kind = "tuple" }
local VIEWS = {}             -- what dict.keys(), .values() and .items() return
for _, name in ipairs { "keys", "values", "items" } do
  VIEWS[name] = { __jsontype = "array", __kind = "view", __name = "dict_" .. name }
end
local KIND_OF_JSON = { object = "dict", array = "list" }

--- Python's None and JSON's null.
M.null = { NONE }

--- An undefined value; `hint` says why, for the error when it is used.
function M.undefined(hint, ...)
  if select("#", ...) > 0 then hint = format(hint, ...) end
  return { UNDEF, hint }
end

function M.list(t) return setmetatable(t or {}, LIST) end
function M.tuple(t) return setmetatable(t, TUPLE) end
function M.view(name, t) return setmetatable(t, VIEWS[name]) end
function M.generator(t) return { GENERATOR, t, 1 } end

--- A dict that remembers the order in which `dict_set` adds keys.
function M.dict()
  return setmetatable({}, { __jsontype = "object", __jsonorder = {} })
end

function M.dict_set(d, key, value)
  if d[key] == nil then
    local order = getmetatable(d).__jsonorder
    order[#order + 1] = key
  end
  d[key] = value
end

--- Name of the kind of a value: undefined none bool int float str list tuple dict view range
--- generator namespace macro loop function method.
local function kind(v)
  local t = type(v)
  if t == "string" then return "str" end
  if t == "table" then
    local first = v[1]
    local k = KIND_OF_TAG[first]
    if k then return k end
    local mt = getmetatable(v)
    if type(mt) == "table" then
      k = mt.__kind or KIND_OF_JSON[mt.__jsontype]
      if k then return k end
    end
    return first ~= nil and "list" or "dict"
  end
  if t == "number" then return mtype(v) == "integer" and "int" or "float" end
  if t == "boolean" then return "bool" end
  if t == "userdata" then return "none" end
  fail("type", "a value of Lua type %s cannot be used in a template", t)
end
M.kind = kind

local IS_SEQUENCE = { list = true, tuple = true, range = true }
M.IS_SEQUENCE = IS_SEQUENCE

local PYTHON_NAME = {
  none = "NoneType", undefined = "Undefined", macro = "Macro", namespace = "Namespace",
  loop = "LoopContext", ["function"] = "function", method = "method", view = "dict view",
}
local function type_name(v)
  local k = kind(v)
  return PYTHON_NAME[k] or k
end
M.type_name = type_name

--- Fail because an undefined value was used.
function M.fail_undefined(v)
  fail("undefined", "%s", v[2] or "the value is undefined")
end
local fail_undefined = M.fail_undefined

-- Dicts ----------------------------------------------------------------------------------------------
local function key_less(a, b)
  local ta, tb = type(a), type(b)
  if ta == tb and (ta == "string" or ta == "number") then return a < b end
  return ta < tb
end

--- Keys of a dict in order: a list that must not be changed.
local function keys(st, t)
  local mt = getmetatable(t)
  local order = type(mt) == "table" and mt.__jsonorder
  local n = 0
  for _ in next, t do n = n + 1 end
  if order then
    local whole = #order == n
    for i = 1, #order do
      if t[order[i]] == nil then whole = false break end
    end
    if whole then
      work(st, n)
      return order
    end
  end
  work(st, 16 * n)
  take(st, 100 * n)
  local out, seen = {}, {}
  for _, k in ipairs(order or {}) do
    if t[k] ~= nil and not seen[k] then
      out[#out + 1] = k
      seen[k] = true
    end
  end
  local rest = {}
  for k in next, t do
    if not seen[k] then rest[#rest + 1] = k end
  end
  table.sort(rest, key_less)
  for i = 1, #rest do out[#out + 1] = rest[i] end
  return out
end
M.keys = keys

--- The Lua key that stands for a template value, or nil where Python cannot hash it.
local function to_key(v)
  local t = type(v)
  if t == "string" then return v end
  if t == "table" then
    local tag = v[1]
    if tag == STR then return text(v) end
    if KIND_OF_TAG[tag] then return v end
    return M.kind(v) == "tuple" and v or nil          -- known by identity only
  end
  if t == "userdata" then return M.null end
  return v
end
M.to_key = to_key

-- Truth, equality, order -----------------------------------------------------------------------------
--- Python's bool(v).
local function truth(v)
  if v == true then return true end
  if v == false then return false end
  local t = type(v)
  if t == "string" then return v ~= "" end
  if t == "number" then return v ~= 0 end
  if t == "table" then
    local tag = v[1]
    if tag == nil then return next(v) ~= nil end
    if tag == STR then return v[4] > 0 end
    return tag ~= UNDEF and tag ~= NONE
  end
  return false
end
M.truth = truth

--- A number for arithmetic (True is 1), or nil.
local function number(v)
  local t = type(v)
  if t == "number" then return v end
  if t == "boolean" then return v and 1 or 0 end
  return nil
end
M.number = number

local equal

local function equal_lists(st, a, b, depth)
  if #a ~= #b then return false end
  work(st, 8 + #a)
  for i = 1, #a do
    if not equal(st, a[i], b[i], depth) then return false end
  end
  return true
end

local function equal_dicts(st, a, b, depth)
  local n = 0
  for k, v in next, a do
    n = n + 1
    work(st, 1)
    local other = b[k]
    if other == nil or not equal(st, v, other, depth) then return false end
  end
  for _ in next, b do n = n - 1 end
  work(st, 8)
  return n == 0
end

--- Python's a == b.
function equal(st, a, b, depth)
  local ta, tb = type(a), type(b)
  if ta == "string" and tb == "string" then
    if #a ~= #b then return false end
    if #a > 64 then work(st, #a >> 8) end
    return a == b
  end
  if rawequal(a, b) then return a == a end
  if ta == "number" and tb == "number" then return a == b end
  local ka, kb = kind(a), kind(b)
  if ka == "str" and kb == "str" then
    if text_of.size(a) ~= text_of.size(b) then return false end
    work(st, text_of.size(a) >> 8)
    return text(a) == text(b)
  end
  if ka ~= kb then
    local x, y = number(a), number(b)
    return x ~= nil and x == y
  end
  if ka == "undefined" or ka == "none" then return true end
  depth = (depth or 0) + 1
  if depth > limits.MAX_NESTING then fail("limit", "values nest too deep to compare") end
  if IS_SEQUENCE[ka] then return equal_lists(st, a, b, depth) end
  if ka == "dict" then return equal_dicts(st, a, b, depth) end
  return false
end
M.equal = equal

local less

local function less_lists(st, a, b, depth)
  work(st, 8)
  for i = 1, math.min(#a, #b) do
    work(st, 1)
    if not equal(st, a[i], b[i], depth) then return less(st, a[i], b[i], "<", depth) end
  end
  return #a < #b
end

--- Python's a < b; `op` is the operator to name in the error.
function less(st, a, b, op, depth)
  local x, y = number(a), number(b)
  if x and y then return x < y end
  local ka, kb = kind(a), kind(b)
  if ka == "str" and kb == "str" then
    work(st, math.min(text_of.size(a), text_of.size(b)) >> 6)
    return text(a) < text(b)
  end
  if ka == "undefined" then fail_undefined(a) end
  if kb == "undefined" then fail_undefined(b) end
  if ka == kb and (ka == "list" or ka == "tuple") then
    depth = (depth or 0) + 1
    if depth > limits.MAX_NESTING then fail("limit", "values nest too deep to compare") end
    return less_lists(st, a, b, depth)
  end
  fail("type", "'%s' not supported between instances of '%s' and '%s'", op or "<",
    type_name(a), type_name(b))
end
M.less = less

-- Iteration ------------------------------------------------------------------------------------------
--- The elements of anything Python can iterate, as a list and its length. The list may be the
--- value itself and must not be changed. A generator is used up.
local function elements(st, v)
  local k = kind(v)
  if IS_SEQUENCE[k] or k == "view" then return v, #v end
  if k == "dict" then
    local list = keys(st, v)
    return list, #list
  end
  if k == "str" then return text_of.chars(st, v) end
  if k == "undefined" then return {}, 0 end
  if k == "generator" then
    local items, at = v[2], v[3]
    v[3] = #items + 1
    if at == 1 then return items, #items end
    local rest = table.move(items, at, #items, 1, {})
    return rest, #rest
  end
  fail("type", "'%s' object is not iterable", type_name(v))
end
M.elements = elements

--- Python's len(v), or nil where it has none.
function M.length(v)
  local k = kind(v)
  if k == "str" then return text_of.length(v) end
  if IS_SEQUENCE[k] or k == "view" then return #v end
  if k == "dict" then
    local n = 0
    for _ in next, v do n = n + 1 end
    return n
  end
  if k == "undefined" then return 0 end
  return nil
end

--- Python's `needle in haystack`.
function M.contains(st, haystack, needle)
  local k = kind(haystack)
  if k == "dict" then
    local key = to_key(needle)
    if key == nil then fail("type", "unhashable type: '%s'", type_name(needle)) end
    if key == M.null then
      for other in next, haystack do
        if kind(other) == "none" then return true end
      end
      return false
    end
    return haystack[key] ~= nil
  end
  if k == "str" then
    if not text_of.is(needle) then
      if kind(needle) == "undefined" then fail_undefined(needle) end
      fail("type", "'in <string>' requires string as left operand, not %s", type_name(needle))
    end
    limits.search(st, text_of.size(haystack), text_of.size(needle))
    return text(haystack):find(text(needle), 1, true) ~= nil
  end
  local list, n = elements(st, haystack)
  work(st, n)
  for i = 1, n do
    if equal(st, list[i], needle) then return true end
  end
  return false
end

-- Text of a value ------------------------------------------------------------------------------------
--- Python's repr of a float.
local function float_repr(v)
  if v ~= v then return "nan" end
  if v == math.huge then return "inf" end
  if v == -math.huge then return "-inf" end
  local s
  -- The shortest that reads back as the same number; 15 digits always do but for denormals.
  for precision = math.abs(v) < 0x1p-1022 and 1 or 15, 17 do
    s = format("%." .. precision .. "g", v)
    if tonumber(s) == v then break end
  end
  local sign, digits, exp = s:match("^(%-?)([%d.]+)e?([-+]?%d*)$")
  local point = digits:find(".", 1, true)
  local whole = point and digits:sub(1, point - 1) or digits
  local frac = point and digits:sub(point + 1) or ""
  local shift = exp ~= "" and tonumber(exp) or 0
  -- As digits d and exponent e, the value is 0.d * 10^e.
  local all = (whole .. frac)
  local e = #whole + shift
  local lead = #all:match("^0*")
  if lead == #all then return sign .. "0.0" end
  all, e = all:sub(lead + 1):gsub("0+$", ""), e - lead
  if e - 1 < -4 or e - 1 >= 16 then
    local mantissa = all:sub(1, 1) .. (#all > 1 and "." .. all:sub(2) or "")
    return format("%s%se%s%02d", sign, mantissa, e - 1 < 0 and "-" or "+", math.abs(e - 1))
  end
  if e <= 0 then return sign .. "0." .. ("0"):rep(-e) .. all end
  if #all <= e then return sign .. all .. ("0"):rep(e - #all) .. ".0" end
  return sign .. all:sub(1, e) .. "." .. all:sub(e + 1)
end
M.float_repr = float_repr

local ESCAPE = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\" }

-- Characters of two and more bytes that Python's repr writes as escapes: separators, format and
-- control characters, private use and noncharacters.
local function is_printable(c)
  if c < 0xa1 then return false end
  if c == 0xad or c == 0x1680 or c == 0x3000 or c == 0xfeff or c == 0x205f then return false end
  if c >= 0x2000 and c <= 0x200f then return false end
  if c >= 0x2028 and c <= 0x202f then return false end
  if c >= 0x2060 and c <= 0x206f then return false end
  if c >= 0xd800 and c <= 0xf8ff then return false end
  if c >= 0xfff0 and c <= 0xfffb then return false end
  return c < 0xe0000
end

local function escape_char(s)
  local c = utf8.codepoint(s)
  if is_printable(c) then return s end
  if c <= 0xff then return format("\\x%02x", c) end
  if c <= 0xffff then return format("\\u%04x", c) end
  return format("\\U%08x", c)
end

--- Python's repr of a str.
local function str_repr(s)
  local quote = (s:find("'", 1, true) and not s:find('"', 1, true)) and '"' or "'"
  if s:find("[%c\\'\x80-\xff]") then
    s = s:gsub("[%c\\]", function(c) return ESCAPE[c] or format("\\x%02x", c:byte()) end)
    if quote == "'" then s = s:gsub("'", "\\'") end
    if s:find("[\x80-\xff]") and utf8.len(s) then
      s = s:gsub("[\xc2-\xf4][\x80-\xbf]*", escape_char)
    end
  end
  return quote .. s .. quote
end

local repr

-- The elements of a container as one list of strings.
local function repr_items(st, v, n, depth)
  take(st, 40 * n)
  work(st, n)
  local out = {}
  for i = 1, n do out[i] = repr(st, v[i], depth) end
  return table.concat(out, ", ")
end

local function repr_dict(st, v, depth)
  local out = {}
  for i, k in ipairs(keys(st, v)) do
    work(st, 1)
    out[i] = repr(st, k, depth) .. ": " .. repr(st, v[k], depth)
  end
  return "{" .. table.concat(out, ", ") .. "}"
end

--- Python's repr(v), a Lua string.
function repr(st, v, depth)
  local k = kind(v)
  local s
  if k == "str" then
    take(st, 4 * text_of.size(v))
    s = str_repr(text(v))
  elseif k == "int" then s = format("%d", v)
  elseif k == "float" then s = float_repr(v)
  elseif k == "bool" then s = v and "True" or "False"
  elseif k == "none" then s = "None"
  elseif k == "undefined" then s = "Undefined"
  elseif k == "generator" then s = "<generator object>"
  elseif k == "macro" then s = "<Macro " .. str_repr(v.name or "") .. ">"
  elseif k == "range" then s = getmetatable(v).__name
  elseif k == "namespace" or k == "loop" or k == "function" or k == "method" then
    s = "<" .. k .. ">"
  else
    depth = (depth or 0) + 1
    if depth > limits.MAX_NESTING then fail("limit", "values nest too deep to print") end
    if k == "dict" then
      s = repr_dict(st, v, depth)
    else
      local inner = repr_items(st, v, #v, depth)
      if k == "tuple" then
        s = "(" .. inner .. (#v == 1 and ",)" or ")")
      elseif k == "view" then
        s = getmetatable(v).__name .. "([" .. inner .. "])"
      else
        s = "[" .. inner .. "]"
      end
    end
  end
  take(st, #s)
  return s
end
M.repr = repr

--- Python's str(v) as a string value: strings keep their origin, the text of containers counts as
--- foreign, and what cannot carry foreign text as the template's own.
function M.str(st, v)
  local t = type(v)
  if t == "string" then return v end
  if t == "number" then
    take(st, 200)
    return text_of.trusted(mtype(v) == "integer" and format("%d", v) or float_repr(v))
  end
  if t == "table" then
    local tag = v[1]
    if tag == STR then return v end
    if tag == UNDEF then return text_of.EMPTY end
    if tag ~= NONE then return repr(st, v) end
  end
  return text_of.trusted(repr(st, v))
end

return M
