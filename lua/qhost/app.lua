--- app.lua: an app is routes and middlewares; an app file makes one and returns it.
local budget = require "qhost.budget"
local core = require "qhost.core"
local cors = require "qhost.cors"
local errors = require "qhost.errors"
local parts = require "qhost.parts"
local request = require "qhost.request"
local response = require "qhost.response"
local router = require "qhost.router"
local sse = require "qhost.sse"
local url = require "qhost.url"

---@class qhost.App
local App = {}
App.__index = App
App.__name = "qhost.App"

local M = {}

--- opts: budget ({ cpu_ms, slice_ms, heap } of a request), cors (see cors.lua).
---@return qhost.App
function M.new(opts)
  opts = opts or {}
  for name in pairs(opts) do
    if name ~= "budget" and name ~= "cors" then error(("qh.app has no option '%s'"):format(tostring(name)), 2) end
  end
  return setmetatable({ router = router.new(), list = {}, middlewares = {},
    hooks = { start = {}, reload = {}, stop = {} }, cors = cors.new(opts.cors),
    budget = budget.check("qh.app", opts.budget) }, App)
end

--- Add a route. opts: max_body (bytes), on_disconnect ("cancel" or "finish"), budget. The handler gets (req, res).
function App:route(method, path, opts, handler)
  if handler == nil then opts, handler = {}, opts end
  if type(handler) ~= "function" then error(("route %s %s: the handler is no function"):format(method, path), 3) end
  if opts.on_disconnect and opts.on_disconnect ~= "cancel" and opts.on_disconnect ~= "finish" then
    error(("route %s %s: on_disconnect is 'cancel' or 'finish'"):format(method, path), 3)
  end
  budget.check(("route %s %s"):format(method, path), opts.budget)
  local route = { method = method, path = path, opts = opts, handler = handler }
  self.router:add(method, path, route)
  self.list[#self.list + 1] = route
  return self
end

for verb, method in pairs { get = "GET", post = "POST", put = "PUT", delete = "DELETE", patch = "PATCH",
  options = "OPTIONS", any = "*" } do
  App[verb] = function(self, path, opts, handler) return self:route(method, path, opts, handler) end
end

local function index_of(list, name)
  for i, m in ipairs(list) do
    if m.name == name then return i end
  end
end

--- Add a middleware: fn(req, next, res) runs around every handler and returns next(). Later ones run
--- inside earlier ones, unless opts.before or opts.after names another.
---@param name string
---@param opts? {before?: string, after?: string}
---@param fn fun(req: qhost.Request, next: fun(), res: qhost.Response)
function App:use(name, opts, fn)
  if fn == nil then opts, fn = {}, opts end
  if type(name) ~= "string" or type(fn) ~= "function" then error("app:use takes a name and a function", 2) end
  if index_of(self.middlewares, name) then error(("two middlewares are called '%s'"):format(name), 2) end
  local other = opts.before or opts.after
  local at = other and index_of(self.middlewares, other)
  if other and not at then error(("middleware '%s': there is no '%s' yet"):format(name, other), 2) end
  if not at then at = #self.middlewares + 1 elseif opts.after then at = at + 1 end
  table.insert(self.middlewares, at, { name = name, fn = fn })
  return self
end

--- Run fn when the app begins to serve ("start": the first time; "reload": in place of an older version of it), or
--- when the service ends ("stop"; all of them together may take 5 s). It may wait. One that fails is logged.
---@param event "start"|"reload"|"stop"
---@param fn fun()
function App:on(event, fn)
  local list = self.hooks[event]
  if not list then
    error(("app:on: there is no event '%s'; start, reload and stop are known"):format(tostring(event)), 2)
  end
  if type(fn) ~= "function" then error("app:on takes an event and a function", 2) end
  list[#list + 1] = fn
  return self
end

--- Serve the routes of another app below a path, inside its own middlewares. Routes that it gets later are not
--- seen; its hooks run with ours.
---@param path string
---@param other qhost.App
function App:mount(path, other)
  if getmetatable(other) ~= App or other == self then error("app:mount takes a path and another app", 2) end
  if type(path) ~= "string" or path:sub(1, 1) ~= "/" then error("app:mount: the path begins with '/'", 2) end
  local prefix = path:gsub("/+$", "")
  for _, r in ipairs(other.list) do
    local below = r.path == "/" and prefix ~= "" and prefix or prefix .. r.path
    self:route(r.method, below, r.opts, function(req, res) return M.run_chain(other, r, req, res) end)
  end
  for event, list in pairs(other.hooks) do table.move(list, 1, #list, #self.hooks[event] + 1, self.hooks[event]) end
  return self
end

--- Serve models in the OpenAI dialect: /v1/models, /v1/chat/completions, /v1/completions, /tokenize, ...
---@param opts {models: table, prefix?: string}
function App:openai(opts) return require("api.openai").mount(self, opts) end

--- Routes for calls that wait for an approval: GET lists them, POST {id, approve, reason?} decides. Whoever may
--- post there decides for everybody: put a middleware or a key before it.
---@param path string
---@param opts? table  of the routes
function App:approvals(path, opts)
  return require("qhost.approvals").mount(self, path, opts or {}, require("qhost.agent").runner)
end

-- Serving --------------------------------------------------------------------------------------------

function M.run_chain(app, route, req, res)
  local function step(i)
    local m = app.middlewares[i]
    if m then return m.fn(req, function() return step(i + 1) end, res) end
    return route.handler(req, res)
  end
  return step(1)
end

--- route, params; nil: OPTIONS was answered.
local function find_route(app, x)
  local route, params = app.router:find(x:method(), x:path())
  if route then return route, params end
  if params and x:method() == "OPTIONS" then return x:reply(204, { { "allow", params .. ", OPTIONS" } }, "") end
  if params then
    errors.abort(405, "method_not_allowed", { message = ("%s %s: allowed are %s"):format(x:method(), x:path(), params),
      headers = { allow = params } })
  end
  errors.abort(404, "not_found", { message = ("no route for %s %s"):format(x:method(), x:path()) })
end

--- Whether that was all: a browser's question before the request.
local function share(app, x)
  if not app.cors then return false end
  local is_allowed = cors.allow(app.cors, x)
  if not cors.is_preflight(x) then return false end
  if is_allowed then cors.permit(app.cors, x) end
  x:reply(204, {}, "")
  return true
end

local function serve(app, x, call)
  if share(app, x) then return end
  local route, params = find_route(app, x)
  if not route then return end
  budget.apply(route.opts.budget, app.budget)
  local req = request.new(x, url.decode(x:path()), params)
  req.max_body = route.opts.max_body
  if route.opts.on_disconnect == "finish" then x:outlive() end
  local res = response.new(x, req)
  call.res = res
  M.run_chain(app, route, req, res)
  if res.is_ended then return end
  if not x:is_begun() then error(("the handler of %s %s sent no reply"):format(route.method, route.path), 0) end
  res:finish()
end

--- Answer with an error. After the first byte an event stream gets it in-band; every kind of stream
--- is then cut without its end mark, so that nobody takes it for a whole reply.
local function answer(x, res, e)
  if not x:is_begun() then return x:reply(e.status, errors.headers(e), errors.body(e)) end
  if res and res.is_sse then x:write(sse.event(nil, errors.body(e))) end
  x:abort()
end

local function with_trace(e)
  if errors.is_abort(e) then return e end
  return { message = tostring(e), trace = core.traceback(tostring(e)) }
end

local function script_failed(x) return "the app's script failed; the log of request " .. x:id() .. " says where" end

--- Serve one request. Called by the host, in a task of its own. Yields.
function M.dispatch(app, x)
  local call = {}
  local ok, e = xpcall(serve, with_trace, app, x, call)
  if ok then return end
  if not errors.is_abort(e) then
    core.log("error", "script.error", ("request=%s %s"):format(x:id(), e.trace))
    e = errors.internal("script_error", core.is_dev and e.trace or script_failed(x))
  end
  answer(x, call.res, e)
end

--- Answer for a task that died: kind is "script_error", "script_timeout" or "script_memory". Does not wait.
function M.fail(_, x, kind, message, trace)
  core.log("error", "script.failed", ("request=%s kind=%s %s"):format(x:id(), kind, trace or message))
  if x:is_begun() then return x:abort() end
  local e = errors.internal(kind, core.is_dev and message or script_failed(x))
  x:reply(e.status, errors.headers(e), errors.body(e))
end

--- Run the hooks of the end. Called by the host, in a task. Yields.
function M.stop(app)
  for _, fn in ipairs(app.hooks.stop) do
    local ok, e = xpcall(fn, with_trace)
    if not ok then core.log("error", "stop.failed", e.trace or tostring(e)) end
  end
end

--- What an app is made of, for the story of a reload; raises when the app file returned no app.
---@return table[]
function M.describe(app)
  if getmetatable(app) ~= App then
    error(("the app file returned %s; it must return an app (local app = qh.app() ... return app)"):format(
      app == nil and "nothing" or "a " .. type(app)), 0)
  end
  local list = parts.take()
  for _, r in ipairs(app.list) do
    list[#list + 1] = parts.part("route", r.method .. " " .. r.path, r.handler, r.opts)
  end
  for i, m in ipairs(app.middlewares) do list[#list + 1] = parts.part("middleware", m.name, m.fn, { i }) end
  return list
end

return M
