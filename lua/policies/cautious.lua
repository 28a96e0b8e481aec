--- cautious.lua: draw coldly where the model is sure, warmly where it is not, and stop when it has lost the
--- thread.
---
--- Sure is who leads: when the best token is more than min_lead ahead of the second, the temperature is
--- `cold`, else `warm`. After `patience` tokens in a row whose own chance was below `low` the answer ends
--- with the reason "low_confidence".
---     { min_lead = 0.35, cold = 0.3, warm = 0.9, min_p = 0.05, low = 0.2, patience = 12 }
local P = { name = "cautious", top = 128, budget_us = 50 }
local DEFAULTS = { min_lead = 0.35, cold = 0.3, warm = 0.9, min_p = 0.05, low = 0.2, patience = 12 }

function P.check(p)
  for key, value in pairs(p) do
    assert(DEFAULTS[key], ("there is no '%s'"):format(key))
    assert(type(value) == "number" and value >= 0, ("%s must be a number of at least 0"):format(key))
  end
  assert(not p.min_lead or p.min_lead < 1, "min_lead must be under 1")
  assert(not p.min_p or p.min_p < 1, "min_p must be under 1")
  assert(not p.patience or p.patience >= 1, "patience must be at least 1")
end

function P.init(_, p)
  local st = { n_low = 0 }
  for key, value in pairs(DEFAULTS) do st[key] = p[key] or value end
  return st
end

function P.logits(cand, st)
  cand:min_p(st.min_p)
  cand:temperature(cand:prob(1) - cand:prob(2) > st.min_lead and st.cold or st.warm)
end

function P.accept(st, _, row)
  st.n_low = row.prob < st.low and st.n_low + 1 or 0
  if st.n_low >= st.patience then return "stop", "low_confidence" end
end

return P
