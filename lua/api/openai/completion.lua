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
    is_prompt_only = o.is_prompt_only, echoes = o.echo and {}, n_chars = {} }, Completion)
  for i, ids in ipairs(o.echo and o.prompts or {}) do self.echoes[i] = echo_of(m, ids, o.prompt_texts[i]) end
  self.n_choices = #o.prompts * self.n
  return self
end

function Completion:echo(index) return self.echoes and self.echoes[index // self.n + 1] end

local function choice(index, text, probs, finish)
  return object({ index = index, text = text, logprobs = probs or null, finish_reason = envelope.finish(finish) },
    { "index", "text", "logprobs", "finish_reason" })
end

function Completion:tokens(results, index)
  local tokens, echo = {}, self:echo(index)
  if echo then
    local prompt = results[index // self.n * self.n + 1].prompt_tokens or {}     -- told of the first choice
    tokens[1] = echo.first
    table.move(prompt, 1, #prompt, 2, tokens)
  end
  local own = not self.is_prompt_only and results[index + 1].tokens or {}
  return table.move(own, 1, #own, #tokens + 1, tokens)
end

function Completion:whole(results, usage)
  local choices = {}
  for i, r in ipairs(results) do
    local echo = self:echo(i - 1)
    local text = (echo and echo.text or "") .. (self.is_prompt_only and "" or r.text)
    local probs = self.logprobs and logprobs.completion(self:tokens(results, i - 1), 0)
    choices[i] = choice(i - 1, text, probs, self.is_prompt_only and "length" or r.finish)
  end
  return self.envelope:wrap("text_completion", choices, usage)
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
  probs, echo.n_chars = logprobs.completion(tokens, echo.n_chars)
  for k = index, index + self.n - 1 do
    list[#list + 1] = self.envelope:wrap("text_completion", { choice(k, "", probs) })
  end
  return list
end

function Completion:text_logprobs(index, tokens)
  local echo, probs = self:echo(index), nil
  probs, self.n_chars[index] = logprobs.completion(tokens, self.n_chars[index] or echo and echo.n_chars or 0)
  return probs
end

--- The chunks of an event.
function Completion:event(ev)
  local index, text, probs, finish = ev.choice - 1, "", nil, nil
  if ev.type == "prompt" then return self.echoes and self.logprobs and self:prompt_chunks(index, ev.tokens) or {} end
  local list, echo = {}, self:echo(index)
  if echo and self.logprobs and not echo.is_told then
    list = self:prompt_chunks(index, {})                -- of a prompt of one token the engine tells nothing
  end
  if ev.type == "text" and not self.is_prompt_only then
    text = ev.text
    probs = self.logprobs and ev.tokens and self:text_logprobs(index, ev.tokens)
  elseif ev.type == "done" then
    finish = self.is_prompt_only and "length" or ev.finish
  end
  if text ~= "" or finish or probs then
    list[#list + 1] = self.envelope:wrap("text_completion", { choice(index, text, probs, finish) })
  end
  return list
end

function Completion:usage(u) return self.envelope:wrap("text_completion", {}, u) end

return M
