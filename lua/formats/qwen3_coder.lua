--- qwen3_coder.lua: Qwen3-Coder: <tool_call><function=name><parameter=name>value</parameter></function></tool_call>.
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "qwen3_coder",
  bare = false,
  markers = {
    m.THINK,
    m.TOOL_CALL,
    m.FUNCTION,
    m.TOOL_CALL_END,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
