--- tool.lua: a function that a model may call: what it takes, what it does, and what the model reads of it.
---
--- A call never fails upwards. Arguments that do not fit, errors in run, time that is over and results that
--- cannot be shown all become a text that the model reads, so that it can do better.
local core = require "qhost.core"
local errors = require "qhost.errors"
local schema = require "qhost.schema"
local tasks = require "qhost.tasks"
local M = {}

local TIMEOUT = 30               -- seconds
local MAX_RESULT = 16384         -- bytes of a result that the model gets to read

local APPROVE = { auto = true, ask = true }

---@class qhost.Tool
---@field name string
---@field spec table  as the OpenAI API has tools
local Tool = {}
Tool.__index = Tool
Tool.__name = "qhost.Tool"

local FIELDS = { name = "string", description = "string", input = "table", output = "table", run = "function",
  timeout = "number", pure = "boolean", max_result = "number", approve = true }

local function check_fields(def)
  if type(def) ~= "table" then error("qh.tool takes a table", 3) end
  for key, value in pairs(def) do
    local kind = FIELDS[key]
    if not kind then error(("qh.tool has no field '%s'"):format(tostring(key)), 3) end
    if kind ~= true and type(value) ~= kind then
      error(("qh.tool: %s is a %s; a %s is expected"):format(key, type(value), kind), 3)
    end
  end
  if not def.name or #def.name > 64 or not def.name:find "^[%w_-]+$" then
    error("qh.tool: a name of 1 to 64 letters, digits, '_' and '-' is expected", 3)
  end
  if not def.run then error(("qh.tool '%s': run is missing"):format(def.name), 3) end
  for _, key in ipairs { "input", "output" } do
    if def[key] and not schema.is(def[key]) then error(("qh.tool '%s': %s is no qh.schema"):format(def.name, key), 3) end
  end
  for _, key in ipairs { "timeout", "max_result" } do
    if def[key] and not (def[key] > 0) then error(("qh.tool '%s': %s must be above 0"):format(def.name, key), 3) end
  end
  if def.approve ~= nil and not APPROVE[def.approve] and type(def.approve) ~= "function" then
    error(("qh.tool '%s': approve is 'auto', 'ask' or a function"):format(def.name), 3)
  end
end

local function spec_of(name, description, input)
  local f = core.json.object({ name = name, description = description, parameters = schema.json_schema(input) },
    { "name", "description", "parameters" })
  return core.json.object({ type = "function", ["function"] = f }, { "type", "function" })
end

--- Make a tool. run(args, ctx) may wait; it returns what the model shall read: a text, or a value that becomes
--- JSON; nil and a message for a failure.
---@param def table
---@return qhost.Tool
function M.new(def)
  check_fields(def)
  local input = def.input or schema.object {}
  return setmetatable({ name = def.name, input = input, output = def.output, run = def.run, approve = def.approve or "auto",
    timeout = def.timeout or TIMEOUT, is_pure = def.pure == true, max_result = def.max_result or MAX_RESULT,
    spec = spec_of(def.name, def.description, input) }, Tool)
end

function M.is_tool(v) return getmetatable(v) == Tool end

-- What the model reads -----------------------------------------------------------------------------------

---@class qhost.Outcome  of a call
---@field text string
---@field is_error? boolean

--- A failure as the model reads it.
---@param message string
---@return qhost.Outcome
function M.failure(message) return { text = "Error: " .. message, is_error = true } end

-- Bytes of the world may be no UTF-8, and what goes to a client must be.
local function as_utf8(text)
  local out, from = {}, 1
  while true do
    local _, bad = utf8.len(text, from)
    if not bad then break end
    out[#out + 1] = text:sub(from, bad - 1)
    from = bad + 1
  end
  if from == 1 then return text end
  out[#out + 1] = text:sub(from)
  return table.concat(out, "\u{FFFD}")
end

local function capped(text, max)
  if #text <= max then return text end
  local past = utf8.offset(text, 0, math.floor(max) + 1)
  return ("%s\n[cut here: %d of %d bytes]"):format(text:sub(1, past - 1), past - 1, #text)
end

local function text_of(value)
  if type(value) == "string" then return as_utf8(value) end
  if value == nil then return "null" end
  return core.json.encode(value, { sort = true })          -- the same value, the same text: prompts stay cached
end

-- Calling ------------------------------------------------------------------------------------------------

---@class qhost.ToolContext
---@field user any
---@field request any
---@field id string  of the call
local Context = {}
Context.__index = Context

local Failure = { __name = "qhost.ToolFailure" }
Failure.__tostring = function(f) return f.message end

--- End the call: the model reads the message. Never returns.
---@param message string
function Context:fail(message) error(setmetatable({ message = tostring(message) }, Failure), 0) end

--- A context for one call.
function M.context(fields) return setmetatable(fields, Context) end

--- The arguments of a call, checked, or nil and what is wrong with them.
---@param raw string  JSON text, as the model wrote it
---@return table? args
---@return string? message
function Tool:arguments(raw)
  local value, message = core.json.decode(raw)
  if value == nil then return nil, ("the arguments of %s are not valid JSON: %s"):format(self.name, message) end
  local args, mismatch = schema.check(self.input, value)
  if mismatch then return nil, ("the arguments of %s do not fit: %s"):format(self.name, tostring(mismatch)) end
  return args
end

local function with_trace(e)
  if getmetatable(e) == Failure or errors.is_abort(e) then return e end
  return { message = tostring(e), trace = core.traceback(tostring(e)) }
end

local function guarded(run, args, ctx) return xpcall(run, with_trace, args, ctx) end

-- What a call raised: for the model a short message; the whole goes to the log.
local function failed(self, ctx, e)
  if getmetatable(e) == Failure then return M.failure(e.message) end
  if errors.is_abort(e) then return M.failure(not core.is_dev and e.public or e.message) end
  local trace = type(e) == "table" and e.trace or tostring(e)
  core.log("error", "tool.failed", ("tool=%s call=%s %s"):format(self.name, ctx.id, trace))
  return M.failure(core.is_dev and trace or self.name .. " failed")
end

local function finish(self, ctx, value, message)
  if value == nil and message ~= nil then return M.failure(tostring(message)) end
  if self.output then
    local checked, mismatch = schema.check(self.output, value)
    if mismatch then return failed(self, ctx, ("the result does not fit 'output': %s"):format(tostring(mismatch))) end
    value = checked
  end
  local ok, text = pcall(text_of, value)
  if not ok then return failed(self, ctx, "the result cannot be shown as JSON: " .. tostring(text)) end
  return { text = capped(text, self.max_result) }
end

--- Run the tool on checked arguments. Leaving cancels it. Yields.
---@param args table
---@param ctx qhost.ToolContext
---@param seconds? number  at most, less than the tool's own timeout
---@return qhost.Outcome
function Tool:call(args, ctx, seconds)
  seconds = math.min(self.timeout, seconds or self.timeout)
  local ok, fine, value, message = pcall(tasks.timeout, seconds, guarded, self.run, args, ctx)
  if not ok then return failed(self, ctx, fine) end                   -- the task that ran it died
  if fine == nil then return M.failure(("%s took longer than %.3g s"):format(self.name, seconds)) end
  if not fine then return failed(self, ctx, value) end
  return finish(self, ctx, value, message)
end

--- Whether a call may run: "run", "ask" somebody, or "deny" and why. Yields, when approve is a function.
---@return "run"|"ask"|"deny"
---@return string? reason
function Tool:verdict(args, ctx)
  if self.approve == "auto" then return "run" end
  if self.approve == "ask" then return "ask" end
  local ok, said, reason = xpcall(self.approve, with_trace, args, ctx)
  if not ok then return "deny", failed(self, ctx, said).text end
  if said == true or said == "auto" then return "run" end
  if said == "ask" then return "ask" end
  return "deny", type(reason) == "string" and reason or nil
end

M.Context = Context
return M
