--- strings.lua: the methods of Python's str.
---
--- A method is { fn, params, required }: fn(st, self, ...) takes what `params` names, nil for what
--- was left out. Parts cut from a string keep the origin of their text.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local case = require "qhost.jinja.case"
local fail, work, take, search = limits.fail, limits.work, limits.take, limits.search
local text, sub, size, trusted = text_of.text, text_of.sub, text_of.size, text_of.trusted
local kind = value.kind
local find, match, ssub, byte, rep = string.find, string.match, string.sub, string.byte, string.rep

local M = {}
local METHODS = {}
M.METHODS = METHODS

local function method(name, params, required, fn)
  METHODS[name] = { fn = fn, params = params, required = required, name = name }
end

-- Arguments ------------------------------------------------------------------------------------------
local function want_str(v, what)
  if not text_of.is(v) then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    fail("type", "%s must be str, not %s", what, value.type_name(v))
  end
  return v
end
M.want_str = want_str

local function want_int(v, what, default)
  if v == nil then return default end
  local n = value.number(v)
  if n == nil or math.type(n) ~= "integer" then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    fail("type", "%s must be an integer, not %s", what, value.type_name(v))
  end
  return n
end
M.want_int = want_int

local function is_none(v)
  return v == nil or kind(v) == "none"
end
M.is_none = is_none

-- Check the size of what is about to be made.
local function room(st, bytes)
  if bytes > st.max.output then fail("limit", "a string grows past %d bytes", st.max.output) end
  take(st, bytes)
end
M.room = room

local function list_of(st, items)
  take(st, 24 * #items + 64)
  return value.list(items)
end

-- Cutting --------------------------------------------------------------------------------------------
local IS_SPACE = {}
for code = 0, 127 do IS_SPACE[code] = find(string.char(code), case.SPACE) ~= nil end

-- Byte positions of what remains after stripping white space.
local function space_bounds(st, s, left, right)
  local blank = case.blank(s)
  local i, j = 1, #s
  if left then i = find(blank, case.NOT_SPACE) or #s + 1 end
  if right then
    while j >= i and IS_SPACE[byte(blank, j)] do j = j - 1 end
  end
  work(st, i + #s - j >> 3)
  return i, j
end

local function char_bounds(st, s, chars, left, right)
  local set, list = {}, text_of.chars(st, chars)
  for _, c in ipairs(list) do set[c] = true end
  local pattern = text_of.is_bytes(s) and "^." or "^[\0-\x7f\xc2-\xf4][\x80-\xbf]*"
  local i, j = 1, #s
  while left and i <= j do
    local c = match(s, pattern, i)
    if not set[c] then break end
    i = i + #c
  end
  while right and j >= i do
    local from = j
    if pattern ~= "^." then
      while from > i and byte(s, from) >= 0x80 and byte(s, from) < 0xc0 do from = from - 1 end
    end
    if not set[ssub(s, from, j)] then break end
    j = from - 1
  end
  work(st, #s - (j - i + 1))
  return i, j
end

--- Python's strip, lstrip and rstrip.
function M.strip(st, v, chars, left, right)
  local s = text(v)
  local i, j
  if is_none(chars) then
    i, j = space_bounds(st, s, left, right)
  else
    i, j = char_bounds(st, s, text(want_str(chars, "strip argument")), left, right)
  end
  if i == 1 and j == #s then return v end
  return sub(v, i, j)
end
local strip = M.strip

method("strip", { "chars" }, 0, function(st, v, chars) return strip(st, v, chars, true, true) end)
method("lstrip", { "chars" }, 0, function(st, v, chars) return strip(st, v, chars, true, false) end)
method("rstrip", { "chars" }, 0, function(st, v, chars) return strip(st, v, chars, false, true) end)

-- Words, as str.split() without a separator; at most `max` cuts.
local function split_space(v, max)
  local s = text(v)
  local blank, out, pos = case.blank(s), {}, 1
  while true do
    local from = find(blank, case.NOT_SPACE, pos)
    if not from then break end
    if #out == max then
      out[#out + 1] = sub(v, from, match(blank, "^.*" .. case.NOT_SPACE .. "()") - 1)
      break
    end
    local past = find(blank, case.SPACE, from) or #s + 1
    out[#out + 1] = sub(v, from, past - 1)
    pos = past
  end
  return out
end

local function rsplit_space(v, max)
  local blank, out = case.blank(text(v)), {}
  local last = #blank
  while true do
    local past = match(ssub(blank, 1, last), "^.*" .. case.NOT_SPACE .. "()")
    if not past then break end
    if #out == max then
      out[#out + 1] = sub(v, 1, past - 1)
      break
    end
    local from = match(ssub(blank, 1, past - 1), "^.*" .. case.SPACE .. "()") or 1
    out[#out + 1] = sub(v, from, past - 1)
    last = from - 1
  end
  local n = #out
  for i = 1, n // 2 do out[i], out[n + 1 - i] = out[n + 1 - i], out[i] end
  return out
end

-- Byte positions at which `sep` stands, from the left or from the right, at most `max`.
local function separators(st, s, sep, max, from_right)
  search(st, #s, #sep)
  local hay, needle = s, sep
  if from_right then hay, needle = s:reverse(), sep:reverse() end
  local at, pos = {}, 1
  while #at ~= max do
    local i = find(hay, needle, pos, true)
    if not i then break end
    at[#at + 1] = i
    pos = i + #needle
  end
  work(st, #at)
  if from_right then
    local n = #at
    for i = 1, n // 2 do at[i], at[n + 1 - i] = at[n + 1 - i], at[i] end
    for i = 1, n do at[i] = #s - at[i] - #sep + 2 end
  end
  return at
end

local function split(st, v, sep, maxsplit, from_right)
  local max = want_int(maxsplit, "maxsplit", -1)
  if is_none(sep) then
    work(st, size(v) >> 2)
    take(st, size(v) * text_of.part_cost(v) // 2)
    if from_right and max >= 0 then
      work(st, (size(v) >> 6) * math.min(max, size(v)))      -- each cut reads from the front
      return list_of(st, rsplit_space(v, max))
    end
    return list_of(st, split_space(v, max))
  end
  local s, by = text(v), text(want_str(sep, "separator"))
  if by == "" then fail("value", "empty separator") end
  local at = separators(st, s, by, max, from_right)
  take(st, (text_of.part_cost(v) + 32) * #at)
  local out, pos = {}, 1
  for i = 1, #at do
    out[i] = sub(v, pos, at[i] - 1)
    pos = at[i] + #by
  end
  out[#out + 1] = sub(v, pos, #s)
  return list_of(st, out)
end
M.split = split

method("split", { "sep", "maxsplit" }, 0, function(st, v, sep, max) return split(st, v, sep, max, false) end)
method("rsplit", { "sep", "maxsplit" }, 0, function(st, v, sep, max) return split(st, v, sep, max, true) end)

local LINE_END = "[\n\r\v\f\x1c-\x1e\xc2\xe2]"

--- Lines as Python's splitlines cuts them.
function M.lines(st, v, keep_ends)
  local s = text(v)
  work(st, size(v) >> 4)
  local out, pos, at = {}, 1, 1
  while true do
    local i = find(s, LINE_END, at)
    if not i then break end
    local past = match(s, "^\r\n()", i) or match(s, "^\xc2\x85()", i)
      or match(s, "^\xe2\x80[\xa8\xa9]()", i) or match(s, "^[\n\r\v\f\x1c-\x1e]()", i)
    if past then
      out[#out + 1] = sub(v, pos, keep_ends and past - 1 or i - 1)
      pos = past
    end
    at = past or i + 1
  end
  if pos <= #s then out[#out + 1] = sub(v, pos, #s) end
  work(st, #out)
  take(st, (text_of.part_cost(v) + 32) * #out)
  return out
end

method("splitlines", { "keepends" }, 0, function(st, v, keep)
  return list_of(st, M.lines(st, v, keep ~= nil and value.truth(keep)))
end)

local function partition(st, v, sep, from_right)
  local s, by = text(v), text(want_str(sep, "separator"))
  if by == "" then fail("value", "empty separator") end
  local i = separators(st, s, by, 1, from_right)[1]
  if not i then
    local none = sub(v, 1, 0)
    return value.tuple(from_right and { none, none, v } or { v, none, none })
  end
  return value.tuple { sub(v, 1, i - 1), sep, sub(v, i + #by, #s) }
end
method("partition", { "sep" }, 1, function(st, v, sep) return partition(st, v, sep, false) end)
method("rpartition", { "sep" }, 1, function(st, v, sep) return partition(st, v, sep, true) end)

method("removeprefix", { "prefix" }, 1, function(_, v, prefix)
  local s, p = text(v), text(want_str(prefix, "prefix"))
  if p ~= "" and ssub(s, 1, #p) == p then return sub(v, #p + 1, #s) end
  return v
end)

method("removesuffix", { "suffix" }, 1, function(_, v, suffix)
  local s, p = text(v), text(want_str(suffix, "suffix"))
  if p ~= "" and ssub(s, -#p) == p then return sub(v, 1, #s - #p) end
  return v
end)

-- Searching ------------------------------------------------------------------------------------------
-- The bytes of characters start..stop (Python's slice arguments) of v and the characters before.
local function window(v, start, stop)
  if start == nil and stop == nil then return text(v), 0 end
  local n = text_of.length(v)
  local from = is_none(start) and 0 or want_int(start, "slice index")
  local to = is_none(stop) and n or want_int(stop, "slice index")
  if from < 0 then from = math.max(from + n, 0) end
  if to < 0 then to = to + n end
  if from > n or to < from then return nil, from end
  return text(text_of.char_sub(v, from + 1, math.min(to, n))), from
end

local function affix(name, at_end)
  method(name, { "prefix", "start", "end" }, 1, function(st, v, affixes, start, stop)
    local s = window(v, start, stop)
    local list = kind(affixes) == "tuple" and affixes or { affixes }
    work(st, #list)
    for i = 1, #list do
      local p = text(want_str(list[i], name .. " first arg"))
      if s and (p == "" or (at_end and ssub(s, -#p) or ssub(s, 1, #p)) == p) then return true end
    end
    return false
  end)
end
affix("startswith", false)
affix("endswith", true)

-- Position of a substring in characters from 0, or -1.
local function index_of(st, v, needle, start, stop, from_right)
  local s, before = window(v, start, stop)
  local p = text(want_str(needle, "argument"))
  if not s then return -1 end
  if p == "" then return before + (from_right and text_of.length(s) or 0) end
  local i = separators(st, s, p, 1, from_right)[1]
  return i and before + text_of.char_index(s, i) or -1
end

method("find", { "sub", "start", "end" }, 1, function(st, v, p, i, j) return index_of(st, v, p, i, j, false) end)
method("rfind", { "sub", "start", "end" }, 1, function(st, v, p, i, j) return index_of(st, v, p, i, j, true) end)

local function found(i)
  if i < 0 then fail("value", "substring not found") end
  return i
end
method("index", { "sub", "start", "end" }, 1, function(st, v, p, i, j) return found(index_of(st, v, p, i, j, false)) end)
method("rindex", { "sub", "start", "end" }, 1, function(st, v, p, i, j) return found(index_of(st, v, p, i, j, true)) end)

method("count", { "sub", "start", "end" }, 1, function(st, v, needle, start, stop)
  local s = window(v, start, stop)
  local p = text(want_str(needle, "argument"))
  if not s then return 0 end
  if p == "" then return text_of.length(s) + 1 end
  return #separators(st, s, p, -1, false)
end)

-- Building -------------------------------------------------------------------------------------------
-- `new` between all characters and around them, at most `max` times.
local function replace_empty(st, v, new, max)
  local chars, n = text_of.chars(st, v)
  local count = max < 0 and n + 1 or math.min(max, n + 1)
  room(st, size(v) + count * size(new))
  local parts = {}
  for i = 1, n + 1 do
    if i <= count then parts[#parts + 1] = new end
    parts[#parts + 1] = chars[i]
  end
  return text_of.join(st, parts, #parts)
end

--- Python's str.replace.
function M.replace(st, v, old, new, count)
  local max = is_none(count) and -1 or want_int(count, "count")
  local s, from, to = text(v), text(want_str(old, "replace() argument 1")), want_str(new, "replace() argument 2")
  if from == "" then return replace_empty(st, v, to, max) end
  local at = separators(st, s, from, max, false)
  if #at == 0 then return v end
  room(st, math.max(0, #s + #at * (size(to) - #from)))
  take(st, (text_of.part_cost(v) + 32) * #at)
  local parts, n, pos = {}, 0, 1
  for i = 1, #at do
    if at[i] > pos then n = n + 1 parts[n] = sub(v, pos, at[i] - 1) end
    if size(to) > 0 then n = n + 1 parts[n] = to end
    pos = at[i] + #from
  end
  if pos <= #s then n = n + 1 parts[n] = sub(v, pos, #s) end
  return text_of.join(st, parts, n)
end
method("replace", { "old", "new", "count" }, 2, M.replace)

--- Python's sep.join(list).
function M.join(st, sep, list, n)
  work(st, n)
  take(st, 32 * n)
  local bare = size(sep) == 0
  local parts, m = {}, 0
  for i = 1, n do
    if i > 1 and not bare then m = m + 1 parts[m] = sep end
    m = m + 1
    parts[m] = list[i]
  end
  return text_of.join(st, parts, m)
end

method("join", { "iterable" }, 1, function(st, sep, iterable)
  local list, n = value.elements(st, iterable)
  for i = 1, n do want_str(list[i], "sequence item " .. i - 1) end
  return M.join(st, sep, list, n)
end)

--- v * n
function M.repeated(st, v, n)
  if n <= 0 or size(v) == 0 then return sub(v, 1, 0) end
  local total = size(v) * n
  if total // n ~= size(v) then total = math.maxinteger end
  room(st, total)
  if type(v) == "string" then return rep(v, n) end
  if not text_of.pieces(v) then return trusted(rep(text(v), n)) end
  work(st, n)
  local parts = {}
  for i = 1, n do parts[i] = v end
  return text_of.join(st, parts, n)
end

local function padded(st, v, left, right, fill)
  if left <= 0 and right <= 0 then return v end
  room(st, (math.max(left, 0) + math.max(right, 0)) * size(fill) + size(v))
  return text_of.join(st, { M.repeated(st, fill, left), v, M.repeated(st, fill, right) }, 3)
end

local function fill_char(fill)
  if fill == nil then return trusted(" ") end
  if text_of.length(want_str(fill, "fill character")) ~= 1 then
    fail("type", "The fill character must be exactly one character long")
  end
  return fill
end

--- Python's str.center.
function M.center(st, v, width, fill)
  local n = text_of.length(v)
  local pad = want_int(width, "width") - n
  local left = pad // 2 + (pad & (n + pad) & 1)     -- the odd blank goes left when width is odd
  return padded(st, v, left, pad - left, fill_char(fill))
end
method("center", { "width", "fillchar" }, 1, M.center)
method("ljust", { "width", "fillchar" }, 1, function(st, v, width, fill)
  return padded(st, v, 0, want_int(width, "width") - text_of.length(v), fill_char(fill))
end)
method("rjust", { "width", "fillchar" }, 1, function(st, v, width, fill)
  return padded(st, v, want_int(width, "width") - text_of.length(v), 0, fill_char(fill))
end)
method("zfill", { "width" }, 1, function(st, v, width)
  local pad = want_int(width, "width") - text_of.length(v)
  local sign = match(text(v), "^[-+]") and 1 or 0
  if pad <= 0 then return v end
  return text_of.join(st, { sub(v, 1, sign), M.repeated(st, trusted "0", pad), sub(v, sign + 1, size(v)) }, 3)
end)

method("expandtabs", { "tabsize" }, 0, function(st, v, tabsize)
  local width = want_int(tabsize, "tabsize", 8)
  local parts, column = {}, 0
  local chars, n = text_of.chars(st, v)
  for i = 1, n do
    local c = text(chars[i])
    if c == "\t" then
      local pad = width > 0 and width - column % width or 0
      parts[#parts + 1] = M.repeated(st, trusted " ", pad)
      column = column + pad
    else
      parts[#parts + 1] = chars[i]
      column = (c == "\n" or c == "\r") and 0 or column + 1
    end
  end
  return text_of.join(st, parts, #parts)
end)

-- Case -----------------------------------------------------------------------------------------------
local function charged_map(fn)
  return function(st, v)
    take(st, 2 * size(v))
    return text_of.map(v, fn)
  end
end
M.upper = charged_map(case.upper)
M.lower = charged_map(case.lower)
method("upper", {}, 0, M.upper)
method("lower", {}, 0, M.lower)
method("casefold", {}, 0, charged_map(function(s) return (case.lower(s):gsub("\u{df}", "ss")) end))
method("swapcase", {}, 0, charged_map(function(s)
  return (s:gsub("[\0-\x7f\xc2-\xf4][\x80-\xbf]*", function(c)
    local is = case.case_of(c)
    return is == "upper" and case.lower(c) or is == "lower" and case.upper(c) or c
  end))
end))

function M.capitalize(st, v)
  if size(v) == 0 then return v end
  local n = text_of.length(v)
  local first, rest = text_of.char_sub(v, 1, 1), text_of.char_sub(v, 2, n)
  return text_of.concat(st, text_of.map(first, case.title), M.lower(st, rest))
end
method("capitalize", {}, 0, M.capitalize)

-- The first letter of every run of letters in upper case, the others in lower case.
method("title", {}, 0, function(st, v)
  work(st, size(v))
  take(st, 4 * size(v))
  local inside = false
  return text_of.retag(v, (text(v):gsub("[\0-\x7f\xc2-\xf4][\x80-\xbf]*", function(c)
    local cased = case.case_of(c)
    local out = c
    if cased then out = inside and case.lower(c) or case.title(c) end
    inside = cased ~= nil
    return out
  end)))
end)

-- Classes --------------------------------------------------------------------------------------------
-- True when the string is not empty and every character passes.
local function every(name, test)
  method(name, {}, 0, function(st, v)
    local s = text(v)
    work(st, #s)
    if s == "" or not utf8.len(s) then return false end
    for c in s:gmatch "[\0-\x7f\xc2-\xf4][\x80-\xbf]*" do
      if not test(c) then return false end
    end
    return true
  end)
end
every("isalnum", case.is_word)
every("isalpha", function(c) return case.is_word(c) and not case.is_number(c) end)
every("isdigit", case.is_number)
every("isnumeric", case.is_number)
every("isdecimal", function(c) return match(c, "^%d") ~= nil or (byte(c) >= 0x80 and case.is_number(c) and utf8.codepoint(c) > 0xff) end)
every("isspace", function(c) return match(case.blank(c), "^" .. case.SPACE) ~= nil end)

method("isascii", {}, 0, function(_, v) return not find(text(v), "[\x80-\xff]") end)
method("isidentifier", {}, 0, function(_, v)
  return match(text(v), "^[%a_\x80-\xff][%w_\x80-\xff]*$") ~= nil
end)

--- Has cased characters and all of them are in this case ("upper" or "lower").
function M.is_case(st, v, wanted)
  local s, any = text(v), false
  work(st, #s)
  for c in s:gmatch "[\0-\x7f\xc2-\xf4][\x80-\xbf]*" do
    local is = case.case_of(c)
    if is then
      if is ~= wanted then return false end
      any = true
    end
  end
  return any
end
method("isupper", {}, 0, function(st, v) return M.is_case(st, v, "upper") end)
method("islower", {}, 0, function(st, v) return M.is_case(st, v, "lower") end)

method("istitle", {}, 0, function(st, v)
  local s, inside, any = text(v), false, false
  work(st, #s)
  for c in s:gmatch "[\0-\x7f\xc2-\xf4][\x80-\xbf]*" do
    local is = case.case_of(c)
    if is and (is == "upper") == inside then return false end
    inside = is ~= nil
    any = any or inside
  end
  return any
end)

return M
