--- entropy.lua: a temperature that follows the entropy of each token (Zhang, Bao, Huang: "EDT: Improving Large
--- Language Models' Generation by Entropy-based Dynamic Temperature Sampling", 2024, arXiv:2403.14541).
---
---     T = t0 * base ^ (theta / H)
---
--- with H the entropy of the candidates in nats. Where the model is sure (H small) T falls towards 0, where many
--- tokens would do it rises towards t0.
---     { t0 = 1.0, theta = 0.7, base = 0.8 }
local P = { name = "entropy", top = 256, budget_us = 80 }
local DEFAULTS = { t0 = 1.0, theta = 0.7, base = 0.8 }

function P.check(p)
  for key, value in pairs(p) do
    assert(DEFAULTS[key], ("there is no '%s'"):format(key))
    assert(type(value) == "number" and value > 0 and value <= 100, ("%s must be a number above 0, up to 100"):format(key))
  end
  assert((p.base or 0.8) < 1, "base must be under 1")
end

function P.init(_, p)
  return { t0 = p.t0 or DEFAULTS.t0, theta = p.theta or DEFAULTS.theta, base = p.base or DEFAULTS.base }
end

function P.logits(cand, st)
  local h = cand:entropy()
  cand:temperature(h > 0 and st.t0 * st.base ^ (st.theta / h) or 0)
end

return P
