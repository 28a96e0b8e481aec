--- markers.lua: the marks that chat formats share, as data for formats.parser.
local calls = require "formats.calls"

local M = {}

M.THINK = { open = "<think>", kind = "reasoning", close = "</think>" }
M.THINK_BRACKETS = { open = "[THINK]", kind = "reasoning", close = "[/THINK]" }

-- Calls in XML ---------------------------------------------------------------------------------------
-- The value of a parameter: one line break on either side belongs to the markup.
local function parameter_value(raw)
  return (raw:gsub("^\n", "", 1):gsub("\n$", "", 1))
end

-- A call from `NAME>...`, what stands between <function= and </function>: parameters in tags, or
-- JSON.
local function read_function(ctx, s)
  local name, body = s:match "^%s*([^<>%c]-)%s*>(.*)$"
  if not name or name == "" then return nil end
  if body:find "^%s*{" then
    local call = calls.named(ctx, name, body)
    return call and { call }
  end
  local parts, pos = {}, 1
  while true do
    local from, past, key = body:find("<parameter=([^<>%c]-)>", pos)
    if not from then break end
    local close, after = body:find("</parameter>", past + 1, true)
    local next_one = body:find("<parameter=", past + 1, true)
    -- The closing tag may be missing.
    if not close or (next_one and next_one < close) then
      close, after = next_one or #body + 1, (next_one or #body + 1) - 1
    end
    parts[#parts + 1] = calls.quote(key) .. ": "
      .. calls.typed_value(ctx, name, key, parameter_value(body:sub(past + 1, close - 1)))
    pos = after + 1
  end
  if #parts == 0 and body:find "%S" then return nil end
  return { { name = name, arguments = "{" .. table.concat(parts, ", ") .. "}" } }
end

-- Calls from what stands in <tool_call> when it is no JSON: one or more functions.
local function read_functions(ctx, s)
  local list, pos = {}, 1
  while true do
    local _, past = s:find("<function=", pos, true)
    if not past then break end
    local close, after = s:find("</function>", past + 1, true)
    local found = read_function(ctx, s:sub(past + 1, (close or #s + 1) - 1))
    if not found then return nil end
    list[#list + 1] = found[1]
    pos = (after or #s) + 1
  end
  return #list > 0 and list or nil
end

--- <tool_call> with JSON (Hermes, Qwen) or with <function=...> inside (Qwen3-Coder).
M.TOOL_CALL = { open = "<tool_call>", kind = "call", body = "json", close = "</tool_call>", read = read_functions }
--- <function=...> without the tags around it, as models write when they forget them.
M.FUNCTION = { open = "<function=", kind = "call", body = "until", close = "</function>", read = read_function }
M.TOOL_CALL_END = { open = "</tool_call>", kind = "drop" }

-- JSON that may be a call ----------------------------------------------------------------------------
--- Fenced JSON, as small models write.
M.FENCE = { open = "```json", kind = "call", body = "json", close = "```", guess = true }
--- The tag in which Hermes prompts list the tools; small models answer with it.
M.TOOLS = { open = "<tools>", kind = "call", body = "json", close = "</tools>", guess = true }

-- Llama 3 --------------------------------------------------------------------------------------------
-- `brave_search.call(query="...")`, a call of a builtin tool.
local function read_builtin(ctx, s)
  local name, inside = s:match "^%s*([%w_]+)%.call%((.*)%)%s*$"
  if not name then return nil end
  local parts, pos = {}, 1
  while inside:find("%S", pos) do
    local key, at = inside:match("^%s*([%w_]+)%s*=%s*()", pos)
    if not key then return nil end
    local quoted, past = inside:match('^("[^"\\]*")%s*,?()', at)
    local word
    if not quoted then word, past = inside:match("^([%w_.+-]+)%s*,?()", at) end
    local raw = quoted or word
    if not raw then return nil end
    if raw == "True" or raw == "False" then raw = raw:lower() end
    if raw == "None" then raw = "null" end
    parts[#parts + 1] = calls.quote(key) .. ": " .. raw
    pos = past
  end
  local arguments = "{" .. table.concat(parts, ", ") .. "}"
  return ctx.json_decode(arguments) ~= nil and { { name = name, arguments = arguments } } or nil
end
M.PYTHON_TAG = { open = "<|python_tag|>", kind = "call", body = "json", close = "<|eom_id|>", read = read_builtin,
  open_ended = true }

-- Mistral --------------------------------------------------------------------------------------------
--- [TOOL_CALLS] with a JSON list, or with NAME[ARGS]{...} or NAME[CALL_ID]ID[ARGS]{...}.
M.TOOL_CALLS = { open = "[TOOL_CALLS]", kind = "call", body = "json", header = "[ARGS]", inner = "[CALL_ID]" }

-- DeepSeek -------------------------------------------------------------------------------------------
-- NAME<sep>{...} (V3.1), or function<sep>NAME and fenced JSON (V3, R1).
local function read_deepseek(ctx, s)
  local head, rest = s:match "^(.-)<｜tool▁sep｜>(.*)$"
  if not head then return nil end
  local call
  if head:match "^%s*function%s*$" then
    local name, body = rest:match "^([^\n]*)\n(.*)$"
    if not name then return nil end
    body = body:match "^%s*```%w*\n?(.-)\n?```%s*$" or body
    call = calls.named(ctx, name, body)
  else
    call = calls.named(ctx, head, rest)
  end
  return call and { call }
end
M.DEEPSEEK_CALL = { open = "<｜tool▁call▁begin｜>", kind = "call", body = "until", close = "<｜tool▁call▁end｜>",
  read = read_deepseek, open_ended = true, inner = "<｜tool▁sep｜>" }
M.DEEPSEEK_BEGIN = { open = "<｜tool▁calls▁begin｜>", kind = "drop" }
M.DEEPSEEK_END = { open = "<｜tool▁calls▁end｜>", kind = "drop" }

return M
