--- chunks.lua: results and events of the engine in the shapes of the OpenAI API.
---
--- A shape has whole(results), first(), event(ev) -> list of chunks, and usage(u) -> chunk.
local core = require "qhost.core"
local object, array, null = core.json.object, core.json.array, core.json.null
local M = {}

local FINISH = { stop = "stop", length = "length", tool_calls = "tool_calls", canceled = "stop" }

local function new_id(prefix) return ("%s-%016x%08x"):format(prefix, core.random(), core.random() & 0xffffffff) end

local function usage_of(u)
  return object({ prompt_tokens = u.prompt, completion_tokens = u.completion, total_tokens = u.prompt + u.completion,
    prompt_tokens_details = object({ cached_tokens = u.cached }, { "cached_tokens" }) },
    { "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details" })
end

--- Sum over choices: they share one prompt.
local function total_usage(results)
  local u = { prompt = results[1].usage.prompt, cached = results[1].usage.cached, completion = 0 }
  for _, r in ipairs(results) do u.completion = u.completion + r.usage.completion end
  return u
end

--- A token's bytes as text; what is no UTF-8 becomes U+FFFD (the bytes field has the truth).
local function token_text(bytes)
  if utf8.len(bytes) then return bytes end
  local out = {}
  local i = 1
  while i <= #bytes do
    local n = 1
    while i + n - 1 <= #bytes and n <= 4 and not utf8.len(bytes, i, i + n - 1) do n = n + 1 end
    local ok = n <= 4 and i + n - 1 <= #bytes
    out[#out + 1] = ok and bytes:sub(i, i + n - 1) or "\u{FFFD}"
    i = i + (ok and n or 1)
  end
  return table.concat(out)
end

local MIN_LOGPROB = -9999.0                  -- JSON has no -inf; the API's own stand-in
local function finite(x) return x > MIN_LOGPROB and x or MIN_LOGPROB end

-- Chat ---------------------------------------------------------------------------------------------------

local function chat_token(t)
  return object({ token = token_text(t.bytes), logprob = finite(t.logprob), bytes = array { t.bytes:byte(1, -1) } },
    { "token", "logprob", "bytes", "top_logprobs" })
end

local function chat_logprobs(tokens)
  if not tokens then return null end
  local content = {}
  for i, t in ipairs(tokens) do
    local entry, top = chat_token(t), {}
    for k, alt in ipairs(t.top or {}) do top[k] = chat_token(alt) end
    entry.top_logprobs = array(top)
    content[i] = entry
  end
  return object({ content = array(content) }, { "content" })
end

local Chat = {}
Chat.__index = Chat

--- name: the model as the client called it; o: the request's options.
function M.chat(name, o)
  return setmetatable({ id = new_id "chatcmpl", name = name, created = math.floor(core.wall()),
    n = o.n or 1, logprobs = o.logprobs, may_call = o.tools ~= nil, is_begun = {} }, Chat)
end

function Chat:envelope(kind, choices, usage)
  return object({ id = self.id, object = kind, created = self.created, model = self.name, choices = array(choices),
    usage = usage }, { "id", "object", "created", "model", "choices", "usage" })
end

local function whole_call(call)
  return object({ id = call.id, type = "function",
    ["function"] = object({ name = call.name, arguments = call.raw }, { "name", "arguments" }) }, { "id", "type", "function" })
end

local function message_of(r)
  local calls
  if #r.tool_calls > 0 then
    calls = {}
    for i, call in ipairs(r.tool_calls) do calls[i] = whole_call(call) end
  end
  local content = r.text
  if content == "" and calls then content = null end
  return object({ role = "assistant", content = content, refusal = null, reasoning_content = r.reasoning,
    tool_calls = calls and array(calls) }, { "role", "content", "refusal", "reasoning_content", "tool_calls" })
end

function Chat:whole(results)
  local choices = {}
  for i, r in ipairs(results) do
    choices[i] = object({ index = i - 1, message = message_of(r), logprobs = self.logprobs and chat_logprobs(r.tokens or {}) or null,
      finish_reason = FINISH[r.finish] or "stop" }, { "index", "message", "logprobs", "finish_reason" })
  end
  return self:envelope("chat.completion", choices, usage_of(total_usage(results)))
end

function Chat:chunk(index, delta, logprobs, finish)
  local choice = object({ index = index, delta = delta, logprobs = logprobs or null, finish_reason = finish or null },
    { "index", "delta", "logprobs", "finish_reason" })
  return self:envelope("chat.completion.chunk", { choice })
end

-- The first chunk of a choice. Content is null where no text may come, as in a whole message with calls.
function Chat:opening(index, content)
  self.is_begun[index] = true
  return self:chunk(index, object({ role = "assistant", content = content, refusal = null }, { "role", "content", "refusal" }))
end

--- What goes out before the engine has said anything: nothing while it may be a call that comes first.
function Chat:first()
  local list = {}
  for i = 1, self.may_call and 0 or self.n do list[i] = self:opening(i - 1, "") end
  return list
end

local function call_delta(fields, order)
  return object({ tool_calls = array { object(fields, order) } }, { "tool_calls" })
end

-- id, type and name stand in the first delta of a call only; index in each.
local function call_deltas(ev)
  local list, at = {}, ev.index - 1
  if ev.id then
    list[1] = call_delta({ index = at, id = ev.id, type = "function",
      ["function"] = object({ name = ev.name, arguments = "" }, { "name", "arguments" }) }, { "index", "id", "type", "function" })
  end
  if ev.arguments ~= "" then
    list[#list + 1] = call_delta({ index = at, ["function"] = object({ arguments = ev.arguments }, { "arguments" }) },
      { "index", "function" })
  end
  return list
end

-- What an agent tells beyond the API stands in a field of its own, which clients of the API pass over.
local function extra_delta(key, value) return { object({ content = "", [key] = value }, { "content", key }) } end

local DELTAS = { tool_call = call_deltas }
function DELTAS.text(ev) return { object({ content = ev.text }, { "content" }) } end
function DELTAS.reasoning(ev) return { object({ reasoning_content = ev.text }, { "reasoning_content" }) } end
function DELTAS.tool_result(ev)
  return extra_delta("tool_result", object({ tool_call_id = ev.id, name = ev.name, content = ev.text,
    is_error = ev.is_error }, { "tool_call_id", "name", "content", "is_error" }))
end
function DELTAS.approval(ev)
  return extra_delta("approval", object({ id = ev.id, calls = ev.calls, expires = ev.expires }, { "id", "calls", "expires" }))
end

--- The deltas of an event.
function Chat:deltas(ev)
  local of = DELTAS[ev.type]
  return of and of(ev) or {}
end

local LIMITS = { max_tokens = "length", context_length = "length" }      -- of agents

-- The last delta: empty, but for the name of an end that the API has no word for.
local function last_delta(finish)
  if FINISH[finish] then return object({}, {}) end
  return object({ finish = finish }, { "finish" })
end

function Chat:event(ev)
  local list, index = {}, (ev.choice or 1) - 1
  local tokens = self.logprobs and ev.type == "text" and ev.tokens or nil
  if ev.type == "text" and ev.text == "" and not tokens then return list end
  if not self.is_begun[index] and ev.type ~= "prompt" then
    list[1] = self:opening(index, (ev.type == "text" or ev.type == "done") and "" or null)
  end
  for _, delta in ipairs(self:deltas(ev)) do
    list[#list + 1] = self:chunk(index, delta, tokens and chat_logprobs(tokens))
  end
  if ev.type == "done" then list[#list + 1] = self:chunk(index, last_delta(ev.finish), nil, FINISH[ev.finish] or LIMITS[ev.finish] or "stop") end
  return list
end

function Chat:usage(u) return self:envelope("chat.completion.chunk", {}, usage_of(u)) end

-- Completions ----------------------------------------------------------------------------------------------

--- offset: where the first token's text begins. Returns the logprobs object and the end.
local function completion_logprobs(tokens, offset)
  local out = { tokens = {}, token_logprobs = {}, top_logprobs = {}, text_offset = {} }
  for i, t in ipairs(tokens) do
    local text, top = token_text(t.bytes), {}
    for _, alt in ipairs(t.top or {}) do top[token_text(alt.bytes)] = finite(alt.logprob) end
    if t.logprob and t.top and #t.top > 0 then top[text] = top[text] or finite(t.logprob) end
    out.tokens[i], out.text_offset[i] = text, offset
    out.token_logprobs[i] = t.logprob and finite(t.logprob) or null
    out.top_logprobs[i] = next(top) and object(top) or null
    offset = offset + utf8.len(text)
  end
  for key, list in pairs(out) do out[key] = array(list) end
  return object(out, { "tokens", "token_logprobs", "top_logprobs", "text_offset" }), offset
end

local Completion = {}
Completion.__index = Completion

function M.completion(name, m, o)
  local echo = o.echo and m.handle:decode(o.ids) or nil
  -- The engine gives the prompt's tokens after the first, which has no probability.
  local first_token = echo and { id = o.ids[1], bytes = m.handle:piece(o.ids[1]) }
  return setmetatable({ id = new_id "cmpl", name = name, created = math.floor(core.wall()), n = o.n or 1,
    logprobs = o.logprobs, echo = echo,
    first_token = first_token, offsets = {}, prompt_offset = 0 }, Completion)
end

function Completion:envelope(choices, usage)
  return object({ id = self.id, object = "text_completion", created = self.created, model = self.name,
    choices = array(choices), usage = usage }, { "id", "object", "created", "model", "choices", "usage" })
end

local function completion_choice(index, text, logprobs, finish)
  return object({ index = index, text = text, logprobs = logprobs or null, finish_reason = finish or null },
    { "index", "text", "logprobs", "finish_reason" })
end

function Completion:whole(results)
  local choices = {}
  for i, r in ipairs(results) do
    local tokens = {}
    if self.echo then
      local prompt = r.prompt_tokens or results[1].prompt_tokens or {}
      tokens[1] = self.first_token
      table.move(prompt, 1, #prompt, 2, tokens)
    end
    table.move(r.tokens or {}, 1, #(r.tokens or {}), #tokens + 1, tokens)
    local logprobs = self.logprobs and completion_logprobs(tokens, 0)
    choices[i] = completion_choice(i - 1, (self.echo or "") .. r.text, logprobs, FINISH[r.finish] or "stop")
  end
  return self:envelope(choices, usage_of(total_usage(results)))
end

function Completion:first()
  local list = {}
  for i = 1, self.echo and self.n or 0 do
    list[i] = self:envelope { completion_choice(i - 1, self.echo) }
    self.offsets[i - 1] = utf8.len(self.echo) or #self.echo
  end
  return list
end

function Completion:event(ev)
  local index = (ev.choice or 1) - 1
  local logprobs
  local is_prompt = ev.type == "prompt"
  if self.logprobs and ev.type ~= "done" and ev.tokens and #ev.tokens > 0 then
    local tokens = ev.tokens
    if is_prompt and self.prompt_offset == 0 then
      tokens = table.move(tokens, 1, #tokens, 2, { self.first_token })
    end
    local up_to
    logprobs, up_to = completion_logprobs(tokens, is_prompt and self.prompt_offset or self.offsets[index] or 0)
    if is_prompt then self.prompt_offset = up_to else self.offsets[index] = up_to end
  end
  local finish = ev.type == "done" and (FINISH[ev.finish] or "stop") or nil
  local text = ev.type == "text" and ev.text or ""
  if text == "" and not finish and not logprobs then return {} end
  return { self:envelope { completion_choice(index, text, logprobs, finish) } }
end

function Completion:usage(u) return self:envelope({}, usage_of(u)) end

return M
