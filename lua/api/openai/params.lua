--- params.lua: the request bodies of the OpenAI dialect, checked and turned into engine options.
local conversation = require "qhost.conversation"
local errors = require "qhost.errors"
local M = {}

local function refuse(param, message, code)
  errors.abort(400, code or "invalid_value", { message = message, param = param })
end

--- A field, with JSON null as absent.
local function get(body, key)
  local v = body[key]
  if type(v) == "userdata" then return nil end
  return v
end

function M.text(body, key, is_required)
  local v = get(body, key)
  if v == nil and is_required then refuse(key, ("'%s' is missing"):format(key), "missing_required_parameter") end
  if v ~= nil and type(v) ~= "string" then refuse(key, ("'%s' is no string"):format(key)) end
  return v
end

function M.object(body, key)
  local v = get(body, key)
  if v ~= nil and type(v) ~= "table" then refuse(key, ("'%s' is no object"):format(key)) end
  return v
end

local function number(body, key, lo, hi)
  local v = get(body, key)
  if v == nil then return nil end
  if type(v) ~= "number" or not (v >= lo and v <= hi) then
    refuse(key, ("'%s' is %s; a number from %g to %g is expected"):format(key, tostring(v), lo, hi))
  end
  return v
end

local function integer(body, key, lo, hi)
  local v = number(body, key, lo, hi)
  if v == nil then return nil end
  local i = math.tointeger(v)
  if not i then refuse(key, ("'%s' is %s; a whole number is expected"):format(key, tostring(v))) end
  return i
end

local function flag(body, key)
  local v = get(body, key)
  if v ~= nil and type(v) ~= "boolean" then refuse(key, ("'%s' is neither true nor false"):format(key)) end
  return v
end

local MAX_STOPS = 16
local function stops(body)
  local v = get(body, "stop")
  if v == nil then return nil end
  if type(v) == "string" then v = { v } end
  if type(v) ~= "table" or #v > MAX_STOPS then refuse("stop", ("'stop' is neither a string nor a list of at most %d strings"):format(MAX_STOPS)) end
  local out = {}
  for i = 1, #v do
    if type(v[i]) ~= "string" or v[i] == "" then refuse("stop", ("'stop'[%d] is no string of at least one character"):format(i - 1)) end
    out[i] = v[i]
  end
  return #out > 0 and out or nil
end

local function logit_bias(body)
  local v = M.object(body, "logit_bias")
  if not v then return nil end
  local out = {}
  for key, bias in pairs(v) do
    local id = math.tointeger(tonumber(key))
    if not id then refuse("logit_bias", ("'logit_bias': %q is no token id"):format(tostring(key))) end
    if type(bias) ~= "number" or bias < -100 or bias > 100 then
      refuse("logit_bias", ("'logit_bias'[%d] is no number from -100 to 100"):format(id))
    end
    out[id] = bias <= -100 and -math.huge or bias
  end
  return out
end

--- Options that chat and completions share.
local function shared(body)
  local o = {
    temperature = number(body, "temperature", 0, 2), top_p = number(body, "top_p", 0, 1),
    top_k = integer(body, "top_k", -1, 1 << 20), min_p = number(body, "min_p", 0, 1),
    typical_p = number(body, "typical_p", 0, 1),
    presence_penalty = number(body, "presence_penalty", -2, 2),
    frequency_penalty = number(body, "frequency_penalty", -2, 2),
    repeat_penalty = number(body, "repetition_penalty", 0.01, 100) or number(body, "repeat_penalty", 0.01, 100),
    seed = integer(body, "seed", math.mininteger, math.maxinteger), n = integer(body, "n", 1, 128),
    max_tokens = integer(body, "max_completion_tokens", 1, math.maxinteger)
      or integer(body, "max_tokens", 1, math.maxinteger),
    min_tokens = integer(body, "min_tokens", 0, math.maxinteger),
    ignore_eos = flag(body, "ignore_eos"), stop = stops(body), logit_bias = logit_bias(body),
    priority = integer(body, "priority", -1000, 1000),
  }
  if o.top_k == -1 then o.top_k = 0 end          -- as vLLM's clients say "off"
  flag(body, "stream")
  return o
end

local function refuse_response_format(body)
  local f = M.object(body, "response_format")
  if f and f.type ~= "text" then
    refuse("response_format", ("'response_format' of type '%s' is not supported; 'text' is"):format(tostring(f.type)), "unsupported_parameter")
  end
end

local function tools_of(body)
  local tools, choice = M.object(body, "tools"), get(body, "tool_choice")
  if choice ~= nil and choice ~= "auto" and choice ~= "none" then
    local shown = type(choice) == "string" and choice or "a named function"
    refuse("tool_choice", ("'tool_choice' %s is not supported; 'auto' and 'none' are"):format(shown), "unsupported_parameter")
  end
  local canonical, message = conversation.tools(tools)
  if message then refuse("tools", message) end
  return choice ~= "none" and canonical or nil
end

--- The body of /v1/chat/completions.
function M.chat(body)
  local o = shared(body)
  refuse_response_format(body)
  local messages, message = conversation.messages(get(body, "messages"))
  if not messages then refuse("messages", message) end
  o.messages, o.tools = messages, tools_of(body)
  o.parallel_tool_calls = flag(body, "parallel_tool_calls")
  o.logprobs = flag(body, "logprobs")
  o.top_logprobs = integer(body, "top_logprobs", 0, 20)
  if o.top_logprobs and not o.logprobs then refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true") end
  o.template_vars = M.object(body, "chat_template_kwargs")
  return o
end

local function is_ids(v) return type(v) == "table" and math.type(v[1]) == "integer" end

local function prompt_of(body, m)
  local v = get(body, "prompt")
  if type(v) == "table" and #v == 1 and not is_ids(v) then v = v[1] end
  if type(v) == "string" then return m.handle:encode(v, { add_special = true, parse_special = true }) end
  if not is_ids(v) then
    refuse("prompt", "'prompt' is neither a string nor a list of token ids (a list of several prompts is not supported)")
  end
  for i = 1, #v do
    if math.type(v[i]) ~= "integer" or v[i] < 0 or v[i] >= m.meta.n_vocab then
      refuse("prompt", ("'prompt'[%d] is no token id from 0 to %d"):format(i - 1, m.meta.n_vocab - 1))
    end
  end
  return v
end

--- The body of /v1/completions.
function M.completion(body, m)
  local o = shared(body)
  refuse_response_format(body)
  for _, key in ipairs { "suffix" } do
    if get(body, key) ~= nil then refuse(key, ("'%s' is not supported"):format(key), "unsupported_parameter") end
  end
  local best_of = integer(body, "best_of", 1, 128)
  if best_of and best_of ~= (o.n or 1) then refuse("best_of", "'best_of' other than 'n' is not supported", "unsupported_parameter") end
  o.raw, o.ids = true, prompt_of(body, m)
  if #o.ids == 0 then refuse("prompt", "'prompt' holds no tokens") end
  o.max_tokens = o.max_tokens or 16
  local n_top = integer(body, "logprobs", 0, 20)
  if n_top then o.logprobs, o.top_logprobs = true, n_top end
  o.echo = flag(body, "echo")
  if o.echo and n_top then o.prompt_logprobs = true end
  return o
end

return M
