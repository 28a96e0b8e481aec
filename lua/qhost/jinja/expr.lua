--- expr.lua: expressions to closures.
---
--- A closure takes (st, r), the rendering's state and the registers of the activation, and gives
--- the value. What is known when compiling (constant strings, attribute names, one operand or
--- many) is settled there, so that rendering does no dispatch on the syntax.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local access = require "qhost.jinja.access"
local operators = require "qhost.jinja.operators"
local filters = require "qhost.jinja.filters"
local predicates = require "qhost.jinja.predicates"
local functions = require "qhost.jinja.functions"
local fail, take = limits.fail, limits.take
local kind, truth, str = value.kind, value.truth, value.str
local STR, text = text_of.STR, text_of.text
local NAMESPACE, LOOP, UNDEF, NONE = value.NAMESPACE, value.LOOP, value.UNDEF, value.NONE
local getattr, getitem = access.getattr, access.getitem
local type, setmetatable = type, setmetatable

local M = {}
local EXPR = {}

-- A role is a word from a closed list, and templates build special tokens from it ("<|" + role +
-- "|>"), so it counts as the template's own.
local ROLES = {}
for _, role in ipairs { "system", "user", "assistant", "tool", "developer", "function", "ipython",
  "model", "context", "documents", "document", "tools", "tool_response", "observation" } do
  ROLES[role] = text_of.trusted(role)
end

local function syntax_error(node, message, ...)
  error({ kind = "syntax", message = message:format(...), line = node.line }, 0)
end
M.syntax_error = syntax_error

--- Compile an expression. `c` is the compiler: { scopes, cost, soft }.
local function compile(c, node)
  c.cost = c.cost + 1
  return EXPR[node.t](c, node)
end
M.compile = compile

local function compile_list(c, list)
  local out = {}
  for i, node in ipairs(list) do out[i] = compile(c, node) end
  return out
end

-- Leaves ---------------------------------------------------------------------------------------------
function EXPR.const(_, node)
  local v = node.value
  return function() return v end
end

function EXPR.captured(_, node)
  local slot = node.slot
  return function(_, r) return r[slot] end
end

function EXPR.name(c, node)
  local name = node.name
  local fallback = functions.GLOBALS[name] or value.undefined("'%s' is undefined", name)
  local places = c.scopes:find(name)
  local function given(st)
    local v = st.given[name]
    if v ~= nil then return v end
    return fallback
  end
  if #places == 0 then return given end
  local first = places[1]
  if #places == 1 and first.level == 0 then
    local slot = first.slot
    return function(st, r)
      local v = r[slot]
      if v ~= nil then return v end
      v = st.given[name]
      if v ~= nil then return v end
      return fallback
    end
  end
  return function(st, r)
    for i = 1, #places do
      local place, frame = places[i], r
      for _ = 1, place.level do frame = frame[1] end
      local v = frame[place.slot]
      if v ~= nil then return v end
    end
    return given(st)
  end
end

function EXPR.list(c, node)
  local items = compile_list(c, node.items)
  local n = #items
  return function(st, r)
    take(st, 80 + 32 * n)
    local out = {}
    for i = 1, n do out[i] = items[i](st, r) end
    return value.list(out)
  end
end

function EXPR.tuple(c, node)
  local items = compile_list(c, node.items)
  local n = #items
  return function(st, r)
    take(st, 80 + 32 * n)
    local out = {}
    for i = 1, n do out[i] = items[i](st, r) end
    return value.tuple(out)
  end
end

function EXPR.dict(c, node)
  local names, values = {}, {}
  for i, pair in ipairs(node.pairs) do
    names[i], values[i] = compile(c, pair[1]), compile(c, pair[2])
  end
  local n = #names
  return function(st, r)
    take(st, 200 + 60 * n)
    local d = value.dict()
    for i = 1, n do
      local name = names[i](st, r)
      local key = value.to_key(name)
      if key == nil then fail("type", "unhashable type: '%s'", value.type_name(name)) end
      value.dict_set(d, key, values[i](st, r))
    end
    return d
  end
end

-- Attributes and elements ----------------------------------------------------------------------------
-- An element of a dict by a constant name; `slow` knows all other cases.
local function element(object, name, slow)
  if name == "role" then
    return function(st, r)
      local o = object(st, r)
      local v
      if type(o) == "table" then v = o[name] end
      if v == nil then return slow(st, o, name) end
      return ROLES[v] or v
    end
  end
  return function(st, r)
    local o = object(st, r)
    if type(o) == "table" then
      local v = o[name]                    -- values with a tag have no named fields to mistake
      if v ~= nil then return v end
      if o[1] == NAMESPACE then
        v = o[2][name]
        if v ~= nil then return v end
      end
    end
    return slow(st, o, name)
  end
end

function EXPR.getattr(c, node)
  local object, name = compile(c, node.object), node.attr
  if node.object.t == "name" and node.object.name == "loop" then
    local attribute = access.loop_attribute
    return function(st, r)
      local o = object(st, r)
      if type(o) == "table" and o[1] == LOOP then
        local v = attribute(o, name)
        if v ~= nil then return v end
      end
      return getattr(st, o, name)
    end
  end
  if access.DICT_METHODS[name] then
    return function(st, r) return getattr(st, object(st, r), name) end
  end
  return element(object, name, getattr)
end

function EXPR.getitem(c, node)
  local object, index = compile(c, node.object), node.index
  if index.t == "slice" then
    local function part(n) return n and compile(c, n) or function() return nil end end
    local first, last, step = part(index.first), part(index.last), part(index.step)
    return function(st, r)
      return access.slice(st, object(st, r), first(st, r), last(st, r), step(st, r))
    end
  end
  if index.string then return element(object, index.string, getitem) end
  if index.t == "tuple" then
    for _, item in ipairs(index.items) do
      if item.t == "slice" then syntax_error(item, "a slice cannot be part of a tuple") end
    end
  end
  local i = compile(c, index)
  return function(st, r) return getitem(st, object(st, r), i(st, r)) end
end

-- Calls ----------------------------------------------------------------------------------------------
--- Compile call arguments to a function (st, r) -> args, n, kwargs. Named arguments form a dict
--- in the order written, or nil.
local function arguments(c, list)
  local positional = compile_list(c, list)
  local n, names, named = #positional, {}, {}
  for i, pair in ipairs(list.kwargs) do names[i], named[i] = pair[1], compile(c, pair[2]) end
  local star = list.star and compile(c, list.star)
  local star_star = list.star_star and compile(c, list.star_star)
  local shape = { __jsontype = "object", __jsonorder = names }
  local function fixed(st, r)
    take(st, 120)
    local args = {}
    for i = 1, n do args[i] = positional[i](st, r) end
    if #names == 0 then return args, n, nil end
    local kwargs = setmetatable({}, shape)
    for i = 1, #names do kwargs[names[i]] = named[i](st, r) end
    return args, n, kwargs
  end
  if not star and not star_star then return fixed end
  return function(st, r)
    local args, count, kwargs = fixed(st, r)
    if star then
      local more, m = value.elements(st, star(st, r))
      limits.work(st, m)
      take(st, 32 * m)
      table.move(more, 1, m, count + 1, args)
      count = count + m
    end
    if star_star then
      local more = star_star(st, r)
      if kind(more) ~= "dict" then fail("type", "argument after ** must be a mapping, not %s", value.type_name(more)) end
      local all = value.dict()
      for i = 1, #names do value.dict_set(all, names[i], kwargs[names[i]]) end
      for _, name in ipairs(value.keys(st, more)) do
        limits.work(st, 1)
        take(st, 60)
        if type(name) ~= "string" then fail("type", "keywords must be strings") end
        value.dict_set(all, name, more[name])
      end
      kwargs = all
    end
    return args, count, kwargs
  end
end
M.arguments = arguments

local function is_plain(list)
  return #list.kwargs == 0 and not list.star and not list.star_star and #list <= 3
end

-- Charge for reading the value a filter or a method works on.
local function charge(st, v)
  if type(v) == "string" then
    if #v > 64 then limits.read(st, #v) end
  elseif type(v) == "table" and v[1] == STR then
    limits.read(st, v[4])
  end
end

local function nothing() return nil end

local function method_call(c, node)
  local object, name = compile(c, node.callee.object), node.callee.attr
  local args = arguments(c, node.args)
  local plain, count = is_plain(node.args), #node.args
  local a, b, d = nothing, nothing, nothing
  if plain then
    local list = compile_list(c, node.args)
    a, b, d = list[1] or nothing, list[2] or nothing, list[3] or nothing
  end
  return function(st, r)
    local o = object(st, r)
    local method = access.method_of(kind(o), name)
    if method then
      if plain and not method.variadic and count <= #method.params and count >= method.required then
        charge(st, o)
        return method.fn(st, o, a(st, r), b(st, r), d(st, r))
      end
      return access.call_builtin(st, method, o, args(st, r))
    end
    local callee = getattr(st, o, name)
    return access.call(st, callee, args(st, r))
  end
end

function EXPR.call(c, node)
  if node.callee.t == "getattr" then return method_call(c, node) end
  local callee, args = compile(c, node.callee), arguments(c, node.args)
  return function(st, r)
    local f = callee(st, r)
    return access.call(st, f, args(st, r))
  end
end

-- Filters and tests ----------------------------------------------------------------------------------
-- Positional closures for the parameters of a builtin, or nil with the reason.
local function bind(c, spec, list)
  local bound = {}
  if #list > #spec.params then
    return nil, ("%s takes at most %d argument(s)"):format(spec.name, #spec.params)
  end
  for i, node in ipairs(list) do bound[i] = compile(c, node) end
  for _, pair in ipairs(list.kwargs) do
    local at
    for i, name in ipairs(spec.params) do
      if name == pair[1] then at = i end
    end
    if not at then return nil, ("%s has no argument '%s'"):format(spec.name, pair[1]) end
    if bound[at] then return nil, ("%s got two values for argument '%s'"):format(spec.name, pair[1]) end
    bound[at] = compile(c, pair[2])
  end
  for i = 1, spec.required do
    if not bound[i] then return nil, ("%s misses the argument '%s'"):format(spec.name, spec.params[i]) end
  end
  return bound
end

-- A closure that applies a builtin to the value of `v`.
local function apply_builtin(c, spec, v, list)
  if spec.variadic or list.star or list.star_star then
    local args = arguments(c, list)
    return function(st, r)
      local o = v(st, r)
      return access.call_builtin(st, spec, o, args(st, r))
    end
  end
  local bound, reason = bind(c, spec, list)
  if not bound then return function() fail("type", "%s", reason) end end
  local fn = spec.fn
  local a, b, d, e = bound[1], bound[2], bound[3], bound[4]
  if not (a or b or d or e) then
    return function(st, r)
      local o = v(st, r)
      charge(st, o)
      return fn(st, o)
    end
  end
  a, b, d, e = a or nothing, b or nothing, d or nothing, e or nothing
  return function(st, r)
    local o = v(st, r)
    charge(st, o)
    return fn(st, o, a(st, r), b(st, r), d(st, r), e(st, r))
  end
end

-- An unknown filter or test fails when the template is compiled, as in Jinja, but inside an `if`
-- only when it is reached.
local function unknown(c, node, what)
  if c.soft == 0 then syntax_error(node, "No %s named '%s'.", what, node.name) end
  local name = node.name
  return function() fail("syntax", "No %s named '%s'.", what, name) end
end

function EXPR.filter(c, node)
  local v = compile(c, node.value)
  local spec = filters.FILTERS[node.name]
  if not spec then return unknown(c, node, "filter") end
  return apply_builtin(c, spec, v, node.args)
end

-- Tests common enough to be worth a closure of their own.
local QUICK = {
  defined = function(v)
    return function(st, r)
      local x = v(st, r)
      return type(x) ~= "table" or x[1] ~= UNDEF
    end
  end,
  none = function(v)
    return function(st, r)
      local x = v(st, r)
      return type(x) == "userdata" or (type(x) == "table" and x[1] == NONE)
    end
  end,
  string = function(v)
    return function(st, r)
      local x = v(st, r)
      return type(x) == "string" or (type(x) == "table" and x[1] == STR)
    end
  end,
}

function EXPR.test(c, node)
  local v = compile(c, node.value)
  if QUICK[node.name] and is_plain(node.args) and #node.args == 0 then return QUICK[node.name](v) end
  local spec = predicates.TESTS[node.name]
  if not spec then return unknown(c, node, "test") end
  return apply_builtin(c, spec, v, node.args)
end

-- Logic ----------------------------------------------------------------------------------------------
EXPR["not"] = function(c, node)
  local v = compile(c, node.value)
  return function(st, r) return not truth(v(st, r)) end
end

EXPR["and"] = function(c, node)
  local list = compile_list(c, node.list)
  local n = #list
  return function(st, r)
    local v
    for i = 1, n do
      v = list[i](st, r)
      if not truth(v) then return v end
    end
    return v
  end
end

EXPR["or"] = function(c, node)
  local list = compile_list(c, node.list)
  local n = #list
  return function(st, r)
    local v
    for i = 1, n do
      v = list[i](st, r)
      if truth(v) then return v end
    end
    return v
  end
end

function EXPR.if_expr(c, node)
  local test = compile(c, node.test)
  c.soft = c.soft + 1
  local yes = compile(c, node.value)
  local no = node.otherwise and compile(c, node.otherwise)
  c.soft = c.soft - 1
  local missing = value.undefined("the inline if-expression evaluated to false and no else section was defined.")
  return function(st, r)
    if truth(test(st, r)) then return yes(st, r) end
    if no then return no(st, r) end
    return missing
  end
end

-- v == "constant", without wrapping either side.
local function equals_string(v, s, negated)
  return function(st, r)
    local x = v(st, r)
    local same = x == s
    if not same and type(x) == "table" and x[1] == STR then same = x[4] == #s and text(x) == s end
    return same ~= negated
  end
end

function EXPR.compare(c, node)
  local first = compile(c, node.first)
  local ops = node.ops
  if #ops == 1 then
    local op, right = ops[1].op, ops[1].value
    if op == "==" or op == "!=" then
      if right.string then
        c.cost = c.cost + 1
        return equals_string(first, right.string, op == "!=")
      end
    end
    local fn, other = operators.COMPARE[op], compile(c, right)
    return function(st, r)
      local a = first(st, r)
      return fn(st, a, other(st, r))
    end
  end
  local fns, others = {}, {}
  for i, item in ipairs(ops) do
    fns[i], others[i] = operators.COMPARE[item.op], compile(c, item.value)
  end
  return function(st, r)
    local a = first(st, r)
    for i = 1, #fns do
      local b = others[i](st, r)
      if not fns[i](st, a, b) then return false end
      a = b
    end
    return true
  end
end

-- Arithmetic and concatenation -----------------------------------------------------------------------
--- Evaluate the operands of `a + b + ...`: for strings gives nil, parts, n, else the sum.
local function sum(st, r, list, n)
  local first = list[1](st, r)
  if type(first) == "string" or (type(first) == "table" and first[1] == STR) then
    local parts = { first }
    for i = 2, n do
      local v = list[i](st, r)
      if type(v) ~= "string" and not (type(v) == "table" and v[1] == STR) then
        operators.bad_operands("+", first, v)
      end
      parts[i] = v
    end
    return nil, parts
  end
  for i = 2, n do first = operators.add(st, first, list[i](st, r)) end
  return first
end
M.sum = sum

function EXPR.sum(c, node)
  local list = compile_list(c, node.list)
  local n = #list
  return function(st, r)
    local total, parts = sum(st, r, list, n)
    if not parts then return total end
    if n == 2 then return text_of.concat(st, parts[1], parts[2]) end
    return text_of.join(st, parts, n)
  end
end

function EXPR.concat(c, node)
  local list = compile_list(c, node.list)
  local n = #list
  return function(st, r)
    local parts = {}
    for i = 1, n do parts[i] = str(st, list[i](st, r)) end
    return text_of.join(st, parts, n)
  end
end

function EXPR.binary(c, node)
  local left, right, fn = compile(c, node.left), compile(c, node.right), operators.BINARY[node.op]
  return function(st, r)
    local a = left(st, r)
    return fn(st, a, right(st, r))
  end
end

function EXPR.neg(c, node)
  local v = compile(c, node.value)
  return function(st, r) return operators.neg(st, v(st, r)) end
end

function EXPR.pos(c, node)
  local v = compile(c, node.value)
  return function(st, r) return operators.pos(st, v(st, r)) end
end

function EXPR.slice(_, node)
  syntax_error(node, "a slice stands only in a subscript")
end

function EXPR.nsref(_, node)
  syntax_error(node, "unexpected namespace reference")
end

M.compile_list = compile_list
return M
