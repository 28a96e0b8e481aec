--- parser.lua: what a model writes, taken apart while it arrives: text, reasoning, tool calls.
---
--- A format is data, a list of markers:
---
---   { open, kind = "reasoning", close }       reasoning between two marks
---   { open, kind = "call", body = "json", close?, header?, read? }
---         JSON after a mark; more values may follow before `close`, which may be missing. With
---         `header`, a mark, the JSON may be the arguments of a name that stands before the mark.
---         What is no JSON is taken as the next kind when there is a `read`.
---   { open, kind = "call", body = "until", close, read, open_ended? }
---         text up to `close`, or with open_ended the end of the message; read(ctx, text) gives calls
---   { open, kind = "drop" }                   a mark that means nothing by itself
---
--- `inner` names a mark that a body may hold, since the model may have a token for it.
---
--- `guess = true` on a JSON marker: what follows may as well be an answer, so it must look like a
--- call of a known tool, else it is text. `bare = true` on the format: the same for JSON that opens
--- the message. No mark may begin another.
---
--- Events, in the order of the text:
---
---   { type = "text", text }            { type = "reasoning", text }
---   { type = "tool_call", index, name, arguments, id? }
---   { type = "text", text, unparsed = true }      a tool call that could not be read, as written
---
--- The events of a text do not depend on how it is cut into pieces, up to neighbouring texts being
--- one. So whatever may be part of a mark is held back, and white space before a call too: it
--- belongs to the call. A finished generation is never an error.
local calls = require "formats.calls"
local json_text = require "formats.json_text"

local M = {}
local find, sub, match = string.find, string.sub, string.match

---@class qhost.formats.Options
---@field json_decode fun(s: string): any, string?
---@field tools? table            tool definitions or names; without them only marked calls are read
---@field no_calls? boolean       nor those: a call is text like any other
---@field in_reasoning? boolean   the prompt ended inside the reasoning

---@class qhost.formats.Parser
local Parser = {}
Parser.__index = Parser

-- Length of the longest end of `s` that may begin `mark`, being shorter.
local function partial(s, mark)
  local first, at = sub(mark, 1, 1), math.max(#s - #mark + 1, 0)
  while true do
    at = find(s, first, at + 1, true)
    if not at then return 0 end
    if sub(mark, 1, #s - at + 1) == sub(s, at) then return #s - at + 1 end
  end
end

-- Events ---------------------------------------------------------------------------------------------
function Parser:emit(type, text)
  if text == "" then return end
  self.events[#self.events + 1] = { type = type, text = text }
end

function Parser:emit_calls(list)
  for _, call in ipairs(list) do
    self.events[#self.events + 1] = {
      type = "tool_call", index = self.n_calls, name = call.name, arguments = call.arguments, id = call.id,
    }
    self.n_calls = self.n_calls + 1
  end
end

-- A call that is none: the text as it was written, white space before the mark included.
function Parser:emit_unparsed(marker, body)
  local text = self.blank .. (marker.open or "") .. body
  if text == "" then return end
  self.events[#self.events + 1] = { type = "text", text = text, unparsed = not marker.guess or nil }
end

-- States: each takes self.pending and gives true when it could go on, false when it needs more ------
local STATE = {}

-- Leftmost marker in `s`: its position and itself.
local function find_marker(markers, s)
  local best, at
  for _, marker in ipairs(markers) do
    local i = find(s, marker.open, 1, true)
    if i and (not at or i < at) then best, at = marker, i end
  end
  return at, best
end

-- From where on the text must be held back: it may begin a mark, or is the white space before one.
local function held_from(markers, s)
  local n = 0
  for _, marker in ipairs(markers) do n = math.max(n, partial(s, marker.open)) end
  local from = #s - n + 1
  return match(sub(s, 1, from - 1), "^.*%S()") or 1
end

function Parser:enter(marker)
  self.marker = marker
  if marker.kind == "reasoning" then
    self.state, self.started = "reasoning", false
  elseif marker.kind == "call" then
    self.state, self.body, self.scanner, self.header = marker.body, {}, nil, nil
  else
    self.state = "after"
  end
end

-- Can the text at the start of the message be bare JSON of a call?
local function looks_like_call(s)
  local head = match(s, "^%s*(.*)$")
  if head == "" then return nil end
  head = match(head, "^%[%s*(.*)$") or head
  if head == "" then return nil end
  if sub(head, 1, 1) ~= "{" then return false end
  local name = match(head, '^{%s*"([%w_]*)"')
  if name then return M.CALL_NAMES[name] or false end
  local begun = match(head, '^{%s*"([%w_]*)$') or (match(head, "^{%s*$") and "")
  if not begun then return false end
  for known in pairs(M.CALL_NAMES) do
    if sub(known, 1, #begun) == begun then return nil end
  end
  return false
end

--- First members of an object that may be a tool call.
M.CALL_NAMES = { name = true, arguments = true, parameters = true, ["function"] = true, type = true, id = true }

function STATE.text(self)
  local s = self.pending
  if self.at_start then
    if self.format.bare and self.ctx.tools then
      local is = looks_like_call(s)
      local is_open = is == nil and not self.is_final and find(s, "^%s*[{%[]")
      if is_open and not find_marker(self.markers, s) then return false end
      if is then
        self.at_start = false
        self.blank, self.pending = match(s, "^(%s*)(.*)$")
        self:enter(M.BARE)
        return true
      end
    end
    if find(s, "%S") then self.at_start = false end
  end
  local at, marker = find_marker(self.markers, s)
  if not at then
    local from = self.is_final and #s + 1 or held_from(self.markers, s)
    self:emit("text", sub(s, 1, from - 1))
    self.pending = sub(s, from)
    return false
  end
  local past = match(sub(s, 1, at - 1), "^.*%S()") or 1
  self:emit("text", sub(s, 1, past - 1))
  self.blank = sub(s, past, at - 1)
  self.pending = sub(s, at + #marker.open)
  if marker.kind ~= "reasoning" then self.at_start = false end
  self:enter(marker)
  return true
end

--- JSON that opens the message without a mark.
M.BARE = { kind = "call", body = "json", close = "</tool_call>", guess = true, bare = true }

-- Between marks: white space goes away, and so does the closing mark of a call.
function STATE.after(self)
  local s = match(self.pending, "^%s*(.*)$")
  self.pending = s
  if s == "" then return false end
  local close = self.marker and self.marker.close
  if close and self.marker.kind == "call" then
    if sub(s, 1, #close) == close then
      self.pending, self.marker = sub(s, #close + 1), nil
      return true
    end
    if sub(close, 1, #s) == s then
      if self.is_final then self.pending = "" end           -- cut off inside the mark
      return false
    end
  end
  self.marker, self.state = nil, "text"
  return true
end

function STATE.reasoning(self)
  local s = self.pending
  if not self.started then
    s = match(s, "^%s*(.*)$")
    self.pending = s
    if s == "" then return false end
    self.started = true
  end
  local at = find(s, self.marker.close, 1, true)
  if at then
    self:emit("reasoning", match(sub(s, 1, at - 1), "^(.*%S)") or "")
    self.pending = sub(s, at + #self.marker.close)
    self.state, self.marker = "after", nil
    return true
  end
  local from = self.is_final and #s + 1 or held_from({ { open = self.marker.close } }, s)
  if self.is_final then s = match(s, "^(.*%S)") or "" end
  self:emit("reasoning", sub(s, 1, from - 1))
  self.pending = sub(s, from)
  return false
end

-- Text up to the closing mark.
STATE["until"] = function(self)
  local close, body = self.marker.close, self.body
  local s = self.pending
  local at = find(s, close, 1, true)
  if not at then
    local n = self.is_final and 0 or partial(s, close)
    body[#body + 1] = sub(s, 1, #s - n)
    self.pending = sub(s, #s - n + 1)
    if self.is_final then
      local text = table.concat(body)
      local list = self.marker.open_ended and self.marker.read(self.ctx, text)
      if list then self:emit_calls(list) else self:emit_unparsed(self.marker, text) end
      self.state = "after"
    end
    return false
  end
  body[#body + 1] = sub(s, 1, at - 1)
  self.pending = sub(s, at + #close)
  local text = table.concat(body)
  local list = self.marker.read and self.marker.read(self.ctx, text) or nil
  if list then
    self:emit_calls(list)
    self.state, self.marker = "after", nil
  else
    self:emit_unparsed(self.marker, text .. close)
    self.state, self.marker = "text", nil
  end
  return true
end

-- Small models forget closing braces. Is it sure that only those are missing? By the mark that follows, or
-- at the end of the message by the arguments being whole.
local function lacks_braces(scanner, marker, text)
  if scanner.stray then return not marker.guess or scanner.depth == 1 end
  return scanner.depth == 1 and not scanner.in_string and find(text, "}%s*$") ~= nil
end

-- The JSON value is whole, or stopped at a stray character or the end of the message: read it.
function Parser:finish_json(is_whole)
  local marker, scanner = self.marker, self.scanner
  local text = table.concat(self.body)
  local header = self.header
  local function read(s)
    if not header then return calls.from_json(self.ctx, s, marker.guess) end
    local call = calls.named(self.ctx, header.name, s, header.id)
    return call and { call }
  end
  local list = is_whole and read(text)
  if not list and lacks_braces(scanner, marker, text) then list = read(text .. ("}"):rep(scanner.depth)) end
  if list then
    self:emit_calls(list)
    self.state = "more"
    return
  end
  self:emit_unparsed(marker, (header and header.text or "") .. text)
  self.state, self.marker = "text", nil
end

-- The name, and perhaps id, before the JSON of a marker with a header: true when it was read, nil
-- when it goes on, false when there is none.
function Parser:read_header()
  local s, mark = self.pending, self.marker.header
  local at = find(s, mark, 1, true)
  if at then
    local head = sub(s, 1, at - 1)
    local name, id = match(head, "^%s*([%w_.:-]+)%[CALL_ID%]([%w_.:-]+)$")
    name = name or match(head, "^%s*([%w_.:-]+)%s*$")
    if not name then return false end
    self.header = { name = name, id = id, text = head .. mark }
    self.pending = sub(s, at + #mark)
    return true
  end
  if find(s, "^%s*[%w_.:-]+[%w_.:%[%]-]*%s*$") and #s < 300 and not self.is_final then return nil end
  return false
end

-- JSON after a mark.
function STATE.json(self)
  local s = self.pending
  if not self.scanner then
    local first = match(s, "^%s*(%S)")
    if not first then
      if self.is_final then
        self:emit_unparsed(self.marker, (self.header and self.header.text or "") .. s)
        self.pending, self.state = "", "text"
      end
      return false
    end
    if first ~= "{" and first ~= "[" and self.marker.header and not self.header then
      local is = self:read_header()
      if is then return true end
      if is == nil then return false end
    end
    if first ~= "{" and first ~= "[" then return self:not_json() end
    if self.marker.guess then
      local is = looks_like_call(s)
      if is == nil and not self.is_final then return false end
      if not is then return self:not_json() end
    end
    self.scanner = json_text.scanner()
  end
  local past = self.scanner:feed(s)
  if past then
    self.body[#self.body + 1] = sub(s, 1, past - 1)
    self.pending = sub(s, past)
    self:finish_json(not self.scanner.stray)
    return true
  end
  self.body[#self.body + 1] = s
  self.pending = ""
  if self.is_final then self:finish_json(false) end
  return false
end

-- No JSON where some was expected: text, up to the closing mark where there is one.
function Parser:not_json()
  local marker = self.marker
  if marker.close and not marker.guess then
    self.state = "until"
    return true
  end
  self:emit_unparsed(marker, self.header and self.header.text or "")
  self.state, self.marker = "text", nil
  return true
end

-- After a JSON call, inside its marks: another one, or the end.
function STATE.more(self)
  local s = match(self.pending, "^[%s;,]*(.*)$")
  if s == "" and not self.is_final then return false end
  if sub(s, 1, 1) == "{" and (self.marker.bare or not self.marker.guess) then
    self.pending, self.blank = s, ""
    self.marker = { kind = "call", body = "json", close = self.marker.close, guess = self.marker.guess, bare = self.marker.bare }
    self.body, self.scanner, self.header, self.state = {}, nil, nil, "json"
    return true
  end
  self.state = "after"
  return true
end

-- Interface ------------------------------------------------------------------------------------------
function Parser:run()
  while STATE[self.state](self) do end
  local events = self.events
  self.events = {}
  return events
end

--- Take the next piece of a generation.
---@param text string
---@return table[] events
function Parser:feed(text)
  self.pending = self.pending .. text
  return self:run()
end

--- The generation has ended.
---@return table[] events
function Parser:finish()
  self.is_final = true
  return self:run()
end

local BODIES = { json = true, ["until"] = true }

--- What is wrong with a marker that somebody else wrote; nil when it is well formed.
---@param marker any
---@return string?
function M.check_marker(marker)
  if type(marker) ~= "table" or type(marker.open) ~= "string" or marker.open == "" then return "'open' is no text" end
  local kind, close, reads = marker.kind, marker.close, type(marker.read) == "function"
  if close ~= nil and (type(close) ~= "string" or close == "") then return "'close' is no text" end
  if kind == "reasoning" then return not close and "reasoning has no 'close'" or nil end
  if kind == "drop" then return nil end
  if kind ~= "call" then return "'kind' is neither reasoning, call nor drop" end
  if not BODIES[marker.body] then return "'body' is neither json nor until" end
  if marker.body == "until" and not (close and reads) then return "a body up to a mark needs 'close' and a function 'read'" end
end

--- A parser for a format { name, markers, bare? }.
---@param format table
---@param opts qhost.formats.Options
---@return qhost.formats.Parser
function M.new(format, opts)
  local tools = calls.known_tools(opts.tools)
  local markers = {}
  for _, marker in ipairs(format.markers) do
    local is_wanted = marker.kind == "reasoning" or not opts.no_calls
    if is_wanted and (tools or not marker.guess) then markers[#markers + 1] = marker end
  end
  local self = setmetatable({
    format = format, markers = markers, pending = "", events = {}, n_calls = 0, blank = "",
    state = "text", at_start = true, is_final = false,
    ctx = { json_decode = opts.json_decode, tools = tools },
  }, Parser)
  if opts.in_reasoning then
    for _, marker in ipairs(format.markers) do
      if marker.kind == "reasoning" then
        self:enter(marker)
        break
      end
    end
  end
  return self
end

return M
