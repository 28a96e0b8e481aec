--- formats: reading reasoning and tool calls back from what a model writes.
---
---     local formats = require "formats"
---     local format = formats.of_template(chat_template)
---     local parser = format.new { json_decode = json.decode, tools = tools }
---     for piece in generation do handle(parser:feed(piece)) end
---     handle(parser:finish())
---
--- formats.parser describes the events. The text must show special tokens, since some formats use
--- them as marks.
local parser = require "formats.parser"
local M = {}

local NAMES = { "hermes", "qwen3_coder", "llama3", "mistral", "deepseek", "generic", "plain" }
local BY_NAME = {
  hermes = require "formats.hermes",
  qwen3_coder = require "formats.qwen3_coder",
  llama3 = require "formats.llama3",
  mistral = require "formats.mistral",
  deepseek = require "formats.deepseek",
  generic = require "formats.generic",
  plain = require "formats.plain",
}

--- Names of the formats.
---@return string[]
function M.names() return table.move(NAMES, 1, #NAMES, 1, {}) end

--- A format by name, or nil and the names there are.
---@param name string
---@return table? format
---@return string? err
function M.get(name)
  local format = BY_NAME[name]
  if format then return format end
  return nil, ("no format '%s'; there are %s"):format(tostring(name), table.concat(NAMES, ", "))
end

--- A format out of marks of one's own: { bare?, { open, kind, close, body?, read? }, ... }, as formats.parser
--- describes them.
---@param markers table
---@return table? format
---@return string? err
function M.of_markers(markers)
  local format = { name = "own", bare = markers.bare == true, markers = markers }
  for i, marker in ipairs(markers) do
    local message = parser.check_marker(marker)
    if message then return nil, ("mark %d: %s"):format(i, message) end
    for k = 1, i - 1 do
      local a, b = markers[k].open, marker.open
      if a:sub(1, #b) == b or b:sub(1, #a) == a then return nil, ("mark %d begins as mark %d does"):format(i, k) end
    end
  end
  function format.new(opts) return parser.new(format, opts) end
  return format
end

-- What in a chat template tells the format, the most telling first.
local SIGNS = {
  { "<｜tool▁call", "deepseek" },
  { "[TOOL_CALLS]", "mistral" },
  { "[AVAILABLE_TOOLS]", "mistral" },
  { "<parameter=", "qwen3_coder" },
  { "<tool_call>", "hermes" },
  { "<|python_tag|>", "llama3" },
  { "<|start_header_id|>", "llama3" },
}

--- The format that a model's chat template speaks; generic when it does not show.
---@param source string
---@return table format
function M.of_template(source)
  for _, sign in ipairs(SIGNS) do
    if source:find(sign[1], 1, true) then return BY_NAME[sign[2]] end
  end
  return BY_NAME.generic
end

--- The texts that a format looks for. Where one of them is a control token of the model, generations must show it.
---@param format table
---@return string[]
function M.marks(format)
  local out, seen = {}, {}
  for _, marker in ipairs(format.markers) do
    for _, key in ipairs { "open", "close", "header", "inner" } do
      local mark = marker[key]
      if mark and not seen[mark] then seen[mark], out[#out + 1] = true, mark end
    end
  end
  return out
end

--- Does a rendered prompt end inside the reasoning, as templates do that open it for the model?
---@param format table
---@param prompt string   its last lines are enough
---@return boolean
function M.opens_reasoning(format, prompt)
  for _, marker in ipairs(format.markers) do
    if marker.kind == "reasoning" and (prompt:match "^(.*%S)" or ""):sub(-#marker.open) == marker.open then return true end
  end
  return false
end

return M
