--- sorting.lua: a stable, metered sort, and the keys by which filters look at elements.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local access = require "qhost.jinja.access"
local strings = require "qhost.jinja.strings"
local fail, work, take = limits.fail, limits.work, limits.take
local kind = value.kind

local M = {}

-- Merge the sorted runs [low, mid] and [mid + 1, high] of `order` into `out`.
local function merge(order, out, low, mid, high, before)
  local i, j = low, mid + 1
  for k = low, high do
    if i <= mid and (j > high or not before(order[j], order[i])) then
      out[k] = order[i]
      i = i + 1
    else
      out[k] = order[j]
      j = j + 1
    end
  end
end

--- Sort a copy of list[1..n] by keys[1..n], keeping the order of equal ones (table.sort does not,
--- and its comparator could not be interrupted). `as_lists`: compare the keys as elements of lists
--- are, so that equal ones need no order.
function M.sorted(st, list, n, keys, reverse, as_lists)
  take(st, 64 * n)
  local order, spare = {}, {}
  for i = 1, n do order[i] = i end
  local function before(a, b)
    work(st, 2)
    if reverse then a, b = b, a end
    local x, y = keys[a], keys[b]
    if as_lists and type(x) == "table" and value.equal(st, x, y) then return false end
    return value.less(st, x, y, "<")
  end
  local width = 1
  while width < n do
    for low = 1, n, 2 * width do
      local mid, high = math.min(low + width - 1, n), math.min(low + 2 * width - 1, n)
      merge(order, spare, low, mid, high, before)
    end
    order, spare = spare, order
    width = width * 2
  end
  local out = {}
  for i = 1, n do out[i] = list[order[i]] end
  return out
end

local function ignore_case(st, v)
  if text_of.is(v) then return strings.lower(st, v) end
  return v
end

-- "a.0.b" as { "a", 0, "b" }.
local function path_parts(attribute)
  if not text_of.is(attribute) then return { attribute } end
  local parts = {}
  for part in (text_of.text(attribute) .. "."):gmatch "([^.]*)%." do
    parts[#parts + 1] = part:find "^%d+$" and math.tointeger(tonumber(part)) or part
  end
  return parts
end

-- The value at a path; what is undefined on the way becomes `default` when given.
local function walk(st, item, parts, default)
  work(st, #parts)
  for i = 1, #parts do
    item = access.getitem(st, item, parts[i])
    if default ~= nil and kind(item) == "undefined" then item = default end
  end
  return item
end

--- A function that takes an element to the value it is looked at by: an attribute path or the
--- element itself. Undefined ones become `default` when given.
function M.getter(attribute, fold_case, default)
  local parts = not strings.is_none(attribute) and path_parts(attribute) or {}
  if strings.is_none(default) then default = nil end
  return function(st, item)
    item = walk(st, item, parts, default)
    if fold_case then item = ignore_case(st, item) end
    return item
  end
end

--- The same for several attributes, "a,b.c", giving a list to compare.
function M.multi_getter(attribute, fold_case)
  local getters = {}
  if text_of.is(attribute or value.null) then
    for part in (text_of.text(attribute) .. ","):gmatch "([^,]*)," do
      getters[#getters + 1] = M.getter(text_of.trusted(part), fold_case)
    end
  else
    getters[1] = M.getter(attribute, fold_case)
  end
  if #getters == 1 then return getters[1] end
  return function(st, item)
    local out = {}
    for i = 1, #getters do out[i] = getters[i](st, item) end
    return value.list(out)
  end
end

--- Keys of list[1..n] by a getter.
function M.keys_by(st, list, n, getter)
  take(st, 24 * n)
  local keys = {}
  for i = 1, n do keys[i] = getter(st, list[i]) end
  return keys
end

--- The Lua key under which a value is known as seen before.
function M.identity(v)
  if kind(v) == "undefined" then return value.UNDEF end
  local key = value.to_key(v)
  if key == nil then fail("type", "unhashable type: '%s'", value.type_name(v)) end
  return key
end

return M
