--- limits.lua: what one rendering may cost, and how it fails.
---
--- Two meters run down while a template renders. `steps` counts work: every piece of a loop or
--- macro body when it is entered, list elements touched by a filter, and a share of the bytes a
--- string operation reads. `bytes` counts memory: everything the template makes, released or not,
--- so the sum bounds the peak without asking the collector. Both are charged before the work.
local M = {}

local error, format = error, string.format

---@class qhost.jinja.Limits
---@field steps? integer      units of work (about 0.1 us each)
---@field bytes? integer      bytes of strings and tables a rendering may make, output included
---@field output? integer     bytes of the rendered text
---@field depth? integer      nested macro calls and recursive loops
---@field source? integer     bytes of template source

---@type table<string, integer>
M.DEFAULT = {
  steps = 3000000,
  bytes = 24 * 1024 * 1024,
  output = 8 * 1024 * 1024,
  depth = 100,
  source = 128 * 1024,
}

M.MAX_RANGE = 100000       -- longest range(), as in Python's sandbox
M.MAX_NESTING = 100        -- nested values that are printed, compared or written as JSON

--- Raise a template error; `kind` is one of syntax, undefined, type, value, raise, limit, security.
function M.fail(kind, message, ...)
  if select("#", ...) > 0 then message = format(message, ...) end
  error({ kind = kind, message = message }, 0)
end
local fail = M.fail

--- Charge n units of work.
function M.work(st, n)
  local left = st.steps - n
  st.steps = left
  if left < 0 then fail("limit", "the template takes too many steps (limit %d)", st.max.steps) end
end

--- Charge n bytes of memory.
function M.take(st, n)
  local left = st.bytes - n
  st.bytes = left
  if left < 0 then fail("limit", "the template makes too much data (limit %d bytes)", st.max.bytes) end
end

--- Charge reading n bytes of text a few times over.
function M.read(st, n)
  if n > 64 then
    local left = st.steps - (n >> 4)
    st.steps = left
    if left < 0 then fail("limit", "the template takes too many steps (limit %d)", st.max.steps) end
  end
end

--- Charge a search for m bytes in n bytes: a plain search compares n*m bytes at worst.
function M.search(st, n, m)
  if m > n then return end
  local cost = (n >> 5) + ((n - m + 1) * m >> 10)
  if cost > 0 then M.work(st, cost) end
end

--- Enter one more macro call or recursive loop; pair with `leave`.
function M.enter(st)
  local depth = st.depth + 1
  if depth > st.max.depth then
    fail("limit", "macros or recursive loops nest more than %d deep", st.max.depth)
  end
  st.depth = depth
end

function M.leave(st)
  st.depth = st.depth - 1
end

return M
