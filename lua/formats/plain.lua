--- plain.lua: everything is text.
local parser = require "formats.parser"

local M = { name = "plain", bare = false, markers = {} }

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
