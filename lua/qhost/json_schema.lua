--- json_schema.lua: JSON Schema (2020-12, and what draft 7 shares with it) as a function that checks values.
---
--- A schema is compiled once to closures. Refused, with the keyword's place, is what cannot be checked here:
--- references out of the schema, $id below its root, $dynamicRef, unevaluated*. Unknown keywords are notes, and
--- so is `format`, as the standard has it. A property's `default` is filled in where the property is missing.
local core = require "qhost.core"
local place = require "qhost.place"
local re = require "qhost.re"
local M = {}

local fail, enter, leave = place.fail, place.enter, place.leave
local is_list, is_object, is_whole = place.is_list, place.is_object, place.is_whole
local null = core.json.null

local MAX_SCHEMAS = 2000

local REFUSED = { "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties" }
local LIST_KEYWORDS = { "required", "enum", "anyOf", "oneOf", "allOf", "prefixItems", "examples" }

--- Raise about the schema: `at` is a JSON pointer into it.
local function refuse(at, message, ...)
  error({ message = ("JSON Schema, at %s: "):format(at == "" and "its root" or at) .. message:format(...) }, 0)
end

local function expect(ok, at, message, ...)
  if not ok then refuse(at, message, ...) end
end

local function count_of(schema, key, at)
  local n = schema[key]
  if n == nil then return nil end
  expect(is_whole(n) and n >= 0, at .. "/" .. key, "a count is expected, not %s", place.show(n))
  return n
end

local function number_of(schema, key, at)
  local n = schema[key]
  expect(n == nil or type(n) == "number", at .. "/" .. key, "a number is expected, not %s", place.show(n))
  return n
end

local function plural(n, word) return ("%d %s%s"):format(n, word, n == 1 and "" or "s") end

-- Keywords: each entry makes a check of its part of a schema, or returns nil. ----------------------------

local TYPES = {
  string = function(v) return type(v) == "string" end,
  number = function(v) return type(v) == "number" end,
  integer = is_whole,
  boolean = function(v) return type(v) == "boolean" end,
  null = place.is_null,
  array = is_list,
  object = is_object,
}
local TYPE_WORDS = { string = "a string", number = "a number", integer = "an integer", boolean = "a boolean",
  null = "null", array = "a list", object = "an object" }

local function check_type(_, schema, at)
  local list = schema.type
  if list == nil then return nil end
  if type(list) == "string" then list = { list } end
  expect(type(list) == "table" and list[1] ~= nil, at .. "/type", "a type or a list of types is expected")
  local tests, words = {}, {}
  for i, name in ipairs(list) do
    tests[i] = TYPES[name] or refuse(at .. "/type", "%s is no type", place.show(name))
    words[i] = TYPE_WORDS[name]
  end
  local expected = "expected " .. table.concat(words, " or ") .. ", got "
  return function(v, p)
    for i = 1, #tests do
      if tests[i](v) then return v end
    end
    return fail(p, "type", expected .. (place.is_whole(v) and "an integer" or place.kind(v)))
  end
end

local function check_enum(_, schema, at)
  local list = schema.enum
  if list == nil then return nil end
  expect(is_list(list), at .. "/enum", "a list is expected")
  local words = {}
  for i, item in ipairs(list) do words[i] = place.show(item) end
  local expected = "must be one of " .. table.concat(words, ", ", 1, math.min(#words, 20)) .. (#words > 20 and ", ..." or "")
  return function(v, p)
    for _, item in ipairs(list) do
      if place.equal(v, item) then return v end
    end
    return fail(p, "value", expected .. "; got " .. place.show(v))
  end
end

local function check_const(_, schema)
  local const = schema.const
  if const == nil then return nil end
  return function(v, p)
    if place.equal(v, const) then return v end
    return fail(p, "value", ("must be %s; got %s"):format(place.show(const), place.show(v)))
  end
end

local function is_multiple(v, step)
  local q = v / step
  if q - q ~= 0 then return math.fmod(v, step) == 0 end
  return math.abs(q - math.floor(q + 0.5)) <= 1e-12 * math.max(1, math.abs(q))
end

local function check_number(_, schema, at)
  local min, max = number_of(schema, "minimum", at), number_of(schema, "maximum", at)
  local above, below = number_of(schema, "exclusiveMinimum", at), number_of(schema, "exclusiveMaximum", at)
  local step = number_of(schema, "multipleOf", at)
  expect(not step or step > 0, at .. "/multipleOf", "a number above 0 is expected")
  if not (min or max or above or below or step) then return nil end
  return function(v, p)
    if type(v) ~= "number" then return v end
    if min and v < min then return fail(p, "value", ("must be at least %s; got %s"):format(min, v)) end
    if max and v > max then return fail(p, "value", ("must be at most %s; got %s"):format(max, v)) end
    if above and v <= above then return fail(p, "value", ("must be above %s; got %s"):format(above, v)) end
    if below and v >= below then return fail(p, "value", ("must be below %s; got %s"):format(below, v)) end
    if step and not is_multiple(v, step) then
      return fail(p, "value", ("must be a multiple of %s; got %s"):format(step, v))
    end
    return v
  end
end

--- A pattern as ECMAScript reads it, as a test of texts.
local function matcher(pattern, at)
  expect(type(pattern) == "string", at, "a regular expression is expected")
  local test, message = re.compile(pattern, "e")
  return test or refuse(at, "%s", message)
end

local function check_text(_, schema, at)
  local min, max = count_of(schema, "minLength", at), count_of(schema, "maxLength", at)
  local pattern = schema.pattern
  local fits = pattern ~= nil and matcher(pattern, at .. "/pattern")
  if not (min or max or fits) then return nil end
  return function(v, p)
    if type(v) ~= "string" then return v end
    local n = place.n_chars(v)
    if min and n < min then
      return fail(p, "value", ("must have at least %s; has %d"):format(plural(min, "character"), n))
    end
    if max and n > max then
      return fail(p, "value", ("must have at most %s; has %d"):format(plural(max, "character"), n))
    end
    if fits and not fits(v) then return fail(p, "value", ("must match %s; is %s"):format(pattern, place.show(v))) end
    return v
  end
end

--- Check each item from `from` on with `check`; a changed item makes a copy of the list.
local function check_items(v, p, from, to, check)
  local out = v
  for i = from, to do
    enter(p, i - 1)
    local item, err = check(v[i], p)
    leave(p)
    if err then return nil, err end
    if item ~= v[i] then
      if out == v then out = core.json.array(table.move(v, 1, #v, 1, {})) end
      out[i] = item
    end
  end
  return out
end

local function check_list(c, schema, at)
  local heads = {}
  local prefix, rest = schema.prefixItems, schema.items
  if is_list(rest) and next(rest) ~= nil then prefix, rest = rest, schema.additionalItems end     -- draft 7
  for i, sub in ipairs(prefix or {}) do heads[i] = c:compile(sub, ("%s/prefixItems/%d"):format(at, i - 1)) end
  local tail = rest ~= nil and c:compile(rest, at .. "/items")
  if not tail and #heads == 0 then return nil end
  return function(v, p)
    if not is_list(v) then return v end
    for i = 1, math.min(#heads, #v) do
      local out, err = check_items(v, p, i, i, heads[i])
      if err then return nil, err end
      v = out
    end
    if tail then return check_items(v, p, #heads + 1, #v, tail) end
    return v
  end
end

local function is_unique(v)
  local seen, tables = {}, {}
  for _, item in ipairs(v) do
    if type(item) == "table" then
      for _, other in ipairs(tables) do
        if place.equal(item, other) then return false end
      end
      tables[#tables + 1] = item
    else
      if seen[item] then return false end
      seen[item] = true
    end
  end
  return true
end

local function check_length(_, schema, at)
  local min, max = count_of(schema, "minItems", at), count_of(schema, "maxItems", at)
  local unique = schema.uniqueItems == true
  if not (min or max or unique) then return nil end
  return function(v, p)
    if not is_list(v) then return v end
    if min and #v < min then
      return fail(p, "value", ("must have at least %s; has %d"):format(plural(min, "item"), #v))
    end
    if max and #v > max then
      return fail(p, "value", ("must have at most %s; has %d"):format(plural(max, "item"), #v))
    end
    if unique and not is_unique(v) then return fail(p, "value", "must not have the same item twice") end
    return v
  end
end

local function check_contains(c, schema, at)
  if schema.contains == nil then return nil end
  local check = c:compile(schema.contains, at .. "/contains")
  local min, max = count_of(schema, "minContains", at) or 1, count_of(schema, "maxContains", at)
  return function(v, p)
    if not is_list(v) then return v end
    local n = 0
    for _, item in ipairs(v) do
      local _, err = check(item, p)
      if not err then n = n + 1 end
    end
    if n < min then
      return fail(p, "value", ("must have at least %s as `contains` says; has %d"):format(plural(min, "item"), n))
    end
    if max and n > max then
      return fail(p, "value", ("must have at most %s as `contains` says; has %d"):format(plural(max, "item"), n))
    end
    return v
  end
end

local function names_of(list, at)
  expect(is_list(list), at, "a list of names is expected")
  for _, name in ipairs(list) do expect(type(name) == "string", at, "a list of names is expected") end
  return list
end

local function check_required(_, schema, at)
  if schema.required == nil then return nil end
  local names = names_of(schema.required, at .. "/required")
  return function(v, p)
    if not is_object(v) then return v end
    for _, name in ipairs(names) do
      if v[name] == nil then return fail(p, "missing", "is required", name) end
    end
    return v
  end
end

local function check_dependent(c, schema, at)
  local names, subs = {}, {}
  for _, keyword in ipairs { "dependentRequired", "dependentSchemas", "dependencies" } do
    local map = schema[keyword]
    expect(map == nil or type(map) == "table", at .. "/" .. keyword, "an object is expected")
    for key, sub in pairs(map or {}) do
      local where = ("%s/%s/%s"):format(at, keyword, key)
      if keyword ~= "dependentSchemas" and is_list(sub) then
        names[key] = names_of(sub, where)
      else
        subs[key] = c:compile(sub, where)
      end
    end
  end
  if next(names) == nil and next(subs) == nil then return nil end
  return function(v, p)
    if not is_object(v) then return v end
    for key, list in pairs(names) do
      for _, name in ipairs(v[key] ~= nil and list or {}) do
        if v[name] == nil then return fail(p, "missing", ("is required beside '%s'"):format(key), name) end
      end
    end
    for key, check in pairs(subs) do
      if v[key] ~= nil then
        local out, err = check(v, p)
        if err then return nil, err end
        v = out
      end
    end
    return v
  end
end

local function n_keys(v)
  local n = 0
  for _ in pairs(v) do n = n + 1 end
  return n
end

local function check_size(_, schema, at)
  local min, max = count_of(schema, "minProperties", at), count_of(schema, "maxProperties", at)
  if not (min or max) then return nil end
  return function(v, p)
    if not is_object(v) then return v end
    local n = n_keys(v)
    if min and n < min then return fail(p, "value", ("must have at least %s; has %d"):format(plural(min, "key"), n)) end
    if max and n > max then return fail(p, "value", ("must have at most %s; has %d"):format(plural(max, "key"), n)) end
    return v
  end
end

local function check_names(c, schema, at)
  if schema.propertyNames == nil then return nil end
  local check = c:compile(schema.propertyNames, at .. "/propertyNames")
  return function(v, p)
    if not is_object(v) then return v end
    for key in pairs(v) do
      local _, err = check(key, p)
      if err then return fail(p, "unknown", "is no allowed name: " .. err.message, key) end
    end
    return v
  end
end

local function deep_copy(v)
  if type(v) ~= "table" then return v end
  local copy = {}
  for k, item in pairs(v) do copy[k] = deep_copy(item) end
  return setmetatable(copy, getmetatable(v))
end
M.deep_copy = deep_copy

--- Keys in the order of the schema's text, else sorted: failures and defaults come in a fixed order.
local function ordered_keys(map)
  local mt, keys, seen = getmetatable(map), {}, {}
  for _, key in ipairs(type(mt) == "table" and mt.__jsonorder or {}) do
    if map[key] ~= nil and not seen[key] then keys[#keys + 1], seen[key] = key, true end
  end
  local rest = {}
  for key in pairs(map) do
    if not seen[key] then rest[#rest + 1] = key end
  end
  table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
  return table.move(rest, 1, #rest, #keys + 1, keys)
end
M.ordered_keys = ordered_keys

local function compile_map(c, map, at)
  local checks = {}
  if map == nil then return checks end
  expect(is_object(map), at, "an object is expected")
  for _, key in ipairs(ordered_keys(map)) do
    expect(type(key) == "string", at, "names are strings")
    checks[#checks + 1] = { key = key, check = c:compile(map[key], at .. "/" .. key),
      default = type(map[key]) == "table" and map[key].default or nil }
  end
  return checks
end

local function compile_patterns(c, map, at)
  local list = compile_map(c, map, at)
  for _, entry in ipairs(list) do entry.fits = matcher(entry.key, at .. "/" .. entry.key) end
  return list
end

local function check_properties(c, schema, at)
  local fields = compile_map(c, schema.properties, at .. "/properties")
  local patterns = compile_patterns(c, schema.patternProperties, at .. "/patternProperties")
  local extra = schema.additionalProperties
  local check_extra = extra ~= nil and extra ~= true and c:compile(extra, at .. "/additionalProperties")
  if #fields == 0 and #patterns == 0 and not check_extra then return nil end
  local is_field = {}
  for _, f in ipairs(fields) do is_field[f.key] = true end
  return function(v, p)
    if not is_object(v) then return v end
    local out, order = v, nil
    local function set(key, item)
      if out == v then out, order = place.copy_object(v) end
      if out[key] == nil then order[#order + 1] = key end
      out[key] = item
    end
    local function check_member(key, check)
      enter(p, key)
      local item, err = check(out[key], p)
      leave(p)
      if not err and item ~= out[key] then set(key, item) end
      return err
    end
    for _, f in ipairs(fields) do
      if v[f.key] ~= nil then
        local err = check_member(f.key, f.check)
        if err then return nil, err end
      elseif f.default ~= nil then
        set(f.key, deep_copy(f.default))
      end
    end
    for key in pairs((check_extra or #patterns > 0) and v or {}) do
      local is_known, err = is_field[key], nil
      for _, entry in ipairs(patterns) do
        if not err and entry.fits(key) then is_known, err = true, check_member(key, entry.check) end
      end
      if not is_known and extra == false then err = select(2, fail(p, "unknown", "is not a known key", key)) end
      if not err and not is_known and check_extra then err = check_member(key, check_extra) end
      if err then return nil, err end
    end
    return out
  end
end

local function compile_list(c, schema, keyword, at)
  local list, checks = schema[keyword], {}
  if list == nil then return nil end
  expect(is_list(list) and list[1] ~= nil, at .. "/" .. keyword, "a list of schemas is expected")
  for i, sub in ipairs(list) do checks[i] = c:compile(sub, ("%s/%s/%d"):format(at, keyword, i - 1)) end
  return checks
end

local function check_all(c, schema, at)
  local checks = compile_list(c, schema, "allOf", at)
  return checks and function(v, p)
    for i = 1, #checks do
      local out, err = checks[i](v, p)
      if err then return nil, err end
      v = out
    end
    return v
  end
end

--- Of the failures of alternatives the one that got furthest; when none went inside, all of them.
function M.best_failure(p, failures)
  local best
  for _, e in ipairs(failures) do
    if e.depth > p.n and (not best or e.depth > best.depth) then best = e end
  end
  if best then return nil, best end
  if #failures == 1 then return nil, failures[1] end
  local words, seen = {}, {}
  for _, e in ipairs(failures) do
    if not seen[e.message] then words[#words + 1], seen[e.message] = e.message, true end
  end
  return fail(p, "value", table.concat(words, "; or: "))
end

local function check_any(c, schema, at)
  local checks = compile_list(c, schema, "anyOf", at)
  return checks and function(v, p)
    local failures = {}
    for i = 1, #checks do
      local out, err = checks[i](v, p)
      if not err then return out end
      failures[i] = err
    end
    return M.best_failure(p, failures)
  end
end

local function check_one(c, schema, at)
  local checks = compile_list(c, schema, "oneOf", at)
  return checks and function(v, p)
    local failures, n, found = {}, 0, nil
    for i = 1, #checks do
      local out, err = checks[i](v, p)
      if err then failures[#failures + 1] = err else n, found = n + 1, out end
    end
    if n == 1 then return found end
    if n > 1 then return fail(p, "value", ("fits %d of the alternatives of oneOf; it must fit one"):format(n)) end
    return M.best_failure(p, failures)
  end
end

local function check_not(c, schema, at)
  if schema["not"] == nil then return nil end
  local check = c:compile(schema["not"], at .. "/not")
  return function(v, p)
    local _, err = check(v, p)
    if err then return v end
    return fail(p, "value", "is what `not` rules out")
  end
end

local function check_if(c, schema, at)
  if schema["if"] == nil then return nil end
  local cond = c:compile(schema["if"], at .. "/if")
  local yes = schema["then"] ~= nil and c:compile(schema["then"], at .. "/then")
  local no = schema["else"] ~= nil and c:compile(schema["else"], at .. "/else")
  return function(v, p)
    local _, err = cond(v, p)
    local branch
    if err then branch = no else branch = yes end
    if branch then return branch(v, p) end
    return v
  end
end

--- The part of the schema that a reference names: "#", "#/a/b~1c", or "#anchor".
local function target_of(c, ref, at)
  expect(type(ref) == "string", at, "a text is expected")
  expect(ref:sub(1, 1) == "#", at, "%s leads out of the schema; only '#/...' can be followed", place.show(ref))
  local node = c.root
  if ref == "#" then return node end
  if ref:sub(1, 2) ~= "#/" then return c.anchors[ref:sub(2)] or refuse(at, "there is no $anchor '%s'", ref:sub(2)) end
  for part in ref:sub(2):gmatch "/([^/]*)" do
    part = part:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end):gsub("~1", "/"):gsub("~0", "~")
    local index = math.tointeger(tonumber(part))
    if type(node) == "table" then
      if is_list(node) and index then node = node[index + 1] else node = node[part] end
    else
      node = nil
    end
    expect(node ~= nil, at, "%s names nothing", place.show(ref))
  end
  return node
end

local function check_ref(c, schema, at)
  local ref = schema["$ref"]
  if ref == nil then return nil end
  local target = target_of(c, ref, at .. "/$ref")
  local check
  c.later[#c.later + 1] = function() check = c:compile(target, ref) end
  return function(v, p)
    if p.depth >= place.MAX_DEPTH then
      return fail(p, "value", "is nested too deep, or the schema refers to itself without end")
    end
    p.depth = p.depth + 1
    local out, err = check(v, p)
    p.depth = p.depth - 1
    return out, err
  end
end

local KEYWORDS = { check_type, check_enum, check_const, check_number, check_text, check_length, check_required, check_size,
  check_names, check_properties, check_list, check_contains, check_dependent, check_all, check_any, check_one, check_not,
  check_if, check_ref }

-- Compiling ------------------------------------------------------------------------------------------

local Compiler = {}
Compiler.__index = Compiler

local function accept(v) return v end
local function reject(_, p) return fail(p, "value", "is not allowed here") end

local function chain(checks)
  if #checks == 0 then return accept end
  if #checks == 1 then return checks[1] end
  return function(v, p)
    for i = 1, #checks do
      local out, err = checks[i](v, p)
      if err then return nil, err end
      v = out
    end
    return v
  end
end

--- The check of a schema: fn(value, place) -> value, or nil and a mismatch.
function Compiler:compile(schema, at)
  if schema == true then return accept end
  if schema == false then return reject end
  expect(type(schema) == "table" and is_object(schema), at, "a schema is expected, not %s", place.kind(schema))
  if self.done[schema] then return self.done[schema] end
  self.n = self.n + 1
  expect(self.n <= MAX_SCHEMAS, at, "more than %d schemas", MAX_SCHEMAS)
  for _, keyword in ipairs(REFUSED) do
    expect(schema[keyword] == nil, at .. "/" .. keyword, "this keyword is not supported")
  end
  expect(schema == self.root or type(schema["$id"]) ~= "string", at .. "/$id", "only the root may have one")
  local checks = {}
  self.done[schema] = function(v, p) return self.done[schema](v, p) end     -- while it is compiled
  for _, make in ipairs(KEYWORDS) do
    checks[#checks + 1] = make(self, schema, at)
  end
  self.done[schema] = chain(checks)
  return self.done[schema]
end

--- A copy of the schema in which lists are marked as such; collects the anchors of the root's own resource, not
--- those of a schema inside that has an $id.
local function own_copy(c, v, depth, is_foreign)
  if type(v) ~= "table" then return v end
  expect(depth < 100, "", "it is nested deeper than 100, or within itself")
  is_foreign = is_foreign or depth > 0 and type(v["$id"]) == "string"
  local copy = {}
  for k, item in pairs(v) do copy[k] = own_copy(c, item, depth + 1, is_foreign) end
  for _, key in ipairs(LIST_KEYWORDS) do
    if type(copy[key]) == "table" and next(copy[key]) == nil then core.json.array(copy[key]) end
  end
  local anchor = copy["$anchor"] or copy["$dynamicAnchor"]
  if type(anchor) == "string" and not is_foreign then
    expect(not c.anchors[anchor], "", "it has the anchor '%s' twice", anchor)
    c.anchors[anchor] = copy
  end
  return setmetatable(copy, getmetatable(v))
end

--- Compile a schema. nil and a message when it is none, or cannot be checked here.
---@param schema table|boolean
---@return {schema: any, check: fun(v: any, p: table): any, qhost.Mismatch?}? compiled
---@return string? message
function M.compile(schema)
  local c = setmetatable({ done = {}, later = {}, anchors = {}, n = 0 }, Compiler)
  local ok, result = pcall(function()
    c.root = own_copy(c, schema, 0, false)
    local check = c:compile(c.root, "")
    local i = 1
    while c.later[i] do
      c.later[i]()
      i = i + 1
    end
    return check
  end)
  if ok then return { schema = c.root, check = result } end
  if type(result) == "table" and result.message then return nil, result.message end
  error(result, 0)
end

M.null = null
return M
