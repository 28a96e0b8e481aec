--- usage.lua: tokens of a request in the shape of the API. Choices share their prompt; prompts add up.
local core = require "qhost.core"
local object = core.json.object
local M = {}

---@class qhost.UsageSum
local Sum = {}
Sum.__index = Sum

--- n: choices a prompt.
---@param n? integer
function M.new(n) return setmetatable({ n = n or 1, prompt = 0, cached = 0, completion = 0 }, Sum) end

--- Add the usage of a choice, counted from 1.
function Sum:add(choice, u)
  if (choice - 1) % self.n == 0 then
    self.prompt, self.cached = self.prompt + u.prompt, self.cached + u.cached
  end
  self.completion = self.completion + u.completion
end

--- As JSON.
function Sum:json()
  return object({ prompt_tokens = self.prompt, completion_tokens = self.completion,
    total_tokens = self.prompt + self.completion,
    prompt_tokens_details = object({ cached_tokens = self.cached }, { "cached_tokens" }) },
    { "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details" })
end

return M
