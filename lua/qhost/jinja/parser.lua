--- parser.lua: tokens to a syntax tree; the grammar is that of Jinja2 3.1.
---
--- A node is a table with `t` (its type) and `line`. Expressions: const name getattr getitem slice
--- call filter test not neg pos binary concat compare and or if tuple list dict nsref. Statements:
--- data output for if set setblock macro callblock filterblock with scope break continue.
local lexer = require "qhost.jinja.lexer"
local text = require "qhost.jinja.text"
local null = require "qhost.jinja.value".null

local M = {}

local MAX_DEPTH = 150          -- nested expressions and blocks; each level costs stack when rendered

local Parser = {}
Parser.__index = Parser

-- Tokens ---------------------------------------------------------------------------------------------
local function describe(tok)
  if tok.type == "name" then return "'" .. tok.value .. "'" end
  if tok.type == "eof" then return "end of template" end
  if tok.type == "block_end" then return "end of tag '%}'" end
  if tok.type == "var_end" then return "end of tag '}}'" end
  if tok.type == "string" or tok.type == "int" or tok.type == "float" then return tok.type end
  return "'" .. tok.type .. "'"
end

function Parser:fail(message, line)
  error({ kind = "syntax", message = message, line = line or self.tok.line }, 0)
end

function Parser:next()
  local tok = self.tok
  self.at = self.at + 1
  self.tok = self.tokens[self.at]
  return tok
end

function Parser:look()
  return self.tokens[self.at + 1]
end

function Parser:accept(type)
  if self.tok.type == type then return self:next() end
end

function Parser:expect(type)
  if self.tok.type ~= type then
    self:fail(("expected %s, got %s"):format(describe { type = type, value = type }, describe(self.tok)))
  end
  return self:next()
end

function Parser:is_name(value)
  return self.tok.type == "name" and self.tok.value == value
end

function Parser:accept_name(value)
  if self:is_name(value) then return self:next() end
end

function Parser:expect_name(value)
  if not self:is_name(value) then
    self:fail(("expected '%s', got %s"):format(value, describe(self.tok)))
  end
  return self:next()
end

function Parser:deeper()
  self.depth = self.depth + 1
  if self.depth > MAX_DEPTH then
    error({ kind = "limit", line = self.tok.line, message = "the template nests too deep" }, 0)
  end
end

function Parser:shallower()
  self.depth = self.depth - 1
end

-- Expressions ----------------------------------------------------------------------------------------
-- Binary operators by level, weakest first; all bind to the left.
local ADDITIVE = { ["+"] = true, ["-"] = true }
local MULTIPLICATIVE = { ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }
local COMPARE = { ["=="] = true, ["!="] = true, ["<"] = true, ["<="] = true, [">"] = true, [">="] = true }

function Parser:expression()
  self:deeper()
  local node = self:conditional()
  self:shallower()
  return node
end

function Parser:conditional()
  local line = self.tok.line
  local node = self:disjunction()
  local levels = 0
  while self:accept_name "if" do
    self:deeper()                      -- the tree leans on the value before it
    levels = levels + 1
    local test = self:disjunction()
    local otherwise
    if self:accept_name "else" then
      self:deeper()
      otherwise = self:conditional()
      self:shallower()
    end
    node = { t = "if_expr", line = line, test = test, value = node, otherwise = otherwise }
  end
  self.depth = self.depth - levels
  return node
end

-- A chain of `and` or `or` as one node with a list.
function Parser:chain(type, keyword, operand)
  local line = self.tok.line
  local first = operand(self)
  if not self:is_name(keyword) then return first end
  local list = { first }
  while self:accept_name(keyword) do list[#list + 1] = operand(self) end
  return { t = type, line = line, list = list }
end

function Parser:disjunction()
  return self:chain("or", "or", self.conjunction)
end

function Parser:conjunction()
  return self:chain("and", "and", self.negation)
end

function Parser:negation()
  if self:is_name "not" then
    local line = self:next().line
    self:deeper()
    local node = { t = "not", line = line, value = self:negation() }
    self:shallower()
    return node
  end
  return self:comparison()
end

function Parser:comparison()
  local line = self.tok.line
  local first = self:additive()
  local ops
  while true do
    local op
    if COMPARE[self.tok.type] then
      op = self:next().type
    elseif self:accept_name "in" then
      op = "in"
    elseif self:is_name "not" and self:look().type == "name" and self:look().value == "in" then
      self:next()
      self:next()
      op = "not in"
    else
      break
    end
    ops = ops or {}
    ops[#ops + 1] = { op = op, value = self:additive() }
  end
  if not ops then return first end
  return { t = "compare", line = line, first = first, ops = ops }
end

-- `+` chains become one node, so that long concatenations neither nest nor copy.
function Parser:additive()
  local line = self.tok.line
  local node = self:concatenation()
  local levels = 0
  while ADDITIVE[self.tok.type] do
    local op = self:next().type
    local right = self:concatenation()
    if op == "+" and node.t == "sum" then
      node.list[#node.list + 1] = right
    elseif op == "+" then
      node = { t = "sum", line = line, list = { node, right } }
    else
      node = { t = "binary", line = line, op = op, left = node, right = right }
    end
    if op == "-" then
      self:deeper()
      levels = levels + 1
    end
  end
  self.depth = self.depth - levels
  return node
end

function Parser:concatenation()
  local line = self.tok.line
  local first = self:multiplicative()
  if self.tok.type ~= "~" then return first end
  local list = { first }
  while self:accept "~" do list[#list + 1] = self:multiplicative() end
  return { t = "concat", line = line, list = list }
end

-- Left-leaning chain of the operators in `set`.
function Parser:left_chain(set, operand)
  local line = self.tok.line
  local node = operand(self)
  local levels = 0
  while set[self.tok.type] do
    self:deeper()
    levels = levels + 1
    local op = self:next().type
    node = { t = "binary", line = line, op = op, left = node, right = operand(self) }
  end
  self.depth = self.depth - levels
  return node
end

function Parser:multiplicative()
  return self:left_chain(MULTIPLICATIVE, self.power)
end

local POWER = { ["**"] = true }
function Parser:power()
  return self:left_chain(POWER, self.unary)
end

function Parser:unary(without_filter)
  local tok = self.tok
  local node
  if tok.type == "-" or tok.type == "+" then
    self:next()
    self:deeper()
    node = { t = tok.type == "-" and "neg" or "pos", line = tok.line, value = self:unary(true) }
    self:shallower()
  else
    node = self:primary()
  end
  return self:postfix(node, not without_filter)
end

local CONSTANT = { ["true"] = true, True = true, ["false"] = false, False = false }

function Parser:primary(with_namespace)
  local tok = self.tok
  if tok.type == "name" then
    self:next()
    local name = tok.value
    if CONSTANT[name] ~= nil then return { t = "const", line = tok.line, value = CONSTANT[name] } end
    if name == "none" or name == "None" then return { t = "const", line = tok.line, value = null } end
    if with_namespace and self:accept "." then
      return { t = "nsref", line = tok.line, name = name, attr = self:expect("name").value }
    end
    return { t = "name", line = tok.line, name = name }
  elseif tok.type == "string" then
    local parts = {}
    while self.tok.type == "string" do parts[#parts + 1] = self:next().value end
    local s = table.concat(parts)
    return { t = "const", line = tok.line, value = text.trusted(s), string = s }
  elseif tok.type == "int" or tok.type == "float" then
    self:next()
    return { t = "const", line = tok.line, value = tok.value }
  elseif tok.type == "(" then
    self:next()
    local node = self:tuple { parentheses = true }
    self:expect ")"
    return node
  elseif tok.type == "[" then
    self:next()
    local items = self:items("]", self.expression)
    return { t = "list", line = tok.line, items = items }
  elseif tok.type == "{" then
    self:next()
    local pairs = self:items("}", function(p)
      local key = p:expression()
      p:expect ":"
      return { key, p:expression() }
    end)
    return { t = "dict", line = tok.line, pairs = pairs }
  end
  self:fail("unexpected " .. describe(tok))
end

-- Comma-separated items up to `close`, which is eaten; a comma may come last.
function Parser:items(close, parse)
  local items = {}
  while self.tok.type ~= close do
    if #items > 0 then
      self:expect ","
      if self.tok.type == close then break end
    end
    items[#items + 1] = parse(self)
  end
  self:expect(close)
  return items
end

-- One expression, or a tuple of those that commas separate. Options: `simple` (names and literals
-- only), `no_condition` (no inline if), `stop` (a name that ends it), `parentheses` (may be empty),
-- `with_namespace` (ns.attr as a target).
function Parser:tuple(opts)
  local line = self.tok.line
  local items, is_tuple = {}, false
  while true do
    if #items > 0 then self:expect "," end
    local type = self.tok.type
    if type == "var_end" or type == "block_end" or type == ")" then break end
    if opts.stop and self:is_name(opts.stop) then break end
    if opts.simple then
      items[#items + 1] = self:primary(opts.with_namespace)
    elseif opts.no_condition then
      items[#items + 1] = self:disjunction()
    else
      items[#items + 1] = self:expression()
    end
    if self.tok.type ~= "," then break end
    is_tuple = true
  end
  if not is_tuple then
    if items[1] then return items[1] end
    if not opts.parentheses then self:fail("expected an expression, got " .. describe(self.tok)) end
  end
  return { t = "tuple", line = line, items = items }
end

-- Attributes, subscripts and calls after a value; with `filters` also filters and tests.
function Parser:postfix(node, filters)
  local levels = 0
  while true do
    local type = self.tok.type
    if type == "." or type == "[" then
      node = self:subscript(node)
    elseif type == "(" then
      node = self:call(node)
    elseif filters and type == "|" then
      node = self:filter(node)
    elseif filters and self:is_name "is" then
      node = self:test(node)
    else
      break
    end
    self:deeper()
    levels = levels + 1
  end
  self.depth = self.depth - levels
  return node
end

function Parser:subscript(node)
  local tok = self:next()
  if tok.type == "." then
    local attr = self:next()
    if attr.type == "name" then
      return { t = "getattr", line = tok.line, object = node, attr = attr.value }
    elseif attr.type == "int" then
      local index = { t = "const", line = attr.line, value = attr.value }
      return { t = "getitem", line = tok.line, object = node, index = index }
    end
    self:fail("expected a name or a number after '.'", attr.line)
  end
  local index = self:subscript_index()
  if self.tok.type == "," then
    local items = { index }
    while self:accept "," do items[#items + 1] = self:subscript_index() end
    index = { t = "tuple", line = tok.line, items = items }
  end
  self:expect "]"
  return { t = "getitem", line = tok.line, object = node, index = index }
end

function Parser:subscript_index()
  local line = self.tok.line
  local first, last, step
  if self.tok.type ~= ":" then
    first = self:expression()
    if self.tok.type ~= ":" then return first end
  end
  self:expect ":"
  local function ends() return self.tok.type == ":" or self.tok.type == "]" or self.tok.type == "," end
  if not ends() then last = self:expression() end
  if self:accept ":" and not ends() then step = self:expression() end
  return { t = "slice", line = line, first = first, last = last, step = step }
end

-- Arguments in parentheses: { args, kwargs = { {name, node} }, star, star_star }.
function Parser:arguments()
  local open = self:expect "("
  local list = { kwargs = {} }
  local function ensure(ok)
    if not ok then self:fail("invalid syntax for function call expression", open.line) end
  end
  local more = false
  while self.tok.type ~= ")" do
    if more then
      self:expect ","
      if self.tok.type == ")" then break end
    end
    if self:accept "*" then
      ensure(not list.star and not list.star_star)
      list.star = self:expression()
    elseif self:accept "**" then
      ensure(not list.star_star)
      list.star_star = self:expression()
    elseif self.tok.type == "name" and self:look().type == "=" then
      ensure(not list.star_star)
      local name = self:next().value
      self:next()
      list.kwargs[#list.kwargs + 1] = { name, self:expression() }
    else
      ensure(not list.star and not list.star_star and #list.kwargs == 0)
      list[#list + 1] = self:expression()
    end
    more = true
  end
  self:expect ")"
  return list
end

function Parser:call(node)
  local line = self.tok.line
  return { t = "call", line = line, callee = node, args = self:arguments() }
end

function Parser:dotted_name()
  local name = self:expect("name").value
  while self:accept "." do name = name .. "." .. self:expect("name").value end
  return name
end

function Parser:filter(node)
  self:expect "|"
  return self:bare_filter(node)
end

function Parser:bare_filter(node)
  local line = self.tok.line
  local name = self:dotted_name()
  local args = self.tok.type == "(" and self:arguments() or { kwargs = {} }
  return { t = "filter", line = line, name = name, value = node, args = args }
end

local STARTS_ARGUMENT = { name = true, string = true, int = true, float = true, ["["] = true, ["{"] = true }
local ENDS_TEST = { ["else"] = true, ["or"] = true, ["and"] = true }

function Parser:test(node)
  local line = self:next().line
  local negated = self:accept_name "not"
  local name = self:dotted_name()
  local args = { kwargs = {} }
  if self.tok.type == "(" then
    args = self:arguments()
  elseif STARTS_ARGUMENT[self.tok.type] and not (self.tok.type == "name" and ENDS_TEST[self.tok.value]) then
    if self:is_name "is" then self:fail("tests cannot be chained with 'is'") end
    args[1] = self:postfix(self:primary(), false)
  end
  local test = { t = "test", line = line, name = name, value = node, args = args }
  if negated then return { t = "not", line = line, value = test } end
  return test
end

-- Statements -----------------------------------------------------------------------------------------
-- Statements up to a tag whose name is in `ends`; the name stays the current token.
function Parser:body(ends)
  self:deeper()
  local list = {}
  while true do
    local tok = self.tok
    if tok.type == "data" then
      self:next()
      list[#list + 1] = { t = "data", line = tok.line, text = tok.value }
    elseif tok.type == "var_begin" then
      self:next()
      list[#list + 1] = { t = "output", line = tok.line, value = self:tuple {} }
      self:expect "var_end"
    elseif tok.type == "block_begin" then
      self:next()
      if ends and self.tok.type == "name" and ends[self.tok.value] then break end
      list[#list + 1] = self:statement(ends)
      self:expect "block_end"
    elseif ends then
      local names = {}
      for name in pairs(ends) do names[#names + 1] = "'" .. name .. "'" end
      table.sort(names)
      self:fail("the template ends where " .. table.concat(names, " or ") .. " was expected")
    else
      break
    end
  end
  self:shallower()
  return list
end

-- The body of a tag up to its end; returns it and the name that ended it.
function Parser:block(ends)
  self:accept ":"
  self:expect "block_end"
  local list = self:body(ends)
  return list, self:next().value
end

local NOT_AVAILABLE = {
  extends = true, include = true, import = true, from = true, autoescape = true,
}
local STATEMENT = {}

function Parser:statement(ends)
  local tok = self.tok
  if tok.type ~= "name" then self:fail("expected a tag name, got " .. describe(tok)) end
  local parse = STATEMENT[tok.value]
  if parse then
    self:next()
    local node = parse(self)
    node.line = tok.line
    return node
  end
  if NOT_AVAILABLE[tok.value] then
    self:fail(("the tag '%s' is not available in a chat template"):format(tok.value))
  end
  local expected = ""
  if ends then
    local names = {}
    for name in pairs(ends) do names[#names + 1] = "'" .. name .. "'" end
    table.sort(names)
    expected = "; the innermost open block needs " .. table.concat(names, " or ")
  end
  self:fail(("unknown tag '%s'%s"):format(tok.value, expected))
end

-- Is the node something that can be assigned to?
function Parser:check_target(node)
  if node.t == "tuple" then
    for _, item in ipairs(node.items) do self:check_target(item) end
  elseif node.t ~= "name" and node.t ~= "nsref" then
    self:fail("cannot assign to this expression", node.line)
  end
  return node
end

function Parser:target(opts)
  opts.simple = true
  return self:check_target(self:tuple(opts))
end

-- `| filter` any number of times after nothing: the filters of a set block.
function Parser:trailing_filters()
  local node = { t = "captured", line = self.tok.line }
  while self.tok.type == "|" do node = self:filter(node) end
  return node
end

STATEMENT["for"] = function(p)
  local target = p:target { stop = "in" }
  p:expect_name "in"
  local iterable = p:tuple { no_condition = true, stop = "recursive" }
  local test = p:accept_name "if" and p:expression() or nil
  local recursive = p:accept_name "recursive" ~= nil
  local body, ended = p:block { endfor = true, ["else"] = true }
  local otherwise
  if ended == "else" then otherwise = p:block { endfor = true } end
  return { t = "for", target = target, iterable = iterable, test = test, recursive = recursive,
    body = body, otherwise = otherwise }
end

STATEMENT["if"] = function(p)
  local branches, otherwise = {}, nil
  local ended
  repeat
    local test = p:tuple { no_condition = true }
    local body
    body, ended = p:block { ["elif"] = true, ["else"] = true, ["endif"] = true }
    branches[#branches + 1] = { test = test, body = body }
  until ended ~= "elif"
  if ended == "else" then otherwise = p:block { endif = true } end
  return { t = "if", branches = branches, otherwise = otherwise }
end

function STATEMENT.set(p)
  local target = p:target { with_namespace = true }
  if p:accept "=" then
    return { t = "set", target = target, value = p:tuple {} }
  end
  local value = p:trailing_filters()
  return { t = "setblock", target = target, value = value, body = p:block { endset = true } }
end

-- Parameters of a macro: { {name, default} }.
function Parser:signature()
  self:expect "("
  local params, has_default = {}, false
  while self.tok.type ~= ")" do
    if #params > 0 then self:expect "," end
    local name = self:expect("name").value
    local default
    if self:accept "=" then
      default = self:expression()
      has_default = true
    elseif has_default then
      self:fail("a parameter without default follows one with a default")
    end
    params[#params + 1] = { name, default }
  end
  self:expect ")"
  return params
end

function STATEMENT.macro(p)
  local name = p:expect("name").value
  local params = p:signature()
  return { t = "macro", name = name, params = params, body = p:block { endmacro = true } }
end

function STATEMENT.call(p)
  local params = p.tok.type == "(" and p:signature() or {}
  local call = p:expression()
  if call.t ~= "call" then p:fail("expected a call", call.line) end
  return { t = "callblock", params = params, call = call, body = p:block { endcall = true } }
end

function STATEMENT.filter(p)
  local value = p:bare_filter { t = "captured", line = p.tok.line }
  while p.tok.type == "|" do value = p:filter(value) end
  return { t = "filterblock", value = value, body = p:block { endfilter = true } }
end

STATEMENT["with"] = function(p)
  local names, values = {}, {}
  while p.tok.type ~= "block_end" do
    if #names > 0 then p:expect "," end
    names[#names + 1] = p:target {}
    p:expect "="
    values[#values + 1] = p:expression()
  end
  return { t = "with", targets = names, values = values, body = p:block { endwith = true } }
end

-- Marks the tokens of the assistant for training; when rendering it is only a scope.
function STATEMENT.generation(p)
  return { t = "scope", body = p:block { endgeneration = true } }
end

-- A block without inheritance is written where it stands.
function STATEMENT.block(p)
  local name = p:expect("name").value
  while p:accept_name "scoped" or p:accept_name "required" do end
  local body = p:block { endblock = true }
  p:accept_name(name)
  return { t = "scope", body = body }
end

function STATEMENT.print(p)
  local body = {}
  while p.tok.type ~= "block_end" do
    if #body > 0 then p:expect "," end
    body[#body + 1] = { t = "output", line = p.tok.line, value = p:expression() }
  end
  return { t = "scope", body = body }
end

STATEMENT["break"] = function() return { t = "break" } end
STATEMENT["continue"] = function() return { t = "continue" } end

--- Parse a template; raises { kind, message, line }.
---@param source string
---@param opts { trim_blocks: boolean, lstrip_blocks: boolean }
---@return table body  list of statements
function M.parse(source, opts)
  local tokens = lexer.tokens(source, opts)
  local self = setmetatable({ tokens = tokens, at = 1, tok = tokens[1], depth = 0 }, Parser)
  return self:body(nil)
end

return M
