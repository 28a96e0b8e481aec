--- logprobs.lua: tokens with their log-probabilities, in the two shapes of the OpenAI API.
local core = require "qhost.core"
local errors = require "qhost.errors"
local object, array, null = core.json.object, core.json.array, core.json.null
local M = {}

local BATCH = 64                 -- tokens of a chunk, and of one piece of JSON: with 20 alternatives some milliseconds
local MAX_PARTS = 512
local MAX_ENTRIES = 300000       -- of a whole reply; as text about 30 MB

--- Bytes as text; what is no UTF-8 becomes U+FFFD.
---@param bytes string
---@return string
function M.text(bytes)
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

local function chat_token(t)
  return object({ token = M.text(t.bytes), logprob = finite(t.logprob), bytes = array { t.bytes:byte(1, -1) } },
    { "token", "logprob", "bytes", "top_logprobs" })
end

local function chat_entry(t)
  local entry, top = chat_token(t), {}
  for k, alt in ipairs(t.top or {}) do top[k] = chat_token(alt) end
  entry.top_logprobs = array(top)
  return entry
end

-- The alternatives by their text, best first; the token itself among them. The first of a prompt has none.
local function top_of(t, text)
  if not t.logprob then return null end
  local top, order = {}, {}
  local function add(key, logprob)
    if not top[key] then order[#order + 1], top[key] = key, finite(logprob) end
  end
  for _, alt in ipairs(t.top or {}) do add(M.text(alt.bytes), alt.logprob) end
  add(text, t.logprob)
  return object(top, order)
end

local COMPLETION_KEYS = { "tokens", "token_logprobs", "top_logprobs", "text_offset" }

-- The four lists of a completion, and the characters up to the end. A token that begins inside a character
-- has the place of that character.
local function completion_lists(tokens, n_chars)
  local out = { tokens = {}, token_logprobs = {}, top_logprobs = {}, text_offset = {} }
  for i, t in ipairs(tokens) do
    local text = M.text(t.bytes)
    local is_inside = n_chars > 0 and t.bytes:find "^[\x80-\xBF]"
    out.tokens[i], out.text_offset[i] = text, is_inside and n_chars - 1 or n_chars
    out.token_logprobs[i] = t.logprob and finite(t.logprob) or null
    out.top_logprobs[i] = top_of(t, text)
    n_chars = n_chars + select(2, t.bytes:gsub("[^\x80-\xBF]", ""))
  end
  for key, list in pairs(out) do out[key] = array(list) end
  return out, n_chars
end

-- In chunks ----------------------------------------------------------------------------------------------

--- The tokens in lists short enough for one chunk each; one empty list when there are none.
function M.batches(tokens)
  local list = {}
  for from = 1, math.max(#tokens, 1), BATCH do
    list[#list + 1] = table.move(tokens, from, math.min(from + BATCH - 1, #tokens), 1, {})
  end
  return list
end

--- Of a chunk of a chat.
function M.chat(tokens)
  local content = {}
  for i, t in ipairs(tokens) do content[i] = chat_entry(t) end
  return object({ content = array(content), refusal = null }, { "content", "refusal" })
end

--- Of a chunk of a completion. n_chars: characters before the first token. Returns the object and the characters
--- up to its end.
function M.completion(tokens, n_chars)
  local lists, up_to = completion_lists(tokens, n_chars)
  return object(lists, COMPLETION_KEYS), up_to
end

-- Whole --------------------------------------------------------------------------------------------------
-- The probabilities of a whole reply may be much larger than the reply, and larger still as tables. So they
-- become text as they arrive.

---@class qhost.LogprobsText
local Text = {}
Text.__index = Text

--- Of one choice. room: {left = entries}, shared by the choices of a request.
function M.new_text(room, keys)
  local self = setmetatable({ room = room, keys = keys, n_chars = 0, parts = {} }, Text)
  for _, key in ipairs(keys) do self.parts[key] = {} end
  return self
end

function M.chat_text(room) return M.new_text(room, { "content" }) end
function M.completion_text(room) return M.new_text(room, COMPLETION_KEYS) end

--- Room for what a reply may hold in memory.
function M.room() return { left = MAX_ENTRIES } end

-- Small parts are joined from time to time, since there is one a token.
local function push(parts, text)
  if #parts > 0 or parts.joined then parts[#parts + 1] = "," end
  parts[#parts + 1] = text
  if #parts >= MAX_PARTS then
    parts.joined = parts.joined or {}
    table.insert(parts.joined, table.concat(parts))
    for i = #parts, 1, -1 do parts[i] = nil end
  end
end

function Text:take(lists)
  for _, key in ipairs(self.keys) do
    local list = core.json.encode(lists[key]):sub(2, -2)
    if list ~= "" then push(self.parts[key], list) end
  end
end

--- More tokens.
function Text:add(tokens)
  for _, batch in ipairs(M.batches(tokens)) do
    local top = batch[#batch] and batch[#batch].top
    self.room.left = self.room.left - #batch * (1 + (top and #top or 0))
    if self.room.left < 0 then
      errors.abort(400, "response_too_large", { param = "logprobs", message =
        ("'logprobs': the reply has more than %d probabilities; ask for a stream, or for fewer tokens"):format(MAX_ENTRIES) })
    end
    if self.keys == COMPLETION_KEYS then
      local lists
      lists, self.n_chars = completion_lists(batch, self.n_chars)
      self:take(lists)
    else
      for i, t in ipairs(batch) do batch[i] = chat_entry(t) end
      self:take { content = array(batch) }
    end
  end
end

--- All that another one has so far, which this one, empty until now, shares.
function Text:start_as(other)
  self.n_chars = other.n_chars
  for key, parts in pairs(other.parts) do
    local copy = table.move(parts, 1, #parts, 1, {})
    copy.joined = parts.joined and table.move(parts.joined, 1, #parts.joined, 1, {})
    self.parts[key] = copy
  end
end

--- As pieces of text.
function Text:pieces()
  local pieces = {}
  for i, key in ipairs(self.keys) do
    local parts = self.parts[key]
    pieces[#pieces + 1] = ("%s\"%s\":["):format(i == 1 and "{" or ",", key)
    for _, text in ipairs(parts.joined or {}) do pieces[#pieces + 1] = text end
    pieces[#pieces + 1] = table.concat(parts) .. "]"
  end
  pieces[#pieces + 1] = self.keys == COMPLETION_KEYS and "}" or ',"refusal":null}'
  return pieces
end

return M
