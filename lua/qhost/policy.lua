--- policy.lua: sampling policies: modules that choose tokens, run beside the engine in VMs of their own.
---
--- The module is read once for each load of the app. Here, in the app's VM, it is looked at and its check runs
--- when a request is admitted; init, logits and accept run on the policy thread, in a VM for each sequence.
local _, c = ...
local core = require "qhost.core"
local M = {}

---@class qhost.Policy
local Policy = {}
Policy.__index = Policy
Policy.__name = "qhost.Policy"

-- What a module sees as its globals, as in the VM that will run it.
local ALLOWED = { "assert", "error", "ipairs", "next", "pairs", "select", "tonumber", "tostring", "type" }
local LIBS = {
  math = { "abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max",
    "maxinteger", "min", "mininteger", "modf", "pi", "rad", "sin", "sqrt", "tan", "tointeger", "type", "ult" },
  string = { "byte", "char", "format", "len", "lower", "upper", "reverse", "sub" },
  table = { "concat", "insert", "pack", "remove", "sort", "unpack" },
  utf8 = { "char", "codepoint", "codes", "len", "offset" },
}

local function globals()
  local g = {}
  for _, name in ipairs(ALLOWED) do g[name] = _G[name] end
  for lib, names in pairs(LIBS) do
    g[lib] = {}
    for _, name in ipairs(names) do g[lib][name] = _G[lib][name] end
  end
  return setmetatable({}, { __index = g, __newindex = function(_, key)
    error(("there are no global variables: make '%s' local"):format(tostring(key)), 2)
  end })
end

local FIELDS = { name = "string", top = "number", budget_us = "number", check = "function", init = "function",
  logits = "function", accept = "function" }

local function look_at(module, P)
  if type(P) ~= "table" then error(("the policy '%s' returned a %s; a table is expected"):format(module, type(P)), 0) end
  for key, value in pairs(P) do
    local want = FIELDS[key]
    if not want then error(("the policy '%s' has a field '%s'; there are name, top, budget_us, check, init, logits and accept"):format(module, tostring(key)), 0) end
    if type(value) ~= want then error(("the policy '%s': %s is a %s; a %s is expected"):format(module, key, type(value), want), 0) end
  end
  if not P.logits and not P.accept then error(("the policy '%s' has neither logits nor accept"):format(module), 0) end
  local name = P.name or module:match "[^.]+$"
  if not name:find "^[%w_-]+$" or #name > 40 then error(("the policy '%s': its name is no word of at most 40 letters, digits, '_' and '-'"):format(module), 0) end
  for _, key in ipairs { "top", "budget_us" } do
    if P[key] and not math.tointeger(P[key]) then error(("the policy '%s': %s is no whole number"):format(module, key), 0) end
  end
  return name
end

--- A sampling policy: a module of the app's folder, or one of qhost.policies. While an app loads. Yields.
---@param module string  "policies.tired", "policies/tired.lua", "qhost.policies.mirostat"
---@return qhost.Policy
function M.new(module)
  if type(module) ~= "string" then error("qh.policy takes the name of a module", 2) end
  if not c.policy.is_loading() then error(("the policy '%s' must be named while the app loads"):format(module), 2) end
  local path = module:gsub("%.lua$", ""):gsub("/", ".")
  local text, chunk = c.read_module(path)
  local run, message = load(text, chunk, "t", globals())
  if not run then error(message, 0) end
  local P = run()
  local name = look_at(module, P)
  local code, why = c.policy.module(name, chunk, text, math.tointeger(P.top or 64), math.tointeger(P.budget_us or 50))
  if not code then error(why, 0) end
  return setmetatable({ name = name, code = code, check = P.check, params = {} }, Policy)
end

function M.is_policy(v) return getmetatable(v) == Policy end

--- The same policy with parameters of its own: policy = cautious { min_lead = 0.5 }.
Policy.__call = function(self, params)
  if type(params) ~= "table" then error(("the parameters of the policy '%s' are no table"):format(self.name), 2) end
  return setmetatable({ name = self.name, code = self.code, check = self.check, params = params }, Policy)
end

local function copy(v, depth)
  if type(v) ~= "table" or depth > 20 then return v end
  local out = {}
  for key, value in pairs(v) do
    if value ~= core.json.null then out[key] = copy(value, depth + 1) end
  end
  return out
end

--- For a request: the policy bound to its parameters, checked. nil, message, status name: refused.
function M.bind(policy)
  if not M.is_policy(policy) then return nil, "policy was not made by qh.policy", "EINVAL" end
  if policy.check then
    local ok, first, second = pcall(policy.check, copy(policy.params, 0))
    local refused = not ok and first or (not first and second)
    if refused then return nil, ("policy '%s': %s"):format(policy.name, tostring(refused)), "EINVAL" end
  end
  local bound, message, status = c.policy.bind(policy.code, core.json.object(copy(policy.params, 0)))
  if not bound then return nil, ("policy '%s': %s"):format(policy.name, message), status end
  return bound
end

--- What a request body names: { name = ..., parameters }, of those that the app allows. nil, message: refused.
---@param field table
---@param allowed? table<string, qhost.Policy>
function M.of_request(field, allowed)
  local name = field.name
  if type(name) ~= "string" then return nil, "'policy' has no name" end
  local policy = allowed and allowed[name]
  if not policy then
    local names = {}
    for key in pairs(allowed or {}) do names[#names + 1] = key end
    table.sort(names)
    return nil, ("there is no policy '%s'; this server has %s"):format(name, #names > 0 and table.concat(names, ", ") or "none")
  end
  local params = copy(policy.params, 0)
  for key, value in pairs(field) do
    if key ~= "name" then params[key] = value end
  end
  return policy(params)
end

--- The policies that an app registers: a list, or policies by the name that requests use. Raises.
---@return table<string, qhost.Policy>
function M.registered(list)
  local out = {}
  for key, policy in pairs(list or {}) do
    local name = math.type(key) and type(policy) == "table" and policy.name or key
    if not M.is_policy(policy) then error(("policies.%s was not made by qh.policy"):format(tostring(key)), 3) end
    out[name] = policy
  end
  return out
end

return M
