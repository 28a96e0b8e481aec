--- text.lua: strings that remember who wrote them.
---
--- A plain Lua string is text from outside (a message, a tool, any variable the host does not
--- vouch for). A string the template wrote is a `Str`, a table tagged in slot 1. So data needs no
--- wrapping, and whatever nobody marked is treated as foreign. A Str is one of
---
---     { STR, "text",  nil,    5 }            written by the template
---     { STR, text|false, pieces, n }         mixed; pieces = { "ab", true, 2, "c", false, 3, ... }
---     { STR, false, nil, n, parts, st }      a pending concatenation of strings and Strs
---
--- A piece is its text, whether the template wrote it, and the position of its last byte in the
--- whole. Slot 4 is the length in bytes. Concatenation is lazy, so a template that grows a string in a
--- loop costs its length and not its square; reading flattens once and is charged to `st`.
local limits = require "qhost.jinja.limits"
local take, work, fail = limits.take, limits.work, limits.fail
local concat, type, utf8 = table.concat, type, utf8
local ssub, find, gmatch = string.sub, string.find, string.gmatch

local M = {}
local STR = {}
M.STR = STR

--- The template's own text as a value.
local function trusted(s)
  return { STR, s, nil, #s }
end
M.trusted = trusted
local EMPTY = trusted("")
M.EMPTY = EMPTY

function M.is(v)
  return type(v) == "string" or (type(v) == "table" and v[1] == STR)
end

-- Resolve a pending concatenation into pieces, merging neighbours of one origin.
local function flatten(v)
  take(v[6], 2 * v[4] + 64)
  local pieces, n, size = {}, 0, 0
  local run, run_len, mark = {}, 0, nil
  local function close()
    if run_len > 0 then
      local s = concat(run, "", 1, run_len)
      size = size + #s
      pieces[n + 1], pieces[n + 2], pieces[n + 3] = s, mark, size
      n, run_len = n + 3, 0
    end
  end
  local function add(s, m)
    if s == "" then return end
    if m ~= mark then close() mark = m end
    run_len = run_len + 1
    run[run_len] = s
  end
  -- An explicit stack: left-deep chains may be as long as a loop.
  local stack, top = { v }, 1
  while top > 0 do
    local x = stack[top]
    top = top - 1
    if type(x) == "string" then
      add(x, false)
    else
      local inner, parts = x[3], x[5]
      if parts then
        work(v[6], 2 * #parts)
        for i = #parts, 1, -1 do top = top + 1 stack[top] = parts[i] end
      elseif inner then
        work(v[6], #inner)
        take(v[6], 16 * #inner)
        for i = 1, #inner, 3 do add(inner[i], inner[i + 1]) end
      else
        add(x[2], true)
      end
    end
  end
  close()
  v[5], v[6] = nil, nil
  if n == 3 then
    v[2] = pieces[1]
    v[3] = not pieces[2] and pieces or nil
  else
    v[3] = pieces
  end
end

--- The bytes of a string value.
local function text(v)
  if type(v) == "string" then return v end
  local s = v[2]
  if s then return s end
  if v[5] then
    flatten(v)
    if v[2] then return v[2] end
  end
  local pieces, t = v[3], {}
  for i = 1, #pieces, 3 do t[#t + 1] = pieces[i] end
  s = concat(t)
  v[2] = s
  return s
end
M.text = text

--- The pieces of a Str, or nil when all of it is the template's own.
local function pieces_of(v)
  if v[5] then flatten(v) end
  return v[3]
end
M.pieces = pieces_of

--- Length in bytes.
function M.size(v)
  if type(v) == "string" then return #v end
  return v[4]
end

-- A Str from pieces; uniform ones take their short form.
local function from_pieces(pieces, n)
  if n == 0 then return EMPTY end
  if n == 3 then
    if pieces[2] then return trusted(pieces[1]) end
    return pieces[1]
  end
  return { STR, false, pieces, pieces[n] }
end
M.from_pieces = from_pieces

--- Join `n` string values.
local function join(st, parts, n)
  local size = 0
  local foreign, own = true, true
  for i = 1, n do
    local p = parts[i]
    if type(p) == "string" then
      own = false
      size = size + #p
    else
      foreign = false
      if p[3] or p[5] then own = false end
      size = size + p[4]
    end
  end
  if size > st.max.output then
    fail("limit", "a string grows past %d bytes", st.max.output)
  end
  if foreign then
    take(st, size + 32)
    return concat(parts, "", 1, n)
  end
  if own and size < 256 then
    take(st, size + 200)
    local t = {}
    for i = 1, n do t[i] = parts[i][2] end
    return trusted(concat(t))
  end
  take(st, 260 + 16 * n)
  return { STR, false, nil, size, parts, st }
end
M.join = join

--- a .. b
function M.concat(st, a, b)
  if type(a) == "string" and type(b) == "string" and #a + #b < 4096 then
    take(st, #a + #b + 32)
    return a .. b
  end
  if a == "" or a == EMPTY then return b end
  if b == "" or b == EMPTY then return a end
  return join(st, { a, b }, 2)
end

--- Bytes i..j of a string value, keeping the origin of each.
local function sub(v, i, j)
  if type(v) == "string" then return ssub(v, i, j) end
  local pieces = pieces_of(v)
  if not pieces then
    if i == 1 and j >= v[4] then return v end
    return trusted(ssub(v[2], i, j))
  end
  if i < 1 then i = 1 end
  if j > v[4] then j = v[4] end
  if j < i then return EMPTY end
  local low, high = 1, #pieces // 3      -- the piece that holds byte i
  while low < high do
    local mid = (low + high) // 2
    if pieces[mid * 3] < i then low = mid + 1 else high = mid end
  end
  local out, n = {}, 0
  for k = low * 3 - 2, #pieces, 3 do
    local p, last = pieces[k], pieces[k + 2]
    local before = last - #p
    if before >= j then break end
    out[n + 1] = ssub(p, i > before and i - before or 1, j - before)
    out[n + 2] = pieces[k + 1]
    out[n + 3] = (last < j and last or j) - i + 1
    n = n + 3
  end
  return from_pieces(out, n)
end
M.sub = sub

--- Apply a byte-wise or character-wise function to each piece.
function M.map(v, fn)
  if type(v) == "string" then return fn(v) end
  local pieces = pieces_of(v)
  if not pieces then return trusted(fn(v[2])) end
  local out, size, n = {}, 0, 0
  for k = 1, #pieces, 3 do
    local s = fn(pieces[k])
    if s ~= "" then
      size = size + #s
      out[n + 1], out[n + 2], out[n + 3] = s, pieces[k + 1], size
      n = n + 3
    end
  end
  return from_pieces(out, n)
end

--- `s`, made from `v`, with the origin of v: exact when v has one origin or s has its length, else
--- foreign.
function M.retag(v, s)
  if type(v) == "string" then return s end
  local pieces = pieces_of(v)
  if not pieces then return trusted(s) end
  if #s ~= v[4] then return s end
  local out = {}
  for k = 1, #pieces, 3 do
    local last = pieces[k + 2]
    out[k], out[k + 1], out[k + 2] = ssub(s, last - #pieces[k] + 1, last), pieces[k + 1], last
  end
  return from_pieces(out, #out)
end

-- Characters ---------------------------------------------------------------------------------------
-- Text is UTF-8. Where it is not valid, every byte counts as one character.

--- Bytes to charge for a short part cut from a string value.
function M.part_cost(v)
  return type(v) == "string" and 48 or 200
end

--- Number of characters.
local function length(v)
  local s = text(v)
  if not find(s, "[\x80-\xff]") then return #s end
  return utf8.len(s) or #s
end
M.length = length

-- Is every character one byte?
local function is_bytes(s)
  return not find(s, "[\x80-\xff]") or not utf8.len(s)
end
M.is_bytes = is_bytes

--- Characters i..j (1-based, inclusive).
function M.char_sub(v, i, j)
  if j < i then return sub(v, 1, 0) end
  local s = text(v)
  if is_bytes(s) then return sub(v, i, j) end
  local from = utf8.offset(s, i)
  if not from then return sub(v, 1, 0) end
  local past = utf8.offset(s, j - i + 2, from)
  return sub(v, from, past and past - 1 or #s)
end

-- Append the characters of one piece.
local function split_chars(out, n, s, own)
  if is_bytes(s) then
    for i = 1, #s do
      local c = ssub(s, i, i)
      out[n + i] = own and trusted(c) or c
    end
    return n + #s
  end
  for c in gmatch(s, "[\0-\x7f\xc2-\xf4][\x80-\xbf]*") do
    n = n + 1
    out[n] = own and trusted(c) or c
  end
  return n
end

--- All characters as a list of string values, and their number.
function M.chars(st, v)
  local size = M.size(v)
  work(st, size)
  take(st, size * M.part_cost(v))
  local out = {}
  if type(v) == "string" then return out, split_chars(out, 0, v, false) end
  local pieces = pieces_of(v)
  if not pieces then return out, split_chars(out, 0, v[2], true) end
  local n = 0
  for k = 1, #pieces, 3 do n = split_chars(out, n, pieces[k], pieces[k + 1]) end
  return out, n
end

--- Position of the character that starts at byte `at`, 0-based.
function M.char_index(s, at)
  if is_bytes(s) then return at - 1 end
  return utf8.len(s, 1, at) - 1
end

return M
