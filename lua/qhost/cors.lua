--- cors.lua: which pages of other origins may call an app (Fetch standard, "CORS protocol").
local M = {}

local METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

local function list_text(what, value)
  if type(value) == "table" then value = table.concat(value, ", ") end
  if type(value) ~= "string" or value:find "[%c]" then error(("cors.%s is a list of names"):format(what), 4) end
  return value
end

--- Read the option of qh.app; raises, blaming the app.
---@param opts? { origins: string[]|"*", headers?: string[], expose?: string[], credentials?: boolean, max_age?: integer }
function M.new(opts)
  if opts == nil then return nil end
  if type(opts) ~= "table" then error("cors is a table { origins = {...} }", 3) end
  local known = { origins = true, headers = true, expose = true, credentials = true, max_age = true }
  for name in pairs(opts) do
    if not known[name] then error(("cors has no option '%s'"):format(tostring(name)), 3) end
  end
  local origins = opts.origins
  if origins ~= "*" and (type(origins) ~= "table" or #origins == 0) then
    error("cors.origins is \"*\" or a list of origins such as \"https://example.org\"", 3)
  end
  if origins == "*" and opts.credentials then error("cors: credentials need a list of origins, not \"*\"", 3) end
  local cors = { any = origins == "*", origins = {}, credentials = opts.credentials,
    headers = opts.headers and list_text("headers", opts.headers),
    expose = opts.expose and list_text("expose", opts.expose), max_age = opts.max_age or 600 }
  if math.type(cors.max_age) ~= "integer" then error("cors.max_age is a number of seconds", 3) end
  for _, origin in ipairs(origins == "*" and {} or origins) do cors.origins[list_text("origins", origin)] = true end
  return cors
end

--- Add what an allowed origin gets with every reply. Returns whether the request came from one.
function M.allow(cors, x)
  local origin = x:header "origin"
  if not cors.any then x:add_field("vary", "Origin") end
  if not origin or not (cors.any or cors.origins[origin]) then return false end
  x:add_field("access-control-allow-origin", cors.any and "*" or origin)
  if cors.credentials then x:add_field("access-control-allow-credentials", "true") end
  if cors.expose then x:add_field("access-control-expose-headers", cors.expose) end
  return true
end

--- Whether the browser asks before the request itself. Such a request carries no keys.
function M.is_preflight(x)
  return x:method() == "OPTIONS" and x:header "access-control-request-method" ~= nil
end

--- Add what the answer to an allowed preflight says.
function M.permit(cors, x)
  x:add_field("access-control-allow-methods", METHODS)
  local wanted = cors.headers or x:header "access-control-request-headers"
  if wanted then x:add_field("access-control-allow-headers", wanted) end
  x:add_field("access-control-max-age", tostring(cors.max_age))
end

return M
