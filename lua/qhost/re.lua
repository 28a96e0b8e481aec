--- re.lua: regular expressions (PCRE2): qh.re. A pattern that backtracks too much is an error after some
--- milliseconds, never a stuck server.
local core = require "qhost.core"
local M = {}

-- Compiled expressions: the ones used lately are in `young`; when that is full it becomes `old`.
local MAX_YOUNG = 64
local young, old, n_young = {}, {}, 0

local function compiled(pattern, flags)
  if type(pattern) ~= "string" then
    error("qh.re: the pattern is a " .. type(pattern) .. "; a string is expected", 4)
  end
  local key = (flags or "") .. "/" .. pattern
  local re = young[key]
  if re then return re end
  re = old[key]
  if not re then
    local message
    re, message = core.re.compile(pattern, flags or "")
    if not re then error(message, 4) end
  end
  if n_young >= MAX_YOUNG then young, old, n_young = {}, young, 0 end
  young[key], n_young = re, n_young + 1
  return re
end

local function subject(s)
  if type(s) ~= "string" then error("qh.re: the text is a " .. type(s) .. "; a string is expected", 3) end
  return s
end

--- The first match as a table: [0] all of it, [1] and on the groups, named ones by name too; a group that took no
--- part is false. nil when nothing matches.
---@param s string
---@param pattern string
---@param flags? string  any of i m s x a u e
---@param init? integer  where to start; 1
---@return table<integer|string, string|false>?
function M.match(s, pattern, flags, init)
  local _, _, m = core.re.exec(compiled(pattern, flags), subject(s), init or 1)
  return m
end

--- Where the first match is, as string.find has it.
---@return integer? from
---@return integer? to
function M.find(s, pattern, flags, init) return core.re.find(compiled(pattern, flags), subject(s), init or 1) end

--- Whether there is a match.
---@return boolean
function M.test(s, pattern, flags) return core.re.find(compiled(pattern, flags), subject(s), 1) ~= nil end

--- An iterator of from, to, match over all matches.
local function matches(re, s)
  local at, is_not_empty = 1, false
  return function()
    local from, to, m = core.re.exec(re, s, at, is_not_empty)
    if not from then return nil end
    at, is_not_empty = math.max(to + 1, from), to < from
    return from, to, m
  end
end

--- All matches, one after another: for m in qh.re.gmatch(s, "\\w+") do
---@return fun(): table?
function M.gmatch(s, pattern, flags)
  local next_match = matches(compiled(pattern, flags), subject(s))
  return function()
    local _, _, m = next_match()
    return m
  end
end

--- "$1", "${name}", "$0", "$$" in a replacement, as a function of the match.
local function template(text)
  if not text:find("$", 1, true) then return function() return text end end
  local parts, at = {}, 1
  for before, mark, after in text:gmatch "()%$([{$]?[%w_]*}?)()" do
    local name = mark:match "^{([%w_]+)}$" or mark:match "^%d+"
    parts[#parts + 1] = text:sub(at, before - 1)
    if mark:sub(1, 1) == "$" then
      parts[#parts + 1], at = "$", before + 2
    elseif name then
      parts[#parts + 1] = { tonumber(name) or name }
      at = mark:sub(1, 1) == "{" and after or before + 1 + #name
    else
      error(("qh.re.gsub: '$%s' in the replacement is neither $1, ${name} nor $$"):format(mark), 4)
    end
  end
  parts[#parts + 1] = text:sub(at)
  return function(m)
    local out = {}
    for i, part in ipairs(parts) do
      if type(part) == "table" then
        local group = m[part[1]]
        if group == nil then error(("qh.re.gsub: there is no group '%s'"):format(part[1]), 4) end
        out[i] = group or ""
      else
        out[i] = part
      end
    end
    return table.concat(out)
  end
end

local function replacer(repl)
  if type(repl) == "string" then return template(repl) end
  if type(repl) == "function" then return repl end
  if type(repl) == "table" then return function(m) return repl[m[1] or m[0]] end end
  error("qh.re.gsub: the replacement is a " .. type(repl) .. "; a string, a function or a table is expected", 4)
end

--- Replace all matches. A string may hold $0, $1, ${name} and $$; a function gets the match, a table is looked up by
--- the first group or the whole; what these give as nil or false stays as it was.
---@param s string
---@param pattern string
---@param repl string|table|fun(m: table): string|false|nil
---@param flags? string
---@param max? integer  replacements at most
---@return string
---@return integer n  replacements
function M.gsub(s, pattern, repl, flags, max)
  local re, of = compiled(pattern, flags), replacer(repl)
  local out, at, n = {}, 1, 0
  for from, to, m in matches(re, subject(s)) do
    if max and n >= max then break end
    local new = of(m)
    if new and type(new) ~= "string" and type(new) ~= "number" then
      error("qh.re.gsub: the replacement function returned a " .. type(new), 2)
    end
    out[#out + 1] = s:sub(at, from - 1)
    out[#out + 1] = new or m[0]
    at, n = to + 1, n + 1
  end
  if n == 0 then return s, 0 end
  out[#out + 1] = s:sub(at)
  return table.concat(out), n
end

--- The pieces between matches; an empty match splits between two characters.
---@param s string
---@param pattern string
---@param flags? string
---@param max? integer  pieces at most
---@return string[]
function M.split(s, pattern, flags, max)
  local out, at = {}, 1
  for from, to in matches(compiled(pattern, flags), subject(s)) do
    if max and #out + 1 >= max then break end
    if to >= from or (from > 1 and from <= #s) then
      out[#out + 1] = s:sub(at, from - 1)
      at = to + 1
    end
  end
  out[#out + 1] = s:sub(at)
  return out
end

--- A pattern that matches this text and nothing else.
---@param text string
---@return string
function M.escape(text) return (text:gsub("[^%w_\128-\255]", "\\%0")) end

--- Compile for later use by check(s) -> boolean. nil and a message when it is no expression.
function M.compile(pattern, flags)
  local re, message = core.re.compile(pattern, flags or "")
  if not re then return nil, message end
  return function(s) return core.re.find(re, s, 1) ~= nil end
end

return M
