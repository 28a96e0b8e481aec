--- format.lua: Python's two ways to format: "..." % values and "...".format(values).
local limits = require "qhost.jinja.limits"
local text_of = require "qhost.jinja.text"
local value = require "qhost.jinja.value"
local strings = require "qhost.jinja.strings"
local fail, work = limits.fail, limits.work
local text, sub, trusted = text_of.text, text_of.sub, text_of.trusted
local kind = value.kind
local find, match, ssub, sformat = string.find, string.match, string.sub, string.format

local M = {}

-- Numbers --------------------------------------------------------------------------------------------
local function digits_in_base(n, base)
  if n == math.mininteger then fail("value", "the integer is too large to format") end
  local out = {}
  n = math.abs(n)
  repeat
    out[#out + 1] = ssub("0123456789abcdef", n % base + 1, n % base + 1)
    n = n // base
  until n == 0
  return table.concat(out):reverse()
end

local function precision_of(precision)
  if precision > 99 then fail("value", "a precision of %d is more than 99", precision) end
  return precision
end

-- Digits of |x| in the float styles e f g and %, without sign.
local function float_digits(x, style, precision, alternate)
  if x ~= x then return "nan" end
  x = math.abs(x)
  if x == math.huge then return "inf" end
  local flag = alternate and "#" or ""
  return sformat("%" .. flag .. "." .. precision_of(precision) .. style, x)
end

local function group_digits(s, separator, every)
  local whole, rest = match(s, "^(%x*)(.*)$")
  local first = #whole % every
  local groups = {}
  if first > 0 then groups[1] = ssub(whole, 1, first) end
  for i = first + 1, #whole, every do groups[#groups + 1] = ssub(whole, i, i + every - 1) end
  return table.concat(groups, separator) .. rest
end

local function as_number(v, what)
  local n = value.number(v)
  if not n then
    if kind(v) == "undefined" then value.fail_undefined(v) end
    fail("type", "%s format: a real number is required, not %s", what, value.type_name(v))
  end
  return n
end

local function as_integer(v, what)
  local n = as_number(v, what)
  if math.type(n) == "integer" then return n end
  local truncated = math.tointeger(n >= 0 and math.floor(n) or math.ceil(n))
  if not truncated then fail("value", "cannot convert %s to an integer", value.float_repr(n)) end
  return truncated
end

-- Put sign, prefix and padding around digits. `align` is one of < > ^ =.
local function pad_number(st, negative, sign, prefix, digits, width, fill, align)
  local lead = (negative and "-" or sign == "+" and "+" or sign == " " and " " or "") .. prefix
  local missing = width - text_of.length(lead .. digits)
  if missing <= 0 then return trusted(lead .. digits) end
  strings.room(st, missing * text_of.size(fill))
  if align == "=" then
    return text_of.join(st, { trusted(lead), strings.repeated(st, fill, missing), trusted(digits) }, 3)
  end
  local left = align == ">" and missing or align == "^" and missing // 2 or 0
  return text_of.join(st, { strings.repeated(st, fill, left), trusted(lead .. digits),
    strings.repeated(st, fill, missing - left) }, 3)
end

local function pad_text(st, v, width, fill, align)
  local missing = width - text_of.length(v)
  if missing <= 0 then return v end
  strings.room(st, missing * text_of.size(fill))
  local left = align == ">" and missing or align == "^" and missing // 2 or 0
  return text_of.join(st, { strings.repeated(st, fill, left), v, strings.repeated(st, fill, missing - left) }, 3)
end

local BASES = { o = 8, x = 16, X = 16, b = 2 }
local PREFIXES = { o = "0o", x = "0x", X = "0X", b = "0b" }

-- Percent --------------------------------------------------------------------------------------------
local function percent_number(st, spec, v)
  local style, flags = spec.style, spec.flags
  local negative, digits
  local prefix = ""
  if style == "d" or style == "i" or style == "u" then
    local n = as_integer(v, "%d")
    negative, digits = n < 0, digits_in_base(n, 10)
  elseif BASES[style] then
    local n = value.number(v)
    if math.type(n) ~= "integer" then
      fail("type", "%%%s format: an integer is required, not %s", style, value.type_name(v))
    end
    negative, digits = n < 0, digits_in_base(n, BASES[style])
    if flags["#"] then prefix = PREFIXES[style] end
    if style == "X" then digits = digits:upper() end
  else
    local x = as_number(v, "%" .. style) + 0.0
    negative = x < 0 or (x == 0 and 1 / x < 0)
    digits = float_digits(x, style:lower(), spec.precision or 6, flags["#"])
    if style ~= style:lower() then digits = digits:upper() end
  end
  if spec.precision and not find(style, "[eEfFgG]") and #digits < spec.precision then
    digits = ("0"):rep(precision_of(spec.precision) - #digits) .. digits
  end
  local zero = flags["0"] and not flags["-"]
  return pad_number(st, negative, flags["+"] and "+" or flags[" "] and " " or "-", prefix, digits,
    spec.width, trusted(zero and "0" or " "), flags["-"] and "<" or zero and "=" or ">")
end

local function percent_text(st, spec, v)
  local s
  if spec.style == "c" then
    if text_of.is(v) and text_of.length(v) == 1 then
      s = v
    else
      local code = value.number(v)
      if math.type(code) ~= "integer" or code < 0 or code > 0x10ffff or (code >= 0xd800 and code < 0xe000) then
        fail("type", "%%c requires an int in range or a single character")
      end
      s = utf8.char(code)
    end
  elseif spec.style == "s" then
    s = value.str(st, v)
  else
    s = value.repr(st, v)
  end
  if spec.precision then s = text_of.char_sub(s, 1, spec.precision) end
  return pad_text(st, s, spec.width, trusted " ", spec.flags["-"] and "<" or ">")
end

-- What Python takes for a mapping here, which need not be used up.
local HAS_ELEMENTS = { dict = true, list = true, range = true, undefined = true }

--- Python's fmt % args, with a tuple, a dict or one value.
function M.percent(st, fmt, args)
  local s, args_kind = text(fmt), kind(args)
  local list = args_kind == "tuple" and args or { args }
  local used, parts, pos = 0, {}, 1
  local function next_value()
    used = used + 1
    if list[used] == nil then fail("type", "not enough arguments for format string") end
    return list[used]
  end
  local function star_or(digits)
    if digits == "*" then return strings.want_int(next_value(), "*") end
    return digits ~= "" and (math.tointeger(tonumber(digits)) or math.maxinteger) or nil
  end
  while true do
    local at = find(s, "%", pos, true)
    if not at then break end
    work(st, 4)
    if at > pos then parts[#parts + 1] = sub(fmt, pos, at - 1) end
    local name, past = match(s, "^%%%(([^()]*)%)()", at)
    past = past or at + 1
    local flag_text, width, dot, precision, style, after =
      match(s, "^([-+ #0]*)(%*?%d*)(%.?)(%*?%d*)[hlL]?(.)()", past)
    if not style then fail("value", "incomplete format") end
    pos = after
    if style == "%" then
      parts[#parts + 1] = trusted "%"
    else
      local spec = { style = style, flags = {}, width = star_or(width) or 0 }
      for flag in flag_text:gmatch "." do spec.flags[flag] = true end
      if spec.width < 0 then spec.flags["-"], spec.width = true, -spec.width end
      if dot == "." then spec.precision = math.max(star_or(precision) or 0, 0) end
      local v
      if name then
        if args_kind ~= "dict" then fail("type", "format requires a mapping") end
        v = args[name]
        if v == nil then fail("value", "the format names '%s', which is not given", name) end
      else
        v = next_value()
      end
      if find(style, "[diuoxXeEfFgG]") then
        parts[#parts + 1] = percent_number(st, spec, v)
      elseif find(style, "[csra]") then
        parts[#parts + 1] = percent_text(st, spec, v)
      else
        fail("value", "unsupported format character '%s'", style)
      end
    end
  end
  if used < #list and not HAS_ELEMENTS[args_kind] then
    fail("type", "not all arguments converted during string formatting")
  end
  if pos <= #s then parts[#parts + 1] = sub(fmt, pos, #s) end
  return text_of.join(st, parts, #parts)
end

-- str.format -----------------------------------------------------------------------------------------
local function parse_spec(spec)
  local s = text(spec)
  local fill, align, rest
  local first = match(s, "^[\0-\x7f\xc2-\xf4][\x80-\xbf]*") or ""
  local after = ssub(s, #first + 1, #first + 1)
  if first ~= "" and find(after, "^[<>=^]") then
    fill, align, rest = first, after, ssub(s, #first + 2)
  else
    align, rest = match(s, "^([<>=^]?)(.*)$")
  end
  local sign, alternate, zero, width, grouping, dot, precision, style =
    match(rest, "^([-+ ]?)(#?)(0?)(%d*)([,_]?)(%.?)(%d*)(%a?%%?)$")
  if not sign or (dot == "." and precision == "") then fail("value", "Invalid format specifier '%s'", s) end
  if zero == "0" then
    fill = fill or "0"
    if align == "" then align = "=" end
  end
  return {
    fill = trusted(fill or " "), align = align ~= "" and align or nil, sign = sign,
    alternate = alternate == "#", width = math.tointeger(tonumber(width)) or (width == "" and 0 or math.maxinteger),
    grouping = grouping ~= "" and grouping or nil,
    precision = precision ~= "" and (math.tointeger(tonumber(precision)) or math.maxinteger) or nil, style = style,
  }
end

local function format_integer(st, n, f)
  local style = f.style
  if f.precision then fail("value", "Precision not allowed in integer format specifier") end
  if style == "c" then return pad_text(st, utf8.char(n), f.width, f.fill, f.align or "<") end
  local digits = digits_in_base(n, BASES[style] or 10)
  if style == "X" then digits = digits:upper() end
  if f.grouping then digits = group_digits(digits, f.grouping, BASES[style] and 4 or 3) end
  return pad_number(st, n < 0, f.sign, f.alternate and PREFIXES[style] or "", digits, f.width, f.fill, f.align or ">")
end

-- Without a style: repr-like digits, in `precision` significant ones when given.
local function plain_float(x, precision)
  if not precision then return (value.float_repr(math.abs(x))) end
  local digits = float_digits(x, "g", math.max(precision, 1))
  if not find(digits, "[.ein]") then digits = digits .. ".0" end
  return digits
end

local function format_float(st, x, f)
  local style, digits = f.style, nil
  if style == "" then
    digits = plain_float(x, f.precision)
  elseif style == "%" then
    digits = float_digits(x * 100, "f", f.precision or 6, f.alternate) .. "%"
  elseif find(style, "^[eEfFgGn]$") then
    local c = style == "n" and "g" or style:lower()
    digits = float_digits(x, c, f.precision or 6, f.alternate)
    if style:upper() == style then digits = digits:upper() end
  else
    fail("value", "Unknown format code '%s' for object of type 'float'", style)
  end
  if f.grouping then digits = group_digits(digits, f.grouping, 3) end
  local negative = x < 0 or (x == 0 and 1 / x < 0)
  return pad_number(st, negative, f.sign, "", digits, f.width, f.fill, f.align or ">")
end

local INTEGER_STYLE = { [""] = true, d = true, n = true, b = true, o = true, x = true, X = true, c = true }

--- Python's format(v, spec).
local function format_value(st, v, spec)
  if text_of.size(spec) == 0 then return value.str(st, v) end
  local f = parse_spec(spec)
  local k = kind(v)
  if k == "str" then
    if (f.style ~= "" and f.style ~= "s") or f.align == "=" or f.sign ~= "" or f.grouping then
      fail("value", "Invalid format specifier '%s' for object of type 'str'", text(spec))
    end
    if f.precision then v = text_of.char_sub(v, 1, f.precision) end
    return pad_text(st, v, f.width, f.fill, f.align or "<")
  end
  local n = value.number(v)
  if not n then
    if k == "undefined" then value.fail_undefined(v) end
    fail("type", "unsupported format string passed to %s.__format__", value.type_name(v))
  end
  if math.type(n) == "integer" and INTEGER_STYLE[f.style] then return format_integer(st, n, f) end
  return format_float(st, n + 0.0, f)
end

-- The value that a replacement field names: "0", "name", then ".attr" and "[item]".
local function lookup(st, field, args, kwargs, auto, access)
  local first, rest = match(field, "^([^.%[]*)(.*)$")
  local v
  if first == "" or find(first, "^%d+$") then
    local i = first == "" and auto.next or math.tointeger(tonumber(first)) or math.maxinteger - 1
    if first == "" then auto.next = i + 1 end
    v = args[i + 1]
    if v == nil then fail("value", "Replacement index %d out of range for positional args tuple", i) end
  else
    v = kwargs and kwargs[first]
    if v == nil then fail("value", "the format names '%s', which is not given", first) end
  end
  while rest ~= "" do
    work(st, 1)
    local attr, past = match(rest, "^%.([^.%[]+)()")
    if attr then
      v = access.getattr(st, v, attr)
      rest = ssub(rest, past)
    else
      local item, after = match(rest, "^%[([^%]]+)%]()")
      if not item then fail("value", "Invalid field '%s' in a format string", field) end
      v = access.getitem(st, v, math.tointeger(tonumber(item)) or item)
      rest = ssub(rest, after)
    end
  end
  return v
end

-- Replacement fields in `fmt`; `level` counts the nesting of fields in format specs.
local function expand(st, fmt, args, kwargs, auto, access, level)
  if level > 2 then fail("value", "Max string recursion exceeded") end
  local s, parts, pos = text(fmt), {}, 1
  while true do
    local at = find(s, "[{}]", pos)
    if not at then break end
    work(st, 4)
    if at > pos then parts[#parts + 1] = sub(fmt, pos, at - 1) end
    local c = ssub(s, at, at)
    if ssub(s, at + 1, at + 1) == c then
      parts[#parts + 1] = sub(fmt, at, at)
      pos = at + 2
    elseif c == "}" then
      fail("value", "Single '}' encountered in format string")
    else
      local depth, close = 1, at
      while depth > 0 do
        close = find(s, "[{}]", close + 1)
        if not close then fail("value", "expected '}' before end of string") end
        depth = depth + (ssub(s, close, close) == "{" and 1 or -1)
      end
      local field, conversion, spec_at = match(ssub(s, at + 1, close - 1), "^([^!:{}]*)!?([^:{}]?)()")
      local v = lookup(st, field, args, kwargs, auto, access)
      if conversion == "r" or conversion == "a" then v = value.repr(st, v)
      elseif conversion == "s" then v = value.str(st, v)
      elseif conversion ~= "" then fail("value", "Unknown conversion specifier '%s'", conversion) end
      spec_at = at + spec_at
      local spec = trusted ""
      if spec_at < close then
        if ssub(s, spec_at, spec_at) ~= ":" then fail("value", "expected ':' after conversion specifier") end
        spec = expand(st, sub(fmt, spec_at + 1, close - 1), args, kwargs, auto, access, level + 1)
      end
      parts[#parts + 1] = format_value(st, v, spec)
      pos = close + 1
    end
  end
  if pos <= #s then parts[#parts + 1] = sub(fmt, pos, #s) end
  return text_of.join(st, parts, #parts)
end

--- Python's fmt.format(*args, **kwargs); `access` has getattr and getitem.
function M.str_format(st, fmt, args, kwargs, access)
  return expand(st, fmt, args, kwargs, { next = 0 }, access, 1)
end

return M
