--- tokens.lua: /tokenize, /detokenize, /apply-template, as other servers of this dialect have them.
local core = require "qhost.core"
local logprobs = require "api.openai.logprobs"
local params = require "api.openai.params"
local object, array = core.json.object, core.json.array
local M = {}

-- A flag under one of two names.
local function flag(body, one, other, default)
  local v = params.flag(body, one)
  if v == nil then v = params.flag(body, other) end
  if v == nil then return default end
  return v
end

-- The conversation of a body, or a refusal that says why the template does not take it.
local function chat_of(body)
  local o = params.conversation(body)
  o.add_generation_prompt = params.flag(body, "add_generation_prompt")
  return o
end

local function ids_of(body, m)
  if body.messages ~= nil then
    local ids, message = m:prompt(chat_of(body))
    if not ids then params.refuse("messages", message) end
    return ids
  end
  local key = body.prompt == nil and body.content ~= nil and "content" or "prompt"
  local ids, message = m.handle:encode(params.text(body, key, true), {
    add_special = flag(body, "add_special_tokens", "add_special", key == "prompt"),
    parse_special = flag(body, "parse_special", "parse_special", true) })
  if not ids then params.refuse(key, message) end
  return ids
end

local function pieces_of(ids, m)
  local out = {}
  for i, id in ipairs(ids) do out[i] = logprobs.text(m.handle:piece(id)) end
  return array(out)
end

--- {prompt | content | messages} -> {count, max_model_len, tokens, token_strs?}. Yields.
function M.tokenize(body, m)
  local ids = ids_of(body, m)
  local wants = flag(body, "return_token_strs", "with_pieces", false)
  return object({ count = #ids, max_model_len = m.ctx, tokens = array(ids), token_strs = wants and pieces_of(ids, m) or nil },
    { "count", "max_model_len", "tokens", "token_strs" })
end

--- {tokens} -> {prompt, content}: the text, special tokens by name.
function M.detokenize(body, m)
  local list = params.object(body, "tokens")
  if not list then params.refuse("tokens", "'tokens' is missing", "missing_required_parameter") end
  local text = logprobs.text(m.handle:decode(params.ids(list, m, "tokens", "tokens"), { special = true }))
  return object({ prompt = text, content = text }, { "prompt", "content" })
end

--- {messages, tools?} -> {prompt}: the text that the model would read. Yields.
function M.apply_template(body, m)
  local segments, message = m:render(chat_of(body))
  if not segments then params.refuse("messages", message) end
  local parts = {}
  for i, s in ipairs(segments) do parts[i] = s.text end
  return object({ prompt = table.concat(parts) }, { "prompt" })
end

return M
