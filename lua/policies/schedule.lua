--- schedule.lua: a temperature that moves in a straight line, from `from` at the first token to `to` at token
--- `over`, and stays there. Lively openings and sober ends, or the other way round.
---     { from = 1.2, to = 0.4, over = 100 }
local P = { name = "schedule", top = 64, budget_us = 50 }
local DEFAULTS = { from = 1.2, to = 0.4, over = 100 }

function P.check(p)
  for key, value in pairs(p) do
    assert(DEFAULTS[key], ("there is no '%s'"):format(key))
    assert(type(value) == "number" and value >= 0 and value <= 100000, ("%s must be a number of at least 0"):format(key))
  end
  assert((p.from or 0) <= 100 and (p.to or 0) <= 100, "temperatures go up to 100")
  assert((p.over or 1) >= 1, "over must be at least 1")
end

function P.init(_, p)
  return { from = p.from or DEFAULTS.from, to = p.to or DEFAULTS.to, over = p.over or DEFAULTS.over }
end

function P.logits(cand, st, row)
  local done = math.min(row.n_out / st.over, 1)
  cand:temperature(st.from + (st.to - st.from) * done)
end

return P
