--- upstream.lua: a model that another server runs, behind the OpenAI chat API: qh.upstream.
---
--- It is asked with stream = true always, so that one reader serves whole and streamed answers. What
--- comes back are the events of answer.lua; tool calls are told when they are complete.
local asking = require "qhost.asking"
local core = require "qhost.core"
local conversation = require "qhost.conversation"
local errors = require "qhost.errors"
local fetch = require "qhost.fetch"
local remote = require "qhost.remote_answer"
local sampler = require "qhost.sampler"
local M = {}

---@class qhost.Upstream
---@field name string
local Upstream = {}
Upstream.__index = Upstream
Upstream.__name = "qhost.Upstream"

local MAX_ERROR_BYTES = 2000

--- Sent, under these names.
local SENT = { temperature = true, top_p = true, top_k = true, min_p = true, seed = true, n = true, max_tokens = true,
  stop = true, presence_penalty = true, frequency_penalty = true, repeat_penalty = "repetition_penalty",
  logit_bias = true, parallel_tool_calls = true }
--- What a request may ask of a model here and an upstream cannot be asked. Anything else is for us.
local REFUSED = {}
for _, name in ipairs { "policy", "on", "raw", "ids", "logprobs", "prompt_logprobs", "tokens", "min_tokens", "ignore_eos",
  "stop_ids", "keep_stop", "typical_p", "xtc_probability", "xtc_threshold", "penalty_window", "dry_multiplier", "dry_base",
  "dry_allowed_length", "dry_window", "dry_breakers" } do REFUSED[name] = true end
local KNOWN = { kind = true, url = true, key = true, model = true, headers = true, timeout = true, name = true }

--- A model behind an OpenAI-compatible server. Its host must be allowed, as for qh.fetch.
---@param def {kind?: "openai", url: string, key?: string, model: string, name?: string, headers?: table, timeout?: number}
---@return qhost.Upstream
function M.new(def)
  if type(def) ~= "table" then error("qh.upstream takes {kind = 'openai', url =, key =, model =}", 2) end
  for key in pairs(def) do
    if not KNOWN[key] then error(("qh.upstream has no option '%s'"):format(tostring(key)), 2) end
  end
  if (def.kind or "openai") ~= "openai" then error(("qh.upstream: kind '%s' is unknown; 'openai' is"):format(tostring(def.kind)), 2) end
  if type(def.url) ~= "string" or not def.url:match "^https?://" then error("qh.upstream: url must begin with http:// or https://", 2) end
  if type(def.model) ~= "string" then error("qh.upstream: model must be a name", 2) end
  return setmetatable({ name = def.name or def.model, remote = def.model, url = def.url:gsub("/+$", "") .. "/chat/completions",
    key = def.key, headers = def.headers or {}, timeout = def.timeout }, Upstream)
end

local function wire_call(call)
  local f = call["function"]
  local arguments = f.arguments
  if type(arguments) ~= "string" then arguments = core.json.encode(arguments) end
  return { id = call.id, type = "function", ["function"] = { name = f.name, arguments = arguments } }
end

local function wire_messages(messages)
  local out = {}
  for i, m in ipairs(messages) do
    local copy = {}
    for key, value in pairs(m) do copy[key] = value end
    if m.tool_calls then
      copy.tool_calls = {}
      for k, call in ipairs(m.tool_calls) do copy.tool_calls[k] = wire_call(call) end
    end
    out[i] = copy
  end
  return core.json.array(out)
end

--- The request body, or nil and what cannot be honoured there.
local function body_of(self, o)
  local messages, message = conversation.of_options(o)
  if not messages then return nil, message, "EINVAL" end
  local body = { model = self.remote, messages = wire_messages(messages), stream = true, stream_options = { include_usage = true } }
  if o.tools and #o.tools > 0 then body.tools = o.tools end
  local fields = o
  if o.sampler then
    if not sampler.is_sampler(o.sampler) then return nil, "sampler was not made by qh.sampler", "EINVAL" end
    fields = {}
    for key, value in pairs(o.sampler.fields) do fields[key] = value end
    for key, value in pairs(o) do fields[key] = value end
  end
  for key, value in pairs(fields) do
    local sent = SENT[key]
    if sent then
      body[sent == true and key or sent] = value
    elseif REFUSED[key] and value then
      return nil, ("'%s' cannot be asked of the upstream model '%s'"):format(tostring(key), self.name), "EUNSUPPORTED"
    end
  end
  return body
end

--- What a refusal over HTTP means here: 4xx are the request's own fault, but for our key.
local function refusal(self, reply)
  local status = reply.status
  local text = reply:text():sub(1, MAX_ERROR_BYTES)
  local value = core.json.decode(text)
  local e = type(value) == "table" and value.error
  local why = type(e) == "table" and type(e.message) == "string" and e.message or text
  local message = ("the upstream model '%s' answered %d: %s"):format(self.name, status, why)
  core.log("warn", "upstream.refused", { model = self.name, status = status, error = why })
  if status == 429 or status == 503 or status == 529 then return nil, message, "AGAIN" end
  if status == 408 or status == 504 then return nil, message, "ETIMEDOUT" end
  if status == 400 or status == 413 or status == 422 then
    local is_context = type(e) == "table" and e.code == "context_length_exceeded"
    return nil, message, is_context and "ECONTEXT" or "EINVAL"
  end
  return nil, message, "EIO"
end

--- Ask it: what reads the answer, or nil, message, status name. Yields until the reply begins.
function Upstream:submit(o)
  local body, message, status = body_of(self, o)
  if not body then return nil, message, status end
  local headers = { Accept = "text/event-stream" }
  for key, value in pairs(self.headers) do headers[key] = value end
  if self.key then headers.Authorization = "Bearer " .. self.key end
  local reply, why, code = fetch.try(self.url, { json = body, headers = headers, stream = true,
    timeout = o.timeout or self.timeout, redirects = 0, max_bytes = 1 << 30 })
  if not reply then return nil, why, code == "EINVAL" and "EIO" or code end
  if reply.status ~= 200 then
    local open <close> = reply
    return refusal(self, open)
  end
  return remote.new(reply, self.name)
end

--- An upstream has no tokenizer here.
function Upstream:tokens()
  errors.abort(400, "unsupported", { message = ("the upstream model '%s' answers chats only"):format(self.name) })
end

--- Answer a conversation, as model:chat does. Yields.
---@return qhost.Result? result
---@return string? message
---@return string? status
function Upstream:chat(o) return asking.chat(self, o) end

--- Answer a conversation piece by piece, as model:stream does. Yields.
---@return fun(): table?
function Upstream:stream(o) return asking.stream(self, o) end

function M.is_upstream(v) return getmetatable(v) == Upstream end
M.Upstream = Upstream
return M
