--- shared.lua: data in memory that survives a reload (qh.shared, qh.persist), metrics, stable shares.
local core = require "qhost.core"
local M = {}

--- The shared table of that name; the first call decides its size.
---@param name string
---@param opts? {max_bytes?: integer}
function M.shared(name, opts)
  if not core.shared then error("qh.shared: there is no host here", 2) end
  return core.shared(name, opts and opts.max_bytes, true)
end

---@class qhost.Persist
local Persist = {}
Persist.__index = Persist
Persist.__name = "qhost.Persist"

--- A value that survives reloads, for each version of its own. init: the first value, or a function
--- that makes it from the value of the version before, if there is one.
---@param key string
---@param init any
---@param opts? {version?: integer}
---@return qhost.Persist
function M.persist(key, init, opts)
  local version = opts and opts.version or 1
  if type(key) ~= "string" or math.type(version) ~= "integer" or version < 1 then
    error("qh.persist takes a key, a first value and {version = 1, 2...}", 2)
  end
  if not core.shared then error("qh.persist: there is no host here", 2) end
  return setmetatable({ cell = core.shared("qhost.persist", nil, false), key = key, init = init, version = version }, Persist)
end

local function name_of(p, version) return ("%d %s"):format(version, p.key) end

local function before(p)
  for version = p.version - 1, 1, -1 do
    local old = p.cell:get(name_of(p, version))
    if old ~= nil then return old, version end
  end
end

--- The value; tables are copies: set them to change them.
function Persist:get()
  local name = name_of(self, self.version)
  local value = self.cell:get(name)
  if value ~= nil then return value end
  local init = self.init
  if type(init) == "function" then init = init(before(self)) end
  if init == nil then error(("qh.persist '%s': the first value is nil"):format(self.key), 2) end
  self.cell:add(name, init)
  return self.cell:get(name)
end

--- Replace the value.
function Persist:set(value)
  if value == nil then error("persist:set: nil cannot be kept", 2) end
  self.cell:set(name_of(self, self.version), value)
end

--- Replace the value by fn(value); nothing comes in between, so fn cannot wait. Returns the new one.
function Persist:update(fn)
  self:get()
  return self.cell:update(name_of(self, self.version), fn)
end

local function label_text(labels)
  if not labels then return "" end
  local names, parts = {}, {}
  for name in pairs(labels) do
    if type(name) ~= "string" or not name:match "^[a-z][a-z0-9_]*$" or name == "le" then
      error(("qh.metrics: '%s' is no name of a label"):format(tostring(name)), 3)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = tostring(labels[name]):gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" })
    parts[i] = ('%s="%s"'):format(name, value)
  end
  return table.concat(parts, ",")
end

M.metrics = {
  --- Add to a counter.
  count = function(name, n, labels)
    if type(n) == "table" then n, labels = 1, n end
    return core.record("count", name, n or 1, label_text(labels))
  end,
  --- Set a gauge, to a whole number.
  gauge = function(name, value, labels) return core.record("gauge", name, value, label_text(labels)) end,
  --- Note a value, such as seconds, in a histogram.
  observe = function(name, value, labels) return core.record("observe", name, value, label_text(labels)) end,
}

--- A number in [0, 1) that is always the same for an id and a salt, spread evenly over ids: for shares of
--- users. Another salt gives an independent one.
---@param id string|number
---@param salt? string
---@return number
function M.bucket(id, salt)
  if type(id) ~= "string" and type(id) ~= "number" then error("qh.bucket takes an id and a salt", 2) end
  local digest = core.crypto.sha256((salt or "") .. "\0" .. id)
  return (string.unpack(">I7", digest) >> 3) / 2 ^ 53
end

M.Persist = Persist
return M
