--- model.lua: what scripts do with a model: generate, chat, stream, tokens.
local core = require "qhost.core"
local conversation = require "qhost.conversation"
local errors = require "qhost.errors"
local sampler = require "qhost.sampler"
local template = require "qhost.template"
local M = {}

---@class qhost.Model
---@field name string
---@field meta table  { name, arch, n_ctx, n_vocab, ... }
---@field ctx integer  tokens of the longest sequence
local Model = {}
Model.__index = Model
Model.__name = "qhost.Model"

--- Options that go to the engine as they are.
local ENGINE_FIELDS = {
  "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "repeat_penalty",
  "presence_penalty", "frequency_penalty", "penalty_window", "dry_multiplier", "dry_base", "dry_allowed_length",
  "dry_window", "dry_breakers", "logit_bias", "seed", "n", "max_tokens", "min_tokens", "ignore_eos", "stop",
  "keep_stop", "stop_ids", "logprobs", "top_logprobs", "prompt_logprobs", "priority", "timeout", "cache_salt",
}
local OTHER_FIELDS = { messages = true, prompt = true, system = true, tools = true, sampler = true, raw = true,
  template_vars = true, ids = true }
local IS_ENGINE_FIELD = {}
for _, name in ipairs(ENGINE_FIELDS) do IS_ENGINE_FIELD[name] = true end

--- The model of that name; the same object for the same name. While an app loads.
---@param what string|{name: string, template?: qhost.Template}
---@return qhost.Model
function M.new(what)
  local name = type(what) == "table" and what.name or what
  if type(name) ~= "string" then error("qh.model takes a name or {name = ...}", 2) end
  local handle = core.model(name)
  local meta = handle:meta()
  local self = setmetatable({ name = name, handle = handle, meta = meta, ctx = meta.n_ctx }, Model)
  if type(what) == "table" and what.template then self.own_template = what.template end
  return self
end

function M.is_model(v) return getmetatable(v) == Model end

--- The template in use, compiled at its first use. nil, message: the model has none.
function Model:template()
  if self.own_template then return self.own_template end
  if not self.meta.chat_template then
    return nil, ("model '%s' has no chat template; use raw text, or give one: qh.model{name=, template=}"):format(self.name)
  end
  local compiled, message = template.jinja(self.meta.chat_template)
  if not compiled then return nil, ("the chat template of '%s': %s"):format(self.name, message) end
  self.own_template = compiled
  return compiled
end

--- Token ids of a text; special tokens in it stay text.
---@param text string
---@return integer[]
function Model:tokens(text) return self.handle:encode(text, {}) end

--- Render messages with the model's template: segments, or nil and why.
function Model:render(o)
  local messages, message = conversation.of_options(o)
  if not messages then return nil, message end
  local t, why = self:template()
  if not t then return nil, why end
  local conv = { messages = messages, tools = o.tools, add_generation_prompt = o.add_generation_prompt ~= false,
    bos_token = self.meta.bos or "", eos_token = self.meta.eos or "" }
  for key, value in pairs(o.template_vars or {}) do conv[key] = value end
  return t:render(conv)
end

local function add_sampling(spec, o)
  if o.sampler then
    if not sampler.is_sampler(o.sampler) then return nil, "sampler was not made by qh.sampler" end
    for key, value in pairs(o.sampler.fields) do spec[key] = value end
  end
  for _, key in ipairs(ENGINE_FIELDS) do
    if o[key] ~= nil then spec[key] = o[key] end
  end
  if type(spec.stop) == "string" then spec.stop = { spec.stop } end
  return spec
end

local function joined(a, b)
  local out = table.move(a, 1, #a, 1, {})
  return table.move(b, 1, #b, #out + 1, out)
end

local function prompt_ids(self, o)
  if o.ids then return o.ids end
  if o.raw then return self.handle:encode(o.prompt, { add_special = true, parse_special = true }) end
  local segments, message = self:render(o)
  if not segments then return nil, message end
  return self.handle:encode_segments(segments, { add_special = false })
end

local function check_fields(o, what)
  for key in pairs(o) do
    if not IS_ENGINE_FIELD[key] and not OTHER_FIELDS[key] then
      error(("model:%s has no option '%s'"):format(what, tostring(key)), 3)
    end
  end
end

--- Hand a request to the engine. gen, or nil, message, status name.
function Model:submit(o)
  local ids, message = prompt_ids(self, o)
  if not ids then return nil, message, "EINVAL" end
  local spec, why = add_sampling({ ids = ids }, o)
  if not spec then return nil, why, "EINVAL" end
  local own = self.own_template and self.own_template.stop
  if own and not o.raw then spec.stop = joined(spec.stop or {}, own) end
  return self.handle:submit(spec)
end

local function new_choice() return { parts = {}, tokens = {} } end

local function finish_choice(c, ev)
  return { text = table.concat(c.parts), finish = ev.finish, stop_match = ev.stop_match, usage = ev.usage,
    timings = ev.timings, tokens = #c.tokens > 0 and c.tokens or nil, prompt_tokens = c.prompt_tokens }
end

--- Wait for all of a generation: a list of results, or nil, message, status name. Yields.
function M.collect(gen)
  local open <close> = gen
  local choices, results = {}, {}
  for ev in function() return gen:next() end do
    local c = choices[ev.choice] or new_choice()
    choices[ev.choice] = c
    if ev.text then c.parts[#c.parts + 1] = ev.text end
    if ev.type == "prompt" then
      c.prompt_tokens = c.prompt_tokens or {}            -- a long prompt comes in several events
      table.move(ev.tokens, 1, #ev.tokens, #c.prompt_tokens + 1, c.prompt_tokens)
    elseif ev.tokens then
      table.move(ev.tokens, 1, #ev.tokens, #c.tokens + 1, c.tokens)
    end
    if ev.type == "done" then
      if ev.finish == "error" then return nil, ev.message, ev.status end
      results[ev.choice] = finish_choice(c, ev)
    end
  end
  return results
end

local function run(self, o)
  local gen, message, status = self:submit(o)
  if not gen then return nil, message, status end
  local results, why, code = M.collect(gen)
  if not results then return nil, why, code end
  local first = results[1]
  if #results > 1 then first.choices = results end
  return first
end

---@class qhost.Result
---@field text string
---@field finish "stop"|"length"
---@field usage {prompt: integer, cached: integer, completion: integer}
---@field timings {queue: number, prefill: number, ttft: number, decode: number}  seconds
---@field choices? qhost.Result[]  with n > 1

--- Continue raw text, without a template. Yields.
---@param o {prompt: string, max_tokens?: integer, sampler?: qhost.Sampler, stop?: string|string[], seed?: integer, n?: integer}
---@return qhost.Result? result
---@return string? message
---@return string? status
function Model:generate(o)
  check_fields(o, "generate")
  if type(o.prompt) ~= "string" and not o.ids then error("model:generate: prompt is no string", 2) end
  return run(self, setmetatable({ raw = true }, { __index = o }))
end

--- Answer a conversation: messages, or system and prompt. Yields.
---@return qhost.Result? result
---@return string? message
---@return string? status
function Model:chat(o)
  check_fields(o, "chat")
  return run(self, o)
end

---@class qhost.Stream
local Stream = {}
Stream.__index = Stream
Stream.__close = function(s) s.gen:cancel() end
--- The next event, or nil at the end: {type = "text", text}, then {type = "usage", usage, timings} and
--- {type = "done", finish}. A failure of the engine ends the request. Yields.
Stream.__call = function(s)
  local waiting = s.waiting
  if waiting then
    s.waiting = nil
    return waiting
  end
  local ev = s.gen:next()
  if not ev then return nil end
  if ev.type == "done" then
    if ev.finish == "error" then errors.abort_engine(ev.message, ev.status) end
    s.waiting = { type = "done", finish = ev.finish, choice = ev.choice }
    return { type = "usage", usage = ev.usage, timings = ev.timings, choice = ev.choice }
  end
  return { type = ev.type, text = ev.text, tokens = ev.tokens, choice = ev.choice }
end

--- Answer a conversation piece by piece: for ev in model:stream{...} do. With raw = true the prompt
--- is continued without a template. A refusal of the engine ends the request. Yields.
---@return qhost.Stream
function Model:stream(o)
  check_fields(o, "stream")
  local gen, message, status = self:submit(o)
  if not gen then errors.abort_engine(message, status) end
  return setmetatable({ gen = gen, model = self }, Stream)
end

return M
