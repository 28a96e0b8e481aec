--- access.lua: attributes, subscripts, slices and calls, with the rules of Python's sandbox.
---
--- `obj.name` looks for a method first and then for an element, `obj["name"]` the other way round.
--- Nothing a template reaches can change data: the methods that would are refused.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local format = require "qhost.jinja.format"
local fail, work, take = limits.fail, limits.work, limits.take
local kind = value.kind
local METHOD, FUNCTION, MACRO, LOOP = value.METHOD, value.FUNCTION, value.MACRO, value.LOOP
local type, getmetatable = type, getmetatable

local M = {}

-- Methods of containers ------------------------------------------------------------------------------
local function view(name, pick)
  return { name = name, params = {}, required = 0, fn = function(st, d)
    local order, out = value.keys(st, d), {}
    take(st, 120 * #order)
    for i = 1, #order do out[i] = pick(order[i], d[order[i]]) end
    return value.view(name, out)
  end }
end

local function refused(type_name, name)
  return { name = name, params = {}, variadic = true, required = 0, fn = function()
    fail("security", "access to attribute '%s' of '%s' object is unsafe: templates cannot change data", name, type_name)
  end }
end

local DICT_METHODS = {
  keys = view("keys", function(k) return k end),
  values = view("values", function(_, v) return v end),
  items = view("items", function(k, v) return value.tuple { k, v } end),
  get = { name = "get", params = { "key", "default" }, required = 1, fn = function(_, d, key, default)
    local k = value.to_key(key)
    if k == nil then fail("type", "unhashable type: '%s'", value.type_name(key)) end
    local v = d[k]
    if v == nil then
      if default == nil then return value.null end
      return default
    end
    return v
  end },
  copy = { name = "copy", params = {}, required = 0, fn = function(_, d) return d end },
}
for _, name in ipairs { "clear", "pop", "popitem", "setdefault", "update" } do
  DICT_METHODS[name] = refused("dict", name)
end
M.DICT_METHODS = DICT_METHODS

local LIST_METHODS = {
  index = { name = "index", params = { "value", "start", "stop" }, required = 1, fn = function(st, list, v, start, stop)
    local n = #list
    work(st, n)
    local from, to = strings.want_int(start, "start", 0), strings.want_int(stop, "stop", n)
    if from < 0 then from = math.max(from + n, 0) end
    if to < 0 then to = to + n end
    for i = from + 1, math.min(to, n) do
      if value.equal(st, list[i], v) then return i - 1 end
    end
    fail("value", "the value is not in the list")
  end },
  count = { name = "count", params = { "value" }, required = 1, fn = function(st, list, v)
    work(st, #list)
    local n = 0
    for i = 1, #list do
      if value.equal(st, list[i], v) then n = n + 1 end
    end
    return n
  end },
  copy = { name = "copy", params = {}, required = 0, fn = function(_, list) return list end },
}
for _, name in ipairs { "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort" } do
  LIST_METHODS[name] = refused("list", name)
end
local TUPLE_METHODS = { index = LIST_METHODS.index, count = LIST_METHODS.count }

strings.METHODS.format = { name = "format", params = {}, required = 0, variadic = true,
  fn = function(st, v, args, kwargs) return format.str_format(st, v, args, kwargs, M) end }

local METHODS_OF = {
  str = strings.METHODS, dict = DICT_METHODS, list = LIST_METHODS, tuple = TUPLE_METHODS,
  range = TUPLE_METHODS,
}

--- The method `name` of a value of this kind, or nil.
function M.method_of(k, name)
  local methods = METHODS_OF[k]
  return methods and methods[name]
end

-- Attributes of values only templates know ------------------------------------------------------------
local LOOP_METHODS = {
  cycle = { name = "cycle", variadic = true, required = 0, fn = function(_, loop, args)
    if args.n == 0 then fail("type", "no items for cycling given") end
    return args[(loop[3] - 1) % args.n + 1]
  end },
  changed = { name = "changed", variadic = true, required = 0, fn = function(st, loop, args)
    local before = loop[7]
    loop[7] = value.tuple(table.move(args, 1, args.n, 1, {}))
    return before == nil or not value.equal(st, before, loop[7])
  end },
}

--- An attribute of the `loop` variable: { LOOP, items, index, length, depth0, ... }.
function M.loop_attribute(loop, name)
  local i, n = loop[3], loop[4]
  if name == "index" then return i end
  if name == "index0" then return i - 1 end
  if name == "first" then return i == 1 end
  if name == "last" then return i == n end
  if name == "length" then return n end
  if name == "revindex" then return n - i + 1 end
  if name == "revindex0" then return n - i end
  if name == "depth" then return loop[5] + 1 end
  if name == "depth0" then return loop[5] end
  if name == "previtem" then
    if i == 1 then return value.undefined("there is no previous item") end
    return loop[2][i - 1]
  end
  if name == "nextitem" then
    if i == n then return value.undefined("there is no next item") end
    return loop[2][i + 1]
  end
  local method = LOOP_METHODS[name]
  if method then return { METHOD, method, loop } end
  return nil
end

local function object_name(v)
  return value.type_name(v) .. " object"
end

-- An attribute of anything but an element of a dict, or nil.
local function attribute(st, v, name)
  local k = kind(v)
  local method = M.method_of(k, name)
  if method then return { METHOD, method, v } end
  if k == "namespace" then return v[2][name] end
  if k == "loop" then return M.loop_attribute(v, name) end
  if k == "undefined" then value.fail_undefined(v) end
  if k == "tuple" then
    local at = getmetatable(v).__attributes
    return at and v[at[name]]
  end
  if k == "macro" then
    if name == "name" then return v.name end
    if name == "arguments" then return value.tuple(table.move(v[2].params, 1, #v[2].params, 1, {})) end
  end
  if k == "function" and v[2].attribute then return v[2].attribute(st, v, name) end
  return nil
end
M.attribute = attribute

--- Python's obj.name in a template.
function M.getattr(st, obj, name)
  local found = attribute(st, obj, name)
  if found ~= nil then return found end
  if kind(obj) == "dict" then
    found = obj[name]
    if found ~= nil then return found end
  end
  return value.undefined("'%s' has no attribute '%s'", object_name(obj), name)
end

--- Python's obj[index] in a template.
function M.getitem(st, obj, index)
  local k = kind(obj)
  if k == "undefined" then value.fail_undefined(obj) end
  if k == "dict" then
    local key = value.to_key(index)
    local found
    if key ~= nil then found = obj[key] end
    if found ~= nil then return found end
  elseif value.IS_SEQUENCE[k] or k == "str" then
    local i = value.number(index)
    if math.type(i) == "integer" then
      if k == "str" then
        local s = text_of.text(obj)
        limits.read(st, #s)
        local n = text_of.length(s)
        if i < 0 then i = i + n end
        if i >= 0 and i < n then return text_of.char_sub(obj, i + 1, i + 1) end
      else
        if i < 0 then i = i + #obj end
        local found
        if i >= 0 then found = obj[i + 1] end
        if found ~= nil then return found end
      end
      return value.undefined("%s has no element %d", object_name(obj), i)
    end
  end
  if text_of.is(index) then
    local name = text_of.text(index)
    local found = attribute(st, obj, name)
    if found ~= nil then return found end
    return value.undefined("'%s' has no attribute '%s'", object_name(obj), name)
  end
  return value.undefined("%s has no element %s", object_name(obj), value.repr(st, index))
end

-- Slices ---------------------------------------------------------------------------------------------
local function slice_index(v, what)
  if v == nil or kind(v) == "none" then return nil end
  local n = value.number(v)
  if math.type(n) ~= "integer" then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    fail("type", "slice indices must be integers or None, not %s (%s)", value.type_name(v), what)
  end
  return n
end

-- 0-based first index, index past the last one, and step, as Python's slice.indices.
local function bounds(n, first, last, step)
  step = slice_index(step, "step") or 1
  first, last = slice_index(first, "start"), slice_index(last, "stop")
  if step == 0 then fail("value", "slice step cannot be zero") end
  local low, high = 0, n
  if step < 0 then low, high = -1, n - 1 end
  local function clamp(i, default)
    if i == nil then return default end
    if i < 0 then i = i + n end
    return i < low and low or i > high and high or i
  end
  return clamp(first, step > 0 and low or high), clamp(last, step > 0 and high or low), step
end

--- Python's obj[first:last:step] in a template.
function M.slice(st, obj, first, last, step)
  local k = kind(obj)
  if k == "undefined" then value.fail_undefined(obj) end
  if k == "str" then
    local s = text_of.text(obj)
    limits.read(st, #s)
    local from, past, by = bounds(text_of.length(s), first, last, step)
    if by == 1 then
      local out = text_of.char_sub(obj, from + 1, past)
      take(st, text_of.size(out) + 64)
      return out
    end
    local chars = text_of.chars(st, obj)
    local parts = {}
    for i = from, past - (by > 0 and 1 or -1), by do parts[#parts + 1] = chars[i + 1] end
    return text_of.join(st, parts, #parts)
  end
  if not value.IS_SEQUENCE[k] then
    fail("type", "'%s' object cannot be sliced", value.type_name(obj))
  end
  local from, past, by = bounds(#obj, first, last, step)
  local out = {}
  if by == 1 then
    local n = past > from and past - from or 0
    work(st, n >> 3)
    take(st, 32 * n + 80)
    table.move(obj, from + 1, past, 1, out)
  else
    work(st, #obj)
    take(st, 32 * #obj + 80)
    for i = from, past - (by > 0 and 1 or -1), by do out[#out + 1] = obj[i + 1] end
  end
  return k == "tuple" and value.tuple(out) or value.list(out)
end

-- Calls ----------------------------------------------------------------------------------------------
--- Call a builtin { fn, params, required, variadic } with `n` positional arguments and perhaps
--- named ones. A variadic one gets (st, self, args, kwargs), others their parameters in order.
function M.call_builtin(st, spec, self, args, n, kwargs)
  if spec.variadic then
    args.n = n
    return spec.fn(st, self, args, kwargs)
  end
  local params = spec.params
  if n > #params then
    fail("type", "%s() takes at most %d argument(s) (%d given)", spec.name, #params, n)
  end
  if kwargs then
    local known = 0
    for i, name in ipairs(params) do
      if kwargs[name] ~= nil then
        if i <= n then fail("type", "%s() got two values for argument '%s'", spec.name, name) end
        args[i] = kwargs[name]
        known = known + 1
      end
    end
    for name in next, kwargs do
      known = known - 1
      if known < 0 then
        fail("type", "%s() got an unexpected argument among those named ('%s')", spec.name, tostring(name))
      end
    end
  end
  for i = 1, spec.required do
    if args[i] == nil then fail("type", "%s() misses the argument '%s'", spec.name, params[i]) end
  end
  if text_of.is(self) then limits.read(st, text_of.size(self)) end
  return spec.fn(st, self, args[1], args[2], args[3], args[4], args[5])
end

--- A function (st, v) that calls a builtin on each of many values with the same arguments.
function M.applier(spec, args, n, kwargs)
  if spec.variadic or kwargs or n > #spec.params or n < spec.required then
    return function(st, v)
      return M.call_builtin(st, spec, v, table.move(args, 1, n, 1, {}), n, kwargs)
    end
  end
  local fn, a, b, c, d, e = spec.fn, args[1], args[2], args[3], args[4], args[5]
  return function(st, v)
    if text_of.is(v) then limits.read(st, text_of.size(v)) end
    return fn(st, v, a, b, c, d, e)
  end
end

--- Call any value a template can call.
function M.call(st, callee, args, n, kwargs)
  if type(callee) == "table" then
    local tag = callee[1]
    if tag == MACRO then return callee[3](st, callee, args, n, kwargs) end
    if tag == FUNCTION then return M.call_builtin(st, callee[2], callee, args, n, kwargs) end
    if tag == METHOD then return M.call_builtin(st, callee[2], callee[3], args, n, kwargs) end
    if tag == LOOP then
      if not callee[6] then
        fail("type", "The loop must have the 'recursive' marker to be called recursively.")
      end
      if n ~= 1 then fail("type", "loop() takes one argument") end
      return callee[6](st, callee, args[1])
    end
    if kind(callee) == "undefined" then value.fail_undefined(callee) end
  end
  fail("type", "'%s' object is not callable", value.type_name(callee))
end

--- Is the value callable?
function M.is_callable(v)
  local k = kind(v)
  return k == "macro" or k == "function" or k == "method" or k == "loop" or k == "undefined"
end

return M
