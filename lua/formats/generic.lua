--- generic.lua: The marks of all formats, for models whose template tells nothing.
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "generic",
  bare = true,
  markers = {
    m.THINK,
    m.THINK_BRACKETS,
    m.TOOL_CALL,
    m.TOOLS,
    m.FUNCTION,
    m.FENCE,
    m.PYTHON_TAG,
    m.TOOL_CALLS,
    m.DEEPSEEK_BEGIN,
    m.DEEPSEEK_CALL,
    m.DEEPSEEK_END,
    m.TOOL_CALL_END,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
