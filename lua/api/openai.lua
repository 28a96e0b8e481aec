--- openai.lua: the OpenAI dialect: /v1/models, /v1/chat/completions, /v1/completions; and beside them
--- /tokenize, /detokenize and /apply-template.
---
--- Wire format: the OpenAI API reference; what clients depend on is listed with the script API.
--- Fields that we do not know are accepted and ignored; fields that we know and cannot honour are
--- refused with their name.
local core = require "qhost.core"
local batch = require "api.openai.batch"
local chat = require "api.openai.chat"
local completion = require "api.openai.completion"
local errors = require "qhost.errors"
local fallback = require "qhost.fallback"
local model = require "qhost.model"
local params = require "api.openai.params"
local policies = require "api.openai.policies"
local tokens = require "api.openai.tokens"
local upstream = require "qhost.upstream"
local usage = require "api.openai.usage"
local M = {}

local PING_SECONDS = 10          -- silence after which a stream gets a comment
local SEND_BYTES = 256 << 10     -- of a whole reply that are joined

-- Which model ------------------------------------------------------------------------------------------

--- opts.models: a list of models, and name = model | function(req) -> model for other names.
local function model_table(models)
  local by_name, names = {}, {}
  for key, value in pairs(models) do
    local name = math.type(key) and value.name or key
    if not (model.is_model(value) or upstream.is_upstream(value) or fallback.is_fallback(value) or (type(value) == "function" and not math.type(key))) then
      error(("app:openai: models.%s is neither a model nor a named function"):format(tostring(key)), 3)
    end
    by_name[name], names[#names + 1] = value, name
  end
  table.sort(names)
  if #names == 0 then error("app:openai: no models", 3) end
  return by_name, names
end

local function find_model(by_name, name, req)
  local found = by_name[name]
  if type(found) == "function" then found = found(req) end
  if not found then
    errors.abort(404, "model_not_found", { message = ("the model '%s' does not exist"):format(tostring(name)), param = "model" })
  end
  return found
end

local function describe(name, m, created)
  local ctx = model.is_model(m) and m.ctx or nil
  return core.json.object({ id = name, object = "model", created = created, owned_by = "qhost",
    context_length = ctx, max_model_len = ctx },
    { "id", "object", "created", "owned_by", "context_length", "max_model_len" })
end

-- Answering ---------------------------------------------------------------------------------------------

-- The field that a refusal of the engine is about: its messages begin with the name.
local function field_of(message, status, body)
  if status == "ECONTEXT" then return body.messages and "messages" or "prompt" end
  local word = status == "EINVAL" and message:match "^'?([%a_]+)"
  return word and body[word] ~= nil and word or nil
end

-- A small reply goes out as one, a large one piece by piece.
local function send(res, pieces)
  local n_bytes = 0
  for _, piece in ipairs(pieces) do n_bytes = n_bytes + #piece end
  if n_bytes <= SEND_BYTES then return res:send("application/json", table.concat(pieces)) end
  res:header("content-type", "application/json")
  local from, n = 1, 0
  for i, piece in ipairs(pieces) do
    n = n + #piece
    if n >= SEND_BYTES or i == #pieces then
      res:write(table.concat(pieces, "", from, i))
      from, n = i + 1, 0
    end
  end
  return res:finish()
end

--- The whole reply: collect every choice, then one JSON object.
local function reply_whole(res, open, shape, n)
  local results, message, status = open:collect(function(ev) shape:note(ev) end)
  if not results then errors.abort_engine(message, status) end
  local sum = usage.new(n)
  for i, r in ipairs(results) do sum:add(i, r.usage) end
  return send(res, shape:whole(results, sum:json()))
end

--- The streamed reply: a chunk for each event, usage when asked for, then [DONE].
local function reply_stream(res, answer, shape, n, include_usage)
  local open <close>, sum = answer, usage.new(n)
  for _, chunk in ipairs(shape:first()) do res:event(nil, chunk) end
  while true do
    local ev = open:next(PING_SECONDS)
    if ev == nil then break end
    if ev == false then
      res:ping()
    else
      if ev.type == "done" then
        if ev.finish == "error" then errors.abort_engine(ev.message, ev.status) end
        sum:add(ev.choice, ev.usage)
      end
      for _, chunk in ipairs(shape:event(ev)) do res:event(nil, chunk) end
    end
  end
  if include_usage then res:event(nil, shape:usage(sum:json())) end
  res:event(nil, "[DONE]")
  return res:finish()
end

-- open, or nil and what the engine said.
local function answer(res, body, o, shape, open, message, status)
  if not open then errors.abort_engine(message, status, field_of(message, status, body)) end
  if body.stream == true then return reply_stream(res, open, shape, o.n, o.include_usage) end
  return reply_whole(res, open, shape, o.n)
end

local function body_of(req)
  local body = req:json()
  if type(body) ~= "table" then errors.abort(400, "invalid_json", { message = "the request body is not a JSON object" }) end
  return body
end

-- Routes ------------------------------------------------------------------------------------------------

local function mount_models(app, prefix, by_name, names)
  local created = math.floor(core.wall())
  app:get(prefix .. "/models", function(_, res)
    local list = {}
    for i, name in ipairs(names) do list[i] = describe(name, by_name[name], created) end
    return res:json(core.json.object({ object = "list", data = core.json.array(list) }, { "object", "data" }))
  end)
  app:get(prefix .. "/models/*name", function(req, res)
    local m = find_model(by_name, req.params.name, req)
    return res:json(describe(req.params.name, m, created))
  end)
end

local function mount_completions(app, prefix, by_name, allowed)
  app:post(prefix .. "/chat/completions", function(req, res)
    local body = body_of(req)
    local m = find_model(by_name, params.text(body, "model", true), req)
    local o = params.chat(body)
    o.policy = policies.read(body, allowed)
    return answer(res, body, o, chat.new(body.model, m, o), batch.submit(m, o))
  end)
  app:post(prefix .. "/completions", function(req, res)
    local body = body_of(req)
    local m = find_model(by_name, params.text(body, "model", true), req)
    local o = params.completion(body, m)
    o.policy = policies.read(body, allowed)
    return answer(res, body, o, completion.new(body.model, m, o), batch.submit(m, o))
  end)
end

-- These stand beside the prefix, and need no model where there is only one.
local function mount_tokens(app, base, by_name, names)
  for path, fn in pairs { ["/tokenize"] = tokens.tokenize, ["/detokenize"] = tokens.detokenize,
    ["/apply-template"] = tokens.apply_template } do
    app:post(base .. path, function(req, res)
      local body = body_of(req)
      local name = params.text(body, "model", #names > 1) or names[1]
      return res:json(fn(body, find_model(by_name, name, req)))
    end)
  end
end

--- Serve this dialect on an app. Called by app:openai.
---@param app qhost.App
---@param opts {models: table, policies?: table, prefix?: string}
function M.mount(app, opts)
  if type(opts) ~= "table" or type(opts.models) ~= "table" then error("app:openai takes {models = {...}}", 3) end
  local by_name, names = model_table(opts.models)
  local prefix, allowed = opts.prefix or "/v1", policies.registered(opts.policies)
  mount_models(app, prefix, by_name, names)
  mount_completions(app, prefix, by_name, allowed)
  mount_tokens(app, prefix:match "^(.-)/v1/?$" or prefix, by_name, names)
  return app
end

--- Send events of model:stream or of an agent's run as chat chunks (res:stream with as = "openai"). wants_usage:
--- with a chunk of it at the end.
function M.stream_events(res, source, wants_usage)
  local m = type(source) == "table" and source.model
  local shape, used = chat.new(m and m.name or "qhost", m, {}), nil
  for _, chunk in ipairs(shape:first()) do res:event(nil, chunk) end
  for ev in source do
    if ev.type == "ping" then res:ping() elseif ev.type == "usage" then used = ev.usage end
    for _, chunk in ipairs(shape:event(ev)) do res:event(nil, chunk) end
  end
  if wants_usage and used then
    local sum = usage.new()
    sum:add(1, used)
    res:event(nil, shape:usage(sum:json()))
  end
  res:event(nil, "[DONE]")
end

return M
