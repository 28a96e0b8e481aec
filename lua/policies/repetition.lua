--- repetition.lua: a guard against loops. A token that would complete a run of `length` tokens which the answer
--- already holds is made less likely by `penalty` for each token that the run is longer; and when the last
--- tokens are one pattern `times` times over, the answer ends with the reason "repetition".
---
--- What is remembered is for each run of length-1 tokens which tokens followed it, so a token costs the same
--- however long the answer is.
---     { length = 4, penalty = 2, times = 6, longest = 64 }   longest: tokens of a pattern that is looked for
local P = { name = "repetition", top = 64, budget_us = 100 }
local DEFAULTS = { length = 4, penalty = 2, times = 6, longest = 64 }

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
  local st = { out = {}, n = 0, followers = {}, period = {} }
  for key, value in pairs(DEFAULTS) do st[key] = p[key] or value end
  return st
end

-- The last length-1 tokens as one string; nil: there are not so many.
local function run_before(st)
  local first = st.n - st.length + 2
  if first < 1 then return nil end
  return table.concat(st.out, " ", first, st.n)
end

function P.logits(cand, st)
  local run = run_before(st)
  local seen = run and st.followers[run]
  if not seen then return end
  for i = 1, #seen do cand:bias(seen[i], -st.penalty * seen.n[seen[i]]) end
end

-- period[k]: how many tokens in a row have been what stood k tokens before.
local function count_periods(st, tok)
  local worst = 0
  for k = 1, math.min(st.longest, st.n) do
    local n = st.out[st.n + 1 - k] == tok and (st.period[k] or 0) + 1 or 0
    st.period[k] = n
    if n >= k * (st.times - 1) then worst = k end
  end
  return worst > 0
end

function P.accept(st, tok)
  local run = run_before(st)
  if run then
    local seen = st.followers[run]
    if not seen then seen = { n = {} } st.followers[run] = seen end
    if not seen.n[tok] then seen[#seen + 1] = tok end
    seen.n[tok] = (seen.n[tok] or 0) + 1
  end
  local is_looping = count_periods(st, tok)
  st.n = st.n + 1
  st.out[st.n] = tok
  if is_looping then return "stop", "repetition" end
end

return P
