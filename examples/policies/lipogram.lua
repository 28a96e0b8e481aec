--- lipogram.lua: text without a letter: of the best tokens only those stay that do not have it.
---     { letter = "e" }
local P = { name = "lipogram", top = 256, budget_us = 400 }

function P.check(p)
  assert(type(p.letter) == "string" and #p.letter == 1 and p.letter:lower() ~= p.letter:upper(),
    "letter must be one letter from a to z")
end

function P.init(_, p) return { small = p.letter:lower():byte(), large = p.letter:upper():byte() } end

local function has_letter(text, st)
  for i = 1, #text do
    local byte = text:byte(i)
    if byte == st.small or byte == st.large then return true end
  end
  return false
end

function P.logits(cand, st)
  local without = {}
  for i = 1, P.top do
    local text = cand:text(i)
    if not text then break end
    if not has_letter(text, st) then without[#without + 1] = cand:id(i) end
  end
  if #without > 0 then cand:keep(without) end
end

return P
