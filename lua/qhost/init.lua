--- qhost: the script API. `local qh = require "qhost"`.
local core = require "qhost.core"
local agent = require "qhost.agent"
local app = require "qhost.app"
local crypto = require "qhost.crypto"
local errors = require "qhost.errors"
local events = require "qhost.events"
local mock = require "qhost.mock"
local fallback = require "qhost.fallback"
local fetch = require "qhost.fetch"
local model = require "qhost.model"
local re = require "qhost.re"
local policy = require "qhost.policy"
local sampler = require "qhost.sampler"
local schema = require "qhost.schema"
local store = require "qhost.store"
local shared = require "qhost.shared"
local tasks = require "qhost.tasks"
local template = require "qhost.template"
local tool = require "qhost.tool"
local time = require "qhost.time"
local upstream = require "qhost.upstream"
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
  splice = events.splice,
  schema = schema,
  template = setmetatable({ jinja = template.jinja }, { __call = function(_, def) return template.new(def) end }),
  tool = tool.new,
  agent = agent.new,
  abort = errors.abort,
  json = core.json,
  url = url,
  log = log,
  env = core.env,
  re = { match = re.match, find = re.find, test = re.test, gmatch = re.gmatch, gsub = re.gsub, split = re.split,
    escape = re.escape },
  crypto = crypto,
  store = store.new,
  mock = { model = mock.model, prompts = mock.prompts, fetch = mock.fetch, fetched = mock.fetched, tool = mock.tool,
    clock = mock.clock },
  time = setmetatable(time, { __call = function() return time.now() end }),
  clock = time.monotonic,
  sleep = core.sleep,
  spawn = tasks.spawn,
  map = tasks.map,
  flatmap = tasks.flatmap,
  all = tasks.all,
  race = tasks.race,
  timeout = tasks.timeout,
  channel = core.channel,
  fetch = fetch.fetch,
  upstream = upstream.new,
  fallback = fallback.new,
  topic = tasks.topic,
  shared = shared.shared,
  persist = shared.persist,
  metrics = shared.metrics,
  bucket = shared.bucket,
  background = tasks.background,
  every = tasks.every,
}
