--- tasks.lua: work side by side that ends with what started it.
---
--- Whatever starts here belongs to the task that starts it: when that returns, fails or is cancelled,
--- its children are cancelled and unwind before anything goes on. One that fails cancels the others.
local core = require "qhost.core"
local M = {}

local DEFAULT_LIMIT = 32

---@class qhost.Task
local Task = {}
Task.__index = Task
Task.__name = "qhost.Task"

--- Start fn(...) beside the caller. It is cancelled when the task that called spawn ends. An error of
--- it that no wait hears is raised where the caller waits next, and cancels its other children.
---@return qhost.Task
function M.spawn(fn, ...)
  local group = core.group("qh.spawn", true)
  group:spawn(fn, ...)
  return setmetatable({ group = group }, Task)
end

local function outcome(_, ok, ...)
  if ok then return ... end
  if ok == nil then return nil, "the task was cancelled", "ECANCELED" end
  error((...), 0)
end

--- What the task's function returns; raises the error that it raised. Yields.
function Task:wait() return outcome(self.group:wait()) end

--- Cancel the task: what it waits for ends with a "cancelled" error that no pcall holds up.
function Task:cancel() self.group:cancel() end

--- A task in a `local t <close>` is cancelled, and has unwound, at the end of the block. Yields.
Task.__close = function(self) self.group:close() end

local function check_list(list, name)
  if type(list) ~= "table" then error(name .. " takes a list, not a " .. type(list), 3) end
end

--- { fn(item, i) for every item }, at most opts.limit (32) at a time. Yields.
local function map(name, list, fn, opts)
  check_list(list, name)
  if type(fn) ~= "function" then error(name .. ": fn is no function", 3) end
  local limit = opts and opts.limit or DEFAULT_LIMIT
  if math.type(limit) ~= "integer" or limit < 1 then error(name .. ": limit must be a positive integer", 3) end
  local out, n, started = {}, #list, 0
  local group <close> = core.group(name)
  local function start()
    started = started + 1
    group:spawn(fn, list[started], started)
  end
  while started < n and started < limit do start() end
  for _ = 1, n do
    local i, ok, value = group:next()
    if not ok then error(value, 0) end
    out[i] = value
    if started < n then start() end
  end
  return out
end

--- The results of fn(item, i) for every item of a list, in its order. Yields.
---@param list any[]
---@param fn fun(item: any, i: integer): any
---@param opts? {limit?: integer}  how many run at a time; 32
---@return any[]
function M.map(list, fn, opts) return map("qh.map", list, fn, opts) end

--- Like map, where fn returns a list each time: all of them joined, in order. Yields.
function M.flatmap(list, fn, opts)
  local out, parts = {}, map("qh.flatmap", list, fn, opts)
  for i = 1, #list do
    local part = parts[i]
    if type(part) ~= "table" then error(("qh.flatmap: fn returned a %s for item %d, no list"):format(type(part), i), 2) end
    table.move(part, 1, #part, #out + 1, out)
  end
  return out
end

--- Start every function of a table, in the order of a list or of the names.
local function start_all(group, fns, name)
  check_list(fns, name)
  local keys = {}
  for key, fn in pairs(fns) do
    if type(fn) ~= "function" then error(("%s: [%s] is no function"):format(name, tostring(key)), 3) end
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) == type(b) and type(a) ~= "table" then return a < b end
    return type(a) < type(b)
  end)
  for _, key in ipairs(keys) do group:spawn(fns[key]) end
  return keys
end

--- Run all functions of a table at the same time: a table of what each returned, under the same keys.
--- Yields.
function M.all(fns)
  local group <close> = core.group "qh.all"
  local out, keys = {}, start_all(group, fns, "qh.all")
  for _ = 1, #keys do
    local i, ok, value = group:next()
    if not ok then error(value, 0) end
    out[keys[i]] = value
  end
  return out
end

--- Run all functions of a list at the same time: what the first one to end returns, or its error. The
--- others are cancelled. Yields.
function M.race(fns)
  local group <close> = core.group "qh.race"
  if #start_all(group, fns, "qh.race") == 0 then error("qh.race takes at least one function", 2) end
  return outcome(group:next())
end

local function outcome_in_time(seconds, i, ok, ...)
  if i == 1 then return nil, ("timed out after %g s"):format(seconds), "ETIMEDOUT" end
  return outcome(i, ok, ...)
end

--- What fn(...) returns when it ends within that time; otherwise it is cancelled, and nil, a message
--- and "ETIMEDOUT" come back. Yields.
function M.timeout(seconds, fn, ...)
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds <= 86400 * 365) or type(fn) ~= "function" then
    error("qh.timeout takes seconds, from 0 to a year, and a function", 2)
  end
  local group <close> = core.group "qh.timeout"
  group:spawn(core.sleep, seconds)
  group:spawn(fn, ...)
  return outcome_in_time(seconds, group:next())
end

--- Run fn once beside all requests: when this generation begins to serve, or at once from a request,
--- which it outlives. False when one of that name is at work.
---@param name string
---@param fn fun()
---@return boolean started
function M.background(name, fn)
  if not core.background then error("qh.background: there is no host here", 2) end
  return core.background(name, fn)
end

--- Run fn every so many seconds while this generation serves, the first time after one period. For the
--- load of an app. A run that fails is logged; the next one comes a period after its end.
---@param seconds number
---@param fn fun()
---@param opts? {name?: string}
function M.every(seconds, fn, opts)
  if type(seconds) ~= "number" or not (seconds >= 0.001) then error("qh.every takes seconds, at least 0.001, and a function", 2) end
  if not core.background then error("qh.every: there is no host here", 2) end
  core.background(opts and opts.name or "every " .. core.place(), fn, seconds)
end

---@class qhost.Topic
local Topic = {}
Topic.__index = Topic
Topic.__name = "qhost.Topic"

--- The topic of that name, in all generations.
---@param name string
---@return qhost.Topic
function M.topic(name)
  if type(name) ~= "string" then error("qh.topic takes a name", 2) end
  if not core.topic then error("qh.topic: there is no host here", 2) end
  return setmetatable({ name = name }, Topic)
end

--- Tell all who listen now; returns how many they are. Does not wait.
function Topic:publish(value) return core.topic.publish(self.name, value) end

--- Listen from now on, until the task ends or closes it.
---@param size? integer  messages that may wait; 64
function Topic:subscribe(size) return core.topic.subscribe(self.name, size) end

M.Topic = Topic
M.Task = Task
return M
