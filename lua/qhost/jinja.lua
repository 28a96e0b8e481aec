--- jinja.lua: chat templates in Jinja, compiled to closures and sandboxed.
---
---     local jinja = require "qhost.jinja"
---     local template, err = jinja.compile(source, { name = "qwen2.5" })
---     local segments, err = template:render({ messages = ..., bos_token = "<s>" }, { now = os.time() })
---
--- The dialect is that of Jinja2 3.1 as chat templates get it: immutable sandbox, trim_blocks and
--- lstrip_blocks, loop controls, the generation tag, raise_exception, strftime_now, and tojson
--- without HTML escapes. Templates cannot include others. `| safe` marks nothing, since nothing is
--- escaped.
---
--- **Origin.** Rendering gives segments { text, special }. `special` is true for text that the
--- template wrote: only there may special tokens be read. Everything that comes from the variables
--- is foreign and keeps that mark through filters, slices and concatenation, except the strings
--- named in `trusted` (tokens of the model's own vocabulary) and the well-known values of `role`.
--- Segments are one text: tokenize it as a whole, and recognize a special token only where all of
--- it lies in special segments.
---
--- **Data.** Variables are ordinary Lua values; qhost.jinja.value tells how the order of keys,
--- empty arrays and null are known.
---
--- **Limits.** A rendering ends with an error (kind "limit") when it takes too many steps, makes
--- too much data, writes too much or nests too deep. Nothing here yields.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local parser = require "qhost.jinja.parser"
local stmt = require "qhost.jinja.stmt"
local output = require "qhost.jinja.output"
local functions = require "qhost.jinja.functions"

local M = {}

--- JSON null and Python's None.
M.null = value.null
--- Make a dict that remembers the order of its keys, and add to it.
M.new_dict, M.dict_set = value.dict, value.dict_set
--- Mark a table as an array, so that it stays one when empty.
M.new_list = value.list

---@class qhost.jinja.Segment
---@field text string
---@field special boolean   the template wrote it; special tokens may be read

---@class qhost.jinja.CompileOptions
---@field name? string              for messages; default "template"
---@field trim_blocks? boolean      default true
---@field lstrip_blocks? boolean    default true
---@field limits? qhost.jinja.Limits

---@class qhost.jinja.RenderOptions
---@field now? number|fun(): number   seconds since 1970, local time; without it strftime_now is undefined
---@field trusted? string[]           variables whose strings count as the template's own

---@class qhost.jinja.Template
---@field name string
local Template = {}
Template.__index = Template

local TRUSTED = { "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token" }

-- The message of anything that was raised. Errors of ours are tables; others are bugs here or the
-- host's own (out of memory, out of time), which stay recognizable as the third result.
local function describe(name, err, line)
  if type(err) == "table" and err.kind then
    return ("%s:%d: %s"):format(name, err.line or line or 1, err.message), err.kind
  end
  return ("%s:%d: internal error: %s"):format(name, line or 1, tostring(err)), "internal"
end

--- Compile a template.
---@param source string
---@param opts? qhost.jinja.CompileOptions
---@return qhost.jinja.Template? template
---@return string? err   names the line
---@return string? kind  syntax | limit | internal
function M.compile(source, opts)
  opts = opts or {}
  local name, max = opts.name or "template", {}
  for key, default in pairs(limits.DEFAULT) do max[key] = opts.limits and opts.limits[key] or default end
  if #source > max.source then
    return nil, ("%s:1: the template has %d bytes, more than %d"):format(name, #source, max.source), "limit"
  end
  local style = { trim_blocks = opts.trim_blocks ~= false, lstrip_blocks = opts.lstrip_blocks ~= false }
  local ok, run, cost = pcall(function() return stmt.compile(parser.parse(source, style)) end)
  if not ok then return nil, describe(name, run) end
  return setmetatable({ name = name, max = max, run = run, cost = cost }, Template)
end

-- The variables as the template sees them.
local function given(vars, opts)
  local out = {}
  for name, v in pairs(vars) do out[name] = v end
  for _, name in ipairs(opts.trusted or TRUSTED) do
    if type(out[name]) == "string" then out[name] = text_of.trusted(out[name]) end
  end
  if opts.now and out.strftime_now == nil then out.strftime_now = functions.strftime_now(opts.now) end
  return out
end

local function render(self, vars, opts, finish)
  local max = self.max
  local st = {
    given = given(vars, opts or {}), out = output.new(), max = max, depth = 0, line = 1,
    steps = max.steps - self.cost, bytes = max.bytes,
  }
  local ok, result = pcall(function()
    self.run(st)
    return finish(st, st.out)
  end)
  if ok then return result end
  return nil, describe(self.name, result, st.line)
end

--- Render to segments. On failure: nil, a message with the line, and its kind (undefined, type,
--- value, raise, limit, security, syntax, internal).
---@param vars table<string, any>
---@param opts? qhost.jinja.RenderOptions
---@return qhost.jinja.Segment[]? segments
---@return string? err
---@return string? kind
function Template:render(vars, opts)
  return render(self, vars, opts, output.segments)
end

--- Render to one string, the text of the segments.
---@param vars table<string, any>
---@param opts? qhost.jinja.RenderOptions
---@return string? text
---@return string? err
---@return string? kind
function Template:render_text(vars, opts)
  return render(self, vars, opts, output.text)
end

return M
