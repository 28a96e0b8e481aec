--- mock.lua: what a test says that the world does: qh.mock. Only inside `qhost test`; each test begins without any.
local core = require "qhost.core"
local doubles = require "qhost.doubles"
local tool = require "qhost.tool"
local M = {}

local function state(what)
  local s = doubles.state()
  if not s then error(("qh.mock.%s is for the tests of `qhost test`, inside a test"):format(what), 3) end
  return s
end

--- What a model answers: a text, {text=, tool_calls={{name=, arguments=}}}, a list of these for one call after the
--- other, or fn(prompt, n). Without it a model repeats what the user said last.
---@param name string
---@param answers any
function M.model(name, answers) state "model".models[name] = { answers = answers, n = 0 } end

--- The prompts that a model was asked with, as text.
---@param name string
---@return string[]
function M.prompts(name) return state "prompts".prompts[name] or {} end

--- What qh.fetch gets from URLs like this ("*" is any text): a body, {status=, headers=, body=, json=, delay=},
--- {error = "why"}, or fn(request) that returns one of them. The last that fits counts; without one a fetch fails.
---@param url string
---@param reply any
function M.fetch(url, reply)
  local s = state "fetch"
  if type(url) ~= "string" then error("qh.mock.fetch: the URL is a " .. type(url), 2) end
  s.fetches[#s.fetches + 1] = { pattern = doubles.as_pattern(url), reply = reply }
end

--- The fetches so far: a list of {url, method, headers, body, json}.
---@return table[]
function M.fetched() return state "fetched".fetched end

--- What a tool does in place of its run: a result, or fn(args, ctx). Arguments and results are checked as always.
---@param name string
---@param result any
function M.tool(name, result)
  state "tool".tools[name] = type(result) == "function" and result or function() return result end
end

---@class qhost.MockClock
local Clock = {}
Clock.__index = Clock
--- The time, in seconds since 1970.
function Clock:now() return self.clock.wall end
--- Let time go on: who sleeps until then wakes up, in order. Yields.
function Clock:advance(seconds) doubles.advance(self.clock, seconds) end

--- From now on time is virtual: qh.time, qh.clock, qh.sleep, qh.timeout and qh.every. It stands still while something
--- happens and jumps to the next who sleeps when nothing does; with auto = false it moves by clock:advance only.
---@param opts? {at?: number, auto?: boolean}
---@return qhost.MockClock
function M.clock(opts)
  local s = state "clock"
  if s.clock then error("qh.mock.clock: the clock is virtual already", 2) end
  local clock = { wall = opts and opts.at or 1700000000, mono = 0, sleepers = {}, version = 0,
    is_auto = not (opts and opts.auto == false) }
  s.clock = clock
  if clock.is_auto then s.spawn("the clock", function() doubles.run_clock(clock) end) end
  for _, p in ipairs(doubles.periodic or {}) do
    if p.period then
      s.spawn(p.name, function()
        while true do
          core.sleep(p.period)
          p.fn()
        end
      end)
    end
  end
  return setmetatable({ clock = clock }, Clock)
end

--- Put the doubles of tools in place. Called once, by the runner.
function M.install()
  local Tool = getmetatable(tool.new { name = "any", run = type }).__index
  local call = Tool.call
  function Tool:call(...)
    local s = doubles.state()
    local run = s and s.tools[self.name]
    return call(run and setmetatable({ run = run }, { __index = self }) or self, ...)
  end
end

return M
