--- conversation.lua: the canonical form of what a chat asks for, checked: messages, tools.
local core = require "qhost.core"
local object, array = core.json.object, core.json.array
local M = {}

local ROLES = { system = true, user = true, assistant = true, tool = true, developer = "system", ["function"] = "tool" }
local PART_TEXTS = { text = "text", input_text = "text", output_text = "text", refusal = "refusal" }

local function text_of_parts(parts, where)
  local out = {}
  for i, part in ipairs(parts) do
    local key = type(part) == "table" and PART_TEXTS[part.type]
    if type(part) == "string" then
      out[i] = part
    elseif key and type(part[key]) == "string" then
      out[i] = part[key]
    else
      local kind = type(part) == "table" and tostring(part.type) or type(part)
      return nil, ("%s[%d]: parts of type '%s' are not supported; only text is"):format(where, i - 1, kind)
    end
  end
  return table.concat(out)
end

local function is_null(v) return v == nil or type(v) == "userdata" end

--- Content as text: a string, null, or a list of text parts.
local function content_of(content, where)
  if is_null(content) then return "" end
  if type(content) == "string" then return content end
  if type(content) == "table" then return text_of_parts(content, where) end
  return nil, where .. " is neither text nor a list of parts"
end

-- Arguments as templates want them: decoded. What cannot be decoded stays text, as the model wrote it.
local function arguments_of(v)
  if is_null(v) then return object {} end
  if type(v) ~= "string" then return v end
  local value = core.json.decode(v)
  return type(value) == "table" and value or v
end

--- A call in the shape of the API, from that shape or from a result's { id, name, arguments, raw }.
local function call_of(call, where)
  local f = type(call) == "table" and (type(call["function"]) == "table" and call["function"] or call)
  if not f or type(f.name) ~= "string" then
    return nil, where .. ' is no {id, type = "function", function = {name, arguments}}'
  end
  local arguments = f.arguments
  if arguments == nil then arguments = f.raw end
  arguments = arguments_of(arguments)
  if type(arguments) ~= "table" and type(arguments) ~= "string" then
    return nil, where .. ".function.arguments is neither JSON text nor an object"
  end
  return object({ id = type(call.id) == "string" and call.id or nil, type = "function",
    ["function"] = object({ name = f.name, arguments = arguments }, { "name", "arguments" }) }, { "id", "type", "function" })
end

local function calls_of(list, where)
  if type(list) ~= "table" then return nil, where .. " is no list" end
  if #list == 0 then return nil end
  local out = {}
  for i = 1, #list do
    local call, message = call_of(list[i], ("%s[%d]"):format(where, i - 1))
    if not call then return nil, message end
    out[i] = call
  end
  return array(out)
end

local function message_of(m, i)
  local where = ("messages[%d]"):format(i - 1)
  if type(m) ~= "table" then return nil, where .. " is no object" end
  local role = ROLES[m.role]
  if not role then return nil, ("%s.role is %q; system, developer, user, assistant or tool is expected"):format(where, tostring(m.role)) end
  local content, message = content_of(m.content, where .. ".content")
  if not content then return nil, message end
  local out = {}
  for key, value in pairs(m) do
    if not is_null(value) then out[key] = value end
  end
  out.role = role == true and m.role or role
  out.content = content
  if out.tool_calls == nil and out.function_call ~= nil then out.tool_calls = { out.function_call } end
  out.function_call = nil
  if out.tool_calls ~= nil then
    out.tool_calls, message = calls_of(out.tool_calls, where .. ".tool_calls")
    if message then return nil, message end
  end
  return out
end

--- Check a list of messages. `developer` becomes `system`, content becomes text, arguments of calls
--- are decoded.
---@return table[]? messages
---@return string? message  names the place
function M.messages(list)
  if type(list) ~= "table" or #list == 0 then return nil, "messages is not a list of at least one message" end
  local out = {}
  for i = 1, #list do
    local m, message = message_of(list[i], i)
    if not m then return nil, message end
    out[i] = m
  end
  return out
end

--- The same messages with the arguments of calls as JSON text: some templates join them as strings.
function M.with_text_arguments(messages)
  local out, has_any = {}, false
  for i, m in ipairs(messages) do
    out[i] = m
    if m.tool_calls then
      local copy, calls = {}, {}
      for key, value in pairs(m) do copy[key] = value end
      for k, call in ipairs(m.tool_calls) do
        local f = call["function"]
        local text = type(f.arguments) == "string" and f.arguments or core.json.encode(f.arguments)
        calls[k] = object({ id = call.id, type = call.type,
          ["function"] = object({ name = f.name, arguments = text }, { "name", "arguments" }) }, { "id", "type", "function" })
      end
      copy.tool_calls, out[i], has_any = array(calls), copy, true
    end
  end
  return has_any and out or nil
end

-- A table of a script in the order in which models have seen tools; what has an order keeps it.
local function in_order(t, keys)
  local meta = getmetatable(t)
  if type(meta) == "table" and meta.__jsonorder then return t end
  local copy = {}
  for key, value in pairs(t) do copy[key] = value end
  return object(copy, keys)
end

--- One tool in the shape of the API: a table of that shape, {name, description?, parameters?}, or an
--- object whose `spec` is such a table or a method that returns one.
local function tool_of(tool, where)
  local spec = tool
  if type(tool) == "table" and tool.spec ~= nil then
    spec = tool.spec
    if type(spec) == "function" then spec = spec(tool) end
  end
  if type(spec) == "table" and type(spec["function"]) ~= "table" and type(spec.name) == "string" then
    spec = object({ type = "function", ["function"] = spec }, { "type", "function" })
  end
  local f = type(spec) == "table" and spec["function"]
  if type(f) ~= "table" or type(f.name) ~= "string" or f.name == "" or not (spec.type == nil or spec.type == "function") then
    return nil, where .. ' is no {type = "function", function = {name, description?, parameters?}}'
  end
  local ordered = in_order(f, { "name", "description", "parameters", "strict" })
  if ordered == f then return in_order(spec, { "type", "function" }) end
  return object({ type = "function", ["function"] = ordered }, { "type", "function" })
end

--- Check a list of tools. nil: there are none.
---@param list? table[]
---@return table[]? tools
---@return string? message  names the place
function M.tools(list)
  if is_null(list) then return nil end
  if type(list) ~= "table" then return nil, "tools is no list" end
  if #list == 0 then return nil end
  local out = {}
  for i = 1, #list do
    local tool, message = tool_of(list[i], ("tools[%d]"):format(i - 1))
    if not tool then return nil, message end
    out[i] = tool
  end
  return array(out)
end

--- The messages of {messages=} or {system=, prompt=}.
function M.of_options(o)
  if o.messages then return M.messages(o.messages) end
  local list = {}
  if o.system then list[1] = { role = "system", content = o.system } end
  if type(o.prompt) ~= "string" then return nil, "neither messages nor a prompt was given" end
  list[#list + 1] = { role = "user", content = o.prompt }
  return M.messages(list)
end

return M
