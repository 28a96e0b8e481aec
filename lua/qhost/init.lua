--- qhost: the script API. `local qh = require "qhost"`.
local core = require "qhost.core"
local app = require "qhost.app"
local errors = require "qhost.errors"
local model = require "qhost.model"
local policy = require "qhost.policy"
local sampler = require "qhost.sampler"
local schema = require "qhost.schema"
local tasks = require "qhost.tasks"
local template = require "qhost.template"
local url = require "qhost.url"

local log = {}
for _, level in ipairs { "debug", "info", "warn", "error" } do
  --- Log an event as a name and key=value pairs.
  log[level] = function(event, fields) core.log(level, "app." .. event, fields) end
end

---@class qhost
return {
  app = app.new,
  model = model.new,
  sampler = sampler.new,
  policy = policy.new,
  schema = schema,
  template = setmetatable({ jinja = template.jinja }, { __call = function(_, def) return template.new(def) end }),
  abort = errors.abort,
  json = core.json,
  url = { encode = url.encode, decode = url.decode, decode_query = url.decode_query },
  log = log,
  env = core.env,
  time = core.wall,
  clock = core.clock,
  sleep = core.sleep,
  spawn = tasks.spawn,
  map = tasks.map,
  flatmap = tasks.flatmap,
  all = tasks.all,
  race = tasks.race,
  timeout = tasks.timeout,
  channel = core.channel,
}
