--- logprobs.lua: tokens with their log-probabilities, in the two shapes of the OpenAI API.
local core = require "qhost.core"
local object, array, null = core.json.object, core.json.array, core.json.null
local M = {}

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

--- Of a message or a chunk.
function M.chat(tokens)
  local content = {}
  for i, t in ipairs(tokens) do
    local entry, top = chat_token(t), {}
    for k, alt in ipairs(t.top or {}) do top[k] = chat_token(alt) end
    entry.top_logprobs = array(top)
    content[i] = entry
  end
  return object({ content = array(content), refusal = null }, { "content", "refusal" })
end

-- The alternatives by their text, best first; the token itself among them.
local function top_of(t, text)
  if not (t.top and #t.top > 0) then return null end
  local top, order = {}, {}
  local function add(key, logprob)
    if not top[key] then order[#order + 1], top[key] = key, finite(logprob) end
  end
  for _, alt in ipairs(t.top) do add(M.text(alt.bytes), alt.logprob) end
  if t.logprob then add(text, t.logprob) end
  return object(top, order)
end

--- Of a completion. n_chars: characters before the first token. Returns the object and the characters up to
--- its end. A token that begins inside a character has the place of that character.
function M.completion(tokens, n_chars)
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
  return object(out, { "tokens", "token_logprobs", "top_logprobs", "text_offset" }), n_chars
end

return M
