--- model.lua: what scripts do with a model: generate, chat, stream, tokens.
local answer = require "qhost.answer"
local asking = require "qhost.asking"
local core = require "qhost.core"
local conversation = require "qhost.conversation"
local events = require "qhost.events"
local formats = require "formats"
local policy = require "qhost.policy"
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
  "keep_stop", "stop_ids", "logprobs", "top_logprobs", "prompt_logprobs", "tokens", "priority", "timeout", "cache_salt",
}
local OTHER_FIELDS = { messages = true, prompt = true, system = true, tools = true, parallel_tool_calls = true,
  sampler = true, raw = true, template_vars = true, add_generation_prompt = true, ids = true,
  policy = true, on = true }
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
  local self = setmetatable({ name = name, handle = handle, meta = meta, ctx = meta.n_ctx, shown = {} }, Model)
  if type(what) == "table" and what.template then self.own_template = what.template end
  return self
end

function M.is_model(v) return getmetatable(v) == Model end

-- Fields that a sampler stands for: one that comes later takes the place of them all.
local SAMPLING_FIELDS = { "temperature", "top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold",
  "repeat_penalty", "presence_penalty", "frequency_penalty", "penalty_window", "dry_multiplier", "dry_base",
  "dry_allowed_length", "dry_window" }

--- Options over others: of each layer the sampler, then its fields.
local function layered(base, layers)
  local out = {}
  for key, value in pairs(base) do out[key] = value end
  for _, layer in ipairs(layers) do
    if layer.sampler then
      for _, key in ipairs(SAMPLING_FIELDS) do out[key] = nil end
      for key, value in pairs(layer.sampler.fields) do out[key] = value end
    end
    for key, value in pairs(layer) do
      if key ~= "sampler" then out[key] = value end
    end
  end
  return out
end

local function check_defaults(defaults)
  if type(defaults) ~= "table" then error("model:with: defaults is no table", 3) end
  for key in pairs(defaults) do
    if not IS_ENGINE_FIELD[key] and key ~= "template_vars" and key ~= "parallel_tool_calls" then
      error(("model:with: defaults cannot have '%s'"):format(tostring(key)), 3)
    end
  end
end

local WITH = { as = true, sampler = true, template = true, defaults = true }

--- The same weights under other settings: as (a name), sampler, template, defaults (options that a request
--- may change). What is not given stays as it is here.
---@param o {as?: string, sampler?: qhost.Sampler, template?: qhost.Template, defaults?: table}
---@return qhost.Model
function Model:with(o)
  for key in pairs(o) do
    if not WITH[key] then error(("model:with has no option '%s'"):format(tostring(key)), 2) end
  end
  if o.as ~= nil and (type(o.as) ~= "string" or o.as == "") then error("model:with: as is no name", 2) end
  if o.template and not template.is_template(o.template) then error("model:with: template was not made by qh.template", 2) end
  if o.sampler and not sampler.is_sampler(o.sampler) then error("model:with: sampler was not made by qh.sampler", 2) end
  local copy = {}
  for key, value in pairs(self) do copy[key] = value end
  copy.name, copy.own_template = o.as or self.name, o.template or self.own_template
  if o.defaults then check_defaults(o.defaults) end
  if o.defaults or o.sampler then copy.defaults = layered(self.defaults or {}, { o.defaults or {}, { sampler = o.sampler } }) end
  return setmetatable(copy, Model)
end

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

--- How what this model writes is read back: by its template, else by the one it came with.
function Model:format()
  local own = self.own_template
  return own and own.format or formats.of_template(self.meta.chat_template or "")
end

--- Token ids of a text; special tokens in it stay text.
---@param text string
---@return integer[]
function Model:tokens(text) return self.handle:encode(text, {}) end

-- The variables of the template, or nil and why.
local function conversation_of(self, o)
  local messages, message = conversation.of_options(o)
  if not messages then return nil, message end
  local tools, what = conversation.tools(o.tools)
  if what then return nil, what end
  local conv = { messages = messages, tools = tools, add_generation_prompt = o.add_generation_prompt ~= false,
    bos_token = self.meta.bos or "", eos_token = self.meta.eos or "" }
  for key, value in pairs(o.template_vars or {}) do conv[key] = value end
  return conv
end

-- Some templates join the arguments of earlier calls as strings and fail when they are objects.
local function render_conversation(t, conv)
  local segments, message = t:render(conv)
  if segments then return segments end
  local as_text = conversation.with_text_arguments(conv.messages)
  if not as_text then return nil, message end
  conv.messages = as_text
  local again = t:render(conv)
  if again then return again end
  return nil, message
end

--- Render messages with the model's template: segments, or nil and why.
function Model:render(o)
  local t, why = self:template()
  if not t then return nil, why end
  local conv, message = conversation_of(self, o)
  if not conv then return nil, message end
  return render_conversation(t, conv)
end

local function spec_of(ids, o)
  local spec = { ids = ids }
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

-- Marks of the format that are single control tokens of this model: they must stand in the text. Yields.
local function shown_ids(self, format)
  local cache = self.shown
  if cache[format] then return cache[format] end
  local ids = {}
  for _, mark in ipairs(formats.marks(format)) do
    local found = self.handle:encode(mark, { parse_special = true })
    if found and #found == 1 then ids[#ids + 1] = found[1] end
  end
  cache[format] = ids
  return ids
end

-- The end of a prompt as far as the template wrote it.
local function tail_of(segments)
  local tail = ""
  for i = #segments, math.max(#segments - 7, 1), -1 do
    if not segments[i].special then break end
    tail = segments[i].text .. tail
  end
  return tail
end

local function reading_of(self, o, tools, segments)
  local format = self:format()
  return { format = format, shown = shown_ids(self, format), tools = tools, is_parallel = o.parallel_tool_calls ~= false,
    in_reasoning = formats.opens_reasoning(format, tail_of(segments)) }
end

-- The prompt's ids, and how the answer is to be read; or nil and why.
local function prompt_of(self, o)
  if o.ids then return o.ids end
  if o.raw then return self.handle:encode(o.prompt, { add_special = true, parse_special = true }) end
  if o.transcript then
    local ids, segments = o.transcript:prompt(o.template_vars)
    if not ids then return nil, segments end
    return ids, reading_of(self, o, conversation.tools(o.tools), segments)
  end
  local t, why = self:template()
  if not t then return nil, why end
  local conv, message = conversation_of(self, o)
  if not conv then return nil, message end
  local segments, failed = render_conversation(t, conv)
  if not segments then return nil, failed end
  local ids, refused = self.handle:encode_segments(segments, { add_special = false })
  if not ids then return nil, refused end
  return ids, reading_of(self, o, conv.tools, segments)
end

--- The token ids that the engine would be given for these options, or nil and why. Yields.
function Model:prompt(o)
  local ids, message = prompt_of(self, o)
  if not ids then return nil, message end
  return ids
end

--- How many tokens the prompt of these options has, or nil and why. Yields.
function Model:count(o)
  local ids, message = self:prompt(o)
  return ids and #ids, message
end

local function check_fields(o, what)
  for key in pairs(o) do
    if not IS_ENGINE_FIELD[key] and not OTHER_FIELDS[key] then
      error(("model:%s has no option '%s'"):format(what, tostring(key)), 3)
    end
  end
end

--- Hand a request to the engine: what reads the answer, or nil, message, status name.
---@return qhost.Answer?
---@return string? message
---@return string? status
function Model:submit(o)
  if o.sampler and not sampler.is_sampler(o.sampler) then return nil, "sampler was not made by qh.sampler", "EINVAL" end
  if self.defaults or o.sampler then o = layered(self.defaults or {}, { o }) end
  local ids, reading = prompt_of(self, o)
  if not ids then return nil, reading, "EINVAL" end
  local spec = spec_of(ids, o)
  spec.shown_ids = reading and reading.shown
  local own = self.own_template and self.own_template.stop
  if own and not o.raw then spec.stop = joined(spec.stop or {}, own) end
  if o.policy then
    local bound, refused, code = policy.bind(o.policy)
    if not bound then return nil, refused, code end
    spec.policy = bound
  end
  local on = o.on and events.read(o.on)
  if on then spec.tokens = true end
  local gen, message, status = self.handle:submit(spec)
  if not gen then return nil, message, status end
  if on then
    gen = events.watch(gen, on, o.n or 1, { tokens = o.logprobs or o.tokens or o.prompt_logprobs, prompt = o.prompt_logprobs })
  end
  return answer.new(gen, reading)
end

---@class qhost.Result
---@field text string
---@field reasoning? string
---@field tool_calls table[]  { {id, name, arguments = what they decode to, raw = their JSON text}, ... }
---@field unparsed? boolean  a call in the text could not be read
---@field finish "stop"|"length"|"tool_calls"|"canceled"
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
  return asking.chat(self, layered(o, { { raw = true } }))
end

--- Answer a conversation: messages, or system and prompt. Yields.
---@return qhost.Result? result
---@return string? message
---@return string? status
function Model:chat(o)
  check_fields(o, "chat")
  return asking.chat(self, o)
end

--- Answer a conversation piece by piece: for ev in model:stream{...} do. With raw = true the prompt
--- is continued without a template. A refusal of the engine ends the request. Yields.
---@return qhost.Stream
function Model:stream(o)
  check_fields(o, "stream")
  return asking.stream(self, o)
end

return M
