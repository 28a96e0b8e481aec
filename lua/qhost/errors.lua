--- errors.lua: how a request fails: abort objects, and what they look like on the wire.
---
--- The shape is that of the OpenAI API, for every route, so that SDKs show the message:
---     {"error": {"message": ..., "type": ..., "param": null, "code": ...}}
local core = require "qhost.core"
local M = {}

local Abort = {}
Abort.__index = Abort
Abort.__name = "qhost.Abort"
Abort.__tostring = function(e) return ("%d %s: %s"):format(e.status, e.code, e.message) end

local TYPE_OF_STATUS = {
  [400] = "invalid_request_error", [401] = "authentication_error", [403] = "permission_error",
  [404] = "not_found_error", [405] = "invalid_request_error", [413] = "invalid_request_error",
  [429] = "rate_limit_error", [503] = "overloaded_error",
}

--- What a status of the engine means over HTTP: { status, code, retry }.
local HTTP_OF_ENGINE = {
  EINVAL = { 400, "invalid_value" }, EUNSUPPORTED = { 400, "unsupported" },
  ECONTEXT = { 400, "context_length_exceeded" }, ELIMIT = { 400, "limit_exceeded" },
  AGAIN = { 429, "queue_full", 1 }, ENOMEM = { 503, "out_of_memory", 1 }, ETIMEDOUT = { 504, "timeout" },
  ECLOSED = { 503, "shutting_down", 1 }, EDEVICE = { 503, "device_failed" },
  EIO = { 502, "upstream_unreachable" }, EACCES = { 500, "fetch_refused" },
}

--- End the request with this HTTP status. Never returns.
---@param status integer  400..599
---@param code string  stable word such as "invalid_api_key"
---@param opts? {message?: string, type?: string, param?: string, retry_after?: number, headers?: table<string, string>}
function M.abort(status, code, opts)
  opts = opts or {}
  if math.type(status) ~= "integer" or status < 400 or status > 599 then
    error("qh.abort: status must be an integer from 400 to 599", 2)
  end
  error(setmetatable({
    status = status, code = code, message = opts.message or code, type = opts.type or TYPE_OF_STATUS[status]
      or (status < 500 and "invalid_request_error" or "server_error"),
    public = opts.public, param = opts.param, retry_after = opts.retry_after, headers = opts.headers,
  }, Abort), 0)
end

--- Abort with what the engine said when it refused or failed. param: the field of the request that it is about.
function M.abort_engine(message, status_name, param)
  local http = HTTP_OF_ENGINE[status_name] or { 500, "engine_error" }
  local is_elsewhere = status_name == "EIO" or status_name == "EACCES"
  M.abort(http[1], http[2], { message = message, retry_after = http[3], param = param,
    public = is_elsewhere and "a service behind this one failed: " .. http[2] or nil })
end

function M.is_abort(e) return getmetatable(e) == Abort end

--- The JSON body of an abort.
function M.body(e)
  return core.json.encode(core.json.object({
    error = core.json.object({ message = not core.is_dev and e.public or e.message, type = e.type, param = e.param or core.json.null,
      code = e.code }, { "message", "type", "param", "code" }),
  }, { "error" }))
end

--- The headers of an abort: SDKs retry 5xx and 429 unless told not to.
function M.headers(e)
  local h = { { "content-type", "application/json" } }
  local retry = e.retry_after ~= nil
  if retry then h[#h + 1] = { "retry-after", ("%d"):format(math.ceil(e.retry_after)) } end
  if retry or e.status >= 500 then h[#h + 1] = { "x-should-retry", retry and "true" or "false" } end
  for name, value in pairs(e.headers or {}) do h[#h + 1] = { name, value } end
  return h
end

--- An error that no script raised on purpose, as an abort object.
function M.internal(code, message)
  return setmetatable({ status = 500, code = code, message = message, type = "server_error" }, Abort)
end

return M
