--- lexer.lua: template source to tokens, with Jinja's whitespace control.
---
--- A token is { type, value, line }. Types: data, var_begin, var_end, block_begin, block_end, name,
--- string, int, float, eof, and each operator under its own spelling.
local M = {}
local find, match, sub, gsub, byte = string.find, string.match, string.sub, string.gsub, string.byte

local function fail(line, message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  error({ kind = "syntax", message = message, line = line }, 0)
end

local OPERATORS = {}
for op in ("+ - / // * % ** ~ [ ] ( ) { } == != > >= < <= = . : | , ;"):gmatch "%S+" do
  OPERATORS[op] = true
end
local CLOSER = { ["("] = ")", ["["] = "]", ["{"] = "}" }
local IS_CLOSER = { [")"] = true, ["]"] = true, ["}"] = true }

local SIMPLE_ESCAPE = {
  n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", v = "\v", a = "\a",
  ["\\"] = "\\", ["'"] = "'", ['"'] = '"', ["\n"] = "",
}
local HEX_LENGTH = { x = 2, u = 4, U = 8 }

--- The value of a string literal: Python's escapes. `at` is its line.
local function unescape(s, line)
  if not find(s, "\\", 1, true) then return s end
  local out, pos = {}, 1
  while true do
    local i = find(s, "\\", pos, true)
    if not i then break end
    out[#out + 1] = sub(s, pos, i - 1)
    local c = sub(s, i + 1, i + 1)
    pos = i + 2
    if SIMPLE_ESCAPE[c] then
      out[#out + 1] = SIMPLE_ESCAPE[c]
    elseif HEX_LENGTH[c] then
      local digits = match(s, "^%x+", pos) or ""
      if #digits < HEX_LENGTH[c] then fail(line, "truncated \\%s escape in a string", c) end
      local code = tonumber(sub(digits, 1, HEX_LENGTH[c]), 16)
      if code > 0x10ffff or (code >= 0xd800 and code < 0xe000) then
        fail(line, "illegal character \\%s%x in a string", c, code)
      end
      out[#out + 1] = utf8.char(code)
      pos = pos + HEX_LENGTH[c]
    elseif find(c, "^[0-7]") then
      local digits = sub(match(s, "^[0-7]+", i + 1), 1, 3)
      out[#out + 1] = utf8.char(tonumber(digits, 8))
      pos = i + 1 + #digits
    elseif c == "N" then
      fail(line, "\\N{...} is not supported in a string")
    else
      out[#out + 1] = "\\" .. c
    end
  end
  out[#out + 1] = sub(s, pos)
  return table.concat(out)
end

-- The text before a tag after `strip` ("-", "+" or ""); `lstrip` says that the tag is one whose
-- leading blanks on its line go away, `at_line_start` that the text begins a line. The patterns
-- search backwards: from the front they would be quadratic in runs of blanks.
local function strip_before(text, strip, lstrip, at_line_start)
  if strip == "-" then return sub(text, 1, (match(text, "^.*%S()") or 1) - 1) end
  if strip == "+" or not lstrip then return text end
  local blanks = match(text, "^.*[%S\n]()") or 1           -- first byte of the trailing blanks
  if blanks > 1 and byte(text, blanks - 1) ~= 10 then return text end
  if blanks == 1 and not at_line_start then return text end
  return sub(text, 1, blanks - 1)
end

local Lexer = {}
Lexer.__index = Lexer

function Lexer:push(type, value)
  local n = self.n + 1
  self.n = n
  self.tokens[n] = { type = type, value = value, line = self.line }
end

-- Move to `pos`, counting the lines on the way.
function Lexer:advance(pos)
  local src, from, line = self.src, self.pos, self.line
  while true do
    local i = find(src, "\n", from, true)
    if not i or i >= pos then break end
    line, from = line + 1, i + 1
  end
  self.line, self.pos = line, pos
end

-- Step over the end of a tag that stands at `pos` and is `len` bytes long: "-" eats all white
-- space after it, and a plain end eats one newline when `trim` is set.
function Lexer:end_tag(pos, len, sign, trim)
  local past = pos + len
  if sign == "-" then
    past = match(self.src, "^%s*()", past)
  elseif sign ~= "+" and trim and byte(self.src, past) == 10 then
    past = past + 1
  end
  self:advance(past)
  self.at_line_start = byte(self.src, past - 1) == 10
end

function Lexer:comment(start)
  local close = find(self.src, "#}", start, true)
  if not close then fail(self.line, "the comment has no end tag '#}'") end
  local sign = close > start and sub(self.src, close - 1, close - 1) or ""
  self:end_tag(close, 2, sign, self.trim_blocks)
end

-- A raw block: `start` is the first byte after its opening tag.
function Lexer:raw(start)
  local src = self.src
  self:advance(start)
  local from, sign, tail, past = match(src, "(){%%([-+]?)%s*endraw%s*([-+]?)%%}()", start)
  if not from then fail(self.line, "the raw block has no 'endraw'") end
  local text = sub(src, start, from - 1)
  -- The opening tag does not end a line, whatever follows it.
  text = strip_before(text, sign, self.lstrip_blocks, byte(src, start - 1) == 10)
  if text ~= "" then self:push("data", text) end
  self:advance(from)
  self:end_tag(from, past - from, tail, self.trim_blocks)
end

function Lexer:string(pos)
  local src = self.src
  local quote = sub(src, pos, pos)
  local stop = quote == "'" and "['\\]" or '["\\]'
  local i = pos + 1
  while true do
    i = find(src, stop, i)
    if not i then fail(self.line, "the string has no closing %s", quote) end
    if byte(src, i) ~= 92 then break end
    i = i + 2
  end
  self:push("string", unescape(sub(src, pos + 1, i - 1), self.line))
  self:advance(i + 1)
end

-- A number at `pos`, or nil. Underscores may separate digits.
function Lexer:number(pos)
  local src = self.src
  local past = match(src, "^[%d_]*%d()", pos)
  local int_past = past
  if match(src, "^0[xX]%x", pos) then
    past = match(src, "^0[xX][%x_]*%x()", pos)
    self:push("int", math.tointeger(tonumber((gsub(sub(src, pos, past - 1), "_", "")))))
    return past
  end
  local base, digits, based_past = match(src, "^0([bBoO])([%d_]*%d)()", pos)
  if base then
    local value = tonumber((gsub(digits, "_", "")), (base == "b" or base == "B") and 2 or 8)
    if not value then fail(self.line, "malformed number") end
    self:push("int", value)
    return based_past
  end
  if byte(src, pos - 1) ~= 46 then
    past = match(src, "^%.[%d_]*%d()", past) or past
    past = match(src, "^[eE][-+]?[%d_]*%d()", past) or past
  end
  local digits_only = gsub(sub(src, pos, past - 1), "_", "")
  if past > int_past then
    self:push("float", tonumber(digits_only) + 0.0)
  else
    if find(digits_only, "^0+[1-9]") then fail(self.line, "an integer cannot begin with 0") end
    local value = math.tointeger(tonumber(digits_only))
    if not value or #digits_only > 19 then fail(self.line, "the integer %s is too large", digits_only) end
    self:push("int", value)
  end
  return past
end

-- Tokens of a tag from self.pos on; `close` is its end, "%%}" or "}}".
function Lexer:code(close, opened)
  local src, open = self.src, {}
  local is_block = close == "%}"
  while true do
    local pos = match(src, "^%s*()", self.pos)
    self:advance(pos)
    if #open == 0 then
      local sign = match(src, is_block and "^([-+]?)%%}" or "^(%-?)}}", pos)
      if sign then
        self:push(is_block and "block_end" or "var_end")
        self:end_tag(pos, #sign + 2, sign, is_block and self.trim_blocks)
        return
      end
    end
    local c = sub(src, pos, pos)
    if c == "" then
      fail(opened, "the tag has no end '%s'", close)
    elseif find(c, "%d") then
      self:advance(self:number(pos))
    elseif find(c, "[%a_\x80-\xff]") then
      local name = match(src, "^[%w_\x80-\xff]+", pos)
      self:push("name", name)
      self:advance(pos + #name)
    elseif c == "'" or c == '"' then
      self:string(pos)
    else
      local op = sub(src, pos, pos + 1)
      if not OPERATORS[op] then op = c end
      if not OPERATORS[op] then fail(self.line, "unexpected character '%s'", c) end
      if CLOSER[op] then
        open[#open + 1] = CLOSER[op]
      elseif IS_CLOSER[op] then
        local expected = table.remove(open)
        if not expected then fail(self.line, "unexpected '%s'", op) end
        if expected ~= op then fail(self.line, "unexpected '%s', expected '%s'", op, expected) end
      end
      self:push(op, op)
      self:advance(pos + #op)
    end
  end
end

--- Split a template into tokens; raises { kind = "syntax", message, line }.
---@param source string
---@param opts { trim_blocks: boolean, lstrip_blocks: boolean }
---@return table tokens
function M.tokens(source, opts)
  local src = gsub(source, "\r\n?", "\n")
  if byte(src, -1) == 10 then src = sub(src, 1, -2) end       -- Jinja drops one final newline
  local self = setmetatable({
    src = src, pos = 1, line = 1, n = 0, tokens = {}, at_line_start = true,
    trim_blocks = opts.trim_blocks, lstrip_blocks = opts.lstrip_blocks,
  }, Lexer)
  while true do
    local at, _, mark, sign = find(src, "{([%%{#])([-+]?)", self.pos)
    if not at then break end
    local text = sub(src, self.pos, at - 1)
    text = strip_before(text, sign, self.lstrip_blocks and mark ~= "{", self.at_line_start)
    if text ~= "" then self:push("data", text) end
    self:advance(at)
    local start = at + 2 + #sign
    if mark == "#" then
      self:comment(start)
    elseif mark == "{" then
      self:push("var_begin")
      self:advance(start)
      self:code("}}", self.line)
    else
      local raw_sign, raw_past = match(src, "^%s*raw%s*(%-?)%%}()", start)
      if raw_past then
        self:raw(raw_sign == "-" and match(src, "^%s*()", raw_past) or raw_past)
      else
        self:push("block_begin")
        self:advance(start)
        self:code("%}", self.line)
      end
    end
  end
  local rest = sub(src, self.pos)
  if rest ~= "" then self:push("data", rest) end
  self:push("eof")
  return self.tokens
end

return M
