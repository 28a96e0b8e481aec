--- chat.lua: answers as chat completions, whole and in chunks.
---
--- A shape has, for a reply in one piece, note(ev) and whole(results, usage) -> pieces of text; for a stream
--- first() and event(ev) -> lists of chunks, and usage(u) -> chunk.
local core = require "qhost.core"
local envelope = require "api.openai.envelope"
local logprobs = require "api.openai.logprobs"
local object, array, null = core.json.object, core.json.array, core.json.null
local M = {}

---@class qhost.ChatShape
local Chat = {}
Chat.__index = Chat

--- name: the model as the client called it; o: the request's options.
function M.new(name, m, o)
  return setmetatable({ envelope = envelope.new("chatcmpl", name, m), n = o.n or 1, logprobs = o.logprobs,
    may_call = o.tools ~= nil, is_begun = {}, room = logprobs.room(), probs = {} }, Chat)
end

-- Whole ------------------------------------------------------------------------------------------------
local function whole_call(call)
  return object({ id = call.id, type = "function",
    ["function"] = object({ name = call.name, arguments = call.raw }, { "name", "arguments" }) }, { "id", "type", "function" })
end

local function message_of(r)
  local calls
  for i, call in ipairs(r.tool_calls) do
    calls = calls or array {}
    calls[i] = whole_call(call)
  end
  local content = r.text
  if content == "" and calls then content = null end
  return object({ role = "assistant", content = content, refusal = null, reasoning_content = r.reasoning,
    tool_calls = calls }, { "role", "content", "refusal", "reasoning_content", "tool_calls" })
end

--- Take from an event what the results will not have: its tokens.
function Chat:note(ev)
  if not self.logprobs or ev.type == "prompt" then return end
  local probs = self.probs[ev.choice] or logprobs.chat_text(self.room)
  self.probs[ev.choice] = probs
  if ev.tokens then probs:add(ev.tokens) end
end

--- The reply as pieces of text.
function Chat:whole(results, usage)
  local choices = {}
  for i, r in ipairs(results) do
    local head = object({ index = i - 1, message = message_of(r) }, { "index", "message" })
    choices[i] = envelope.choice_pieces(head, self.probs[i] and self.probs[i]:pieces(), r.finish)
  end
  return self.envelope:pieces("chat.completion", choices, usage)
end

-- In chunks --------------------------------------------------------------------------------------------
function Chat:chunk(index, delta, tokens, finish)
  local choice = object({ index = index, delta = delta, logprobs = self.logprobs and tokens and logprobs.chat(tokens) or null,
    finish_reason = envelope.finish(finish) }, { "index", "delta", "logprobs", "finish_reason" })
  return self.envelope:wrap("chat.completion.chunk", { choice })
end

-- The first chunk of a choice, which may hold the head of a call. Content is null where no text may come,
-- as in a whole message with calls.
function Chat:opening(index, content, calls)
  self.is_begun[index] = true
  return self:chunk(index, object({ role = "assistant", content = content, tool_calls = calls, refusal = null },
    { "role", "content", "tool_calls", "refusal" }), {})
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

-- The last delta: empty, but for the name of an end that the API has no word for.
local function last_delta(finish)
  if envelope.knows(finish) then return object({}, {}) end
  return object({ finish = finish }, { "finish" })
end

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
function DELTAS.done() return {} end

--- The chunks of an event; none for those that the API does not know.
function Chat:event(ev)
  local list, index, deltas = {}, (ev.choice or 1) - 1, DELTAS[ev.type]
  local tokens = self.logprobs and ev.type == "text" and ev.tokens or nil
  if not deltas or (ev.type == "text" and ev.text == "" and not tokens) then return list end
  local given = deltas(ev)
  if not self.is_begun[index] then
    local head = ev.type == "tool_call" and table.remove(given, 1).tool_calls or nil
    list[1] = self:opening(index, (ev.type == "text" or ev.type == "done") and "" or null, head)
  end
  local batches = logprobs.batches(tokens or {})
  for _, delta in ipairs(given) do list[#list + 1] = self:chunk(index, delta, table.remove(batches, 1) or {}) end
  for _, batch in ipairs(tokens and batches or {}) do
    list[#list + 1] = self:chunk(index, object({ content = "" }, { "content" }), batch)
  end
  if ev.type == "done" then list[#list + 1] = self:chunk(index, last_delta(ev.finish), nil, ev.finish) end
  return list
end

function Chat:usage(u) return self.envelope:wrap("chat.completion.chunk", {}, u) end

return M
