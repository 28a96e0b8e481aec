--- sampler.lua: declarative sampling: a list of steps, checked once, run in C without Lua per token.
---
---     qh.sampler { {"penalties", repetition = 1.1}, {"top_k", 40}, {"min_p", 0.05}, {"temp", 0.7} }
---
--- The engine applies steps in one order: penalties, dry, top_k, typical, top_p, min_p, xtc, temp. A
--- list in another order would mean something else, so it is refused.
local M = {}

---@class qhost.Sampler
local Sampler = {}
Sampler.__index = Sampler
Sampler.__name = "qhost.Sampler"

local function number(lo, hi) return { lo = lo, hi = hi } end
local function integer(lo, hi) return { lo = lo, hi = hi, is_integer = true } end

--- step -> { rank, [1] = field of the value in the list, named fields = { spec field, range } }
local STEPS = {
  penalties = { 1, named = {
    repetition = { "repeat_penalty", number(0.01, 100) }, presence = { "presence_penalty", number(-2, 2) },
    frequency = { "frequency_penalty", number(-2, 2) }, window = { "penalty_window", integer(-1, 1 << 20) } } },
  dry = { 2, named = {
    multiplier = { "dry_multiplier", number(0, 100) }, base = { "dry_base", number(1, 100) },
    allowed_length = { "dry_allowed_length", integer(0, 1 << 20) }, window = { "dry_window", integer(-1, 1 << 20) } } },
  top_k = { 3, value = { "top_k", integer(0, 1 << 20) } },
  typical = { 4, value = { "typical_p", number(0, 1) } },
  top_p = { 5, value = { "top_p", number(0, 1) } },
  min_p = { 6, value = { "min_p", number(0, 1) } },
  xtc = { 7, named = { probability = { "xtc_probability", number(0, 1) }, threshold = { "xtc_threshold", number(0, 1) } } },
  temp = { 8, value = { "temperature", number(0, 100) } },
}

local function check(name, range, value)
  local ok = type(value) == "number" and value >= range.lo and value <= range.hi
    and (not range.is_integer or math.type(value) == "integer")
  if not ok then
    error(("qh.sampler: %s is %s; %s from %g to %g is expected"):format(name, tostring(value),
      range.is_integer and "an integer" or "a number", range.lo, range.hi), 4)
  end
  return value
end

local function add_step(fields, step, name, def)
  for key, value in pairs(step) do
    if key == 2 and def.value then
      fields[def.value[1]] = check(name, def.value[2], value)
    elseif key ~= 1 then
      local named = def.named and def.named[key]
      if not named then error(("qh.sampler: step '%s' has no '%s'"):format(name, tostring(key)), 3) end
      fields[named[1]] = check(name .. "." .. key, named[2], value)
    end
  end
  if def.value and step[2] == nil then error(("qh.sampler: step '%s' has no value"):format(name), 3) end
end

--- Make a sampler out of steps. Greedy is { {"temp", 0} }.
---@param steps table[]
---@return qhost.Sampler
function M.new(steps)
  local fields, rank, last = {}, 0, nil
  for _, step in ipairs(steps) do
    local name = step[1]
    local def = STEPS[name]
    if not def then error(("qh.sampler: unknown step '%s'"):format(tostring(name)), 2) end
    if def[1] == rank then error(("qh.sampler: step '%s' stands twice"):format(name), 2) end
    if def[1] < rank then error(("qh.sampler: '%s' runs before '%s'; list it first"):format(name, last), 2) end
    rank, last = def[1], name
    add_step(fields, step, name, def)
  end
  return setmetatable({ fields = fields }, Sampler)
end

function M.is_sampler(v) return getmetatable(v) == Sampler end

return M
