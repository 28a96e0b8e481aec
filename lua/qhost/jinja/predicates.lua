--- predicates.lua: the tests of a template, `value is name(...)`.
---
--- A test is { fn, params, required } like a filter, and gives a boolean.
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local access = require "qhost.jinja.access"
local operators = require "qhost.jinja.operators"
local kind = value.kind

local M = {}
local TESTS = {}
M.TESTS = TESTS

local function test(name, params, fn)
  TESTS[name] = { name = name, params = params, required = #params, fn = fn }
end

local function of_kind(name, wanted)
  test(name, {}, function(_, v) return kind(v) == wanted end)
end
of_kind("undefined", "undefined")
of_kind("none", "none")
of_kind("boolean", "bool")
of_kind("integer", "int")
of_kind("float", "float")
of_kind("string", "str")
of_kind("mapping", "dict")

test("defined", {}, function(_, v) return kind(v) ~= "undefined" end)
test("true", {}, function(_, v) return v == true end)
test("false", {}, function(_, v) return v == false end)
test("number", {}, function(_, v) return value.number(v) ~= nil end)
test("callable", {}, function(_, v) return access.is_callable(v) end)
test("escaped", {}, function() return false end)

local SEQUENCE = { list = true, tuple = true, range = true, str = true, dict = true, undefined = true }
test("sequence", {}, function(_, v) return SEQUENCE[kind(v)] or false end)

local ITERABLE = { view = true, generator = true, loop = true }
test("iterable", {}, function(_, v)
  local k = kind(v)
  return SEQUENCE[k] or ITERABLE[k] or false
end)

test("lower", {}, function(st, v) return strings.is_case(st, value.str(st, v), "lower") end)
test("upper", {}, function(st, v) return strings.is_case(st, value.str(st, v), "upper") end)

test("odd", {}, function(st, v) return operators.mod(st, v, 2) == 1 end)
test("even", {}, function(st, v) return operators.mod(st, v, 2) == 0 end)
test("divisibleby", { "num" }, function(st, v, n) return operators.mod(st, v, n) == 0 end)

local SINGLE = { none = true, bool = true, int = true, undefined = true, str = true }
test("sameas", { "other" }, function(st, v, other)
  if rawequal(v, other) then return true end
  local k = kind(v)
  return SINGLE[k] and k == kind(other) and k ~= "undefined" and value.equal(st, v, other) or false
end)

test("in", { "seq" }, function(st, v, seq) return value.contains(st, seq, v) end)

for op, names in pairs {
  ["=="] = { "eq", "equalto" }, ["!="] = { "ne" }, [">"] = { "gt", "greaterthan" }, [">="] = { "ge" },
  ["<"] = { "lt", "lessthan" }, ["<="] = { "le" },
} do
  local compare = operators.COMPARE[op]
  test(op, { "other" }, compare)
  for _, name in ipairs(names) do TESTS[name] = TESTS[op] end
end

test("filter", {}, function(st, v) return M.has_filter(text_of.text(value.str(st, v))) end)
test("test", {}, function(st, v) return TESTS[text_of.text(value.str(st, v))] ~= nil end)

return M
