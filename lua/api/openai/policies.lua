--- policies.lua: "policy": {"name": ..., parameters} of a request, for the policies that the app allows.
local errors = require "qhost.errors"
local policy = require "qhost.policy"
local M = {}

--- The app's option: app:openai { policies = { qh.policy "...", other_name = qh.policy "..." } }. Raises.
M.registered = policy.registered

--- The policy that a request asks for, or nil. Anything else ends the request with a 400.
---@param body table
---@param registered table<string, qhost.Policy>
---@return qhost.Policy?
function M.read(body, registered)
  local field = body.policy
  if field == nil or type(field) == "userdata" then return nil end
  if type(field) == "string" then field = { name = field } end
  if type(field) ~= "table" then
    errors.abort(400, "invalid_value", { message = "'policy' is neither a name nor an object with a name", param = "policy" })
  end
  local found, message = policy.of_request(field, registered)
  if not found then errors.abort(400, "invalid_value", { message = message, param = "policy" }) end
  return found
end

return M
