--- schema.lua: what a value must look like, said once: checked at the door, shown to models as JSON Schema.
---
---     local t = qh.schema
---     local order = t.object {
---       { "item", t.string { "What to buy", min = 1 } },
---       { "count", t.int { min = 1, max = 99, default = 1 } },
---       { "note", t.string(), optional = true },
---     }
---
--- A node is a table that nobody changes. Its class says how to check a value and how to write the schema; both
--- keep the order in which the script listed things, for what models read must be the same every time.
local core = require "qhost.core"
local json_schema = require "qhost.json_schema"
local place = require "qhost.place"
local re = require "qhost.re"
local M = {}

local fail, enter, leave, is_changed = place.fail, place.enter, place.leave, place.is_changed
local null = core.json.null
local deep_copy = json_schema.deep_copy

---@class qhost.Schema
local Node = {}
Node.__index = Node
Node.__name = "qhost.Schema"

local function is_node(v) return getmetatable(v) == Node end

--- Whether a value was made by this library.
---@return boolean
function M.is(v) return is_node(v) end

-- Making nodes ---------------------------------------------------------------------------------------

local COMMON = { description = "string", default = "any" }

local function check_opts(what, opts, allowed)
  for key, value in pairs(opts) do
    local kind = allowed[key] or COMMON[key]
    if not kind then
      local known = { "description", "default" }
      for name in pairs(allowed) do known[#known + 1] = name end
      table.sort(known)
      error(("qh.schema.%s has no option '%s'; %s are known"):format(what, tostring(key), table.concat(known, ", ")), 4)
    end
    if kind ~= "any" and type(value) ~= kind then
      error(("qh.schema.%s: %s must be a %s, not %s"):format(what, key, kind, place.kind(value)), 4)
    end
  end
end

local function check_range(what, opts)
  if opts.min and opts.max and opts.min > opts.max then
    error(("qh.schema.%s: min %s is above max %s"):format(what, opts.min, opts.max), 4)
  end
end

--- Make a node. A default must itself be a fitting value.
local function node(what, fields)
  local made = setmetatable(fields, Node)
  made.kind = what
  if made.default ~= nil then
    local _, err = M.check(made, made.default)
    if err then error(("qh.schema.%s: the default does not fit: %s"):format(what, tostring(err)), 4) end
  end
  return made
end

--- Options as a table: a text is the description, and so is a text in first place.
local function options(what, opts, allowed)
  if opts == nil then return {} end
  if type(opts) == "string" then return { description = opts } end
  if type(opts) ~= "table" or is_node(opts) then
    error(("qh.schema.%s takes a description or a table of options, not a %s"):format(what, is_node(opts) and "schema" or type(opts)), 3)
  end
  local own = {}
  for key, value in pairs(opts) do
    if key == 1 then own.description = value else own[key] = value end
  end
  check_opts(what, own, allowed)
  check_range(what, own)
  return own
end

local function expect_node(what, v, which)
  if not is_node(v) then error(("qh.schema.%s: %s must be a schema, not %s"):format(what, which, place.kind(v)), 3) end
  return v
end

-- By kind: check(node, value, place) -> value, or nil and a mismatch; and what a node says as JSON Schema.
local CHECKS, SCHEMAS = {}, {}

local function run(schema, v, p)
  if p.n >= place.MAX_DEPTH then return fail(p, "value", ("is nested deeper than %d"):format(place.MAX_DEPTH)) end
  return CHECKS[schema.kind](schema, v, p)
end

-- Texts, numbers, booleans ---------------------------------------------------------------------------

local FORMATS = {
  date = "^%d%d%d%d%-%d%d%-%d%d$",
  time = "^%d%d:%d%d:%d%d[%d.]*[Zz+-]?[%d:]*$",
  ["date-time"] = "^%d%d%d%d%-%d%d%-%d%d[Tt ]%d%d:%d%d:%d%d[%d.]*[Zz+-][%d:]*$",
  email = "^[^%s@]+@[^%s@]+$",
  uri = "^%a[%w+.-]*:[^%s]+$",
  uuid = "^" .. ("%x"):rep(8) .. ("%-" .. ("%x"):rep(4)):rep(3) .. "%-" .. ("%x"):rep(12) .. "$",
}

--- A text. min and max count characters; pattern is a regular expression that must match somewhere in it; format is
--- one of date, time, date-time, email, uri, uuid.
---@param opts? string|{[1]?: string, description?: string, min?: integer, max?: integer, pattern?: string, format?: string, default?: string}
---@return qhost.Schema
function M.string(opts)
  local o = options("string", opts, { min = "number", max = "number", pattern = "string", format = "string" })
  if o.format and not FORMATS[o.format] then
    error(("qh.schema.string: format '%s' is not known; date, time, date-time, email, uri and uuid are"):format(o.format), 2)
  end
  if o.pattern then
    local fits, message = re.compile(o.pattern, "e")
    if not fits then error("qh.schema.string: " .. message, 2) end
    o.fits = fits
  end
  return node("string", o)
end

function CHECKS.string(self, v, p)
  if type(v) ~= "string" then return fail(p, "type", "expected a string, got " .. place.kind(v)) end
  if self.min or self.max then
    local n = place.n_chars(v)
    if self.min and n < self.min then
      return fail(p, "value", ("must have at least %d characters, has %d"):format(self.min, n))
    end
    if self.max and n > self.max then
      return fail(p, "value", ("must have at most %d characters, has %d"):format(self.max, n))
    end
  end
  if self.fits and not self.fits(v) then
    return fail(p, "value", ("must match %s, is %s"):format(self.pattern, place.show(v)))
  end
  if self.format and not v:find(FORMATS[self.format]) then
    return fail(p, "value", ("is no %s: %s"):format(self.format, place.show(v)))
  end
  return v
end

function SCHEMAS.string(self, out)
  out("type", "string")
  out("minLength", self.min)
  out("maxLength", self.max)
  out("pattern", self.pattern)
  out("format", self.format)
end

local function check_bounds(self, v, p)
  if self.min and v < self.min then return fail(p, "value", ("must be at least %s, is %s"):format(self.min, v)) end
  if self.max and v > self.max then return fail(p, "value", ("must be at most %s, is %s"):format(self.max, v)) end
  return v
end

local function bounds(out, self)
  out("minimum", self.min)
  out("maximum", self.max)
end

--- A whole number; 3.0 becomes 3.
---@param opts? string|{[1]?: string, description?: string, min?: integer, max?: integer, default?: integer}
---@return qhost.Schema
function M.int(opts) return node("int", options("int", opts, { min = "number", max = "number" })) end

function CHECKS.int(self, v, p)
  if type(v) ~= "number" then return fail(p, "type", "expected an integer, got " .. place.kind(v)) end
  if not place.is_whole(v) then return fail(p, "type", ("expected an integer, got %s"):format(v)) end
  local i = math.tointeger(v)
  if not i then return fail(p, "value", ("%s is larger than an integer can be"):format(v)) end
  return check_bounds(self, i, p)
end

function SCHEMAS.int(self, out)
  out("type", "integer")
  bounds(out, self)
end

--- A number.
---@param opts? string|{[1]?: string, description?: string, min?: number, max?: number, default?: number}
---@return qhost.Schema
function M.number(opts) return node("number", options("number", opts, { min = "number", max = "number" })) end

function CHECKS.number(self, v, p)
  if type(v) ~= "number" then return fail(p, "type", "expected a number, got " .. place.kind(v)) end
  return check_bounds(self, v, p)
end

function SCHEMAS.number(self, out)
  out("type", "number")
  bounds(out, self)
end

--- true or false.
---@param opts? string|{[1]?: string, description?: string, default?: boolean}
---@return qhost.Schema
function M.boolean(opts) return node("boolean", options("boolean", opts, {})) end

function CHECKS.boolean(_, v, p)
  if type(v) ~= "boolean" then return fail(p, "type", "expected true or false, got " .. place.kind(v)) end
  return v
end

function SCHEMAS.boolean(_, out) out("type", "boolean") end

--- One of these texts, numbers or booleans.
---@param list table  the values, and the options description and default
---@return qhost.Schema
function M.enum(list)
  if type(list) ~= "table" or list[1] == nil then error("qh.schema.enum takes a list of values", 2) end
  local o, words = { values = {} }, {}
  for key, value in pairs(list) do
    if math.type(key) == "integer" then
      if type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean" then
        error(("qh.schema.enum: values are strings, numbers and booleans, not %s"):format(place.kind(value)), 2)
      end
    elseif COMMON[key] then
      o[key] = value
    else
      error(("qh.schema.enum has no option '%s'"):format(tostring(key)), 2)
    end
  end
  for i, value in ipairs(list) do o.values[i], words[i] = value, place.show(value) end
  o.expected = "must be one of " .. table.concat(words, ", ") .. "; is "
  return node("enum", o)
end

function CHECKS.enum(self, v, p)
  for _, value in ipairs(self.values) do
    if v == value then return v end
  end
  return fail(p, "value", self.expected .. place.show(v))
end

function SCHEMAS.enum(self, out)
  local kind = type(self.values[1])
  for _, value in ipairs(self.values) do
    if type(value) ~= kind then kind = nil end
  end
  out("type", kind)
  out("enum", core.json.array(table.move(self.values, 1, #self.values, 1, {})))
end

-- Lists, objects, maps -------------------------------------------------------------------------------

--- A list whose items are all like `item`.
---@param item qhost.Schema
---@param opts? string|{[1]?: string, description?: string, min?: integer, max?: integer, default?: table}
---@return qhost.Schema
function M.list(item, opts)
  local o = options("list", opts, { min = "number", max = "number" })
  o.item = expect_node("list", item, "the item")
  return node("list", o)
end

function CHECKS.list(self, v, p)
  if not place.is_list(v) then return fail(p, "type", "expected a list, got " .. place.kind(v)) end
  if self.min and #v < self.min then
    return fail(p, "value", ("must have at least %d items, has %d"):format(self.min, #v))
  end
  if self.max and #v > self.max then
    return fail(p, "value", ("must have at most %d items, has %d"):format(self.max, #v))
  end
  local out = v
  for i = 1, #v do
    enter(p, i - 1)
    local item, err = run(self.item, v[i], p)
    leave(p)
    if err then return nil, err end
    if is_changed(item, v[i]) then
      if out == v then out = core.json.array(table.move(v, 1, #v, 1, {})) end
      out[i] = item
    end
  end
  return out
end

function SCHEMAS.list(self, out)
  out("type", "array")
  out("items", self.item)
  out("minItems", self.min)
  out("maxItems", self.max)
end

local EXTRA = { keep = true, drop = true, refuse = true }

local function extra_of(what, extra)
  if extra == nil then return "keep" end
  if EXTRA[extra] or is_node(extra) then return extra end
  error(("qh.schema.%s: extra must be \"keep\", \"drop\", \"refuse\" or a schema"):format(what), 3)
end

local function field_of(entry, i)
  if type(entry) ~= "table" or type(entry[1]) ~= "string" or not is_node(entry[2]) then
    error(("qh.schema.object: entry %d must be { \"key\", schema }"):format(i), 3)
  end
  for key in pairs(entry) do
    if key ~= 1 and key ~= 2 and key ~= "default" and key ~= "optional" then
      error(("qh.schema.object: field '%s' has no option '%s'; default and optional are known"):format(entry[1], tostring(key)), 3)
    end
  end
  local f = { key = entry[1], node = entry[2], default = entry.default }
  if f.default == nil then f.default = f.node.default end
  f.is_optional = entry.optional or f.node.kind == "optional" or f.default ~= nil
  if f.node.kind == "optional" then f.node = f.node.inner end
  if entry.default ~= nil then
    local _, err = M.check(f.node, entry.default)
    if err then error(("qh.schema.object: the default of '%s' does not fit: %s"):format(f.key, tostring(err)), 3) end
  end
  return f
end

--- An object. Each entry is { "key", schema, default = , optional = }, in the order that models will see. A key with
--- a default or optional = true may be absent or null. Keys that are not listed are kept; extra = "refuse" makes
--- them an error, "drop" leaves them out, a schema checks them.
---@param fields table
---@return qhost.Schema
function M.object(fields)
  if type(fields) ~= "table" then error("qh.schema.object takes a list of fields", 2) end
  local o, seen = { fields = {} }, {}
  for key, value in pairs(fields) do
    if key == "extra" then
      o.extra = value
    elseif COMMON[key] then
      o[key] = value
    elseif math.type(key) ~= "integer" then
      error(("qh.schema.object has no option '%s'; fields are a list: { { \"key\", schema }, ... }"):format(tostring(key)), 2)
    end
  end
  for i, entry in ipairs(fields) do
    local f = field_of(entry, i)
    if seen[f.key] then error(("qh.schema.object: the key '%s' is there twice"):format(f.key), 2) end
    o.fields[i], seen[f.key] = f, true
  end
  o.is_field, o.extra = seen, extra_of("object", o.extra)
  return node("object", o)
end

--- An object with any keys, whose values are all like `value`.
---@param value qhost.Schema
---@param opts? string|{[1]?: string, description?: string, default?: table}
---@return qhost.Schema
function M.map(value, opts)
  local o = options("map", opts, {})
  o.fields, o.is_field, o.extra = {}, {}, expect_node("map", value, "the value")
  return node("object", o)
end

--- A change of an object under check: the copy is made at the first one.
local function changed(state, v, key, item)
  if not state.out then state.out, state.order = place.copy_object(v) end
  if item ~= nil and state.out[key] == nil then state.order[#state.order + 1] = key end
  state.out[key] = item
end

local function check_field(f, v, p, state)
  local item = v[f.key]
  if f.is_optional and (item == nil or item == null) then
    if f.default ~= nil or item == null then changed(state, v, f.key, deep_copy(f.default)) end
    return nil
  end
  if item == nil then
    local _, err = fail(p, "missing", "is required", f.key)
    return err
  end
  enter(p, f.key)
  local got, err = run(f.node, item, p)
  leave(p)
  if not err and is_changed(got, item) then changed(state, v, f.key, got) end
  return err
end

local function check_extra(self, v, p, state)
  for _, key in ipairs(json_schema.ordered_keys(v)) do
    if not self.is_field[key] then
      if type(key) ~= "string" then return fail(p, "type", "an object has names for keys, not numbers") end
      if self.extra == "refuse" then return fail(p, "unknown", "is not a known key", key) end
      if self.extra == "drop" then
        changed(state, v, key, nil)
      else
        enter(p, key)
        local got, err = run(self.extra, v[key], p)
        leave(p)
        if err then return nil, err end
        if is_changed(got, v[key]) then changed(state, v, key, got) end
      end
    end
  end
end

function CHECKS.object(self, v, p)
  if not place.is_object(v) then return fail(p, "type", "expected an object, got " .. place.kind(v)) end
  local state = {}
  for _, f in ipairs(self.fields) do
    local err = check_field(f, v, p, state)
    if err then return nil, err end
  end
  if self.extra ~= "keep" then
    local _, err = check_extra(self, v, p, state)
    if err then return nil, err end
  end
  return state.out or v
end

function SCHEMAS.object(self, out)
  local properties, names, required = {}, {}, core.json.array()
  for i, f in ipairs(self.fields) do
    properties[f.key], names[i] = M.json_schema(f.node, f.default), f.key
    if not f.is_optional then required[#required + 1] = f.key end
  end
  out("type", "object")
  if #names > 0 or not is_node(self.extra) then out("properties", core.json.object(properties, names)) end
  if #required > 0 then out("required", required) end
  if self.extra == "refuse" then out("additionalProperties", false) end
  if is_node(self.extra) then out("additionalProperties", self.extra) end
end

-- Choices --------------------------------------------------------------------------------------------

--- A value that fits one of these schemas; the first that fits is taken.
---@param list table  schemas, and the options description and default
---@return qhost.Schema
function M.union(list)
  if type(list) ~= "table" or is_node(list) or list[1] == nil then
    error("qh.schema.union takes a list of schemas", 2)
  end
  local o = { list = {} }
  for key, value in pairs(list) do
    if COMMON[key] then
      o[key] = value
    elseif math.type(key) == "integer" then
      o.list[key] = expect_node("union", value, "alternative " .. key)
    else
      error(("qh.schema.union has no option '%s'"):format(tostring(key)), 2)
    end
  end
  return node("union", o)
end

function CHECKS.union(self, v, p)
  local failures = {}
  for i, inner in ipairs(self.list) do
    local got, err = run(inner, v, p)
    if not err then return got end
    failures[i] = err
  end
  return json_schema.best_failure(p, failures)
end

function SCHEMAS.union(self, out)
  local list = core.json.array()
  for i, inner in ipairs(self.list) do list[i] = M.json_schema(inner) end
  out("anyOf", list)
end

--- A value that may be absent or null. As a field of an object: the same as optional = true there.
---@param inner qhost.Schema
---@return qhost.Schema
function M.optional(inner)
  expect_node("optional", inner, "the argument")
  if inner.kind == "optional" then return inner end
  return node("optional", { inner = inner, default = inner.default })
end

function CHECKS.optional(self, v, p)
  if v == nil or v == null then
    if self.default ~= nil then return deep_copy(self.default) end
    return v
  end
  return run(self.inner, v, p)
end

function SCHEMAS.optional(self, out)
  local inner = M.json_schema(self.inner)
  out("anyOf", core.json.array { inner, core.json.object({ type = "null" }, { "type" }) })
end

--- Any value.
---@param opts? string|{[1]?: string, description?: string, default?: any}
---@return qhost.Schema
function M.any(opts) return node("any", options("any", opts, {})) end

function CHECKS.any(_, v, p)
  if v == nil then return fail(p, "missing", "is required") end
  return v
end

function SCHEMAS.any() end

--- A JSON Schema as a table. Checked are all keywords of 2020-12 but references out of the schema, $dynamicRef and
--- unevaluated*; a schema that uses these, or is none, is an error here.
---@param schema table|boolean
---@return qhost.Schema
function M.json(schema)
  local compiled, message = json_schema.compile(schema)
  if not compiled then error("qh.schema.json: " .. message, 2) end
  return node("json", { compiled = compiled })
end

function CHECKS.json(self, v, p)
  if v == nil then return fail(p, "missing", "is required") end
  return self.compiled.check(v, p)
end

--- A schema of this library as it is; a table is taken for a JSON Schema. nil and a message when it is neither.
---@param v any
---@return qhost.Schema? schema
---@return string? message
function M.of(v)
  if is_node(v) then return v end
  if type(v) ~= "table" then return nil, ("a schema is expected, not %s"):format(place.kind(v)) end
  local compiled, message = json_schema.compile(v)
  if not compiled then return nil, message end
  return node("json", { compiled = compiled })
end

-- Conversations --------------------------------------------------------------------------------------

local function part_schema()
  return M.object { { "type", M.string() }, { "text", M.string(), optional = true } }
end

local function call_schema()
  return M.object {
    { "id", M.string() }, { "type", M.enum { "function" }, optional = true },
    { "function", M.object { { "name", M.string { min = 1 } }, { "arguments", M.string() } } },
  }
end

local function message_schema()
  return M.object {
    { "role", M.enum { "system", "developer", "user", "assistant", "tool" } },
    { "content", M.union { M.string(), M.list(part_schema()) }, optional = true },
    { "name", M.string(), optional = true },
    { "tool_calls", M.list(call_schema()), optional = true },
    { "tool_call_id", M.string(), optional = true },
  }
end

--- A conversation in the form of the OpenAI chat API: at least one message with a role; content is text or a list
--- of parts; the assistant may call tools instead; a tool's message names the call it answers.
---@param opts? string|{[1]?: string, description?: string, max?: integer}
---@return qhost.Schema
function M.messages(opts)
  local o = options("messages", opts, { max = "number" })
  o.list = M.list(message_schema(), { min = 1, max = o.max })
  return node("messages", o)
end

local function is_empty(list) return list == nil or list[1] == nil end

local function missing_in_message(m, p)
  if m.content == nil and not (m.role == "assistant" and not is_empty(m.tool_calls)) then
    return fail(p, "missing", m.role == "assistant" and "is required without tool_calls" or "is required", "content")
  end
  if m.role == "tool" and m.tool_call_id == nil then
    return fail(p, "missing", "is required in the message of a tool", "tool_call_id")
  end
end

function CHECKS.messages(self, v, p)
  local list, err = run(self.list, v, p)
  if err then return nil, err end
  for i, m in ipairs(list) do
    enter(p, i - 1)
    local _, wrong = missing_in_message(m, p)
    leave(p)
    if wrong then return nil, wrong end
  end
  return list
end

function SCHEMAS.messages(self, out) SCHEMAS.list(self.list, out) end

-- Use ------------------------------------------------------------------------------------------------

--- Check a value. It comes back with its defaults filled in: the same table when nothing had to be added, else a
--- copy. On failure nil and the first thing that does not fit: its path ("messages[0].role"; lists count from 0,
--- "" is the value itself), what is wrong, and a code ("missing", "type", "value" or "unknown"). tostring gives
--- both. As nil may be a fitting value, look at the second result.
---@param schema qhost.Schema
---@param value any
---@return any value
---@return qhost.Mismatch? mismatch
function M.check(schema, value)
  if not is_node(schema) then
    error(("qh.schema.check: the first argument must be a schema, not %s"):format(place.kind(schema)), 2)
  end
  if value == nil and schema.kind ~= "optional" then
    if schema.default ~= nil then return deep_copy(schema.default) end
    return fail(place.new(), "missing", "is required")
  end
  return run(schema, value, place.new())
end

--- The JSON Schema of a node, as a new table whose keys have a fixed order: equal schemas give equal text.
---@param schema qhost.Schema
---@param default? any  in place of the schema's own
---@return table
function M.json_schema(schema, default)
  if not is_node(schema) then error(("qh.schema.json_schema takes a schema, not %s"):format(place.kind(schema)), 2) end
  if schema.kind == "json" then return deep_copy(schema.compiled.schema) end
  local t, order = {}, {}
  local function out(key, value)
    if value == nil then return end
    t[key], order[#order + 1] = is_node(value) and M.json_schema(value) or value, key
  end
  out("description", schema.description)
  SCHEMAS[schema.kind](schema, out)
  if default == nil then default = schema.default end
  out("default", deep_copy(default))
  return core.json.object(t, order)
end

return M
