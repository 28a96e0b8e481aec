--- operators.lua: arithmetic as Python does it, refusing what would leave 64-bit integers.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local format = require "qhost.jinja.format"
local fail, work, take = limits.fail, limits.work, limits.take
local kind, number = value.kind, value.number
local mtype = math.type

local M = {}

local function bad_operands(op, a, b)
  if kind(a) == "undefined" then value.fail_undefined(a) end
  if kind(b) == "undefined" then value.fail_undefined(b) end
  if op == "+" and kind(a) == "str" then
    fail("type", 'can only concatenate str (not "%s") to str', value.type_name(b))
  end
  fail("type", "unsupported operand type(s) for %s: '%s' and '%s'", op, value.type_name(a), value.type_name(b))
end
M.bad_operands = bad_operands

local function overflow()
  fail("value", "an integer leaves the range of 64 bits")
end

local function joined_lists(st, a, b)
  local n, m = #a, #b
  work(st, (n + m) >> 3)
  take(st, 32 * (n + m) + 80)
  local out = table.move(a, 1, n, 1, {})
  return table.move(b, 1, m, n + 1, out)
end

function M.add(st, a, b)
  local x, y = number(a), number(b)
  if x and y then
    local sum = x + y
    if mtype(sum) == "integer" and (x ~ sum) & (y ~ sum) < 0 then overflow() end
    return sum
  end
  if text_of.is(a) and text_of.is(b) then return text_of.concat(st, a, b) end
  local ka, kb = kind(a), kind(b)
  if ka == kb and ka == "list" then return value.list(joined_lists(st, a, b)) end
  if ka == kb and ka == "tuple" then return value.tuple(joined_lists(st, a, b)) end
  bad_operands("+", a, b)
end

function M.sub(_, a, b)
  local x, y = number(a), number(b)
  if not (x and y) then bad_operands("-", a, b) end
  local diff = x - y
  if mtype(diff) == "integer" and (x ~ y) & (x ~ diff) < 0 then overflow() end
  return diff
end

local function product(x, y)
  if mtype(x) == "integer" and mtype(y) == "integer" then
    local p = x * y
    if math.abs((x + 0.0) * y) >= 2.0 ^ 63 then overflow() end
    return p
  end
  return x * y
end

local function repeated_list(st, list, n)
  n = math.max(n, 0)
  local len = #list
  if len > 0 and n > st.bytes // (32 * len) then
    fail("limit", "the template makes too much data (limit %d bytes)", st.max.bytes)
  end
  work(st, len * n)
  take(st, 32 * len * n + 80)
  local out = {}
  if len > 0 then
    for i = 0, n - 1 do table.move(list, 1, len, i * len + 1, out) end
  end
  return out
end

function M.mul(st, a, b)
  local x, y = number(a), number(b)
  if x and y then return product(x, y) end
  if x then a, b, y = b, a, x end
  if mtype(y) == "integer" then
    local k = kind(a)
    if k == "str" then return strings.repeated(st, a, y) end
    if k == "list" then return value.list(repeated_list(st, a, y)) end
    if k == "tuple" then return value.tuple(repeated_list(st, a, y)) end
  end
  bad_operands("*", a, b)
end

local function nonzero(op, a, b)
  local x, y = number(a), number(b)
  if not (x and y) then bad_operands(op, a, b) end
  if y == 0 then fail("value", "division by zero") end
  return x, y
end

function M.div(_, a, b)
  local x, y = nonzero("/", a, b)
  return x / y
end

function M.floordiv(_, a, b)
  local x, y = nonzero("//", a, b)
  if x == math.mininteger and y == -1 then overflow() end
  return x // y
end

function M.mod(st, a, b)
  if text_of.is(a) then return format.percent(st, a, b) end
  local x, y = nonzero("%", a, b)
  local rest = x % y
  if rest == 0 and mtype(rest) == "float" and y < 0 then return -0.0 end    -- the sign of y
  return rest
end

function M.pow(_, a, b)
  local x, y = number(a), number(b)
  if not (x and y) then bad_operands("**", a, b) end
  if mtype(x) == "integer" and mtype(y) == "integer" and y >= 0 then
    local result = 1
    if x == 0 or x == 1 then return y == 0 and 1 or x end
    if x == -1 then return y % 2 == 0 and 1 or -1 end
    if y > 63 then overflow() end
    for _ = 1, y do result = product(result, x) end
    return result
  end
  if x == 0 and y < 0 then fail("value", "0.0 cannot be raised to a negative power") end
  if x < 0 and y % 1 ~= 0 then fail("value", "a complex number cannot be used in a template") end
  return x ^ y
end

function M.neg(_, a)
  local x = number(a)
  if not x then
    if kind(a) == "undefined" then value.fail_undefined(a) end
    fail("type", "bad operand type for unary -: '%s'", value.type_name(a))
  end
  if x == math.mininteger then overflow() end
  return -x
end

function M.pos(_, a)
  local x = number(a)
  if not x then
    if kind(a) == "undefined" then value.fail_undefined(a) end
    fail("type", "bad operand type for unary +: '%s'", value.type_name(a))
  end
  return x
end

M.BINARY = {
  ["-"] = M.sub, ["*"] = M.mul, ["/"] = M.div, ["//"] = M.floordiv, ["%"] = M.mod, ["**"] = M.pow,
}

-- Comparisons ----------------------------------------------------------------------------------------
local equal, less, contains = value.equal, value.less, value.contains

M.COMPARE = {
  ["=="] = function(st, a, b) return equal(st, a, b) end,
  ["!="] = function(st, a, b) return not equal(st, a, b) end,
  ["<"] = function(st, a, b) return less(st, a, b, "<") end,
  [">"] = function(st, a, b) return less(st, b, a, ">") end,
  ["<="] = function(st, a, b) return less(st, a, b, "<=") or equal(st, a, b) end,
  [">="] = function(st, a, b) return less(st, b, a, ">=") or equal(st, a, b) end,
  ["in"] = function(st, a, b) return contains(st, b, a) end,
  ["not in"] = function(st, a, b) return not contains(st, b, a) end,
}

return M
