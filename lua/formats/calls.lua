--- calls.lua: from the text of a tool call to its name and arguments.
---
--- A call is { name, arguments = JSON text, id? }. Nothing here fails loudly: what cannot be read
--- gives nil, and the parser passes the text on as text.
local json_text = require "formats.json_text"

local M = {}

---@class qhost.formats.Context
---@field json_decode fun(s: string): any, string?    nil and a message when it is not JSON
---@field tools? table<string, table|true>            known tools: name -> schema of the parameters

--- Known tools by name from definitions ({ type, ["function"] = { name, parameters } }, { name, ... })
--- or names.
---@param list? table
---@return table<string, table|true>?
function M.known_tools(list)
  if not list then return nil end
  local known = {}
  for _, tool in ipairs(list) do
    if type(tool) == "string" then
      known[tool] = true
    elseif type(tool) == "table" then
      local def = type(tool["function"]) == "table" and tool["function"] or tool
      if type(def.name) == "string" then
        local schema = def.parameters or def.input_schema
        known[def.name] = type(schema) == "table" and schema or true
      end
    end
  end
  return known
end

local function is_object(text)
  return text:find "^%s*{" ~= nil
end

-- Arguments as the text of an object. Some models write them as a string that holds JSON.
local function arguments_text(ctx, raw)
  if not raw or raw == "null" then return "{}" end
  if raw:sub(1, 1) == '"' then
    local inner = ctx.json_decode(raw)
    if type(inner) ~= "string" or not is_object(inner) or type(ctx.json_decode(inner)) ~= "table" then return nil end
    return inner
  end
  return is_object(raw) and raw or nil
end

-- A call from the text of one object: {"name", "arguments" | "parameters", "id"?}, also inside
-- {"function": {...}}. `strict`: there must be arguments, and the tool must be known.
local function from_object(ctx, s, strict)
  local members = json_text.members(s)
  local inner = members["function"]
  if inner and is_object(inner) then
    local outer = members
    members = json_text.members(inner)
    members.id = members.id or outer.id
  end
  local name = ctx.json_decode(members.name or members["function"] or "null")
  if type(name) ~= "string" or name == "" then return nil end
  local raw = members.arguments or members.parameters
  if strict and (not raw or not ctx.tools or not ctx.tools[name]) then return nil end
  local arguments = arguments_text(ctx, raw)
  if not arguments then return nil end
  local id = members.id and ctx.json_decode(members.id)
  return { name = name, arguments = arguments, id = type(id) == "string" and id or nil }
end

--- Calls from JSON text, an object or an array of them; nil when it holds anything else.
---@param ctx qhost.formats.Context
---@param s string
---@param strict? boolean   only what is surely a call: a known tool with arguments
---@return table[]?
function M.from_json(ctx, s, strict)
  if type(ctx.json_decode(s)) ~= "table" then return nil end
  if is_object(s) then
    local call = from_object(ctx, s, strict)
    return call and { call }
  end
  local list = {}
  for i, element in ipairs(json_text.elements(s)) do
    list[i] = is_object(element) and from_object(ctx, element, strict)
    if not list[i] then return nil end
  end
  return #list > 0 and list or nil
end

--- A call from a name and the text of its arguments.
---@return table?
function M.named(ctx, name, raw, id)
  name = name:match "^%s*(.-)%s*$"
  if name == "" or name:find "[%c{}%[%]\"]" then return nil end
  raw = raw:match "^%s*(.-)%s*$"
  if raw == "" then raw = "{}" end
  if type(ctx.json_decode(raw)) ~= "table" then return nil end
  local arguments = arguments_text(ctx, raw)
  return arguments and { name = name, arguments = arguments, id = id }
end

-- Is a value that is text in the markup meant as a string? By the schema where it says so.
local function wants_string(schema)
  local kind = type(schema) == "table" and schema.type
  if type(kind) == "table" then
    for _, one in ipairs(kind) do
      if one == "string" then return true end
    end
    return false
  end
  if kind == nil and type(schema) == "table" and type(schema.enum) == "table" then
    return type(schema.enum[1]) == "string"
  end
  return kind == "string"
end

--- The JSON text of an argument whose value stands in markup without type: a string where the
--- schema of the tool says so, else what it reads as.
---@param ctx qhost.formats.Context
---@param tool string
---@param name string
---@param raw string
---@return string
function M.typed_value(ctx, tool, name, raw)
  local parameters = ctx.tools and ctx.tools[tool]
  local properties = type(parameters) == "table" and parameters.properties
  local schema = type(properties) == "table" and properties[name]
  if not wants_string(schema) then
    local text = raw:match "^%s*(.-)%s*$"
    if text == "True" or text == "False" then text = text:lower() end
    if text == "None" then text = "null" end
    if text ~= "" and ctx.json_decode(text) ~= nil then return text end
  end
  return json_text.quote(raw)
end


M.quote = json_text.quote

return M
