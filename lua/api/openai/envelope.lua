--- envelope.lua: what every object of a reply has around its choices.
local core = require "qhost.core"
local object, array, null = core.json.object, core.json.array, core.json.null
local M = {}

-- A policy that failed is named though the API has no word for it: its answer must not look complete.
local FINISH = { stop = "stop", length = "length", tool_calls = "tool_calls", policy_error = "policy_error",
  policy_timeout = "policy_timeout" }
local LIMITS = { max_tokens = "length", context_length = "length" }      -- of agents

--- A finish reason in the words of the API; "stop" for those that it does not know.
function M.finish(reason) return reason and (FINISH[reason] or LIMITS[reason] or "stop") or null end

--- Has the API a word for that reason?
function M.knows(reason) return FINISH[reason] ~= nil end

-- FNV-1a: equal seeds give equal texts as long as this stays the same.
local function fingerprint(m)
  local meta, h = m and m.meta or {}, 0xcbf29ce484222325
  for _, key in ipairs { "path", "arch", "n_ctx", "n_vocab" } do
    local s = tostring(meta[key]) .. "|"
    for i = 1, #s do h = (h ~ s:byte(i)) * 0x100000001b3 end
  end
  return ("fp_%010x"):format(h >> 24)
end

---@class qhost.Envelope
local Envelope = {}
Envelope.__index = Envelope

--- prefix: of the id; name: the model as the client called it.
function M.new(prefix, name, m)
  return setmetatable({ id = ("%s-%016x%08x"):format(prefix, core.random(), core.random() & 0xffffffff), name = name,
    created = math.floor(core.wall()), fingerprint = fingerprint(m) }, Envelope)
end

local KEYS = { "id", "object", "created", "model", "system_fingerprint", "choices", "usage" }

--- An object of that kind with these choices; choices and usage may be nil.
function Envelope:wrap(kind, choices, usage)
  return object({ id = self.id, object = kind, created = self.created, model = self.name,
    system_fingerprint = self.fingerprint, choices = choices and array(choices), usage = usage }, KEYS)
end

-- The text of an object up to the value of one more field.
local function cut(value, key)
  local text = core.json.encode(value)
  return ("%s,%s:"):format(text:sub(1, -2), core.json.encode(key))
end

--- A whole reply as pieces of its text, for it may be large: choices are lists of pieces.
function Envelope:pieces(kind, choices, usage)
  local pieces = { cut(self:wrap(kind), "choices"), "[" }
  for i, choice in ipairs(choices) do
    if i > 1 then pieces[#pieces + 1] = "," end
    table.move(choice, 1, #choice, #pieces + 1, pieces)
  end
  pieces[#pieces + 1] = ("],\"usage\":%s}"):format(core.json.encode(usage))
  return pieces
end

--- A choice as pieces: what stands before its logprobs, those (pieces, or nil), its finish reason.
function M.choice_pieces(head, probs, finish)
  local pieces = { cut(head, "logprobs") }
  table.move(probs or { "null" }, 1, probs and #probs or 1, 2, pieces)
  pieces[#pieces + 1] = (",\"finish_reason\":%s}"):format(core.json.encode(M.finish(finish)))
  return pieces
end

return M
