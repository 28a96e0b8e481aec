--- hermes.lua: Hermes 2/3, Qwen2.5, Qwen3: JSON in <tool_call> tags; the small ones also fence it or leave it bare.
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "hermes",
  bare = true,
  markers = {
    m.THINK,
    m.TOOL_CALL,
    m.TOOLS,
    m.FENCE,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
