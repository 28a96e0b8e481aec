--- scripted.lua: the table that a scripted model's file returns, checked, as one function of the text.
local _, c = ...
local M = {}

local END, IM_END = 256, 258
local CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
local TURN = "<|im_start|>assistant\n"

local function check(def, key, kind)
  local v = def[key]
  if v ~= nil and type(v) ~= kind then error(("'%s' is a %s; a %s is expected"):format(key, type(v), kind), 0) end
  return v
end

-- Where the last turn of the assistant begins.
local function last_turn(text)
  local at, from = nil, 1
  while true do
    local i, j = text:find(TURN, from, true)
    if not i then return at end
    at, from = j + 1, j + 1
  end
end

-- `reply` as `next`: the part of the turn that is not there yet.
local function following(reply)
  return function(text)
    local at = last_turn(text)
    if not at then return "" end
    local whole, done = reply(text:sub(1, at - 1)) or "", text:sub(at)
    if whole:sub(1, #done) ~= done then return "" end
    return whole:sub(#done + 1), IM_END
  end
end

local function as_ids(said, stop)
  if said == nil then said = "" end
  if type(said) == "string" then return { said == "" and stop or said:byte() }, { 1 } end
  if type(said) ~= "table" then error(("next returned a %s; a string or a table of weights is expected"):format(type(said)), 0) end
  local keys, ids, weights = {}, {}, {}
  for key in pairs(said) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do ids[i], weights[i] = key == "" and stop or key:byte(), said[key] end
  return ids, weights
end

--- Load the file and check what it returned.
---@param path string
---@return {ask: fun(text: string): integer[], number[]}, number rate, number prefill_rate, integer ctx, string template
function M.open(path)
  local def = c.load_file(path)("main", path)
  if type(def) ~= "table" then error(("%s returned a %s; a table is expected"):format(path, type(def)), 0) end
  local next_of = check(def, "next", "function")
  local reply = check(def, "reply", "function")
  if not next_of == not reply then error(path .. ": give one of 'next' and 'reply'", 0) end
  local say = next_of or following(reply)
  local function ask(text)
    local said, stop = say(text)
    return as_ids(said, reply and stop or END)
  end
  return ask, check(def, "rate", "number") or 0, check(def, "prefill_rate", "number") or 0,
    check(def, "ctx", "number") or 8192, check(def, "template", "string") or CHATML
end

return M
