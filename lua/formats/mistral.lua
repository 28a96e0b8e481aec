--- mistral.lua: Mistral: [TOOL_CALLS] with a JSON list, or with names and arguments; [THINK].
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "mistral",
  bare = false,
  markers = {
    m.THINK_BRACKETS,
    m.THINK,
    m.TOOL_CALLS,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
