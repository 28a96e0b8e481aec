--- remote_answer.lua: the streamed answer of an OpenAI-compatible server as events of answer.lua.
local asking = require "qhost.asking"
local core = require "qhost.core"
local M = {}

local MAX_EVENT_BYTES = 1 << 20

---@class qhost.RemoteAnswer
local Answer = {}
Answer.__index = Answer
Answer.__close = function(a) a.reply:close() end

function M.new(reply, name)
  return setmetatable({ reply = reply, name = name, buffer = "", queue = {}, head = 1, choices = {}, order = {},
    start = core.clock() }, Answer)
end

function Answer:push(ev) self.queue[#self.queue + 1] = ev end

local function choice_of(self, index)
  local c = self.choices[index]
  if not c then
    c = { index = index, text = {}, reasoning = {}, calls = {} }
    self.choices[index], self.order[#self.order + 1] = c, c
  end
  return c
end

local function is_text(v) return type(v) == "string" and v ~= "" end

local function take_call(c, delta)
  local i = math.tointeger(delta.index) or #c.calls
  local call = c.calls[i + 1]
  if not call then
    if i ~= #c.calls then return end                    -- a gap: nobody sends that
    call = { id = nil, name = "", arguments = {} }
    c.calls[i + 1] = call
  end
  local f = type(delta["function"]) == "table" and delta["function"] or {}
  if is_text(delta.id) then call.id = delta.id end
  if is_text(f.name) then call.name = call.name .. f.name end
  if is_text(f.arguments) then call.arguments[#call.arguments + 1] = f.arguments end
end

local function take_delta(self, c, delta)
  local thought = is_text(delta.reasoning_content) and delta.reasoning_content or is_text(delta.reasoning) and delta.reasoning
  if thought then
    c.reasoning[#c.reasoning + 1] = thought
    self:push { type = "reasoning", choice = c.index, text = thought }
  end
  if is_text(delta.content) then
    c.text[#c.text + 1] = delta.content
    self:push { type = "text", choice = c.index, text = delta.content }
  end
  if (thought or is_text(delta.content)) and not self.ttft then self.ttft = core.clock() - self.start end
  if type(delta.tool_calls) == "table" then
    for _, call in ipairs(delta.tool_calls) do
      if type(call) == "table" then take_call(c, call) end
    end
  end
end

local function integer(v) return math.tointeger(v) or 0 end

local function take_usage(self, u)
  local details = type(u.prompt_tokens_details) == "table" and u.prompt_tokens_details or {}
  self.usage = { prompt = integer(u.prompt_tokens), cached = integer(details.cached_tokens), completion = integer(u.completion_tokens) }
end

local FINISH = { stop = "stop", length = "length", tool_calls = "tool_calls", function_call = "tool_calls", content_filter = "stop" }

--- One chunk. Returns a message when it is an error.
local function take_chunk(self, chunk)
  if type(chunk.error) == "table" then return tostring(chunk.error.message) end
  if type(chunk.usage) == "table" then take_usage(self, chunk.usage) end
  for _, part in ipairs(type(chunk.choices) == "table" and chunk.choices or {}) do
    part = type(part) == "table" and part or {}
    local c = choice_of(self, integer(part.index) + 1)
    if type(part.delta) == "table" then take_delta(self, c, part.delta) end
    if type(part.finish_reason) == "string" then c.finish = FINISH[part.finish_reason] or "stop" end
  end
end

local function finish_choice(self, c, is_first)
  local calls = core.json.array {}
  for i, call in ipairs(c.calls) do
    local raw = table.concat(call.arguments)
    local arguments = core.json.decode(raw)
    calls[i] = core.json.object({ id = call.id or ("call_%d"):format(i), name = call.name, raw = raw,
      arguments = type(arguments) == "table" and arguments or nil }, { "id", "name", "arguments", "raw" })
    self:push { type = "tool_call", choice = c.index, index = i, id = calls[i].id, name = call.name, arguments = raw }
  end
  local usage = self.usage or { prompt = 0, cached = 0, completion = 0 }
  local total = core.clock() - self.start
  self:push { type = "done", choice = c.index, text = table.concat(c.text), tool_calls = calls, finish = c.finish,
    reasoning = #c.reasoning > 0 and table.concat(c.reasoning) or nil,
    usage = { prompt = usage.prompt, cached = usage.cached, completion = is_first and usage.completion or 0 },
    timings = { queue = 0, prefill = 0, ttft = self.ttft or total, decode = total - (self.ttft or total) } }
end

local function fail(self, message, status)
  self.is_over = true
  self.reply:close()
  core.log("warn", "upstream.failed", { model = self.name, error = message })
  self:push { type = "done", choice = 1, finish = "error", status = status, message = message,
    text = "", tool_calls = core.json.array {}, usage = { prompt = 0, cached = 0, completion = 0 },
    timings = { queue = 0, prefill = 0, ttft = 0, decode = 0 } }
end

local function finish(self)
  for _, c in ipairs(self.order) do
    if not c.finish then return fail(self, ("the answer of the upstream model '%s' ended early"):format(self.name), "EIO") end
  end
  if #self.order == 0 then return fail(self, ("the upstream model '%s' answered nothing"):format(self.name), "EIO") end
  self.is_over = true
  for i, c in ipairs(self.order) do finish_choice(self, c, i == 1) end
  self.reply:close()
end

local function take_line(self, line)
  local data = line:match "^data: ?(.*)$"
  if not data or data == "" then return end
  if data == "[DONE]" then return finish(self) end
  local chunk = core.json.decode(data)
  if type(chunk) ~= "table" then return fail(self, ("the upstream model '%s' sent what is no JSON"):format(self.name), "EIO") end
  local message = take_chunk(self, chunk)
  if message then fail(self, ("the upstream model '%s' failed: %s"):format(self.name, message), "EIO") end
end

local function take_piece(self, piece)
  local text, at = self.buffer .. piece, 1
  while not self.is_over do
    local stop = text:find("\n", at, true)
    if not stop then break end
    take_line(self, (text:sub(at, stop - 1):gsub("\r$", "")))
    at = stop + 1
  end
  self.buffer = text:sub(at)
  if #self.buffer > MAX_EVENT_BYTES then fail(self, ("the upstream model '%s' sent an endless line"):format(self.name), "EIO") end
end

--- The next event; nil at the end; false when none came within so many seconds. Yields.
function Answer:next(seconds)
  while not self.queue[self.head] do
    if self.is_over then return nil end
    self.queue, self.head = {}, 1
    local piece, message, status = self.reply.handle:read(seconds)
    if piece == false then return false end
    if message then fail(self, message, status)
    elseif piece then take_piece(self, piece)
    else finish(self) end
  end
  local ev = self.queue[self.head]
  self.queue[self.head], self.head = nil, self.head + 1
  return ev
end

function Answer:cancel() self.reply:close() end

Answer.collect = asking.collect

return M
