--- stmt.lua: statements to closures.
---
--- A closure takes (st, r) and writes to st.out; it returns nothing, or BREAK or CONTINUE to the
--- loop around it. Every piece of a body is counted when compiled, and entering the body (once a
--- loop pass or macro call) is charged that many steps, so straight code costs no checks.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local access = require "qhost.jinja.access"
local output = require "qhost.jinja.output"
local scope = require "qhost.jinja.scope"
local expr = require "qhost.jinja.expr"
local fail, work, take = limits.fail, limits.work, limits.take
local kind, truth, elements, str = value.kind, value.truth, value.elements, value.str
local put, write = output.put, output.write
local MACRO, LOOP = value.MACRO, value.LOOP
local compile_expr, syntax_error = expr.compile, expr.syntax_error

local M = {}
local STMT = {}
local BREAK, CONTINUE = 1, 2

-- Bodies ---------------------------------------------------------------------------------------------
local function literal_of(node)
  if node.t == "data" then return node.text end
  if node.t == "output" then return node.value.string end
  return nil
end

local function write_literal(s)
  return function(st) put(st, s, true) end
end

--- Compile a list of statements to one closure.
local function body(c, list)
  local out, literal = {}, {}
  local function flush()
    local s = table.concat(literal)
    if s ~= "" then
      c.cost = c.cost + 1
      out[#out + 1] = write_literal(s)
    end
    literal = {}
  end
  for _, node in ipairs(list) do
    local s = literal_of(node)
    if s then
      literal[#literal + 1] = s
    else
      flush()
      c.cost = c.cost + 1
      out[#out + 1] = STMT[node.t](c, node)
    end
  end
  flush()
  local n = #out
  if n == 1 then return out[1] end
  return function(st, r)
    for i = 1, n do
      local signal = out[i](st, r)
      if signal then return signal end
    end
  end
end
M.body = body

-- A body whose steps are charged when it is entered: returns it and its cost.
local function charged_body(c, list)
  local outer = c.cost
  c.cost = 0
  local run = body(c, list)
  local cost = c.cost + 1
  c.cost = outer + 1
  return run, cost
end

-- Run a body with its output captured: returns the signal and the value.
local function capture(st, r, run)
  local saved = st.out
  local out = output.new()
  st.out = out
  local signal = run(st, r)
  st.out = saved
  return signal, output.value(st, out)
end

-- Output ---------------------------------------------------------------------------------------------
-- Concatenations are written piece by piece, without making the string.
local WRITE = {}

local function compile_write(c, node)
  local special = WRITE[node.t]
  if special then return special(c, node) end
  local v = compile_expr(c, node)
  return function(st, r) return write(st, v(st, r)) end
end

function WRITE.const(c, node)
  local v = compile_expr(c, node)
  return function(st, r) return write(st, v(st, r)) end
end

function WRITE.sum(c, node)
  c.cost = c.cost + 1
  local list = expr.compile_list(c, node.list)
  local n = #list
  return function(st, r)
    local total, parts = expr.sum(st, r, list, n)
    if not parts then return write(st, total) end
    for i = 1, n do write(st, parts[i]) end
  end
end

function WRITE.concat(c, node)
  c.cost = c.cost + 1
  local list = expr.compile_list(c, node.list)
  local n = #list
  return function(st, r)
    -- All operands first: one of them may be a macro that writes in between.
    local parts = {}
    for i = 1, n do parts[i] = str(st, list[i](st, r)) end
    for i = 1, n do write(st, parts[i]) end
  end
end

function WRITE.if_expr(c, node)
  c.cost = c.cost + 1
  local test = compile_expr(c, node.test)
  c.soft = c.soft + 1
  local yes = compile_write(c, node.value)
  local no = node.otherwise and compile_write(c, node.otherwise)
  c.soft = c.soft - 1
  return function(st, r)
    if truth(test(st, r)) then
      yes(st, r)
    elseif no then
      no(st, r)
    end
  end
end

function STMT.output(c, node)
  local emit, line = compile_write(c, node.value), node.line
  return function(st, r)
    st.line = line
    emit(st, r)
  end
end

-- Assignment -----------------------------------------------------------------------------------------
-- A function (st, r, v) that stores v in a target. Names have been declared before.
local function assigner(c, node)
  if node.t == "name" then
    local slot = c.scopes:declare(node.name)
    return function(_, r, v) r[slot] = v end
  elseif node.t == "nsref" then
    local object, attr = compile_expr(c, { t = "name", name = node.name, line = node.line }), node.attr
    return function(st, r, v)
      local ns = object(st, r)
      if kind(ns) ~= "namespace" then
        if kind(ns) == "undefined" then value.fail_undefined(ns) end
        fail("type", "cannot assign attribute on non-namespace object")
      end
      ns[2][attr] = v
    end
  end
  local items = {}
  for i, item in ipairs(node.items) do items[i] = assigner(c, item) end
  local n = #items
  return function(st, r, v)
    local list, m = elements(st, v)
    if m ~= n then
      fail("value", m < n and "not enough values to unpack (expected %d, got %d)"
        or "too many values to unpack (expected %d, got %d)", n, m)
    end
    for i = 1, n do items[i](st, r, list[i]) end
  end
end

function STMT.set(c, node)
  local v = compile_expr(c, node.value)
  local line = node.line
  if node.target.t == "name" then
    local slot = c.scopes:declare(node.target.name)
    return function(st, r)
      st.line = line
      r[slot] = v(st, r)
    end
  end
  local assign = assigner(c, node.target)
  return function(st, r)
    st.line = line
    assign(st, r, v(st, r))
  end
end

-- A closure (st, r) -> signal, value: the captured body through the filters around it.
local function filtered_body(c, node)
  local slot = c.scopes:register()
  local captured = node.value
  while captured.t == "filter" do captured = captured.value end
  captured.slot = slot
  c.scopes:open()
  c.scopes:declare_assigned(node.body)
  local run = body(c, node.body)
  c.scopes:close()
  local result = compile_expr(c, node.value)
  return function(st, r)
    local signal, v = capture(st, r, run)
    if signal then return signal end
    r[slot] = v
    return nil, result(st, r)
  end
end

function STMT.setblock(c, node)
  local run, line = filtered_body(c, node), node.line
  local assign = assigner(c, node.target)
  return function(st, r)
    local signal, v = run(st, r)
    if signal then return signal end
    st.line = line
    assign(st, r, v)
  end
end

function STMT.filterblock(c, node)
  local run, line = filtered_body(c, node), node.line
  return function(st, r)
    local signal, v = run(st, r)
    if signal then return signal end
    st.line = line
    if not text_of.is(v) then fail("type", "a filter block must give str, not %s", value.type_name(v)) end
    write(st, v)
  end
end

-- Control --------------------------------------------------------------------------------------------
STMT["if"] = function(c, node)
  local tests, bodies, lines = {}, {}, {}
  local n = #node.branches
  for i, branch in ipairs(node.branches) do
    tests[i], lines[i] = compile_expr(c, branch.test), branch.test.line
    c.soft = c.soft + 1
    bodies[i] = body(c, branch.body)
    c.soft = c.soft - 1
  end
  c.soft = c.soft + 1
  local otherwise = node.otherwise and body(c, node.otherwise)
  c.soft = c.soft - 1
  local line = node.line
  if n == 1 then
    local test, yes = tests[1], bodies[1]
    return function(st, r)
      st.line = line
      if truth(test(st, r)) then return yes(st, r) end
      if otherwise then return otherwise(st, r) end
    end
  end
  return function(st, r)
    for i = 1, n do
      st.line = lines[i]
      if truth(tests[i](st, r)) then return bodies[i](st, r) end
    end
    if otherwise then return otherwise(st, r) end
  end
end

local function inner_scope(c, list)
  c.scopes:open()
  local slots = c.scopes:declare_assigned(list)
  local run = body(c, list)
  c.scopes:close()
  return run, slots
end

-- A scope may be entered again in a loop: what it assigns starts unset.
function STMT.scope(c, node)
  local run, slots = inner_scope(c, node.body)
  return function(st, r)
    for i = 1, #slots do r[slots[i]] = nil end
    return run(st, r)
  end
end

STMT["with"] = function(c, node)
  local values, assign = expr.compile_list(c, node.values), {}
  c.scopes:open()
  local slots = c.scopes:declare_assigned(node.body)
  for i, target in ipairs(node.targets) do assign[i] = assigner(c, target) end
  local run = body(c, node.body)
  c.scopes:close()
  local n, line = #values, node.line
  return function(st, r)
    st.line = line
    local list = {}
    for i = 1, n do list[i] = values[i](st, r) end
    for i = 1, #slots do r[slots[i]] = nil end
    for i = 1, n do assign[i](st, r, list[i]) end
    return run(st, r)
  end
end

STMT["break"] = function(c, node)
  if c.loops == 0 then syntax_error(node, "'break' outside a loop") end
  return function() return BREAK end
end

STMT["continue"] = function(c, node)
  if c.loops == 0 then syntax_error(node, "'continue' outside a loop") end
  return function() return CONTINUE end
end

-- Elements that pass the loop's condition. The element is assigned for it as in a pass.
local function selected(st, r, list, n, assign, test)
  local out, m = {}, 0
  take(st, 32 * n + 80)
  for i = 1, n do
    work(st, 8)
    assign(st, r, list[i])
    if truth(test(st, r)) then
      m = m + 1
      out[m] = list[i]
    end
  end
  return out, m
end

-- The passes of a loop over list[1..n] as a function (st, r, list, n, depth0, recurse) -> number of
-- passes. A condition is asked before each pass, or for all elements first where the body looks at
-- `loop`, which knows how many there are.
local function loop_runner(c, node)
  local scopes = c.scopes
  local assign = assigner(c, node.target)
  local test = node.test and compile_expr(c, node.test)
  local uses_loop = node.recursive or scope.mentions(node.body, "loop")
  local loop_slot = uses_loop and scopes:declare("loop")
  local slots = scopes:declare_assigned(node.body)
  c.loops = c.loops + 1
  local run, cost = charged_body(c, node.body)
  c.loops = c.loops - 1
  if test then cost = cost + 8 end
  local reset = {}
  for _, slot in ipairs(slots) do
    if slot ~= loop_slot then reset[#reset + 1] = slot end
  end
  return function(st, r, list, n, depth0, recurse)
    local loop
    if uses_loop then
      if test then list, n = selected(st, r, list, n, assign, test) end
      loop = { LOOP, list, 0, n, depth0, recurse, nil }
    end
    local passes = 0
    for i = 1, n do
      local left = st.steps - cost
      st.steps = left
      if left < 0 then work(st, 0) end
      for k = 1, #reset do r[reset[k]] = nil end
      if loop then
        r[loop_slot] = loop
        loop[3] = i
      end
      assign(st, r, list[i])
      if not test or loop or truth(test(st, r)) then
        passes = passes + 1
        if run(st, r) == BREAK then break end
      end
    end
    return passes
  end
end

local function otherwise_of(c, node)
  if not node.otherwise then return function() end end
  local run, slots = inner_scope(c, node.otherwise)
  return function(st, r)
    for i = 1, #slots do r[slots[i]] = nil end
    return run(st, r)
  end
end

-- A recursive loop is an activation of its own, entered anew for every loop(...).
local function recursive_loop(c, node)
  local iterable, line = compile_expr(c, node.iterable), node.line
  c.scopes:open_activation()
  local activation = c.scopes.current.activation
  local loops = c.loops
  local run = loop_runner(c, node)
  local otherwise = otherwise_of(c, node)
  c.loops = loops
  c.scopes:close()
  return function(st, r)
    st.line = line
    local function recurse(state, loop, v)
      limits.enter(state)
      local list, n = elements(state, v)
      local _, result = capture(state, scope.frame(r, activation.size), function(s, frame)
        if run(s, frame, list, n, loop[5] + 1, loop[6]) == 0 then otherwise(s, frame) end
      end)
      limits.leave(state)
      return result
    end
    local list, n = elements(st, iterable(st, r))
    local frame = scope.frame(r, activation.size)
    if run(st, frame, list, n, 0, recurse) == 0 then otherwise(st, frame) end
  end
end

STMT["for"] = function(c, node)
  if node.recursive then return recursive_loop(c, node) end
  local iterable, line = compile_expr(c, node.iterable), node.line
  c.scopes:open()
  local run = loop_runner(c, node)
  c.scopes:close()
  local otherwise = node.otherwise and otherwise_of(c, node)
  return function(st, r)
    st.line = line
    local list, n = elements(st, iterable(st, r))
    local passes = run(st, r, list, n, 0)
    if otherwise and passes == 0 then return otherwise(st, r) end
  end
end

-- Macros ---------------------------------------------------------------------------------------------
-- Put the arguments of a call into the registers of a macro.
local function bind_arguments(st, r, def, args, n, kwargs)
  local params, slots, used = def.params, def.slots, 0
  local count = #params
  for i = 1, count do
    local v
    if i <= n then
      v = args[i]
    elseif kwargs then
      v = kwargs[params[i]]
      if v ~= nil then used = used + 1 end
    end
    if v == nil then
      local default = def.defaults[i]
      v = default and default(st, r) or def.missing[i]
    end
    r[slots[i]] = v
  end
  if def.caller_slot then
    local caller = kwargs and kwargs.caller
    if caller then used = used + 1 end
    r[def.caller_slot] = caller or value.undefined("No caller defined")
  end
  local rest = 0
  if kwargs then
    for _ in next, kwargs do rest = rest + 1 end
    rest = rest - used
  end
  if def.kwargs_slot then
    local named = value.dict()
    for _, name in ipairs(kwargs and value.keys(st, kwargs) or {}) do
      if not def.is_param[name] and not (def.caller_slot and name == "caller") then
        value.dict_set(named, name, kwargs[name])
      end
    end
    r[def.kwargs_slot] = named
  elseif rest > 0 then
    fail("type", "macro '%s' was called with a named argument that it does not take, or twice", def.name)
  end
  if def.varargs_slot then
    take(st, 32 * math.max(n - count, 0))
    r[def.varargs_slot] = value.tuple(table.move(args, count + 1, n, 1, {}))
  elseif n > count then
    fail("type", "macro '%s' takes not more than %d argument(s)", def.name, count)
  end
end

-- Call a macro { MACRO, def, invoke, registers around it }.
local function invoke(st, macro, args, n, kwargs)
  local def, line = macro[2], st.line
  limits.enter(st)
  work(st, def.cost)
  take(st, 400)
  local r = scope.frame(macro[4], def.activation.size)
  bind_arguments(st, r, def, args, n, kwargs)
  local _, v = capture(st, r, def.run)
  limits.leave(st)
  st.line = line
  return v
end

-- Compile a macro or the body of a call block to its definition.
local function definition(c, name, params, list)
  local scopes = c.scopes
  scopes:open_activation()
  local loops, soft = c.loops, c.soft
  c.loops = 0
  local def = { name = name, params = {}, slots = {}, defaults = {}, missing = {}, is_param = {},
    activation = scopes.current.activation }
  for i, param in ipairs(params) do
    def.params[i], def.slots[i] = param[1], scopes:declare(param[1])
    def.is_param[param[1]] = true
    def.missing[i] = value.undefined("parameter '%s' was not provided", param[1])
  end
  local outer = c.cost
  c.cost = 0
  for i, param in ipairs(params) do
    def.defaults[i] = param[2] and compile_expr(c, param[2]) or false
  end
  local defaults_cost = c.cost
  c.cost = outer
  for _, special in ipairs { "caller", "kwargs", "varargs" } do
    if not def.is_param[special] and scope.mentions(list, special) then
      def[special .. "_slot"] = scopes:declare(special)
    end
  end
  scopes:declare_assigned(list)
  local cost
  def.run, cost = charged_body(c, list)
  def.cost = cost + defaults_cost
  c.loops, c.soft = loops, soft
  scopes:close()
  return def
end

function STMT.macro(c, node)
  local slot = c.scopes:declare(node.name)
  local def = definition(c, node.name, node.params, node.body)
  local name = node.name
  return function(_, r)
    r[slot] = { MACRO, def, invoke, r, name = name }
  end
end

function STMT.callblock(c, node)
  local call = node.call
  local def = definition(c, "caller", node.params, node.body)
  local callee, args = compile_expr(c, call.callee), expr.arguments(c, call.args)
  local line = node.line
  return function(st, r)
    st.line = line
    local f = callee(st, r)
    local list, n, kwargs = args(st, r)
    local named = value.dict()
    if kwargs then
      for _, name in ipairs(value.keys(st, kwargs)) do value.dict_set(named, name, kwargs[name]) end
    end
    value.dict_set(named, "caller", { MACRO, def, invoke, r, name = "caller" })
    write(st, access.call(st, f, list, n, named))
  end
end

--- Compile a template: a closure (st) that renders it, and the steps its outermost level costs.
function M.compile(tree)
  local c = { scopes = scope.new(), cost = 0, soft = 0, loops = 0 }
  c.scopes:declare_assigned(tree)
  local run = body(c, tree)
  local activation = c.scopes.current.activation
  return function(st) return run(st, scope.frame(false, activation.size)) end, c.cost + 1
end

return M
