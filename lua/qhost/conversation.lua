--- conversation.lua: the canonical form of what a chat asks for, checked: messages, tools.
local M = {}

local ROLES = { system = true, user = true, assistant = true, tool = true, developer = "system" }

local function text_of_parts(parts, where)
  local out = {}
  for i, part in ipairs(parts) do
    if type(part) == "string" then
      out[i] = part
    elseif type(part) == "table" and (part.type == "text" or part.type == "input_text" or part.type == "output_text")
      and type(part.text) == "string" then
      out[i] = part.text
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
  return out
end

--- Check a list of messages. `developer` becomes `system`, content becomes text.
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
