--- openai.lua: the OpenAI dialect: /v1/models, /v1/chat/completions, /v1/completions.
---
--- Wire format: the OpenAI API reference; what clients depend on is listed with the script API.
--- Fields that we do not know are accepted and ignored; fields that we know and cannot honour are
--- refused with their name.
local core = require "qhost.core"
local chunks = require "api.openai.chunks"
local errors = require "qhost.errors"
local model = require "qhost.model"
local params = require "api.openai.params"
local policies = require "api.openai.policies"
local M = {}

local PING_SECONDS = 10          -- silence after which a stream gets a comment

-- Which model ------------------------------------------------------------------------------------------

--- opts.models: a list of models, and name = model | function(req) -> model for other names.
local function model_table(models)
  local by_name, names = {}, {}
  for key, value in pairs(models) do
    local name = math.type(key) and value.name or key
    if not (model.is_model(value) or (type(value) == "function" and not math.type(key))) then
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

local function submit(m, o)
  local open, message, status = m:submit(o)
  if not open then errors.abort_engine(message, status) end
  return open
end

--- The whole reply: collect every choice, then one JSON object.
local function reply_whole(res, open, shape)
  local results, message, status = open:collect()
  if not results then errors.abort_engine(message, status) end
  return res:json(shape:whole(results))
end

--- The streamed reply: a chunk for each event, usage when asked for, then [DONE].
local function reply_stream(res, answer, shape, include_usage)
  local open <close> = answer
  local usage = { prompt = 0, cached = 0, completion = 0 }
  for _, chunk in ipairs(shape:first()) do res:event(nil, chunk) end
  while true do
    local ev = open:next(PING_SECONDS)
    if ev == nil then break end
    if ev == false then
      res:ping()
    else
      if ev.type == "done" then
        if ev.finish == "error" then errors.abort_engine(ev.message, ev.status) end
        usage.prompt, usage.cached = ev.usage.prompt, ev.usage.cached
        usage.completion = usage.completion + ev.usage.completion
      end
      for _, chunk in ipairs(shape:event(ev)) do res:event(nil, chunk) end
    end
  end
  if include_usage then res:event(nil, shape:usage(usage)) end
  res:event(nil, "[DONE]")
  return res:finish()
end

local function answer(res, m, o, body, shape)
  local open = submit(m, o)
  if body.stream == true then
    local wanted = params.object(body, "stream_options")
    return reply_stream(res, open, shape, wanted and wanted.include_usage == true)
  end
  return reply_whole(res, open, shape)
end

local function body_of(req)
  local body = req:json()
  if type(body) ~= "table" then errors.abort(400, "invalid_json", { message = "the request body is not a JSON object" }) end
  return body
end

-- Routes ------------------------------------------------------------------------------------------------

--- Serve this dialect on an app. Called by app:openai.
---@param app qhost.App
---@param opts {models: table, policies?: table, prefix?: string}
function M.mount(app, opts)
  if type(opts) ~= "table" or type(opts.models) ~= "table" then error("app:openai takes {models = {...}}", 3) end
  local by_name, names = model_table(opts.models)
  local allowed = policies.registered(opts.policies)
  local prefix, created = opts.prefix or "/v1", math.floor(core.wall())

  app:get(prefix .. "/models", function(_, res)
    local list = {}
    for i, name in ipairs(names) do list[i] = describe(name, by_name[name], created) end
    return res:json(core.json.object({ object = "list", data = core.json.array(list) }, { "object", "data" }))
  end)
  app:get(prefix .. "/models/*name", function(req, res)
    local m = find_model(by_name, req.params.name, req)
    return res:json(describe(req.params.name, m, created))
  end)
  app:post(prefix .. "/chat/completions", function(req, res)
    local body = body_of(req)
    local m = find_model(by_name, params.text(body, "model", true), req)
    local o = params.chat(body)
    o.policy = policies.read(body, allowed)
    return answer(res, m, o, body, chunks.chat(body.model, o))
  end)
  app:post(prefix .. "/completions", function(req, res)
    local body = body_of(req)
    local m = find_model(by_name, params.text(body, "model", true), req)
    local o = params.completion(body, m)
    o.policy = policies.read(body, allowed)
    return answer(res, m, o, body, chunks.completion(body.model, m, o))
  end)
  return app
end

--- Send events of model:stream or of an agent's run as chat chunks (res:stream with as = "openai"). usage: with
--- a chunk of it at the end.
function M.stream_events(res, source, usage)
  local m = type(source) == "table" and source.model
  local shape = chunks.chat(m and m.name or "qhost", {})
  for _, chunk in ipairs(shape:first()) do res:event(nil, chunk) end
  local used
  for ev in source do
    if ev.type == "ping" then res:ping() elseif ev.type == "usage" then used = ev.usage end
    for _, chunk in ipairs(shape:event(ev)) do res:event(nil, chunk) end
  end
  if usage and used then res:event(nil, shape:usage(used)) end
  res:event(nil, "[DONE]")
end

return M
