--- request.lua: what a handler sees of the request.
local core = require "qhost.core"
local errors = require "qhost.errors"
local schema = require "qhost.schema"
local url = require "qhost.url"

---@class qhost.Request
---@field method string
---@field path string  decoded
---@field params table<string, string>  from the route's pattern
---@field query table<string, string>  decoded; the last value of a repeated name
---@field headers table<string, string>  names in lower case; repeated ones joined by ", "
---@field id string  also the X-Request-Id of the reply
---@field peer string
---@field user any  for middlewares to set
local Request = {}

local LAZY = {}
function LAZY.query(req) return url.decode_query(req.x:query() or "") end
function LAZY.headers(req)
  local all = {}
  for _, field in ipairs(req.x:headers()) do
    local name = field[1]:lower()
    all[name] = all[name] and all[name] .. ", " .. field[2] or field[2]
  end
  return all
end

local META = {
  __index = function(req, key)
    local lazy = LAZY[key]
    if lazy then
      local value = lazy(req)
      rawset(req, key, value)
      return value
    end
    return Request[key]
  end,
  __name = "qhost.Request",
}

local M = {}

--- x: the exchange; params: from the route.
function M.new(x, path, params)
  return setmetatable({ x = x, method = x:method(), path = path, params = params, id = x:id(), peer = x:peer(),
    tags = {} }, META)
end

--- The body as text. Yields.
---@return string
function Request:text()
  if not self.body then self.body = self.x:body(self.max_body) end
  return self.body
end

local CODES = { missing = "missing_required_parameter", type = "invalid_type", value = "invalid_value",
  unknown = "unknown_parameter" }

local function fitting(value, node)
  local checked, e = schema.check(node, value)
  if not e then return checked end
  local param = e.path ~= "" and e.path or nil
  errors.abort(400, CODES[e.code], { message = ("%s: %s"):format(param or "the request body", e.message), param = param })
end

--- The body as JSON; anything else ends the request with a 400, more than can be decoded in 25 ms with a
--- 413. With a schema: a body that does not fit ends the request with a 400 that names the place. Yields.
---@param node? qhost.Schema
---@return any
function Request:json(node)
  local text = self:text()
  local value, message, status = core.json.decode(text)
  if value == nil then
    if status == "ELIMIT" then errors.abort(413, "body_too_complex", { message = "the request body: " .. message }) end
    errors.abort(400, "invalid_json", { message = "the request body is not valid JSON: " .. tostring(message) })
  end
  if node then return fitting(value, node) end
  return value
end

--- The token of "Authorization: Bearer TOKEN", or nil.
---@return string?
function Request:bearer()
  local value = self.x:header "authorization"
  return value and value:match "^[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+)$"
end

--- Call fn() when the client leaves before it has its reply. It runs in a background task, since the
--- request's own is cancelled then, and may wait.
---@param fn fun()
function Request:on_abort(fn) self.x:on_abort(fn) end

--- Add key=value to the access-log line of this request.
function Request:tag(key, value)
  self.tags[key] = value
  self.x:tag(key, tostring(value))
end

return M
