--- llama3.lua: Llama 3.x: a JSON object with name and parameters, bare or after <|python_tag|>; builtin tools as calls in Python.
local m = require "formats.markers"
local parser = require "formats.parser"

local M = {
  name = "llama3",
  bare = true,
  markers = {
    m.PYTHON_TAG,
    m.FUNCTION,
    m.FENCE,
  },
}

--- A parser for one generation.
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(opts) return parser.new(M, opts) end

return M
