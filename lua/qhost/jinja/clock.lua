--- clock.lua: dates as strftime writes them (C locale), from seconds since 1970.
---
--- Pure arithmetic: a template must see the time that the host gives it and nothing else.
local M = {}

local DAYS = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" }
local MONTHS = { "January", "February", "March", "April", "May", "June", "July", "August",
  "September", "October", "November", "December" }

--- Calendar fields of a time; weekday counts from Sunday = 0, yday from 1.
function M.fields(seconds)
  local whole = math.floor(seconds)
  local days, rest = whole // 86400, whole % 86400
  -- Civil date from a day count, in years that begin on 1 March.
  local z = days + 719468
  local era, day_of_era = z // 146097, z % 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local shifted = (5 * day_of_year + 2) // 153
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  local is_leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  local before = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 }
  local day = day_of_year - (153 * shifted + 2) // 5 + 1
  return {
    year = year, month = month, day = day, hour = rest // 3600, min = rest % 3600 // 60, sec = rest % 60,
    weekday = (days + 4) % 7, yday = before[month] + day + (month > 2 and is_leap and 1 or 0),
    micros = math.floor((seconds - whole) * 1000000), epoch = whole,
  }
end

local FIELD = {
  Y = function(t) return ("%d"):format(t.year) end,
  y = function(t) return ("%02d"):format(t.year % 100) end,
  C = function(t) return ("%02d"):format(t.year // 100) end,
  m = function(t) return ("%02d"):format(t.month) end,
  d = function(t) return ("%02d"):format(t.day) end,
  e = function(t) return ("%2d"):format(t.day) end,
  H = function(t) return ("%02d"):format(t.hour) end,
  I = function(t) return ("%02d"):format((t.hour + 11) % 12 + 1) end,
  k = function(t) return ("%2d"):format(t.hour) end,
  l = function(t) return ("%2d"):format((t.hour + 11) % 12 + 1) end,
  M = function(t) return ("%02d"):format(t.min) end,
  S = function(t) return ("%02d"):format(t.sec) end,
  f = function(t) return ("%06d"):format(t.micros) end,
  j = function(t) return ("%03d"):format(t.yday) end,
  p = function(t) return t.hour < 12 and "AM" or "PM" end,
  P = function(t) return t.hour < 12 and "am" or "pm" end,
  A = function(t) return DAYS[t.weekday + 1] end,
  a = function(t) return DAYS[t.weekday + 1]:sub(1, 3) end,
  B = function(t) return MONTHS[t.month] end,
  b = function(t) return MONTHS[t.month]:sub(1, 3) end,
  u = function(t) return ("%d"):format((t.weekday + 6) % 7 + 1) end,
  w = function(t) return ("%d"):format(t.weekday) end,
  U = function(t) return ("%02d"):format((t.yday + 6 - t.weekday) // 7) end,
  W = function(t) return ("%02d"):format((t.yday + 6 - (t.weekday + 6) % 7) // 7) end,
  s = function(t) return ("%d"):format(t.epoch) end,
  Z = function() return "" end,             -- the host's time carries no zone
  z = function() return "" end,
  n = function() return "\n" end,
  t = function() return "\t" end,
}
FIELD.h = FIELD.b
local COMPOSED = {
  D = "%m/%d/%y", F = "%Y-%m-%d", T = "%H:%M:%S", R = "%H:%M", r = "%I:%M:%S %p",
  c = "%a %b %e %H:%M:%S %Y", x = "%m/%d/%y", X = "%H:%M:%S",
}

--- strftime(format) of a time; "%-d" leaves out leading zeros and blanks, as glibc does.
function M.strftime(format, seconds)
  local t = M.fields(seconds)
  format = format:gsub("%%([DFTRrcxX])", COMPOSED)
  return (format:gsub("%%(%-?)([%a%%])", function(dash, c)
    if c == "%" then return "%" end
    local field = FIELD[c]
    if not field then return nil end
    local s = field(t)
    if dash == "-" then s = s:gsub("^[0 ]+(.)", "%1") end
    return s
  end))
end

return M
