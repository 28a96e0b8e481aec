--- functions.lua: the functions a template can call by name.
---
--- A function value is { FUNCTION, spec }, spec as for filters (its `self` is unused).
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local clock = require "qhost.jinja.clock"
local fail, work, take = limits.fail, limits.work, limits.take
local kind, text = value.kind, text_of.text
local FUNCTION, METHOD, NAMESPACE = value.FUNCTION, value.METHOD, value.NAMESPACE

local M = {}
local GLOBALS = {}
M.GLOBALS = GLOBALS

local function define(name, params, required, fn)
  GLOBALS[name] = { FUNCTION, { name = name, params = params, required = required, fn = fn } }
end

local function variadic(name, fn)
  GLOBALS[name] = { FUNCTION, { name = name, required = 0, variadic = true, fn = fn } }
end

define("range", { "start", "stop", "step" }, 1, function(st, _, a, b, step)
  local first, last
  if b == nil then
    first, last = 0, strings.want_int(a, "range() stop")
  else
    first, last = strings.want_int(a, "range() start"), strings.want_int(b, "range() stop")
  end
  local by = strings.want_int(step, "range() step", 1)
  if by == 0 then fail("value", "range() arg 3 must not be zero") end
  -- In floats: the true count may not fit an integer.
  local count = math.max(0, math.ceil(((last + 0.0) - first) / by))
  if count > limits.MAX_RANGE then
    fail("limit", "Range too big. The sandbox blocks ranges larger than %d.", limits.MAX_RANGE)
  end
  work(st, count >> 1)
  take(st, 32 * count + 120)
  local out = {}
  for i = 1, count do out[i] = first + (i - 1) * by end
  local name = by == 1 and ("range(%d, %d)"):format(first, last) or ("range(%d, %d, %d)"):format(first, last, by)
  return setmetatable(out, { __jsontype = "array", __kind = "range", __name = name })
end)

-- Entries of a mapping or a list of pairs, put into `target` by `put(key, value)`.
local function each_entry(st, source, put)
  if kind(source) == "dict" then
    local order = value.keys(st, source)
    take(st, 60 * #order)
    for _, k in ipairs(order) do put(k, source[k]) end
    return
  end
  local list, n = value.elements(st, source)
  work(st, n)
  take(st, 60 * n)
  for i = 1, n do
    local pair, m = value.elements(st, list[i])
    if m ~= 2 then fail("value", "a dict is made from pairs, got %d elements", m) end
    local key = value.to_key(pair[1])
    if key == nil then fail("type", "unhashable type: '%s'", value.type_name(pair[1])) end
    put(key, pair[2])
  end
end

local function sorted_names(kwargs)
  local names = {}
  for name in next, kwargs do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Named arguments in the order written (`order`, kept by the compiler) or sorted.
local function each_named(kwargs, put)
  if not kwargs then return end
  local mt = getmetatable(kwargs)
  for _, name in ipairs(mt and mt.__jsonorder or sorted_names(kwargs)) do put(name, kwargs[name]) end
end

variadic("dict", function(st, _, args, kwargs)
  local d = value.dict()
  local function put(k, v) value.dict_set(d, k, v) end
  if args.n > 1 then fail("type", "dict expected at most 1 argument, got %d", args.n) end
  if args.n == 1 then each_entry(st, args[1], put) end
  each_named(kwargs, put)
  return d
end)

variadic("namespace", function(st, _, args, kwargs)
  local attrs = {}
  local function put(k, v) attrs[k] = v end
  if args.n == 1 then each_entry(st, args[1], put) end
  each_named(kwargs, put)
  return { NAMESPACE, attrs }
end)

define("raise_exception", { "message" }, 1, function(st, _, message)
  fail("raise", "%s", text(value.str(st, message)))
end)

-- cycler(...).next(), .reset(), .current
local function cycler_attribute(_, cycler, name)
  local items = cycler[3]
  if name == "current" then return items[cycler[4] + 1] end
  if name == "next" then
    return { METHOD, { name = "next", params = {}, required = 0, fn = function(_, self)
      local item = items[self[4] + 1]
      self[4] = (self[4] + 1) % #items
      return item
    end }, cycler }
  elseif name == "reset" then
    return { METHOD, { name = "reset", params = {}, required = 0, fn = function(_, self)
      self[4] = 0
      return value.null
    end }, cycler }
  end
  return nil
end

variadic("cycler", function(_, _, args)
  if args.n == 0 then fail("type", "at least one item has to be provided") end
  local spec = { name = "cycler", params = {}, required = 0, attribute = cycler_attribute,
    fn = function() fail("type", "'Cycler' object is not callable") end }
  return { FUNCTION, spec, table.move(args, 1, args.n, 1, {}), 0 }
end)

-- joiner(sep)() is empty the first time and sep afterwards.
define("joiner", { "sep" }, 0, function(_, _, sep)
  local used = false
  return { FUNCTION, { name = "joiner", params = {}, required = 0, fn = function()
    if not used then
      used = true
      return text_of.EMPTY
    end
    return sep == nil and text_of.trusted ", " or sep
  end } }
end)

--- strftime_now(format) for a clock: seconds since 1970 in local time, or a function giving them.
function M.strftime_now(now)
  return { FUNCTION, { name = "strftime_now", params = { "format" }, required = 1, fn = function(st, _, format)
    local f = text(strings.want_str(format, "format"))
    take(st, 40 * #f)
    work(st, #f)
    return text_of.trusted(clock.strftime(f, type(now) == "function" and now() or now))
  end } }
end

return M
