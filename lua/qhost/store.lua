--- store.lua: data that survives reloads and crashes, in SQLite: qh.store.
---
--- Values are kept as JSON. Every call waits on the store's own thread, in the order in which calls were made; a
--- failure is an error that names the store, the SQL and the line of the app.
local core = require "qhost.core"
local M = {}

---@class qhost.Store
---@field name string
local Store = {}
Store.__index = Store
Store.__name = "qhost.Store"

local TIMEOUT = 10                      -- seconds of one call
local HIGHEST = ("\u{10FFFF}"):rep(4)   -- after every key that goes on with characters

--- The store of that name; it is made at the first call that writes or reads.
---@param name string  letters, digits, "_" and "-"
---@return qhost.Store
function M.new(name)
  if type(name) ~= "string" then error("qh.store takes a name, not a " .. type(name), 2) end
  if not core.store then error("qh.store is there in a serving app only", 2) end
  local handle, message = core.store.open(name)
  if not handle then error("qh.store: " .. message, 2) end
  return setmetatable({ name = name, handle = handle }, Store)
end

local function run(self, list, timeout)
  local rows, infos = core.store.run(self.handle, list, timeout or TIMEOUT)
  if not rows then error(infos, 4) end
  return rows, infos
end

local function one(self, sql, params, timeout)
  local rows, infos = run(self, { { sql, params } }, timeout)
  return rows[1], infos[1]
end

local function check_key(key, what)
  if type(key) ~= "string" then
    error(("store:%s: the %s is a %s; a string is expected"):format(what[1], what[2], type(key)), 3)
  end
  return key
end

--- The value of a key, or nil. Yields.
---@param key string
---@return any
function Store:get(key)
  local rows = one(self, "SELECT value FROM kv WHERE key = ?", { check_key(key, { "get", "key" }) })
  if rows[1] then return core.json.decode(rows[1].value) end
end

--- Keep a value under a key, in place of an older one; nil deletes. Yields.
---@param key string
---@param value any  what JSON can say
function Store:set(key, value)
  check_key(key, { "set", "key" })
  if value == nil then return self:del(key) end
  one(self, "INSERT INTO kv(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2",
    { key, core.json.encode(value) })
end

--- Delete a key. Whether it was there. Yields.
---@param key string
---@return boolean
function Store:del(key)
  local _, info = one(self, "DELETE FROM kv WHERE key = ?", { check_key(key, { "del", "key" }) })
  return info.changes > 0
end

--- Keys that begin with a prefix and their values, in order: a list of {key, value}. Yields.
---@param prefix? string  default: all
---@param opts? {after?: string, limit?: integer}  go on after that key; limit: default 1000
---@return {key: string, value: any}[]
function Store:list(prefix, opts)
  prefix = check_key(prefix or "", { "list", "prefix" })
  local rows = one(self, "SELECT key, value FROM kv WHERE key >= ?1 AND key < ?2 AND (?3 IS NULL OR key > ?3) "
    .. "ORDER BY key LIMIT ?4",
    { prefix, prefix .. HIGHEST, opts and opts.after or core.json.null, opts and opts.limit or 1000 })
  for _, row in ipairs(rows) do row.value = core.json.decode(row.value) end
  return rows
end

--- Put a value at the end of a stream; its number there, from 1. Yields.
---@param stream string
---@param value any
---@return integer id
function Store:append(stream, value)
  check_key(stream, { "append", "stream" })
  if value == nil then error("store:append: the value is nil", 2) end
  local rows = one(self, "INSERT INTO stream(stream, id, at, value) SELECT ?1, 1 + coalesce(max(id), 0), ?2, ?3 "
    .. "FROM stream WHERE stream = ?1 RETURNING id", { stream, core.wall(), core.json.encode(value) })
  return rows[1].id
end

--- Values of a stream: a list of {id, at, value}; at is the time of the append. Yields.
---@param stream string
---@param opts? {after?: integer, limit?: integer, last?: integer}  after that id; limit: default 1000; last: only the last ones
---@return {id: integer, at: number, value: any}[]
function Store:read(stream, opts)
  check_key(stream, { "read", "stream" })
  opts = opts or {}
  local sql = "SELECT id, at, value FROM stream WHERE stream = ?1 AND id > ?2 ORDER BY id LIMIT ?3"
  if opts.last then
    sql = "SELECT * FROM (SELECT id, at, value FROM stream WHERE stream = ?1 AND id > ?2 ORDER BY id DESC LIMIT ?3) ORDER BY id"
  end
  local rows = one(self, sql, { stream, opts.after or 0, opts.last or opts.limit or 1000 })
  for _, row in ipairs(rows) do row.value = core.json.decode(row.value) end
  return rows
end

--- Run one statement of SQL: its rows as tables by column (NULL is absent), and {changes, last_id}. Values go in by
--- position for "?", or by name for ":name". Yields.
---@param sql string
---@param params? table
---@param opts? {timeout?: number}  seconds; default 10
---@return table<string, any>[] rows
---@return {changes: integer, last_id: integer} info
function Store:query(sql, params, opts) return one(self, sql, params, opts and opts.timeout) end

--- Run several statements as one transaction: all of them happen, or none. Yields.
---@param list table[]  each { sql, params }
---@param opts? {timeout?: number}
---@return table[] rows  of each statement
---@return table[] infos
function Store:batch(list, opts) return run(self, list, opts and opts.timeout) end

return M
