--- answer.lua: a generation read with the format of its model: text, reasoning and tool calls.
---
---   the engine's events ---> one parser a choice ---> events in the order of the text, each with `choice`:
---
---     { type = "prompt", tokens }               of the prompt, when they were asked for
---     { type = "text", text, tokens? }          tokens: those sampled since the last text
---     { type = "reasoning", text }
---     { type = "tool_call", index, id, name, arguments }      index from 1; arguments: JSON text. The first
---           event of a call has id and name; further ones would add to its arguments
---     { type = "done", finish, text, reasoning?, tool_calls, unparsed?, usage, timings, ... }   last, with the whole
---
--- The events do not depend on how the text came in pieces. A generation never fails because it could
--- not be read: what no parser understands is text, and `unparsed` is set.
local asking = require "qhost.asking"
local core = require "qhost.core"
local plain = require "formats.plain"
local M = {}

---@class qhost.Answer
---@field drops_tokens? boolean  the last event is without tokens and prompt_tokens: whoever reads took those of the others
local Answer = {}
Answer.__index = Answer
Answer.__name = "qhost.Answer"
Answer.__close = function(a) a.gen:cancel() end

--- What reads the text of every choice.
---@class qhost.Reading
---@field format table         of formats, or anything with new(opts) -> { feed(self, text), finish(self) }
---@field tools? table[]       as the template got them; without them no calls are read
---@field in_reasoning? boolean
---@field is_parallel? boolean  false: of several calls only the first counts

--- gen: what the engine's submit returned. reading: nil for text as it is.
---@param gen table
---@param reading? qhost.Reading
---@return qhost.Answer
function M.new(gen, reading)
  return setmetatable({ gen = gen, reading = reading or { format = plain }, choices = {}, queue = {}, head = 1 }, Answer)
end

-- Ids that every template accepts: some refuse any but nine letters and digits.
local ID_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
local function new_id()
  local bits, out = core.random() >> 1, {}
  for i = 1, 9 do
    local at = bits % 62 + 1
    out[i], bits = ID_CHARS:sub(at, at), bits // 62
  end
  return table.concat(out)
end

-- One choice -------------------------------------------------------------------------------------------

-- What a failed parser is replaced with: all that follows is text.
local function give_up_parsing(c, message)
  core.log("warn", "format.failed", ("message=%q"):format(tostring(message)))
  c.parser, c.unparsed = plain.new {}, true
end

local function open_parser(c, r)
  local ok, parser = pcall(r.format.new, { json_decode = core.json.decode, tools = r.tools, no_calls = not r.tools,
    in_reasoning = r.in_reasoning })
  if ok and type(parser) == "table" then c.parser = parser else give_up_parsing(c, parser) end
end

local function choice_of(self, index)
  local c = self.choices[index]
  if not c then
    c = { index = index, text = {}, reasoning = {}, calls = {}, tokens = {} }
    open_parser(c, self.reading)
    self.choices[index] = c
  end
  return c
end

function Answer:push(ev) self.queue[#self.queue + 1] = ev end

local TAKE = {}

function TAKE.text(self, c, ev, tokens)
  c.text[#c.text + 1] = ev.text
  c.unparsed = c.unparsed or ev.unparsed
  self:push { type = "text", choice = c.index, text = ev.text, tokens = tokens }
end

function TAKE.reasoning(self, c, ev)
  c.reasoning[#c.reasoning + 1] = ev.text
  self:push { type = "reasoning", choice = c.index, text = ev.text }
end

function TAKE.tool_call(self, c, ev)
  if self.reading.is_parallel == false and #c.calls > 0 then return end
  local arguments = core.json.decode(ev.arguments)
  local call = core.json.object({ id = ev.id or new_id(), name = ev.name, raw = ev.arguments,
    arguments = type(arguments) == "table" and arguments or nil }, { "id", "name", "arguments", "raw" })
  c.calls[#c.calls + 1] = call
  self:push { type = "tool_call", choice = c.index, index = #c.calls, id = call.id, name = call.name, arguments = ev.arguments }
end

-- Parsers of scripts may give anything.
local function is_event(ev)
  if type(ev) ~= "table" then return false end
  if ev.type == "tool_call" then return type(ev.name) == "string" and type(ev.arguments) == "string" end
  return (ev.type == "text" or ev.type == "reasoning") and type(ev.text) == "string"
end

-- The text goes through the parser; when that fails, all from this piece on is text.
local function read(self, c, method, text, tokens)
  local ok, events = pcall(c.parser[method], c.parser, text)
  if not ok or type(events) ~= "table" then
    give_up_parsing(c, events)
    events = text and { { type = "text", text = text } } or {}
  end
  for _, ev in ipairs(events) do
    if is_event(ev) then
      TAKE[ev.type](self, c, ev, tokens)
      if ev.type == "text" then tokens = nil end
    else
      c.unparsed = true
    end
  end
  if tokens then self:push { type = "text", choice = c.index, text = "", tokens = tokens } end
end

local function append(list, more) table.move(more, 1, #more, #list + 1, list) end

local function finish(self, c, ev)
  read(self, c, "finish")
  local calls = core.json.array(c.calls)
  self:push { type = "done", choice = c.index, text = table.concat(c.text),
    reasoning = #c.reasoning > 0 and table.concat(c.reasoning) or nil, tool_calls = calls,
    finish = #calls > 0 and ev.finish == "stop" and "tool_calls" or ev.finish, unparsed = c.unparsed or nil,
    stop_match = ev.stop_match, status = ev.status, message = ev.message, usage = ev.usage, timings = ev.timings,
    tokens = #c.tokens > 0 and c.tokens or nil, prompt_tokens = c.prompt_tokens }
end

local function take(self, ev)
  local c = choice_of(self, ev.choice)
  if ev.type == "prompt" then
    if not self.drops_tokens then
      c.prompt_tokens = c.prompt_tokens or {}            -- a long prompt comes in several events
      append(c.prompt_tokens, ev.tokens)
    end
    return self:push(ev)
  end
  if ev.tokens and not self.drops_tokens then append(c.tokens, ev.tokens) end
  if ev.text and ev.text ~= "" then
    read(self, c, "feed", ev.text, ev.tokens)
  elseif ev.tokens then
    self:push { type = "text", choice = c.index, text = "", tokens = ev.tokens }
  end
  if ev.type == "done" then finish(self, c, ev) end
end

-- Reading it ---------------------------------------------------------------------------------------------

--- The next event; nil at the end; false when none came within so many seconds, though the model may have
--- written what is not to be told yet. Yields.
---@param seconds? number
---@return table|false|nil
function Answer:next(seconds)
  local began = seconds and core.clock()
  while not self.queue[self.head] do
    self.queue, self.head = {}, 1
    local left = began and began + seconds - core.clock()
    if left and left <= 0 then return false end
    local ev = self.gen:next(left)
    if not ev then return ev end
    take(self, ev)
  end
  local ev = self.queue[self.head]
  self.queue[self.head], self.head = nil, self.head + 1
  return ev
end

--- Give up: the engine is told.
function Answer:cancel() self.gen:cancel() end

--- See asking.collect.
Answer.collect = asking.collect

return M
