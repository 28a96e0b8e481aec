--- test_runner.lua: runs a file of tests (test.lua) in an app that was loaded for it.
local core = require "qhost.core"
local doubles = require "qhost.doubles"
local mock = require "qhost.mock"
local load_file = select(2, ...).load_file

local M = {
  list = {},                     -- of {name, fn, timeout, skip}
  app = nil,                     -- under test
  --- What an assertion raises.
  Failed = { __name = "qhost.TestFailure", __tostring = function(e) return e.message end },
}

local function with_place(e)
  if getmetatable(e) == M.Failed then return e end
  return { message = tostring(e), trace = core.traceback(tostring(e)) }
end

-- Work that requests leave behind belongs to the test: a task of the test starts it.
local function start_starter(group, on_failure)
  local jobs = core.channel(100)
  group:spawn(function()
    local work <close> = core.group "the background of a test"
    while true do
      local name, fn = table.unpack(jobs:recv())
      work:spawn(function()
        local ok, e = xpcall(fn, with_place)
        if not ok then on_failure { message = ("'%s' failed: %s"):format(name, e.trace or e.message) } end
      end)
    end
  end)
  return function(name, fn)
    jobs:send { name, fn }
    return true
  end
end

local function run_in_scope(t)
  local group <close> = core.group(t.name)
  local failure
  doubles.begin(start_starter(group, function(e) failure = failure or e end))
  local ok, e = xpcall(t.fn, with_place)
  if not ok then return e end
  return failure
end

-- The failure of a test, or nil.
local function outcome_of(t, seconds)
  seconds = t.timeout or seconds
  local ok, raised, e, name = pcall(doubles.timeout, seconds, function() return true, run_in_scope(t) end)
  local logs = doubles.state() and doubles.state().logs or {}
  doubles.finish()
  if not ok then return { message = tostring(raised) }, logs end
  if name == "ETIMEDOUT" then return { message = ("it took longer than %g s"):format(seconds) }, logs end
  return e, logs
end

local function report(out, t, e, logs)
  out[#out + 1] = "FAIL  " .. t.name
  out[#out + 1] = "      " .. (e.where and e.where .. ": " or "") .. (e.trace or e.message):gsub("\n", "\n      ")
  for _, line in ipairs(logs) do
    if line.level == "error" or line.level == "warn" then
      out[#out + 1] = ("      log: %s %s %s"):format(line.level, line.event, (line.text:gsub("\n", "\n           ")))
    end
  end
end

--- Run the tests of a file. Called by the host, once, in an app that was loaded for it. Yields.
---@return integer passed, integer failed, integer skipped, string text
function M.run(under_test, path, filter, seconds)
  M.app = under_test
  mock.install()
  local chunk, where = load_file(path)
  chunk("test", where)
  local passed, failed, skipped, out = 0, 0, 0, {}
  for _, t in ipairs(M.list) do
    if filter and not t.name:find(filter, 1, true) then goto next end
    if t.skip then
      skipped = skipped + 1
      out[#out + 1] = ("SKIP  %s (%s)"):format(t.name, t.skip)
    else
      local e, logs = outcome_of(t, seconds)
      if e then failed = failed + 1 else passed = passed + 1 end
      if e then report(out, t, e, logs) else out[#out + 1] = "ok    " .. t.name end
    end
    ::next::
  end
  return passed, failed, skipped, table.concat(out, "\n")
end

return M
