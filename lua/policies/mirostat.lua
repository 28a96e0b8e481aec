--- mirostat.lua: Mirostat 2.0, which keeps the surprise of the text near a target (Basu, Ramachandran,
--- Keskar, Varshney: "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", ICLR 2021,
--- arXiv:2007.14966).
---
--- Tokens whose surprise -log2 p is above mu are dropped; from the surprise of the token that was drawn, mu is
--- moved by eta times its distance from tau. mu begins at 2 tau.
---     { tau = 5, eta = 0.1 }
local P = { name = "mirostat", top = 256, budget_us = 80 }

function P.check(p)
  for key in pairs(p) do assert(key == "tau" or key == "eta", ("there is no '%s'"):format(key)) end
  assert(p.tau == nil or (type(p.tau) == "number" and p.tau > 0 and p.tau <= 30), "tau must be a number above 0, up to 30")
  assert(p.eta == nil or (type(p.eta) == "number" and p.eta > 0 and p.eta <= 1), "eta must be a number above 0, up to 1")
end

function P.init(_, p)
  local tau = p.tau or 5
  return { tau = tau, eta = p.eta or 0.1, mu = 2 * tau }
end

function P.logits(cand, st)
  local least = 2 ^ -st.mu / cand:prob(1)       -- as a share of the best; that one always stays
  cand:min_p(math.min(least, 1))
end

function P.accept(st, _, row)
  local surprise = -math.log(row.prob, 2)
  st.mu = st.mu - st.eta * (surprise - st.tau)
end

return P
