--- deepseek.lua: DeepSeek V3, V3.1, R1: calls between special marks; <think>.
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "deepseek",
  bare = false,
  markers = {
    m.THINK,
    m.DEEPSEEK_BEGIN,
    m.DEEPSEEK_CALL,
    m.DEEPSEEK_END,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
