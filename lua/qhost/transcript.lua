--- transcript.lua: a conversation whose answers stay the very tokens that the model wrote.
---
--- An answer that is rendered and tokenized again is hardly ever the same tokens: calls come out with other
--- spaces, reasoning is left out, words are cut elsewhere. From there on all would be computed anew. So an
--- answer is shown to the template as a placeholder, and its own ids take the place of that:
---
---   step 1   template: [ prompt ]                           ids: encode(prompt)
---   step 2   template: [ prompt ][ placeholder ][ more ]    ids: those .. generated .. encode(more)
---
--- This asks for a template that writes the beginning the same way every time and content as it is. That is
--- looked at in each step; where it does not hold, all is rendered with the answer's text, and the cache finds
--- what is still equal.
local core = require "qhost.core"
local M = {}

---@class qhost.Transcript
---@field messages table[]  what was said, as a client would send it
local Transcript = {}
Transcript.__index = Transcript

---@param model qhost.Model
---@param messages table[]
---@param tools? table[]
---@return qhost.Transcript
function M.new(model, messages, tools)
  local list = table.move(messages, 1, #messages, 1, {})
  return setmetatable({ model = model, tools = tools, messages = list,
    shown = table.move(list, 1, #list, 1, {}) }, Transcript)
end

local function text_of(segments)
  local out = {}
  for i, s in ipairs(segments) do out[i] = s.text end
  return table.concat(out)
end

-- The segments from byte `at` on.
local function after(segments, at)
  local out = {}
  for _, s in ipairs(segments) do
    if at <= #s.text then out[#out + 1] = { text = s.text:sub(math.max(at, 1)), special = s.special } end
    at = at - #s.text
  end
  return out
end

local function render(self, messages, vars)
  return self.model:render { messages = messages, tools = self.tools, template_vars = vars }
end

local function append(list, more) table.move(more, 1, #more, #list + 1, list) end

-- What follows the last answer: ids and segments, or nil where the template does not go along.
local function continued(self, vars)
  local segments = render(self, self.shown, vars)
  if not segments then return nil end
  local text, before = text_of(segments), self.text .. self.placeholder
  if text:sub(1, #before) ~= before then return nil end
  local more = after(segments, #before + 1)
  local ids = self.model.handle:encode_segments(more, { add_special = false })
  if not ids then return nil end
  self.text = text
  append(self.ids, ids)
  return self.ids, more
end

local function whole(self, vars)
  local segments, message = render(self, self.messages, vars)
  if not segments then return nil, message end
  local ids, refused = self.model.handle:encode_segments(segments, { add_special = false })
  if not ids then return nil, refused end
  self.shown = table.move(self.messages, 1, #self.messages, 1, {})
  self.text, self.ids = text_of(segments), ids
  return ids, segments
end

--- The prompt of the next answer, and the segments at its end; or nil and why. Yields for long ones.
---@param vars? table  further variables of the template
---@return integer[]? ids
---@return table[]|string segments
function Transcript:prompt(vars)
  if self.placeholder then
    local ids, segments = continued(self, vars)
    self.placeholder = nil
    if ids then return ids, segments end
  end
  return whole(self, vars)
end

-- Letters only, so that no filter of a template changes it.
local function new_placeholder()
  return (("answer%016x"):format(core.random()):gsub("%d", function(d) return ("ghijklmnop"):sub(d + 1, d + 1) end))
end

--- Take the answer to the last prompt. tokens: all that were generated, or nil when they are not to be used
--- again. A stop token at their end is left to the template to write.
---@param message table
---@param tokens? qhost.Token[]
---@param ends_with_stop boolean
function Transcript:answer(message, tokens, ends_with_stop)
  self.messages[#self.messages + 1] = message
  if not tokens then
    self.placeholder, self.shown[#self.shown + 1] = nil, message
    return
  end
  for i = 1, #tokens - (ends_with_stop and 1 or 0) do self.ids[#self.ids + 1] = tokens[i].id end
  self.placeholder = new_placeholder()
  self.shown[#self.shown + 1] = { role = "assistant", content = self.placeholder }
end

--- Add a message that is no answer of the model.
---@param message table
function Transcript:add(message)
  self.messages[#self.messages + 1] = message
  self.shown[#self.shown + 1] = message
end

return M
