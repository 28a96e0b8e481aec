--- fetch.lua: ask another HTTP server.
local core = require "qhost.core"
local errors = require "qhost.errors"
local M = {}

local DEFAULT_TIMEOUT = 60
local KNOWN = { method = true, headers = true, body = true, json = true, timeout = true, connect_timeout = true,
  stream = true, max_bytes = true, redirects = true }

---@class qhost.Reply
---@field status integer
---@field headers table<string, string>  names in lower case; repeated ones joined by ", "
---@field url string  where it came from, after redirects
local Reply = {}
Reply.__index = Reply
Reply.__name = "qhost.Reply"
Reply.__close = function(r) r.handle:cancel() end

--- What a failure means when nobody catches it: HTTP status and code.
local HTTP_OF = {
  ETIMEDOUT = { 504, "upstream_timeout" }, EIO = { 502, "upstream_unreachable" },
  EFORMAT = { 502, "upstream_invalid" }, ELIMIT = { 502, "upstream_too_large" },
  EACCES = { 500, "fetch_refused" }, EINVAL = { 500, "fetch_invalid" }, AGAIN = { 503, "too_many_fetches", 1 },
}

--- Raise what a fetch failed with. Clients are told what happened but not where; scripts see all of it.
local function fail(message, name)
  local http = HTTP_OF[name] or { 502, "upstream_failed" }
  core.log("warn", "fetch.failed", { error = message, status = name })
  errors.abort(http[1], http[2], { message = message, public = "a service behind this one failed: " .. http[2],
    retry_after = http[3] })
end

local function checked(value, message, name)
  if message then fail(message, name) end
  return value
end

local function header_list(headers)
  local list = {}
  for name, value in pairs(headers or {}) do
    if type(name) == "number" then name, value = value[1], value[2] end
    list[#list + 1] = { tostring(name), tostring(value) }
  end
  return list
end

local function has(list, wanted)
  for _, field in ipairs(list) do
    if field[1]:lower() == wanted then return true end
  end
  return false
end

local function lower_headers(handle)
  local all = {}
  for _, field in ipairs(handle:headers()) do
    local name = field[1]:lower()
    all[name] = all[name] and all[name] .. ", " .. field[2] or field[2]
  end
  return all
end

--- Like fetch; what fails comes back as nil, message, status name. Yields.
---@return qhost.Reply? reply
---@return string? message
---@return string? status
function M.try(url, opts)
  local headers, body = header_list(opts.headers), opts.body
  if opts.json ~= nil then
    body = core.json.encode(opts.json, { sort = true })
    if not has(headers, "content-type") then headers[#headers + 1] = { "Content-Type", "application/json" } end
  end
  local handle, message, name = core.fetch(url, { method = opts.method, headers = headers, body = body,
    timeout = opts.timeout or not opts.stream and DEFAULT_TIMEOUT or nil, connect_timeout = opts.connect_timeout,
    max_bytes = opts.max_bytes, redirects = opts.redirects, stream = opts.stream })
  if not handle then return nil, message, name end
  local status
  status, message, name = handle:head()
  if not status then return nil, message, name end
  local reply = setmetatable({ status = status, headers = lower_headers(handle), url = handle:url(), handle = handle }, Reply)
  if opts.stream then return reply end
  reply.body, message, name = handle:body()
  if not reply.body then return nil, message, name end
  handle:cancel()
  return reply
end

--- Ask a server and wait for its reply: whole, or with stream = true for its head. Whatever HTTP status
--- comes back is a reply; no reply, a refused host and a reply over the limit raise an error, which
--- uncaught becomes a 502 or 504. Yields.
---@param url string
---@param opts? {method?: string, headers?: table, body?: string, json?: any, timeout?: number, connect_timeout?: number, stream?: boolean, max_bytes?: integer, redirects?: integer}
---@return qhost.Reply
function M.fetch(url, opts)
  opts = opts or {}
  for key in pairs(opts) do
    if not KNOWN[key] then error(("qh.fetch has no option '%s'"):format(tostring(key)), 2) end
  end
  return checked(M.try(url, opts))
end

--- The body. Of a streamed reply, all that has not been read yet. Yields then.
---@return string
function Reply:text()
  if not self.body then
    local parts = {}
    for piece in self:chunks() do parts[#parts + 1] = piece end
    self.body = table.concat(parts)
  end
  return self.body
end

--- The body as JSON; anything else raises an error, which uncaught becomes a 502.
---@return any
function Reply:json()
  local value, message = core.json.decode(self:text())
  if value == nil then fail(("%s: the reply is no JSON: %s"):format(self.url, message), "EFORMAT") end
  return value
end

--- The body in pieces as they come: for piece in reply:chunks() do. The sender waits while the loop does
--- something else. Yields.
function Reply:chunks()
  if self.body then
    local rest = self.body
    return function()
      local piece = rest
      rest = nil
      return piece ~= "" and piece or nil
    end
  end
  return function() return checked(self.handle:read()) end
end

--- Stop receiving.
function Reply:close() self.handle:cancel() end

M.Reply = Reply
return M
