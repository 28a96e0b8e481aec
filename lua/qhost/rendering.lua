--- rendering.lua: templates for the command line: JSON in, JSON out.
local core = require "qhost.core"
local template = require "qhost.template"
local M = {}

local compiled = {}              -- source -> template; one command renders many conversations with one

local function template_of(source)
  if not compiled[source] then
    local t, message = template.jinja(source)
    if not t then return nil, message end
    compiled[source] = t
  end
  return compiled[source]
end

--- {template, messages, tools?, add_generation_prompt?, extra variables...} -> {text, segments}.
--- segments: [text, special] pairs. nil, message: what is wrong with the template or the variables.
---@param request string  JSON
---@return string?
---@return string? message
function M.render(request)
  local vars, message = core.json.decode(request)
  if type(vars) ~= "table" then return nil, message or "not a JSON object" end
  if type(vars.template) ~= "string" then return nil, "'template' is missing" end
  local t, why = template_of(vars.template)
  if not t then return nil, why end
  vars.template = nil
  local segments, failed = t:render(vars)
  if not segments then return nil, failed end
  local text, pairs_out = {}, {}
  for i, s in ipairs(segments) do
    text[i], pairs_out[i] = s.text, core.json.array { s.text, s.special }
  end
  return core.json.encode(core.json.object({ text = table.concat(text), segments = core.json.array(pairs_out) },
    { "text", "segments" }))
end

return M
