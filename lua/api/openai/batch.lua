--- batch.lua: the answers to the prompts of one request, as if they were one with more choices.
---
--- Choice c of prompt p of a batch with n choices a prompt is choice (p - 1) * n + c. All are at work
--- at once; they are read one after the other, since an answer that is not read waits in the engine.
local M = {}

---@class qhost.Batch
local Batch = {}
Batch.__index = Batch
Batch.__close = function(b)
  for _, answer in ipairs(b.answers) do answer:cancel() end
end

--- Submit every prompt: what reads the answers, or nil, message, status name.
---@param m qhost.Model
---@param o table   options; `prompts`: lists of ids, nil for one conversation
function M.submit(m, o)
  local self = setmetatable({ answers = {}, at = 1, n = o.n or 1 }, Batch)
  for i = 1, o.prompts and #o.prompts or 1 do
    local one = {}
    for key, value in pairs(o) do one[key] = value end
    one.prompts, one.ids = nil, o.prompts and o.prompts[i]
    local answer, message, status = m:submit(one)
    if not answer then
      Batch.__close(self)
      return nil, o.prompts and #o.prompts > 1 and ("prompt[%d]: %s"):format(i - 1, message) or message, status
    end
    answer.drops_tokens = true
    self.answers[i] = answer
  end
  return self
end

--- As of an answer. Yields.
function Batch:next(seconds)
  while self.answers[self.at] do
    local ev = self.answers[self.at]:next(seconds)
    if ev then ev.choice = ev.choice + (self.at - 1) * self.n end
    if ev ~= nil then return ev end
    self.at = self.at + 1
  end
end

--- As of an answer. Yields.
function Batch:collect(visit)
  local open <close>, results = self, {}
  for p, answer in ipairs(self.answers) do
    local some, message, status = answer:collect(function(ev)
      ev.choice = ev.choice + (p - 1) * self.n
      visit(ev)
      ev.choice = ev.choice - (p - 1) * self.n
    end)
    if not some then return nil, message, status end
    table.move(some, 1, #some, #results + 1, results)
  end
  return results
end

return M
