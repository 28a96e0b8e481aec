--- repetition.lua: a guard against loops. A token that would complete a run of `length` tokens which the answer
--- already holds is made less likely by `penalty` for each time that it did; and when the last tokens are one
--- pattern `times` times over, the answer ends with the reason "repetition".
---
--- Of each run of length-1 tokens the token that followed it last is remembered, under a hash of the run, for
--- the last 2000 to 4000 runs; so a token costs the same however long the answer is.
---     { length = 4, penalty = 2, times = 6, longest = 64 }   longest: tokens of a pattern that is looked for
local P = { name = "repetition", top = 64, budget_us = 100 }
local DEFAULTS = { length = 4, penalty = 2, times = 6, longest = 64 }
local REMEMBERED = 2000

function P.check(p)
  for key, value in pairs(p) do
    assert(DEFAULTS[key], ("there is no '%s'"):format(key))
    assert(type(value) == "number" and value >= 0 and value <= 1000, ("%s must be a number from 0 to 1000"):format(key))
    assert(key == "penalty" or math.tointeger(value), ("%s must be a whole number"):format(key))
  end
  assert((p.length or 4) >= 2, "length must be at least 2")
  assert((p.times or 6) >= 2, "times must be at least 2")
  assert((p.longest or 64) >= 1, "longest must be at least 1")
end

function P.init(_, p)
  local st = { n = 0, ring = {}, now = {}, before = {}, n_now = 0, period = {} }
  for key, value in pairs(DEFAULTS) do st[key] = p[key] or value end
  st.size = st.longest + st.length
  return st
end

-- The k-th token from the end; 0: the last.
local function back(st, k) return st.ring[(st.n - k) % st.size] end

-- The last length-1 tokens as one number; nil: there are not so many.
local function run_before(st)
  if st.n < st.length - 1 then return nil end
  local h = 0
  for k = 0, st.length - 2 do
    h = (h ~ (back(st, k) + 1)) * 0x9E3779B97F4A7C15
    h = h ~ (h >> 29)
  end
  return h
end

-- follower << 16 | how often
function P.logits(cand, st)
  local run = run_before(st)
  local seen = run and (st.now[run] or st.before[run])
  if seen then cand:bias(seen >> 16, -st.penalty * (seen & 0xffff)) end
end

local function remember(st, run, tok)
  local seen = st.now[run] or st.before[run]
  local n = seen and seen >> 16 == tok and math.min((seen & 0xffff) + 1, 0xffff) or 1
  if not st.now[run] then st.n_now = st.n_now + 1 end
  st.now[run] = tok << 16 | n
  if st.n_now >= REMEMBERED then st.before, st.now, st.n_now = st.now, {}, 0 end
end

-- period[k]: how many tokens in a row have been what stood k tokens before.
local function is_looping(st, tok)
  local yes = false
  for k = 1, math.min(st.longest, st.n) do
    local n = back(st, k - 1) == tok and (st.period[k] or 0) + 1 or 0
    st.period[k] = n
    yes = yes or n >= k * (st.times - 1)
  end
  return yes
end

function P.accept(st, tok)
  local run = run_before(st)
  if run then remember(st, run, tok) end
  local ends = is_looping(st, tok)
  st.n = st.n + 1
  st.ring[st.n % st.size] = tok
  if ends then return "stop", "repetition" end
end

return P
