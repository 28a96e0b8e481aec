--- approvals.lua: runs of agents that wait for somebody's word.
---
---   the run:    park(record) ... wait(id) -> the decision, and it goes on
---   somebody:   list(), decide(id, approve, reason)         over HTTP: app:approvals(path)
---   later:      agent:run { resume = id } -> find(id)       when the first client has not waited
---
--- What waits is plain data in a store of its own, so neither a reload nor a restart loses it, and it goes on with
--- the newest script, where decisions arrive. When the client that still waits began with an older generation, the
--- run goes on in the newest as a background task, and the old request passes its events on:
---
---   old generation:   wait(id) ... pass on: event 1, 2, 3 ----> the client
---   newest:           decide(id) -> background: the run -> event 1, 2, 3
local core = require "qhost.core"
local errors = require "qhost.errors"
local schema = require "qhost.schema"
local store = require "qhost.store"
local tasks = require "qhost.tasks"
local M = {}

local POLL, SLOW = 0.1, 1        -- seconds between two looks at what others have written: at first, and after a while
local PING = 10                  -- seconds of silence after which a client gets a sign of life
local GONE = 3                   -- seconds after its last sign that somebody counts as gone

-- One row a parked run. said: the decision; taken: somebody goes on with it; here, works: the last sign of the
-- client that waits, and of the task that works for it.
local TABLES = {
  { "CREATE TABLE IF NOT EXISTS parked (id TEXT PRIMARY KEY, agent TEXT NOT NULL, generation TEXT NOT NULL, "
    .. "record TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL, said TEXT, taken INTEGER NOT NULL DEFAULT 0, "
    .. "here REAL NOT NULL DEFAULT 0, works REAL NOT NULL DEFAULT 0)" },
  { "CREATE TABLE IF NOT EXISTS events (id TEXT, n INTEGER, value TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (id, n))" },
}

local opened
local function box()
  if not opened then
    local made = store.new "qhost-approvals"
    made:batch(TABLES)
    opened = made
  end
  return opened
end

local own_id
-- This generation of the script, by a name that no other one has.
local function generation()
  own_id = own_id or ("%016x"):format(core.random())
  return own_id
end

local function not_found(id)
  errors.abort(404, "approval_not_found", { message = ("no run waits under the id '%s'"):format(tostring(id)), param = "id" })
end

-- Parking ------------------------------------------------------------------------------------------------

local function is_plain(v, depth)
  local kind = type(v)
  if kind ~= "table" then return kind == "string" or kind == "number" or kind == "boolean" or kind == "nil" end
  if depth > 50 then return false end
  for key, item in pairs(v) do
    if type(key) ~= "string" and type(key) ~= "number" or not is_plain(item, depth + 1) then return false end
  end
  return true
end

--- Put a run away: { agent, user, messages, calls, asked, state }, decided and gone on with within so many
--- seconds. Yields.
---@param record table
---@param seconds number
---@return string id
---@return number expires
function M.park(record, seconds)
  if not is_plain(record.user, 0) then
    error("a run that waits for an approval is kept as data, and its user is none: give agent:run a text or a "
      .. "table of texts and numbers", 0)
  end
  local id, now = ("apr_%016x%016x"):format(core.random(), core.random()), core.wall()
  box():batch {
    { "DELETE FROM parked WHERE expires < ? - 60", { now } },
    { "DELETE FROM events WHERE at < ? - 600", { now } },
    { "INSERT INTO parked (id, agent, generation, record, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
      { id, record.agent, generation(), core.json.encode(record), now, now + seconds } },
  }
  return id, now + seconds
end

local function row_of(id)
  return type(id) == "string" and box():query("SELECT * FROM parked WHERE id = ? AND taken = 0", { id })[1]
end

local function record_of(row)
  local record = core.json.decode(row.record)
  record.id, record.expires = row.id, row.expires
  return record
end

--- The record of a parked run of that agent, with which nobody has gone on; ends the request when there is none.
--- Yields.
---@param id any
---@param agent string
---@return table
function M.find(id, agent)
  local row = row_of(id)
  if not row or row.agent ~= agent then not_found(id) end
  return record_of(row)
end

local LISTED = { "id", "agent", "calls", "user", "created", "expires" }

--- What waits for a decision, the oldest first. Yields.
---@return table[]
function M.list()
  local out = {}
  local rows = box():query("SELECT * FROM parked WHERE said IS NULL AND taken = 0 AND expires > ? ORDER BY created LIMIT 1000",
    { core.wall() })
  for i, row in ipairs(rows) do
    local record = record_of(row)
    out[i] = core.json.object({ id = row.id, agent = row.agent, calls = record.asked, user = record.user,
      created = row.created, expires = row.expires }, LISTED)
  end
  return core.json.array(out)
end

-- Going on -----------------------------------------------------------------------------------------------

-- One goes on with a run, once.
local function take(id)
  local _, info = box():query("UPDATE parked SET taken = 1 WHERE id = ? AND taken = 0", { id })
  return info.changes == 1
end

-- Say that somebody is here, and see how it stands with the run.
local function look(id)
  return box():query("UPDATE parked SET here = ? WHERE id = ? RETURNING said, works", { core.wall(), id })[1]
end

-- Pass on what the run does elsewhere, up to its end: how it ended.
local function pass_on(id, emit)
  local at = 0
  while true do
    local row = look(id)
    local rows = box():query("SELECT n, value FROM events WHERE id = ? AND n > ? ORDER BY n", { id, at })
    for _, ev in ipairs(rows) do
      local value = core.json.decode(ev.value)
      if value.type == "done" then return value.finish end
      at = ev.n
      emit(value)
    end
    if not row or core.wall() - row.works > GONE then return "canceled" end
    if #rows == 0 then core.sleep(POLL) end
  end
end

--- Wait for the decision on a parked run: the decision, which the caller carries out; or nil and how the run ended
--- elsewhere, its events passed on. No decision in time is a denial. Yields.
---@param id string
---@param expires number
---@param emit fun(ev: table)
---@return {approve: boolean, reason?: string}? decision
---@return string? finish
function M.wait(id, expires, emit)
  local began = core.clock()
  local quiet = began
  while true do
    local row = look(id)
    local said = row and row.said and core.json.decode(row.said)
    if said and said.is_passed_on then return nil, pass_on(id, emit) end
    if said or not row or core.wall() >= expires then
      if not take(id) then return nil, "resumed" end
      return said or { approve = false, reason = "nobody decided in time" }
    end
    if core.clock() - quiet > PING then
      emit { type = "ping" }
      quiet = core.clock()
    end
    core.sleep(math.min(POLL + (core.clock() - began) / 50, SLOW))
  end
end

local function show_life(id)
  while true do
    box():query("UPDATE parked SET works = ? WHERE id = ?", { core.wall(), id })
    core.sleep(GONE / 3)
  end
end

-- Run the parked run in this task for a client of an older generation, until that leaves.
local function work_for_client(id, start, said)
  local life <close> = tasks.spawn(show_life, id)
  local run <close> = start(said)
  local n = 0
  for ev in run do
    n = n + 1
    if ev.type ~= "usage" then
      box():query("INSERT INTO events (id, n, value, at) VALUES (?, ?, ?, ?)", { id, n, core.json.encode(ev), core.wall() })
    end
    local row = box():query("SELECT here FROM parked WHERE id = ?", { id })[1]
    if not row or core.wall() - row.here > GONE then return end
  end
end

--- Decide on a parked run. runner(record): what starts it in this generation, given the decision; nil when it has
--- no such agent. Ends the request when nothing waits under that id. Yields.
---@param id string
---@param approve boolean
---@param reason? string
---@param runner fun(record: table): (fun(said: table): qhost.Run)?
---@return "now"|"later" resumes  now: a client waits for it; later: agent:run { resume = id } goes on
function M.decide(id, approve, reason, runner)
  local row, now = row_of(id), core.wall()
  if not row or row.expires < now then not_found(id) end
  local is_here = now - row.here < GONE
  local start = is_here and row.generation ~= generation() and runner(record_of(row))
  local said = { approve = approve, reason = reason, is_passed_on = start and true or nil }
  local _, info = box():query("UPDATE parked SET said = ?, taken = ?, works = ? WHERE id = ? AND said IS NULL AND taken = 0",
    { core.json.encode(said), start and 1 or 0, now, id })
  if info.changes == 0 then errors.abort(409, "already_decided", { message = "this call has been decided before", param = "id" }) end
  if start then core.background("approval " .. id, function() work_for_client(id, start, said) end) end
  return is_here and "now" or "later"
end

-- Over HTTP ----------------------------------------------------------------------------------------------

local WORD = schema.object { { "id", schema.string { min = 1, max = 100 } }, { "approve", schema.boolean() },
  { "reason", schema.string { max = 1000 }, optional = true } }

--- GET path: what waits; POST path {id, approve, reason?}: a decision. Called by app:approvals.
function M.mount(app, path, opts, runner)
  app:get(path, opts, function(_, res)
    return res:json(core.json.object({ approvals = M.list() }, { "approvals" }))
  end)
  app:post(path, opts, function(req, res)
    local word = req:json(WORD)
    local resumes = M.decide(word.id, word.approve, word.reason, runner)
    return res:json(core.json.object({ id = word.id, approve = word.approve, resumes = resumes }, { "id", "approve", "resumes" }))
  end)
  return app
end

return M
