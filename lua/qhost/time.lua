--- time.lua: points in time as seconds since 1970 with a fraction, and as text (RFC 3339): qh.time.
local core = require "qhost.core"
local M = {}

--- Days since 1970-01-01 of a date in the Gregorian calendar. Years begin in March, so that the leap day is the last.
local function days_of(y, m, d)
  if m <= 2 then y = y - 1 end
  local month = (m + 9) % 12
  return 365 * y + y // 4 - y // 100 + y // 400 + (153 * month + 2) // 5 + d - 1 - 719468
end

local function date_of(days)
  local z = days + 719468
  local era = z // 146097
  local doe = z - era * 146097
  local yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
  local doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
  local mp = (5 * doy + 2) // 153
  local m = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (m <= 2 and 1 or 0), m, doy - (153 * mp + 2) // 5 + 1
end

local MIN, MAX = days_of(0, 1, 1) * 86400, days_of(9999, 12, 31) * 86400 + 86399

--- The time now, in seconds since 1970.
---@return number
function M.now() return core.wall() end

--- Seconds of a clock that never jumps: for durations.
---@return number
function M.monotonic() return core.clock() end

local function seconds_of(t, what)
  if t == nil then t = core.wall() end
  if type(t) ~= "number" or t - t ~= 0 or t < MIN or t > MAX + 1 then
    error(("qh.time.%s: a time from the year 0 to 9999 is expected, not %s"):format(what, tostring(t)), 3)
  end
  return t
end

--- A time as text in UTC: "2024-02-29T10:00:00Z"; with digits, of the second's fraction (cut, not rounded).
---@param t? number  default now
---@param digits? integer  0..6; default 0
---@return string
function M.iso(t, digits)
  t, digits = seconds_of(t, "iso"), digits or 0
  local us = math.floor(t * 1e6 + 0.5)                     -- as near as a float of today is
  local whole = us // 1000000
  local y, m, d = date_of(whole // 86400)
  local s = whole % 86400
  local fraction = ""
  if digits > 0 then fraction = "." .. ("%06d"):format(us % 1000000):sub(1, digits) end
  return ("%04d-%02d-%02dT%02d:%02d:%02d%sZ"):format(y, m, d, s // 3600, s // 60 % 60, s % 60, fraction)
end

--- A time in UTC in the form that os.date knows: qh.time.format "%H:%M".
---@param form string
---@param t? number  default now
---@return string
function M.format(form, t) return (os.date("!" .. form, math.floor(seconds_of(t, "format")))) end

local MONTH_DAYS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

local function is_date(y, m, d)
  if m < 1 or m > 12 or d < 1 then return false end
  local is_leap = y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0)
  return d <= (m == 2 and is_leap and 29 or MONTH_DAYS[m])
end

--- Seconds east of Greenwich of "Z" or "+02:00".
local function offset_of(zone)
  if zone == "Z" or zone == "z" then return 0 end
  local sign, h, m = zone:match "^([+-])(%d%d):(%d%d)$"
  h, m = tonumber(h), tonumber(m)
  if not h or h > 23 or m > 59 then return nil end
  return (sign == "-" and -1 or 1) * (h * 3600 + m * 60)
end

--- The time of a text as RFC 3339 has it: "2024-02-29T10:00:00.5+02:00", or a date alone (its midnight in UTC). nil and
--- a message for anything else. A leap second counts as the second after it.
---@param text string
---@return number? seconds
---@return string? message
function M.parse(text)
  local function no(why) return nil, ("%q is no time as RFC 3339 has it: %s"):format(tostring(text):sub(1, 60), why) end
  if type(text) ~= "string" then return no "a text is expected" end
  local y, m, d, rest = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$"
  y, m, d = math.tointeger(tonumber(y)), math.tointeger(tonumber(m)), math.tointeger(tonumber(d))
  if not y then return no "it begins with year-month-day" end
  if not is_date(y, m, d) then return no "there is no such day" end
  local seconds = days_of(y, m, d) * 86400
  if rest == "" then return seconds end
  local H, M_, S, fraction, zone = rest:match "^[Tt ](%d%d):(%d%d):(%d%d)(%.?%d*)(.*)$"
  H, M_, S = math.tointeger(tonumber(H)), math.tointeger(tonumber(M_)), math.tointeger(tonumber(S))
  if not H or fraction == "." or (fraction ~= "" and fraction:sub(1, 1) ~= ".") then
    return no "T and hours:minutes:seconds follow the date"
  end
  if H > 23 or M_ > 59 or S > 60 then return no "there is no such time of day" end
  local offset = offset_of(zone)
  if not offset then return no "it ends with Z or an offset such as +02:00" end
  seconds = seconds + H * 3600 + M_ * 60 + S - offset
  if fraction ~= "" then return seconds + tonumber("0" .. fraction) end
  return seconds
end

return M
