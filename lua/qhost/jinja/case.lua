--- case.lua: upper and lower case of Unicode text, and the classes of its characters.
---
--- Covers ASCII, Latin (Latin-1, Extended-A and Additional), Greek, Cyrillic, Armenian and the
--- full-width letters; other characters have no case here. ASCII text takes the C functions.
local M = {}
local find, gsub, byte, supper, slower = string.find, string.gsub, string.byte, string.upper, string.lower
local codepoint, char = utf8.codepoint, utf8.char

local CHAR = "[\xc2-\xf4][\x80-\xbf]*"

-- Ranges in which upper and lower case alternate; the first code of a pair is the upper one.
local PAIRED = {
  { 0x100, 0x12f }, { 0x132, 0x137 }, { 0x139, 0x148 }, { 0x14a, 0x177 }, { 0x179, 0x17e },
  { 0x370, 0x373 }, { 0x3d8, 0x3ef }, { 0x460, 0x481 }, { 0x48a, 0x4bf }, { 0x4c1, 0x4ce },
  { 0x4d0, 0x52f }, { 0x1e00, 0x1e95 }, { 0x1ea0, 0x1eff },
}
-- Ranges of upper case letters, and what to add for the lower case one.
local SHIFTED = {
  { 0xc0, 0xd6, 32 }, { 0xd8, 0xde, 32 }, { 0x391, 0x3a1, 32 }, { 0x3a3, 0x3ab, 32 },
  { 0x386, 0x386, 38 }, { 0x388, 0x38a, 37 }, { 0x38c, 0x38c, 64 }, { 0x38e, 0x38f, 63 },
  { 0x400, 0x40f, 80 }, { 0x410, 0x42f, 32 }, { 0x4c0, 0x4c0, 15 }, { 0x531, 0x556, 48 },
  { 0xff21, 0xff3a, 32 },
}

local upper_of, lower_of       -- filled on first use

local function build()
  upper_of, lower_of = {}, {}
  local function pair(u, l)
    lower_of[char(u)], upper_of[char(l)] = char(l), char(u)
  end
  for _, range in ipairs(PAIRED) do
    for u = range[1], range[2], 2 do pair(u, u + 1) end
  end
  for _, range in ipairs(SHIFTED) do
    for u = range[1], range[2] do pair(u, u + range[3]) end
  end
  pair(0x178, 0xff)
  upper_of["\u{b5}"], upper_of["\u{17f}"], upper_of["\u{131}"] = "\u{39c}", "S", "I"
  upper_of["\u{df}"], upper_of["\u{3c2}"], upper_of["\u{149}"] = "SS", "\u{3a3}", "\u{2bc}N"
  lower_of["\u{130}"], lower_of["\u{1e9e}"] = "i\u{307}", "\u{df}"
end

function M.upper(s)
  if not find(s, "[\x80-\xff]") then return supper(s) end
  if not upper_of then build() end
  return (gsub(gsub(s, "%l+", supper), CHAR, upper_of))
end

function M.lower(s)
  if not find(s, "[\x80-\xff]") then return slower(s) end
  if not lower_of then build() end
  s = gsub(gsub(s, "%u+", slower), CHAR, lower_of)
  -- A sigma at the end of a word has a form of its own.
  return (gsub(s, "([%a\x80-\xff])\u{3c3}%f[^%w\x80-\xff]", "%1\u{3c2}"))
end

--- A letter as it begins a word.
function M.title(c)
  return c == "\u{df}" and "Ss" or M.upper(c)
end

--- Is the character (a UTF-8 string) a cased one, and in which case: "upper", "lower" or nil.
function M.case_of(c)
  if byte(c) < 0x80 then
    return find(c, "^%u") and "upper" or find(c, "^%l") and "lower" or nil
  end
  if not upper_of then build() end
  if lower_of[c] then return "upper" end
  return (upper_of[c] or c == "\u{df}") and "lower" or nil
end

-- Blocks above Latin-1 that hold no letters or digits.
local SYMBOLS = {
  { 0x2b9, 0x36f }, { 0x2000, 0x2070 }, { 0x207a, 0x207e }, { 0x208a, 0x208f }, { 0x20a0, 0x20ff },
  { 0x2190, 0x245f }, { 0x249c, 0x24e9 }, { 0x2500, 0x2775 }, { 0x2794, 0x2bff }, { 0x2e00, 0x2e7f },
  { 0x3000, 0x3004 }, { 0x3008, 0x3020 }, { 0x3030, 0x3030 }, { 0xd800, 0xf8ff }, { 0xfe00, 0xfe6f },
  { 0xff01, 0xff0f }, { 0xff1a, 0xff20 }, { 0xff3b, 0xff40 }, { 0xff5b, 0xff65 },
  { 0x1f000, 0x1faff }, { 0xe0000, 0x10ffff },
}
local LATIN1_WORD = { [0xaa] = true, [0xb5] = true, [0xba] = true }
local LATIN1_NUMBER = { [0xb2] = true, [0xb3] = true, [0xb9] = true, [0xbc] = true, [0xbd] = true, [0xbe] = true }

--- Does the character belong to a word (a letter or number)? Exact for ASCII and Latin-1.
function M.is_word(c)
  if byte(c) < 0x80 then return find(c, "^%w") ~= nil end
  local code = codepoint(c)
  if LATIN1_WORD[code] or LATIN1_NUMBER[code] then return true end
  if code < 0xc0 or code == 0xd7 or code == 0xf7 then return false end
  for _, range in ipairs(SYMBOLS) do
    if code >= range[1] and code <= range[2] then return false end
  end
  return true
end

--- Is the character a number but no letter?
function M.is_number(c)
  if byte(c) < 0x80 then return find(c, "^%d") ~= nil end
  local code = codepoint(c)
  return LATIN1_NUMBER[code] or (code >= 0x660 and code <= 0x669) or (code >= 0x966 and code <= 0x96f)
    or (code >= 0x2070 and code <= 0x2089) or (code >= 0xff10 and code <= 0xff19)
end

-- White space ----------------------------------------------------------------------------------------
M.SPACE = "[ \t-\r\x1c-\x1f]"
M.NOT_SPACE = "[^ \t-\r\x1c-\x1f]"

--- `s` with every white space character beyond ASCII replaced by as many blanks as it has bytes:
--- the same positions, searched with the patterns above.
function M.blank(s)
  if not find(s, "[\xc2\xe1\xe2\xe3]") then return s end
  s = gsub(s, "\xc2[\x85\xa0]", "  ")
  s = gsub(s, "\xe2\x80[\x80-\x8a\xa8\xa9\xaf]", "   ")
  s = gsub(s, "\xe2\x81\x9f", "   ")
  s = gsub(s, "\xe1\x9a\x80", "   ")
  return (gsub(s, "\xe3\x80\x80", "   "))
end

return M
