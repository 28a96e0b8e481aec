--- router.lua: finds the route of a path. "/a/:name/b" matches one segment, "/a/*rest" the rest.
---
--- A path is matched segment by segment, a literal before a parameter before a rest, so the order
--- of registration does not matter; two routes that match the same paths are refused.
local url = require "qhost.url"
local M = {}

---@class qhost.Router
local Router = {}
Router.__index = Router

function M.new() return setmetatable({ root = {} }, Router) end

local function segments(path)
  local out = {}
  for s in path:gmatch "/([^/]*)" do out[#out + 1] = s end
  return out
end

local function check_pattern(path)
  if type(path) ~= "string" or path:sub(1, 1) ~= "/" then
    error(("route path %q does not start with '/'"):format(tostring(path)), 4)
  end
  if path:find "[?#%s]" then error(("route path %q holds '?', '#' or a space"):format(path), 4) end
end

--- Add a route; method "*" stands for all.
function Router:add(method, path, route)
  check_pattern(path)
  local node, names = self.root, {}
  for _, s in ipairs(segments(path)) do
    if node.is_rest then error(("route path %q goes on after '*'"):format(path), 3) end
    local mark, name = s:match "^([:*])([%w_]+)$"
    if s:find "^[:*]" and not mark then error(("route path %q: '%s' is no parameter name"):format(path, s), 3) end
    local key = mark or "=" .. s
    node[key] = node[key] or { is_rest = mark == "*" }
    node = node[key]
    names[#names + 1] = name
  end
  node.routes = node.routes or {}
  if node.routes[method] then error(("two routes for %s %s"):format(method, path), 3) end
  node.routes[method] = { route = route, names = names }
end

local function match(node, list, i, values)
  if i > #list then return node.routes and node end
  local literal = node["=" .. list[i]]
  local found = literal and match(literal, list, i + 1, values)
  if found then return found end
  if node[":"] and list[i] ~= "" then
    values[#values + 1] = list[i]
    found = match(node[":"], list, i + 1, values)
    if found then return found end
    values[#values] = nil
  end
  if node["*"] and node["*"].routes then
    values[#values + 1] = table.concat(list, "/", i)
    return node["*"]
  end
end

local function allowed(routes)
  local list = {}
  for method in pairs(routes) do list[#list + 1] = method end
  if routes.GET and not routes.HEAD then list[#list + 1] = "HEAD" end
  table.sort(list)
  return table.concat(list, ", ")
end

--- The route of a request: route, params; or nil, allowed methods when only the method is wrong.
function Router:find(method, path)
  local values = {}
  local node = match(self.root, segments(path), 1, values)
  if not node then return nil end
  local entry = node.routes[method] or (method == "HEAD" and node.routes.GET) or node.routes["*"]
  if not entry then return nil, allowed(node.routes) end
  local params = {}
  for i, name in ipairs(entry.names) do params[name] = url.decode(values[i]) end
  return entry.route, params
end

return M
