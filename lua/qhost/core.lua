--- core.lua: the C bindings as the library uses them. Library modules require this; scripts see qh.
local _, c = ...

local json = {
  decode = c.json.decode, array = c.json.array, object = c.json.object, null = c.json.null,
}

--- The JSON text of a value; raises when it has none. opts.sort: keys in order.
function json.encode(value, opts)
  local text, message = c.json.encode(value, opts and opts.sort and { sorted = true } or nil)
  if not text then error(message, 2) end
  return text
end

local core = {
  json = json, re = c.re, crypto = c.crypto, store = c.store,
  log = c.log.write,
  env = c.system.env, wall = c.system.wall, local_wall = c.system.local_wall,
  clock = c.system.mono, sleep = c.system.sleep, budget = c.system.budget,
  random = c.system.random, traceback = c.system.traceback, place = c.system.place, is_dev = c.is_dev,
  background = c.background and c.background.start,
  fetch = c.fetch and c.fetch.start,
  topic = c.topic, shared = c.shared and c.shared.open, record = c.metrics.record,
  group = c.tasks.group, channel = c.channel.new,
  is_loading = c.policy and c.policy.is_loading,
  model = c.model and c.model.open, models = c.model and c.model.list,
}

if c.is_test then require "qhost.doubles".install(core) end
return core
