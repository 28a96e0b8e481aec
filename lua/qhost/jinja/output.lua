--- output.lua: where a template writes: pieces of text and who wrote each.
---
--- A buffer is { n = pieces, own = origin of the last one, cuts = { index, own, index, own, ... },
--- piece, piece, ... }: `cuts` names the pieces at which the origin changes. It takes no tables
--- or copies to write a piece.
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local STR, UNDEF = text_of.STR, value.UNDEF
local take, fail = limits.take, limits.fail
local type, concat, format, mtype = type, table.concat, string.format, math.type

local M = {}

function M.new()
  return { n = 0, cuts = {} }
end

-- Append text; `own` says that the template wrote it.
local function put(st, s, own)
  local left = st.bytes - #s - 16
  st.bytes = left
  if left < 0 then take(st, 0) end
  local out = st.out
  local n = out.n + 1
  out.n, out[n] = n, s
  if out.own ~= own then
    local cuts = out.cuts
    local c = #cuts
    cuts[c + 1], cuts[c + 2] = n, own
    out.own = own
  end
end
M.put = put

--- Write the text of any value.
local function write(st, v)
  local t = type(v)
  if t == "string" then
    if v ~= "" then put(st, v, false) end
  elseif t == "table" and v[1] == STR then
    local pieces = text_of.pieces(v)
    if pieces then
      for i = 1, #pieces, 3 do put(st, pieces[i], pieces[i + 1]) end
    elseif v[4] > 0 then
      put(st, v[2], true)
    end
  elseif t == "number" and mtype(v) == "integer" then
    put(st, format("%d", v), true)
  elseif t ~= "table" or v[1] ~= UNDEF then
    write(st, value.str(st, v))
  end
end
M.write = write

local function size_of(out)
  local size = 0
  for i = 1, out.n do size = size + #out[i] end
  return size
end

local function check_size(st, size)
  if size > st.max.output then fail("limit", "the output grows past %d bytes", st.max.output) end
end

--- What a buffer holds as one string value.
function M.value(st, out)
  local cuts, n = out.cuts, out.n
  if n == 0 then return text_of.EMPTY end
  local size = size_of(out)
  check_size(st, size)
  take(st, size + 64)
  if #cuts == 2 then
    local s = concat(out, "", 1, n)
    return out.own and text_of.trusted(s) or s
  end
  local pieces, m, last = {}, 0, 0
  take(st, 32 * #cuts)
  for i = 1, #cuts, 2 do
    local s = concat(out, "", cuts[i], (cuts[i + 2] or n + 1) - 1)
    last = last + #s
    pieces[m + 1], pieces[m + 2], pieces[m + 3] = s, cuts[i + 1], last
    m = m + 3
  end
  return text_of.from_pieces(pieces, m)
end

--- What a buffer holds as a plain string.
function M.text(st, out)
  check_size(st, size_of(out))
  return concat(out, "", 1, out.n)
end

--- What a buffer holds as a list of { text, special }.
function M.segments(st, out)
  check_size(st, size_of(out))
  local cuts, n, list = out.cuts, out.n, {}
  for i = 1, #cuts, 2 do
    list[#list + 1] = {
      text = concat(out, "", cuts[i], (cuts[i + 2] or n + 1) - 1),
      special = cuts[i + 1],
    }
  end
  return list
end

return M
