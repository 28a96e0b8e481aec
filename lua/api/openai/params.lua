--- params.lua: the request bodies of the OpenAI dialect, checked and turned into engine options.
local conversation = require "qhost.conversation"
local errors = require "qhost.errors"
local M = {}

local function refuse(param, message, code)
  errors.abort(400, code or "invalid_value", { message = message, param = param })
end
M.refuse = refuse

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

function M.flag(body, key)
  local v = get(body, key)
  if v ~= nil and type(v) ~= "boolean" then refuse(key, ("'%s' is neither true nor false"):format(key)) end
  return v
end

local flag = M.flag

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
    local id = type(key) == "string" and math.tointeger(tonumber(key))      -- a list has integer keys
    if not id or id < 0 then refuse("logit_bias", ("'logit_bias': %q is no token id"):format(tostring(key))) end
    if type(bias) ~= "number" or bias < -100 or bias > 100 then
      refuse("logit_bias", ("'logit_bias'[%d] is no number from -100 to 100"):format(id))
    end
    out[id] = bias <= -100 and -math.huge or bias
  end
  return out
end

--- Options that chat and completions share.
local function shared(body, least_tokens)
  local o = {
    temperature = number(body, "temperature", 0, 2), top_p = number(body, "top_p", 0, 1),
    top_k = integer(body, "top_k", -1, 1 << 20), min_p = number(body, "min_p", 0, 1),
    typical_p = number(body, "typical_p", 0, 1),
    presence_penalty = number(body, "presence_penalty", -2, 2),
    frequency_penalty = number(body, "frequency_penalty", -2, 2),
    repeat_penalty = number(body, "repetition_penalty", 0.01, 100) or number(body, "repeat_penalty", 0.01, 100),
    seed = integer(body, "seed", math.mininteger, math.maxinteger), n = integer(body, "n", 1, 128),
    max_tokens = integer(body, "max_completion_tokens", least_tokens, math.maxinteger)
      or integer(body, "max_tokens", least_tokens, math.maxinteger),
    min_tokens = integer(body, "min_tokens", 0, math.maxinteger),
    ignore_eos = flag(body, "ignore_eos"), stop = stops(body), logit_bias = logit_bias(body),
    priority = integer(body, "priority", -1000, 1000),
  }
  if o.top_k == -1 then o.top_k = 0 end          -- as vLLM's clients say "off"
  flag(body, "stream")
  local wanted = M.object(body, "stream_options")
  o.include_usage = wanted and flag(wanted, "include_usage") or nil
  return o
end

-- Fields whose meaning would be lost if they were passed over; other unknown ones are.
local function refuse_unsupported(body, fields)
  for key, instead in pairs(fields) do
    local v = get(body, key)
    if v ~= nil and v ~= false and not (type(v) == "table" and next(v) == nil) then
      refuse(key, ("'%s' is not supported%s"):format(key, instead), "unsupported_parameter")
    end
  end
end

local function refuse_response_format(body)
  local f = M.object(body, "response_format")
  if f and f.type ~= "text" then
    refuse("response_format", ("'response_format' of type '%s' is not supported; 'text' is"):format(tostring(f.type)),
      "unsupported_parameter")
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

local function refuse_modalities(body)
  for _, kind in ipairs(M.object(body, "modalities") or {}) do
    if kind ~= "text" then refuse("modalities", "'modalities' other than text are not supported", "unsupported_parameter") end
  end
end

--- Further variables of the template. The messages, the tools and the texts of special tokens are not for
--- a request to replace: what a template writes from them counts as its own.
local function template_vars(body)
  local given = M.object(body, "chat_template_kwargs")
  local vars = {}
  for key, value in pairs(given or {}) do
    if type(key) ~= "string" or key == "messages" or key == "tools" or key:find "_token$" then
      refuse("chat_template_kwargs", ("'chat_template_kwargs' cannot set '%s'"):format(tostring(key)))
    end
    vars[key] = value
  end
  local effort = M.text(body, "reasoning_effort")
  if effort then
    if vars.reasoning_effort == nil then vars.reasoning_effort = effort end
    if effort == "none" and vars.enable_thinking == nil then vars.enable_thinking = false end
  end
  return next(vars) ~= nil and vars or nil
end

local CHAT_UNSUPPORTED = { functions = "; use 'tools'", function_call = "; use 'tool_choice'", audio = "", web_search_options = "" }
local COMPLETION_UNSUPPORTED = { suffix = "" }

--- What a template is given: messages, tools, variables.
function M.conversation(body)
  local messages, message = conversation.messages(get(body, "messages"))
  if not messages then refuse("messages", message) end
  return { messages = messages, tools = tools_of(body), template_vars = template_vars(body) }
end

--- The body of /v1/chat/completions.
function M.chat(body)
  local o = shared(body, 1)
  refuse_unsupported(body, CHAT_UNSUPPORTED)
  refuse_modalities(body)
  refuse_response_format(body)
  for key, value in pairs(M.conversation(body)) do o[key] = value end
  o.parallel_tool_calls = flag(body, "parallel_tool_calls")
  o.logprobs = flag(body, "logprobs")
  o.top_logprobs = integer(body, "top_logprobs", 0, 20)
  if o.top_logprobs and not o.logprobs then refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true") end
  return o
end

local MAX_PROMPTS = 128

local function is_ids(v) return type(v) == "table" and math.type(v[1]) == "integer" end

--- A list of token ids that the model has.
function M.ids(list, m, param, where)
  for i = 1, #list do
    if math.type(list[i]) ~= "integer" or list[i] < 0 or list[i] >= m.meta.n_vocab then
      refuse(param, ("'%s'[%d] is no token id from 0 to %d"):format(where, i - 1, m.meta.n_vocab - 1))
    end
  end
  return list
end

-- One prompt, text or ids, as ids. Yields.
local function ids_of(v, m, where)
  if type(v) == "string" then
    local ids, message = m.handle:encode(v, { add_special = true, parse_special = true })
    if not ids then refuse("prompt", ("'%s': %s"):format(where, message)) end
    v = ids
  elseif is_ids(v) then
    M.ids(v, m, "prompt", where)
  else
    refuse("prompt", ("'%s' is neither a string nor a list of token ids"):format(where))
  end
  if #v == 0 then refuse("prompt", ("'%s' holds no tokens"):format(where)) end
  return v
end

-- A prompt or a list of them: lists of ids, and the texts of those that came as text.
local function prompts_of(body, m)
  local v = get(body, "prompt")
  if type(v) ~= "table" or is_ids(v) then return { ids_of(v, m, "prompt") }, { type(v) == "string" and v or nil } end
  if #v == 0 or #v > MAX_PROMPTS then refuse("prompt", ("'prompt' has %d entries; 1 to %d are expected"):format(#v, MAX_PROMPTS)) end
  local out, texts = {}, {}
  for i = 1, #v do
    out[i] = ids_of(v[i], m, ("prompt[%d]"):format(i - 1))
    texts[i] = type(v[i]) == "string" and v[i] or nil
  end
  return out, texts
end

--- The body of /v1/completions. Yields.
function M.completion(body, m)
  local o = shared(body, 0)
  refuse_response_format(body)
  refuse_unsupported(body, COMPLETION_UNSUPPORTED)
  local best_of = integer(body, "best_of", 1, 128)
  if best_of and best_of ~= (o.n or 1) then refuse("best_of", "'best_of' other than 'n' is not supported", "unsupported_parameter") end
  o.raw, o.echo = true, flag(body, "echo")
  o.prompts, o.prompt_texts = prompts_of(body, m)
  if o.max_tokens == 0 then o.max_tokens, o.is_prompt_only = 1, true end       -- the engine makes at least one
  o.max_tokens = o.max_tokens or 16
  local n_top = integer(body, "logprobs", 0, 20)
  if n_top then o.logprobs, o.top_logprobs = true, n_top end
  if o.echo and n_top then o.prompt_logprobs = true end
  return o
end

return M
