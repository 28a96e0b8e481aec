--- completion.lua: answers as text completions, whole and in chunks. The shape has the functions of chat's.
local core = require "qhost.core"
local envelope = require "api.openai.envelope"
local logprobs = require "api.openai.logprobs"
local object, null = core.json.object, core.json.null
local M = {}

---@class qhost.CompletionShape
local Completion = {}
Completion.__index = Completion

-- A prompt that is to be echoed. The engine tells its tokens after the first, which has no probability.
local function echo_of(m, ids, text)
  text = text or logprobs.text(m.handle:decode(ids, { special = true }))
  return { text = text, first = { id = ids[1], bytes = m.handle:piece(ids[1]) }, n_chars = 0 }
end

--- name: the model as the client called it; o: the request's options.
function M.new(name, m, o)
  local self = setmetatable({ envelope = envelope.new("cmpl", name, m), n = o.n or 1, logprobs = o.logprobs,
    is_prompt_only = o.is_prompt_only, echoes = o.echo and {}, n_chars = {}, room = logprobs.room(), probs = {} }, Completion)
  for i, ids in ipairs(o.echo and o.prompts or {}) do self.echoes[i] = echo_of(m, ids, o.prompt_texts[i]) end
  self.n_choices = #o.prompts * self.n
  return self
end

function Completion:echo(index) return self.echoes and self.echoes[index // self.n + 1] end

local function choice(index, text, probs, finish)
  return object({ index = index, text = text, logprobs = probs or null, finish_reason = envelope.finish(finish) },
    { "index", "text", "logprobs", "finish_reason" })
end

-- The text of the probabilities of a choice. What a prompt has is told of its first choice; the others begin as that.
function Completion:probs_of(index)
  local probs = self.probs[index]
  if not probs then
    probs = logprobs.completion_text(self.room)
    self.probs[index] = probs
    local first, echo = index // self.n * self.n, self:echo(index)
    if first ~= index then
      if echo then probs:start_as(self:probs_of(first).prompt) end
    elseif echo then
      probs:add { echo.first }
      probs.prompt = logprobs.completion_text(self.room)
      probs.prompt:start_as(probs)
    end
  end
  return probs
end

--- Take from an event what the results will not have: its tokens.
function Completion:note(ev)
  if not self.logprobs then return end
  local probs = self:probs_of(ev.choice - 1)
  if ev.type == "prompt" then
    probs:add(ev.tokens)
    probs.prompt:start_as(probs)
  elseif ev.tokens and ev.type == "text" and not self.is_prompt_only then
    probs:add(ev.tokens)
  end
end

--- The reply as pieces of text.
function Completion:whole(results, usage)
  local choices = {}
  for i, r in ipairs(results) do
    local echo = self:echo(i - 1)
    local text = (echo and echo.text or "") .. (self.is_prompt_only and "" or r.text)
    local head = object({ index = i - 1, text = text }, { "index", "text" })
    choices[i] = envelope.choice_pieces(head, self.logprobs and self:probs_of(i - 1):pieces(),
      self.is_prompt_only and "length" or r.finish)
  end
  return self.envelope:pieces("text_completion", choices, usage)
end

function Completion:first()
  local list = {}
  for index = 0, self.echoes and self.n_choices - 1 or -1 do
    local text = self:echo(index).text
    list[#list + 1] = self.envelope:wrap("text_completion", { choice(index, text) })
  end
  return list
end

-- The prompt's tokens go out as probabilities without text, which has gone out first: to every choice,
-- though they are told of the first one only.
function Completion:prompt_chunks(index, tokens)
  local echo, list, probs = self:echo(index), {}, nil
  if not echo.is_told then tokens = table.move(tokens, 1, #tokens, 2, { echo.first }) end
  echo.is_told = true
  for _, batch in ipairs(logprobs.batches(tokens)) do
    probs, echo.n_chars = logprobs.completion(batch, echo.n_chars)
    for k = index, index + self.n - 1 do
      list[#list + 1] = self.envelope:wrap("text_completion", { choice(k, "", probs) })
    end
  end
  return list
end

-- Text, and the probabilities of tokens, which need not line up.
function Completion:text_chunks(index, text, tokens)
  local echo, list, probs = self:echo(index), {}, nil
  for i, batch in ipairs(logprobs.batches(self.logprobs and tokens or {})) do
    if #batch > 0 then
      probs, self.n_chars[index] = logprobs.completion(batch, self.n_chars[index] or echo and echo.n_chars or 0)
    end
    if probs or text ~= "" then
      list[i] = self.envelope:wrap("text_completion", { choice(index, i == 1 and text or "", probs) })
    end
  end
  return list
end

--- The chunks of an event.
function Completion:event(ev)
  local index = ev.choice - 1
  if ev.type == "prompt" then return self.echoes and self.logprobs and self:prompt_chunks(index, ev.tokens) or {} end
  local list, echo = {}, self:echo(index)
  if echo and self.logprobs and not echo.is_told then
    list = self:prompt_chunks(index, {})                -- of a prompt of one token the engine tells nothing
  end
  if ev.type == "text" and not self.is_prompt_only then
    local more = self:text_chunks(index, ev.text, ev.tokens)
    table.move(more, 1, #more, #list + 1, list)
  elseif ev.type == "done" then
    local finish = self.is_prompt_only and "length" or ev.finish
    list[#list + 1] = self.envelope:wrap("text_completion", { choice(index, "", nil, finish) })
  end
  return list
end

function Completion:usage(u) return self.envelope:wrap("text_completion", {}, u) end

return M
