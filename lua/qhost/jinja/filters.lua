--- filters.lua: the filters of a template.
---
--- A filter is { fn, params, required }: fn(st, value, ...) takes what `params` names, nil for what
--- was left out; a variadic one takes (st, value, args, kwargs). What is lazy in Python gives a
--- generator here too, so that its truth, length and printing agree.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local access = require "qhost.jinja.access"
local format = require "qhost.jinja.format"
local operators = require "qhost.jinja.operators"
local sorting = require "qhost.jinja.sorting"
local predicates = require "qhost.jinja.predicates"
local tojson = require "qhost.jinja.tojson"
local case = require "qhost.jinja.case"
local fail, work, take = limits.fail, limits.work, limits.take
local kind, truth, elements, str = value.kind, value.truth, value.elements, value.str
local text, sub, trusted = text_of.text, text_of.sub, text_of.trusted
local want_int, is_none = strings.want_int, strings.is_none

local M = {}
local FILTERS, TESTS = {}, predicates.TESTS
M.FILTERS = FILTERS

local function filter(name, params, required, fn)
  local spec = { name = name, params = params, required = required, fn = fn }
  FILTERS[name] = spec
  return spec
end

local function variadic(name, fn)
  FILTERS[name] = { name = name, required = 0, variadic = true, fn = fn }
end

local function flag(v)
  return v ~= nil and truth(v)
end

-- Values ---------------------------------------------------------------------------------------------
filter("default", { "default_value", "boolean" }, 0, function(_, v, default, boolean)
  local defined = kind(v) ~= "undefined"
  if defined and (truth(v) or not flag(boolean)) then return v end
  return default == nil and text_of.EMPTY or default
end)
FILTERS.d = FILTERS.default

filter("string", {}, 0, function(st, v) return str(st, v) end)
-- Without autoescaping a safe string is printed as any other. (In Python `+` would still escape
-- what is added to one.)
filter("safe", {}, 0, function(st, v) return str(st, v) end)

filter("abs", {}, 0, function(_, v)
  local n = value.number(v)
  if not n then fail("type", "bad operand type for abs(): '%s'", value.type_name(v)) end
  return math.abs(n)
end)

filter("attr", { "name" }, 1, function(st, v, name)
  local found = access.attribute(st, v, text(str(st, name)))
  if found == nil then return value.undefined("no attribute '%s'", text(str(st, name))) end
  return found
end)

-- The integer that Python's int(s, base) reads, or nil.
local function parse_int(s, base)
  s = case.blank(s):match "^%s*(.-)%s*$"
  local sign, digits = s:match "^([-+]?)(.*)$"
  local prefix = digits:match "^0([xXoObB])"
  local prefix_base = prefix and ({ x = 16, o = 8, b = 2 })[prefix:lower()]
  if prefix_base and (base == prefix_base or base == 0) then
    digits, base = digits:sub(3):gsub("^_", ""), prefix_base
  end
  if digits:find "^_" or digits:find "__" or digits:find "_$" or digits:find "[^%w_]" then return nil end
  digits = digits:gsub("_", "")
  if digits == "" then return nil end
  local n = 0
  for d in digits:gmatch "." do
    local x = tonumber(d, 36)
    if not x or x >= (base == 0 and 10 or base) then return nil end
    n = operators.add(nil, operators.mul(nil, n, base == 0 and 10 or base), x)
  end
  return sign == "-" and -n or n
end

-- The float that Python's float(s) reads, or nil.
local function parse_float(s)
  s = case.blank(s):match "^%s*(.-)%s*$"
  if s:find "^[-+]?%d" or s:find "^[-+]?%.%d" then
    if s:find "[xXpP]" or s:find "__" or s:find "_$" or s:find "_%D" then return nil end
    local n = tonumber((s:gsub("_", ""):gsub("^%+", "")))
    return n and n + 0.0
  end
  local sign, word = s:lower():match "^([-+]?)(%a+)$"
  if word == "inf" or word == "infinity" then return sign == "-" and -math.huge or math.huge end
  if word == "nan" then return 0 / 0 end
  return nil
end

local function truncated(x)
  if x ~= x or x == math.huge or x == -math.huge then return nil end
  local n = math.tointeger(x >= 0 and math.floor(x) or math.ceil(x))
  if not n then fail("value", "the number leaves the range of 64 bits") end
  return n
end

filter("int", { "default", "base" }, 0, function(st, v, default, base)
  if default == nil then default = 0 end
  local n = value.number(v)
  if n then return math.type(n) == "integer" and n or truncated(n) or default end
  if kind(v) == "undefined" then value.fail_undefined(v) end
  if not text_of.is(v) then return default end
  local s = text(v)
  if #s > 400 then return default end
  work(st, #s)
  n = parse_int(s, want_int(base, "base", 10))
  if n then return n end
  local x = parse_float(s)
  return x and truncated(x) or default
end)

filter("float", { "default" }, 0, function(_, v, default)
  local n = value.number(v)
  if n then return n + 0.0 end
  if kind(v) == "undefined" then value.fail_undefined(v) end
  local x = text_of.is(v) and #text(v) <= 400 and parse_float(text(v))
  if x then return x end
  if default == nil then return 0.0 end
  return default
end)

local function round_common(n, precision)
  if math.type(n) == "integer" then
    if precision >= 0 then return n end
    local unit = operators.pow(nil, 10, -precision)
    local low = n // unit * unit
    local rest = n - low
    if rest * 2 > unit or (rest * 2 == unit and low // unit % 2 == 1) then low = low + unit end
    return low
  end
  if n ~= n or n == math.huge or n == -math.huge then return n end
  if precision > 99 then return n end
  -- "e0" keeps the sign of a zero.
  if precision >= 0 then return tonumber(("%." .. precision .. "f"):format(n) .. "e0") end
  local unit = 10.0 ^ -precision
  return tonumber(("%.0f"):format(n / unit) .. "e0") * unit
end

filter("round", { "precision", "method" }, 0, function(_, v, precision, method)
  local n = value.number(v)
  if not n then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    fail("type", "type %s doesn't define __round__ method", value.type_name(v))
  end
  precision = want_int(precision, "precision", 0)
  local how = method == nil and "common" or text(strings.want_str(method, "method"))
  if how == "common" then return round_common(n, precision) end
  local fn = how == "ceil" and math.ceil or how == "floor" and math.floor
  if not fn then fail("value", "method must be common, ceil or floor") end
  local unit = 10.0 ^ precision
  return fn(n * unit) / unit
end)

filter("filesizeformat", { "binary" }, 0, function(_, v, binary)
  local n = value.number(v) or (text_of.is(v) and parse_float(text(v)))
  if not n then fail("type", "a size must be a number, not %s", value.type_name(v)) end
  local base = flag(binary) and 1024 or 1000
  local prefixes = flag(binary) and { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB" }
    or { "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB" }
  if n == 1 then return trusted "1 Byte" end
  if n < base then return trusted(("%d Bytes"):format(truncated(n + 0.0))) end
  local unit
  for i = 1, #prefixes do
    unit = (base + 0.0) ^ (i + 1)
    if n < unit or i == #prefixes then
      return trusted(("%.1f %s"):format(base * n / unit, prefixes[i]))
    end
  end
end)

filter("tojson", { "ensure_ascii", "indent", "separators", "sort_keys" }, 0,
  function(st, v, ensure_ascii, indent, separators, sort_keys)
    local style = { sort_keys = flag(sort_keys), ensure_ascii = flag(ensure_ascii) }
    if not is_none(indent) then
      if text_of.is(indent) then
        style.indent = text(indent)
      else
        local n = math.max(want_int(indent, "indent"), 0)
        if n > 100 then fail("value", "an indent of %d is more than 100", n) end
        style.indent = (" "):rep(n)
      end
    end
    if not is_none(separators) then
      if not value.IS_SEQUENCE[kind(separators)] or #separators ~= 2 then
        fail("type", "separators must be a pair of strings")
      end
      style.comma = text(strings.want_str(separators[1], "separator"))
      style.colon = text(strings.want_str(separators[2], "separator"))
    end
    return tojson.dump(st, v, style)
  end)

-- Strings --------------------------------------------------------------------------------------------
filter("lower", {}, 0, function(st, v) return strings.lower(st, str(st, v)) end)
filter("upper", {}, 0, function(st, v) return strings.upper(st, str(st, v)) end)
filter("capitalize", {}, 0, function(st, v) return strings.capitalize(st, str(st, v)) end)
filter("trim", { "chars" }, 0, function(st, v, chars) return strings.strip(st, str(st, v), chars, true, true) end)

filter("title", {}, 0, function(st, v)
  v = str(st, v)
  take(st, 4 * text_of.size(v))
  work(st, text_of.size(v))
  local s = text(v):gsub("[^%-%s({%[<]+", function(word)
    local first = word:match "^[\0-\x7f\xc2-\xf4][\x80-\xbf]*" or ""
    return case.title(first) .. case.lower(word:sub(#first + 1))
  end)
  return text_of.retag(v, s)
end)

filter("center", { "width" }, 0, function(st, v, width)
  return strings.center(st, str(st, v), width == nil and 80 or width)
end)

filter("replace", { "old", "new", "count" }, 2, function(st, v, old, new, count)
  return strings.replace(st, str(st, v), str(st, old), str(st, new), count)
end)

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }
filter("escape", {}, 0, function(st, v)
  v = str(st, v)
  strings.room(st, 5 * text_of.size(v))
  return text_of.map(v, function(s) return (s:gsub("[&<>'\"]", HTML)) end)
end)
FILTERS.e, FILTERS.forceescape = FILTERS.escape, FILTERS.escape

-- `s` without what stands between an opening and the next closing mark.
local function without(s, opening, closing)
  local out, pos = {}, 1
  while true do
    local from = s:find(opening, pos, true)
    local _, to = s:find(closing, from or #s + 1, true)
    if not to then break end
    out[#out + 1] = s:sub(pos, from - 1)
    pos = to + 1
  end
  out[#out + 1] = s:sub(pos)
  return table.concat(out)
end

local ENTITIES = {
  ["&lt;"] = "<", ["&gt;"] = ">", ["&#39;"] = "'", ["&#34;"] = '"', ["&quot;"] = '"', ["&amp;"] = "&",
}
filter("striptags", {}, 0, function(st, v)
  v = str(st, v)
  local s = text(v)
  take(st, 8 * #s)
  work(st, #s)
  s = without(without(s, "<!--", "-->"), "<", ">")
  local words = strings.split(st, s)
  return text_of.retag(v, (strings.join(st, " ", words, #words):gsub("&[#%w]+;", ENTITIES)))
end)

filter("indent", { "width", "first", "blank" }, 0, function(st, v, width, first, blank)
  strings.want_str(v, "the value to indent")
  local pad
  if width ~= nil and text_of.is(width) then
    pad = width
  else
    pad = strings.repeated(st, trusted " ", want_int(width, "width", 4))
  end
  local newline = trusted "\n"
  local lines = strings.lines(st, text_of.concat(st, v, newline))
  strings.room(st, text_of.size(v) + #lines * (text_of.size(pad) + 1))
  local parts = {}
  if flag(first) then parts[1] = pad end
  for i = 1, #lines do
    if i > 1 then
      parts[#parts + 1] = newline
      if flag(blank) or text_of.size(lines[i]) > 0 then parts[#parts + 1] = pad end
    end
    parts[#parts + 1] = lines[i]
  end
  return text_of.join(st, parts, #parts)
end)

filter("truncate", { "length", "killwords", "end", "leeway" }, 0, function(st, v, length, killwords, tail, leeway)
  length, leeway = want_int(length, "length", 255), is_none(leeway) and 5 or want_int(leeway, "leeway")
  tail = tail == nil and trusted "..." or strings.want_str(tail, "end")
  local n = text_of.length(tail)
  if length < n then fail("value", "expected length >= %d, got %d", n, length) end
  if leeway < 0 then fail("value", "expected leeway >= 0, got %d", leeway) end
  if (value.length(v) or math.maxinteger) <= length + leeway then return v end
  strings.want_str(v, "the value to truncate")
  local kept = text_of.char_sub(v, 1, length - n)
  if not flag(killwords) then
    local cut = text(kept):match "^.*() "
    if cut then kept = sub(kept, 1, cut - 1) end
  end
  return text_of.concat(st, kept, tail)
end)

filter("wordcount", {}, 0, function(st, v)
  local s, count, inside = text(str(st, v)), 0, false
  work(st, #s)
  for c in s:gmatch "[\0-\x7f\xc2-\xf4][\x80-\xbf]*" do
    local is = c == "_" or case.is_word(c)
    if is and not inside then count = count + 1 end
    inside = is
  end
  return count
end)

local function url_quote(s, safe)
  return (s:gsub("[^%w_.~" .. safe .. "-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

filter("urlencode", {}, 0, function(st, v)
  local k = kind(v)
  if not (k == "dict" or value.IS_SEQUENCE[k] or k == "view" or k == "generator") then
    v = str(st, v)
    strings.room(st, 3 * text_of.size(v))
    return text_of.map(v, function(s) return url_quote(s, "/") end)
  end
  local out = {}
  local function add(name, item)
    local pair = url_quote(text(str(st, name)), " ") .. "=" .. url_quote(text(str(st, item)), " ")
    out[#out + 1] = pair:gsub(" ", "+")
    take(st, 3 * #pair)
  end
  if k == "dict" then
    for _, name in ipairs(value.keys(st, v)) do add(name, v[name]) end
  else
    local list, n = elements(st, v)
    for i = 1, n do
      local pair, m = elements(st, list[i])
      if m ~= 2 then fail("value", "urlencode needs pairs") end
      add(pair[1], pair[2])
    end
  end
  return table.concat(out, "&")
end)

variadic("format", function(st, v, args, kwargs)
  if kwargs and args.n > 0 then
    fail("type", "can't handle positional and keyword arguments at the same time")
  end
  if not kwargs then return format.percent(st, str(st, v), value.tuple(table.move(args, 1, args.n, 1, {}))) end
  local named = value.dict()
  for name, item in next, kwargs do value.dict_set(named, name, item) end
  return format.percent(st, str(st, v), named)
end)

-- Collections ----------------------------------------------------------------------------------------
filter("length", {}, 0, function(_, v)
  local n = value.length(v)
  if not n then fail("type", "object of type '%s' has no len()", value.type_name(v)) end
  return n
end)
FILTERS.count = FILTERS.length

-- A list of its own: n elements of `list`.
local function copied(st, list, n)
  work(st, n >> 3)
  take(st, 32 * n + 80)
  return table.move(list, 1, n, 1, {})
end

filter("list", {}, 0, function(st, v)
  local list, n = elements(st, v)
  return value.list(copied(st, list, n))
end)

filter("first", {}, 0, function(st, v)
  if kind(v) == "generator" then
    local item = v[2][v[3]]
    if item ~= nil then
      v[3] = v[3] + 1
      return item
    end
  end
  if text_of.is(v) and text_of.size(v) > 0 then return text_of.char_sub(v, 1, 1) end
  local list, n = elements(st, v)
  if n == 0 then return value.undefined("No first item, sequence was empty.") end
  return list[1]
end)

filter("last", {}, 0, function(st, v)
  if kind(v) == "generator" then fail("type", "'generator' object is not reversible") end
  if text_of.is(v) and text_of.size(v) > 0 then
    local n = text_of.length(v)
    return text_of.char_sub(v, n, n)
  end
  local list, n = elements(st, v)
  if n == 0 then return value.undefined("No last item, sequence was empty.") end
  return list[n]
end)

filter("reverse", {}, 0, function(st, v)
  local list, n = elements(st, v)
  work(st, n)
  take(st, 32 * n)
  local out = {}
  for i = 1, n do out[i] = list[n + 1 - i] end
  if text_of.is(v) then return text_of.join(st, out, n) end
  return value.generator(out)
end)

filter("items", {}, 0, function(st, v)
  local k = kind(v)
  if k == "undefined" then return value.generator {} end
  if k ~= "dict" then fail("type", "Can only get item pairs from a mapping.") end
  return value.generator(access.DICT_METHODS.items.fn(st, v))
end)

filter("join", { "d", "attribute" }, 0, function(st, v, d, attribute)
  local list, n = elements(st, v)
  work(st, n)
  take(st, 32 * n)
  local get = not is_none(attribute) and sorting.getter(attribute)
  local out = {}
  for i = 1, n do
    local item = list[i]
    if get then item = get(st, item) end
    out[i] = str(st, item)
  end
  return strings.join(st, d == nil and text_of.EMPTY or str(st, d), out, n)
end)

filter("sort", { "reverse", "case_sensitive", "attribute" }, 0, function(st, v, reverse, case_sensitive, attribute)
  local list, n = elements(st, v)
  local keys = sorting.keys_by(st, list, n, sorting.multi_getter(attribute, not flag(case_sensitive)))
  return value.list(sorting.sorted(st, list, n, keys, flag(reverse), true))
end)

filter("dictsort", { "case_sensitive", "by", "reverse" }, 0, function(st, v, case_sensitive, by, reverse)
  if kind(v) ~= "dict" then fail("type", "dictsort needs a mapping, not %s", value.type_name(v)) end
  local which = by == nil and "key" or text(strings.want_str(by, "by"))
  if which ~= "key" and which ~= "value" then fail("value", 'You can only sort by either "key" or "value"') end
  local items = access.DICT_METHODS.items.fn(st, v)
  local get = sorting.getter(which == "key" and 0 or 1, not flag(case_sensitive))
  return value.list(sorting.sorted(st, items, #items, sorting.keys_by(st, items, #items, get), flag(reverse)))
end)

filter("unique", { "case_sensitive", "attribute" }, 0, function(st, v, case_sensitive, attribute)
  local list, n = elements(st, v)
  local keys = sorting.keys_by(st, list, n, sorting.getter(attribute, not flag(case_sensitive)))
  local seen, out = {}, {}
  for i = 1, n do
    local key = sorting.identity(keys[i])
    if not seen[key] then
      seen[key] = true
      out[#out + 1] = list[i]
    end
  end
  work(st, n)
  take(st, 60 * n)
  return value.generator(out)
end)

local function extreme(name, is_better)
  filter(name, { "case_sensitive", "attribute" }, 0, function(st, v, case_sensitive, attribute)
    local list, n = elements(st, v)
    if n == 0 then return value.undefined("No aggregated item, sequence was empty.") end
    local keys = sorting.keys_by(st, list, n, sorting.getter(attribute, not flag(case_sensitive)))
    local best = 1
    work(st, n)
    for i = 2, n do
      if is_better(st, keys[i], keys[best]) then best = i end
    end
    return list[best]
  end)
end
extreme("min", function(st, a, b) return value.less(st, a, b, "<") end)
extreme("max", function(st, a, b) return value.less(st, b, a, ">") end)

filter("sum", { "attribute", "start" }, 0, function(st, v, attribute, start)
  local list, n = elements(st, v)
  local get = not is_none(attribute) and sorting.getter(attribute)
  local total = start == nil and 0 or start
  if text_of.is(total) then fail("type", "sum() can't sum strings") end
  work(st, 3 * n)
  for i = 1, n do
    local item = list[i]
    if get then item = get(st, item) end
    total = operators.add(st, total, item)
  end
  return total
end)

filter("groupby", { "attribute", "default", "case_sensitive" }, 1, function(st, v, attribute, default, case_sensitive)
  local list, n = elements(st, v)
  local fold = not flag(case_sensitive)
  local keys = sorting.keys_by(st, list, n, sorting.getter(attribute, fold, default))
  local sorted = sorting.sorted(st, list, n, keys, false)
  local fold_key, real_key = sorting.getter(attribute, fold, default), sorting.getter(attribute, false, default)
  local GROUP = { __jsontype = "array", __kind = "tuple", __attributes = { grouper = 1, list = 2 } }
  local groups, current, last = {}, nil, nil
  take(st, 200 * n)
  for i = 1, n do
    local key = fold_key(st, sorted[i])
    if not current or not value.equal(st, key, last) then
      current = value.list {}
      groups[#groups + 1] = setmetatable({ real_key(st, sorted[i]), current }, GROUP)
      last = key
    end
    current[#current + 1] = sorted[i]
  end
  return value.list(groups)
end)

filter("batch", { "linecount", "fill_with" }, 1, function(st, v, linecount, fill)
  local list, n = elements(st, v)
  local size = want_int(linecount, "linecount")
  take(st, 120 * n + 16 * math.max(size, 0))
  work(st, n)
  local out, row = {}, nil
  for i = 1, n do
    if not row or #row == size then
      row = value.list {}
      out[#out + 1] = row
    end
    row[#row + 1] = list[i]
  end
  if row and not is_none(fill) then
    work(st, math.max(size - #row, 0))
    for _ = #row + 1, size do row[#row + 1] = fill end
  end
  return value.generator(out)
end)

filter("slice", { "slices", "fill_with" }, 1, function(st, v, slices, fill)
  local list, n = elements(st, v)
  local count = want_int(slices, "slices")
  if count == 0 then fail("value", "integer modulo by zero") end
  take(st, 120 * math.max(count, 0) + 32 * n)
  work(st, math.max(count, 0) + n)
  local each, extra, at = n // count, n % count, 0
  local out = {}
  for i = 1, count do
    local len = each + (i <= extra and 1 or 0)
    local row = value.list(table.move(list, at + 1, at + len, 1, {}))
    at = at + len
    if not is_none(fill) and i > extra then row[#row + 1] = fill end
    out[i] = row
  end
  return value.generator(out)
end)

-- Filters that apply others or tests -----------------------------------------------------------------------
local function rest_of(args, from)
  local out = { n = math.max(args.n - from + 1, 0) }
  return table.move(args, from, args.n, 1, out)
end

variadic("map", function(st, v, args, kwargs)
  if not truth(v) then return value.generator {} end
  local fn
  if args.n == 0 and kwargs and kwargs.attribute ~= nil then
    for name in next, kwargs do
      if name ~= "attribute" and name ~= "default" then
        fail("type", "Unexpected keyword argument '%s'", name)
      end
    end
    fn = sorting.getter(kwargs.attribute, false, kwargs.default)
  else
    if args.n == 0 then fail("type", "map requires a filter argument") end
    local name, rest = text(strings.want_str(args[1], "filter name")), rest_of(args, 2)
    if not FILTERS[name] then fail("syntax", "No filter named '%s'.", name) end
    fn = access.applier(FILTERS[name], rest, rest.n, kwargs)
  end
  local list, n = elements(st, v)
  work(st, 12 * n)
  take(st, 40 * n + 80)
  local out = {}
  for i = 1, n do out[i] = fn(st, list[i]) end
  return value.generator(out)
end)

local function selector(name, wanted, by_attribute)
  variadic(name, function(st, v, args, kwargs)
    if not truth(v) then return value.generator {} end
    local at, get = 1, nil
    if by_attribute then
      if args.n == 0 then fail("type", "Missing parameter for attribute name") end
      get, at = sorting.getter(args[1]), 2
    end
    local test
    if args.n >= at then
      local test_name, rest = text(strings.want_str(args[at], "test name")), rest_of(args, at + 1)
      if not TESTS[test_name] then fail("syntax", "No test named '%s'.", test_name) end
      test = access.applier(TESTS[test_name], rest, rest.n, kwargs)
    end
    local list, n = elements(st, v)
    work(st, 12 * n)
    take(st, 40 * n + 80)
    local out = {}
    for i = 1, n do
      local item = list[i]
      if get then item = get(st, item) end
      if test then item = test(st, item) end
      if truth(item) == wanted then out[#out + 1] = list[i] end
    end
    return value.generator(out)
  end)
end
selector("select", true, false)
selector("reject", false, false)
selector("selectattr", true, true)
selector("rejectattr", false, true)

predicates.has_filter = function(name) return FILTERS[name] ~= nil end

return M
