--- events.lua: on = { text = {[pattern] = fn}, every = {n, fn}, token = fn }: look at an answer while it is
--- written, and end it.
---
--- A generation is wrapped: its events pass through here before anybody else sees them, so what is behind a
--- verdict is never shown. The engine may be a token or two ahead by then; those are cut off and not counted.
--- When a function is called depends on the text alone, not on the pieces in which it came: for each token in
--- turn `token`, `every`, then the patterns that the token's text completes. A pattern has matched at the first
--- byte at which the text so far ends in a match of it; its search goes on behind that.
local M = {}

local WINDOW = 256                  -- bytes: what a pattern matches is no longer

-- What a request asked for -------------------------------------------------------------------------------

local function is_anchored(p)
  local escapes = p:match "(%%*)%$$"
  return p:sub(1, 1) == "^" or (escapes and #escapes % 2 == 0)
end

local function pattern(text, fn)
  if type(text) ~= "string" then error("on.text: a pattern is no string", 2) end
  local ok, found = pcall(string.find, "", text)
  if not ok then error(("on.text[%q]: %s"):format(text, tostring(found):gsub("^.-:%d+: ", "")), 2) end
  if found then error(("on.text[%q] matches an empty text"):format(text), 2) end
  if is_anchored(text) or text:find("%f", 1, true) then
    error(("on.text[%q]: ^, $ and %%f have no meaning in a text that goes on"):format(text), 2)
  end
  if type(fn) ~= "function" then error(("on.text[%q] is no function"):format(text), 2) end
  return { text = text, at_end = text .. "$", fn = fn }
end

local KINDS = { text = "table", every = "table", token = "function" }

--- What is watched for; raises when that makes no sense.
function M.read(on)
  if type(on) ~= "table" then error("on is no table", 2) end
  for key, value in pairs(on) do
    if not KINDS[key] then error(("on has no '%s'; there are text, every and token"):format(tostring(key)), 2) end
    if type(value) ~= KINDS[key] then error(("on.%s is no %s"):format(key, KINDS[key]), 2) end
  end
  local patterns = {}
  for text, fn in pairs(on.text or {}) do patterns[#patterns + 1] = pattern(text, fn) end
  table.sort(patterns, function(a, b) return a.text < b.text end)
  local n, fn = table.unpack(on.every or {})
  if on.every and not (math.type(n) == "integer" and n >= 1 and type(fn) == "function") then
    error("on.every is no {number of tokens, function}", 2)
  end
  return { patterns = patterns, n = n, every = fn, token = on.token }
end

--- Taking text back needs a sequence that can be rewound in mid-answer.
function M.splice() error("qh.splice: text cannot be taken back; a function of on may return nil or \"stop\"", 2) end

-- Matching -----------------------------------------------------------------------------------------------

-- The first end, from byte `first` of buf on, of a match that begins at `from` or later. Almost always the one
-- search over the whole says that there is none.
local function first_match(p, buf, from, first)
  if not buf:find(p.text, from) then return nil end
  for e = math.max(first, from), #buf do
    local found = table.pack(buf:sub(1, e):find(p.at_end, from))
    if found[1] then return found[1], e, table.move(found, 3, found.n, 1, {}) end
  end
end

-- All matches that end in `piece`, in the order of their ends.
local function matches_of(self, c, piece)
  local buf = c.window .. piece
  local before = c.n_bytes - #c.window          -- bytes of the text that are not in buf
  local list = {}
  for k, p in ipairs(self.on.patterns) do
    local from, first = math.max(c.from[k] - before, 1), #c.window + 1
    while true do
      local s, e, captures = first_match(p, buf, from, first)
      if not s then break end
      list[#list + 1] = { k = k, from = before + s, to = before + e, text = buf:sub(s, e), captures = captures }
      from, first = e + 1, e + 1
      c.from[k] = before + from
    end
  end
  table.sort(list, function(a, b) if a.to ~= b.to then return a.to < b.to end return a.k < b.k end)
  c.window = buf:sub(-WINDOW)
  c.n_bytes = c.n_bytes + #piece
  return list
end

-- Verdicts -----------------------------------------------------------------------------------------------

local function is_stop(what, verdict)
  if verdict == nil then return false end
  if verdict == "stop" then return true end
  error(("on.%s returned a %s; nil or \"stop\" is expected"):format(what, type(verdict)), 2)
end

local function look_at_token(self, c, tok)
  c.n_tokens = c.n_tokens + 1
  local on, at = self.on, { choice = c.index, n = c.n_tokens }
  if on.token and is_stop("token", on.token(tok, at)) then return true end
  return on.every ~= nil and c.n_tokens % on.n == 0 and is_stop("every", on.every(c.n_tokens, at))
end

-- The byte behind which a pattern's function ends the answer; nil: none does.
local function look_at_text(self, c, piece)
  if piece == "" then return nil end
  for _, m in ipairs(matches_of(self, c, piece)) do
    local at = { choice = c.index, from = m.from, to = m.to, captures = m.captures }
    if is_stop("text", self.on.patterns[m.k].fn(m.text, at)) then return m.to end
  end
end

-- Where the answer ends, in bytes of its text, and how many of these tokens it has; nil: it goes on.
local function verdict_of(self, c, text, tokens)
  local begin, done = c.n_bytes, 0              -- done: bytes of `text` that were looked at
  for i, tok in ipairs(tokens) do
    local stops = look_at_token(self, c, tok)
    local upto = math.min(math.max(tok.text_end - begin, done), #text)
    if stops then return begin + upto, i end
    local cut = look_at_text(self, c, text:sub(done + 1, upto))
    if cut then return cut, i end
    done = upto
  end
  return look_at_text(self, c, text:sub(done + 1)), #tokens
end

-- Events -------------------------------------------------------------------------------------------------

local Watched = {}
Watched.__index = Watched
Watched.__close = function(w) w.gen:cancel() end

local function choice_of(self, index)
  local c = self.choices[index]
  if not c then
    c = { index = index, window = "", n_bytes = 0, n_tokens = 0, from = {} }
    for k in ipairs(self.on.patterns) do c.from[k] = 1 end
    self.choices[index] = c
  end
  return c
end

-- One choice less is at work; when only ended ones are left the engine may stop.
local function over(self)
  self.n_open = self.n_open - 1
  if self.n_open == 0 then self.gen:stop() end
end

local function pass_text(self, c, ev)
  local text, tokens, begin = ev.text or "", ev.tokens or {}, c.n_bytes
  local cut, n_tokens = verdict_of(self, c, text, tokens)
  if not self.keeps_tokens then ev.tokens = nil end
  if not cut then return ev end
  c.is_stopped = true
  ev.text = text:sub(1, cut - begin)
  if ev.tokens then ev.tokens = table.move(tokens, 1, n_tokens, 1, {}) end
  over(self)
  return ev
end

local function pass_end(self, c, ev)
  if not c.is_stopped then
    over(self)
    return ev
  end
  ev.finish, ev.stop_match, ev.message, ev.status = "stop", nil, nil, nil
  ev.usage.completion = c.n_tokens
  return ev
end

local function pass(self, ev)
  if ev.type == "prompt" then return self.keeps_prompt and ev or nil end
  local c = choice_of(self, ev.choice)
  if ev.type == "done" then return pass_end(self, c, ev) end
  return not c.is_stopped and pass_text(self, c, ev) or nil
end

--- As of a generation. Yields.
function Watched:next(seconds)
  while true do
    local ev = self.gen:next(seconds)
    if not ev then return ev end
    local shown = pass(self, ev)
    if shown then return shown end
  end
end

function Watched:cancel() self.gen:cancel() end
function Watched:stop() self.gen:stop() end

--- Wrap a generation of n choices that was submitted with tokens = true. wants: which of its tokens the request
--- itself asked for: { tokens, prompt }.
---@param gen table
---@param on table  of M.read
---@param n integer
---@param wants { tokens: boolean, prompt: boolean }
function M.watch(gen, on, n, wants)
  return setmetatable({ gen = gen, on = on, n_open = n, choices = {}, keeps_tokens = wants.tokens,
    keeps_prompt = wants.prompt }, Watched)
end

return M
