--- template.lua: from messages to prompt segments, with the model's own Jinja template or one in Lua.
---
--- Segments keep apart what the template wrote (may hold special tokens) and what came from messages
--- (never becomes one).
local core = require "qhost.core"
local formats = require "formats"
local jinja = require "qhost.jinja"
local M = {}

---@class qhost.Template
---@field format? table   how to read back what the model writes; nil: as the model's own template shows
---@field render fun(self: qhost.Template, conv: table): table[]? , string?
local Template = {}
Template.__index = Template
Template.__name = "qhost.Template"

--- A template in Jinja.
---@param source string
---@return qhost.Template? template
---@return string? message
function M.jinja(source)
  local compiled, message = jinja.compile(source)
  if not compiled then return nil, message end
  return setmetatable({ compiled = compiled, format = formats.of_template(source) }, Template)
end

-- What a Lua template writes to ------------------------------------------------------------------------
local Out = {}
Out.__index = Out

--- Text that may hold special tokens.
function Out:special(text)
  self[#self + 1] = { text = tostring(text), special = true }
  return self
end
--- Text that never becomes a special token.
function Out:text(text)
  self[#self + 1] = { text = tostring(text), special = false }
  return self
end
--- A value as JSON, keys sorted.
function Out:json(value)
  self[#self + 1] = { text = core.json.encode(value, { sort = true }), special = false }
  return self
end

-- What `parse` of a template may be: the name of a format, marks, or a function that makes a parser.
local function format_of(parse)
  if parse == nil then return nil end
  if type(parse) == "function" then return { name = "own", markers = {}, new = parse } end
  local format, message
  if type(parse) == "table" then format, message = formats.of_markers(parse) else format, message = formats.get(parse) end
  if not format then error("qh.template: parse: " .. message, 3) end
  return format
end

--- A template in Lua: render(out, conv) writes to out. stop: strings that end the model's turn.
--- parse: how to read back what the model writes.
---@param def {name: string, render: fun(out: table, conv: table), stop?: string[], parse?: string|table|function}
---@return qhost.Template
function M.new(def)
  if type(def) ~= "table" or type(def.render) ~= "function" then error("qh.template: render is no function", 2) end
  return setmetatable({ name = def.name, write = def.render, stop = def.stop, format = format_of(def.parse) }, Template)
end

function M.is_template(v) return getmetatable(v) == Template end

--- Render a conversation: {messages, tools?, add_generation_prompt?, extra variables...}.
---@return table[]? segments  { {text =, special =}, ... }
---@return string? message
function Template:render(conv)
  if self.compiled then return self.compiled:render(conv, { now = core.local_wall }) end
  local out = setmetatable({}, Out)
  self.write(out, conv)
  return out
end

return M
