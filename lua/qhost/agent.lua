--- agent.lua: a model that calls tools until it has an answer.
---
---   run:  ask the model -> calls? -> run them side by side -> their results -> ask again ... -> done
---
--- A run is an iterator of events; what it does, it does while somebody asks for the next one. The work is a
--- coroutine that yields its events, so it reads from top to bottom. What it must remember is plain data
--- (run.state and the transcript's messages), so that a run can be parked for an approval and go on elsewhere.
local approvals = require "qhost.approvals"
local conversation = require "qhost.conversation"
local core = require "qhost.core"
local errors = require "qhost.errors"
local model = require "qhost.model"
local tool = require "qhost.tool"
local transcript = require "qhost.transcript"
local M = {}

local MAX_STEPS, MAX_CALLS = 8, 32
local PARALLEL = 8               -- calls of one turn that run at a time
local APPROVAL_SECONDS = 3600
local WHEN_STUCK = "Answer me now, in one sentence."

---@class qhost.Agent
---@field name string
---@field model qhost.Model
local Agent = {}
Agent.__index = Agent
Agent.__name = "qhost.Agent"

---@class qhost.Run
---@field model qhost.Model
local Run = {}
Run.__index = Run
Run.__name = "qhost.Run"

-- Making one ---------------------------------------------------------------------------------------------

local FIELDS = { name = "string", model = "table", tools = "table", system = "string", max_steps = "integer",
  max_tokens = "integer", max_calls = "integer", timeout = "number", on_step = "function", when_stuck = true,
  approval_timeout = "number" }
local KINDS = { string = "a text", table = "a list", integer = "an integer above 0", number = "a number above 0",
  ["function"] = "a function" }

local function check_fields(def)
  if type(def) ~= "table" then error("qh.agent takes a table", 3) end
  if not model.is_model(def.model) then error("qh.agent: model was not made by qh.model", 3) end
  for key, value in pairs(def) do
    local kind = FIELDS[key]
    if not kind then error(("qh.agent has no field '%s'"):format(tostring(key)), 3) end
    local is_number = kind == "integer" or kind == "number"
    local fits = kind == true or kind == "integer" and math.type(value) == "integer" or type(value) == kind
    if not fits or is_number and value <= 0 then
      error(("qh.agent: %s is %s; %s is expected"):format(key, tostring(value), KINDS[kind]), 3)
    end
  end
end

local function by_name(tools)
  local out = {}
  for i, t in ipairs(tools) do
    if not tool.is_tool(t) then error(("qh.agent: tools[%d] was not made by qh.tool"):format(i), 3) end
    if out[t.name] then error(("qh.agent: two tools are called '%s'"):format(t.name), 3) end
    out[t.name] = t
  end
  return out
end

local function stuck_text(v)
  if v == nil or v == true then return WHEN_STUCK end
  if v ~= false and type(v) ~= "string" then error("qh.agent: when_stuck is a text or false", 3) end
  return v
end

local agents, n_agents = {}, 0   -- of the app, by name: a parked run asks for its own

local function counted_name() return n_agents == 0 and "agent" or "agent-" .. n_agents + 1 end

local function register(self)
  if agents[self.name] then error(("qh.agent: two agents are called '%s'"):format(self.name), 3) end
  agents[self.name], n_agents = self, n_agents + 1
end

--- Make an agent. Those of the app's load are found by their names when a run goes on in another generation;
--- without one they are counted. Requests may make agents of their own.
---@param def table
---@return qhost.Agent
function M.new(def)
  check_fields(def)
  local tools = def.tools or {}
  local self = setmetatable({ name = def.name or counted_name(), model = def.model, tools = tools, by_name = by_name(tools),
    system = def.system, max_steps = def.max_steps or MAX_STEPS, max_calls = def.max_calls or MAX_CALLS,
    max_tokens = def.max_tokens, timeout = def.timeout, on_step = def.on_step, when_stuck = stuck_text(def.when_stuck),
    approval_timeout = def.approval_timeout or APPROVAL_SECONDS }, Agent)
  if core.is_loading and core.is_loading() then register(self) end
  return self
end

-- What a run remembers -----------------------------------------------------------------------------------

local emit = coroutine.yield

local function new_state()
  return { n_steps = 0, n_calls = 0, n_shown = 0, seconds = 0, made = {}, usage = { prompt = 0, cached = 0, completion = 0 } }
end

-- Seconds of work so far; what waits for an approval does not count.
local function seconds_used(run) return run.state.seconds + core.clock() - run.began end

local function seconds_left(run)
  return run.agent.timeout and math.max(run.agent.timeout - seconds_used(run), 0)
end

-- Asking the model ---------------------------------------------------------------------------------------

local PASS = {}
function PASS.text(_, ev)
  if ev.text ~= "" then emit { type = "text", text = ev.text } end
end
function PASS.reasoning(_, ev) emit { type = "reasoning", text = ev.text } end
function PASS.tool_call(run, ev)
  run.state.n_shown = run.state.n_shown + 1
  emit { type = "tool_call", index = run.state.n_shown, id = ev.id, name = ev.name, arguments = ev.arguments }
end

local function options(run, left)
  local o = { transcript = run.transcript, tools = run.agent.tools, tokens = true, timeout = left }
  if run.agent.max_tokens then o.max_tokens = run.agent.max_tokens - run.state.usage.completion end
  return o
end

-- A limit that the engine met, by the name that a run ends with; anything else ends the request.
local function limit_of(run, message, status)
  if status == "ETIMEDOUT" and run.agent.timeout then return "timeout" end
  if status == "ECONTEXT" and run.state.n_steps > 0 then return "context_length" end
  errors.abort_engine(message, status)
end

-- Up to here a run may be refused as a whole: agent:run gets as far as this.
local function begin(run)
  if run.is_begun then return end
  run.is_begun = true
  emit()
end

-- The model's next turn, its events passed on: the whole of it, or nil and the limit that was met.
local function ask(run)
  local left = seconds_left(run)
  if left == 0 then return nil, "timeout" end
  local answer, message, status = run.model:submit(options(run, left))
  if not answer then return nil, limit_of(run, message, status) end
  local open <close> = answer
  begin(run)
  local whole
  for ev in function() return open:next() end do
    if ev.type == "done" then whole = ev elseif PASS[ev.type] then PASS[ev.type](run, ev) end
  end
  if whole.finish == "error" then return nil, limit_of(run, whole.message, whole.status) end
  return whole
end

local function assistant_message(answer)
  local calls = {}
  for i, c in ipairs(answer.tool_calls) do
    calls[i] = { id = c.id, type = "function", ["function"] = { name = c.name, arguments = c.raw } }
  end
  return { role = "assistant", content = answer.text, reasoning_content = answer.reasoning,
    tool_calls = #calls > 0 and calls or nil }
end

local function add_usage(total, u)
  for key, n in pairs(u) do total[key] = (total[key] or 0) + n end
end

-- Note an answer. Stop strings are part of the tokens but not of the turn, so these are rendered again.
local function take(run, answer)
  local state = run.state
  state.n_steps = state.n_steps + 1
  add_usage(state.usage, answer.usage)
  state.text, state.reasoning = answer.text, answer.reasoning
  run.transcript:answer(assistant_message(answer), not answer.stop_match and answer.tokens or nil, answer.finish ~= "length")
  local calls = {}
  for i, c in ipairs(answer.tool_calls) do calls[i] = { id = c.id, name = c.name, raw = c.raw } end
  return calls
end

-- Calls --------------------------------------------------------------------------------------------------
-- A call is plain data: { id, name, raw, outcome?, is_asked? }.

local function unknown(run, name)
  local names = {}
  for i, t in ipairs(run.agent.tools) do names[i] = t.name end
  return tool.failure(("there is no tool '%s'; there are: %s"):format(name, table.concat(names, ", ")))
end

local function memory_key(t, args) return t.name .. " " .. core.json.encode(args, { sort = true }) end

local function context(run, call)
  return tool.context { user = run.user, request = run.request, id = call.id }
end

-- What stands between a call and its run: nil and an outcome, or the tool and its checked arguments.
local function checked(run, call)
  local t = run.agent.by_name[call.name]
  if not t then return nil, unknown(run, call.name) end
  local args, message = t:arguments(call.raw)
  if not args then return nil, tool.failure(message) end
  return t, args
end

local function show(call, began)
  emit { type = "tool_result", id = call.id, name = call.name, text = call.outcome.text,
    is_error = call.outcome.is_error or false, seconds = began and core.clock() - began or 0 }
end

-- Look at a call. It has an outcome afterwards, is asked about, or is a job to run.
local function prepare(run, call)
  local state = run.state
  if state.n_calls >= run.agent.max_calls then
    call.outcome = tool.failure(("the limit of %d calls is reached"):format(run.agent.max_calls))
    state.is_out_of_calls = true
    return nil
  end
  state.n_calls = state.n_calls + 1
  local t, args = checked(run, call)
  if not t then
    call.outcome = args
    return nil
  end
  local ctx = context(run, call)
  local verdict, reason = t:verdict(args, ctx)
  if verdict == "deny" then
    call.outcome = tool.failure(reason or ("%s is not allowed"):format(call.name))
  elseif verdict == "ask" then
    call.is_asked = true
  else
    return { call = call, tool = t, args = args, ctx = ctx }
  end
end

local function start(run, group, job)
  job.began = core.clock()
  local key = job.tool.is_pure and memory_key(job.tool, job.args)
  local known = key and run.known[key]
  if known then
    job.call.outcome = known
    return nil
  end
  job.key = key
  return group:spawn(job.tool.call, job.tool, job.args, job.ctx, seconds_left(run))
end

local function finish_job(run, job, ok, outcome)
  if ok == nil then outcome = tool.failure(job.call.name .. " was cancelled") end
  if ok == false then outcome = tool.failure(job.call.name .. " failed") end
  job.call.outcome = outcome
  if job.key and not outcome.is_error then run.known[job.key] = outcome end
  show(job.call, job.began)
end

-- Run jobs side by side, some at a time; each result is told when it is there.
local function run_jobs(run, jobs)
  local group <close> = core.group "the tools of an agent"
  local waiting, at, n_running = {}, 1, 0
  while at <= #jobs or n_running > 0 do
    while at <= #jobs and n_running < PARALLEL do
      local job = jobs[at]
      local i = start(run, group, job)
      if i then waiting[i], n_running = job, n_running + 1 else show(job.call, job.began) end
      at = at + 1
    end
    if n_running > 0 then
      local i, ok, outcome = group:next()
      n_running = n_running - 1
      finish_job(run, waiting[i], ok, outcome)
    end
  end
end

-- The calls of a turn that nobody is asked about.
local function run_free(run, calls)
  local jobs = {}
  for _, call in ipairs(calls) do
    local job = prepare(run, call)
    if job then jobs[#jobs + 1] = job elseif call.outcome then show(call) end
  end
  run_jobs(run, jobs)
end

local DENIED = "this call was denied"

-- The calls that somebody has decided on; a reload may have changed the tools meanwhile.
local function run_asked(run, calls, decision)
  local jobs = {}
  for _, call in ipairs(calls) do
    if call.is_asked and not call.outcome then
      local t, args = checked(run, call)
      if not decision.approve then
        call.outcome = tool.failure(decision.reason and DENIED .. ": " .. decision.reason or DENIED)
      elseif not t then
        call.outcome = args
      else
        jobs[#jobs + 1] = { call = call, tool = t, args = args, ctx = context(run, call) }
      end
      if call.outcome then show(call) end
    end
  end
  run_jobs(run, jobs)
end

local function take_results(run, calls)
  for _, call in ipairs(calls) do
    run.transcript:add { role = "tool", tool_call_id = call.id, name = call.name, content = call.outcome.text }
  end
end

-- Small models may make the same call for ever. A turn whose calls have all been made before, and gave what
-- they give now, brings nothing new: then the model is asked, as by the user, to answer.
local function unstick(run, calls)
  local made, is_stuck = run.state.made, true
  for _, call in ipairs(calls) do
    local args = core.json.decode(call.raw)
    local key = call.name .. " " .. (args and core.json.encode(args, { sort = true }) or call.raw)
    is_stuck = is_stuck and made[key] == call.outcome.text
    made[key] = call.outcome.text
  end
  if is_stuck and run.agent.when_stuck then run.transcript:add { role = "user", content = run.agent.when_stuck } end
end

-- Approvals ----------------------------------------------------------------------------------------------

local function asked_of(calls)
  local out = {}
  for _, call in ipairs(calls) do
    if call.is_asked and not call.outcome then
      out[#out + 1] = core.json.object({ id = call.id, name = call.name, arguments = call.raw }, { "id", "name", "arguments" })
    end
  end
  return core.json.array(out)
end

-- Put the run away: from here on it is data that outlives this request.
local function park(run, calls)
  run.state.seconds = seconds_used(run)
  return approvals.park({ agent = run.agent.name, user = run.user, messages = run.transcript.messages, calls = calls,
    asked = asked_of(calls), state = run.state }, run.agent.approval_timeout)
end

-- Wait for the decision on a parked run and carry it out. Returns how the run ends when it does not go on here.
local function await(run, id, expires, calls)
  emit { type = "approval", id = id, calls = asked_of(calls), expires = expires }
  if not run.is_waiting then return "approval" end
  local decision, finish = approvals.wait(id, expires, emit)
  if not decision then return finish end
  run.began = core.clock()
  run_asked(run, calls, decision)
end

-- The loop -----------------------------------------------------------------------------------------------

local ENDS = { length = true, canceled = true }

local function limit_met(run, answer)
  local agent, state = run.agent, run.state
  if state.is_out_of_calls then return "max_calls" end
  if agent.max_tokens and state.usage.completion >= agent.max_tokens then return "max_tokens" end
  if ENDS[answer.finish] then return answer.finish end
  if seconds_left(run) == 0 then return "timeout" end
  if state.n_steps >= agent.max_steps then return "max_steps" end
end

-- The end of a step: it is told, and on_step may end the run.
local function end_step(run, answer, calls)
  emit { type = "step", step = run.state.n_steps, finish = answer.finish, usage = answer.usage, timings = answer.timings }
  if not run.agent.on_step then return nil end
  local said, reason = run.agent.on_step { step = run.state.n_steps, text = answer.text, calls = calls,
    messages = run.transcript.messages, usage = answer.usage, total = run.state.usage, user = run.user }
  if said == "stop" then return reason or "stopped" end
end

-- An answer without calls is the last one.
local function last_finish(run, answer)
  if answer.finish == "length" and limit_met(run, answer) == "max_tokens" then return "max_tokens" end
  return answer.finish == "tool_calls" and "stop" or answer.finish
end

-- The calls of a turn, up to results in the transcript. Returns how the run ends when that is not here.
local function answer_calls(run, calls)
  run_free(run, calls)
  if #asked_of(calls) > 0 then
    local id, expires = park(run, calls)
    local finish = await(run, id, expires, calls)
    if finish then return finish end
  end
  take_results(run, calls)
  unstick(run, calls)
end

local function loop(run)
  while true do
    local answer, limit = ask(run)
    if not answer then return limit end
    local calls = take(run, answer)
    if #calls == 0 then return end_step(run, answer, calls) or last_finish(run, answer) end
    local finish = answer_calls(run, calls) or end_step(run, answer, calls) or limit_met(run, answer)
    if finish then return finish end
  end
end

-- A parked run goes on with the decision, then as any other.
local function resume(run)
  local record = run.record
  begin(run)
  if run.decision then
    run_asked(run, record.calls, run.decision)
  else
    local finish = await(run, record.id, record.expires, record.calls)
    if finish then return finish end
  end
  take_results(run, record.calls)
  return limit_met(run, {}) or loop(run)
end

local function work(run)
  local finish = (run.record and resume or loop)(run)
  local state = run.state
  run.outcome = { text = state.text or "", reasoning = state.reasoning, finish = finish, steps = state.n_steps,
    calls = state.n_calls, usage = state.usage, messages = run.transcript.messages }
  emit { type = "usage", usage = state.usage, steps = state.n_steps, calls = state.n_calls }
  emit { type = "done", finish = finish }
end

-- A run ------------------------------------------------------------------------------------------------

local RUN_FIELDS = { messages = true, prompt = true, user = true, request = true, resume = true, wait = true }

local function messages_of(agent, o)
  local list, message = conversation.of_options { messages = o.messages, prompt = o.prompt }
  if not list then errors.abort(400, "invalid_value", { message = message, param = "messages" }) end
  if agent.system then table.insert(list, 1, { role = "system", content = agent.system }) end
  return list
end

local function go_on(run)
  local ok, ev = coroutine.resume(run.work, run)
  if not ok then error(ev, 0) end
  return ev
end

-- fields: user, request, is_waiting; record and decision of a parked one.
local function start_run(agent, messages, state, fields)
  local run = setmetatable(fields, Run)
  run.agent, run.model, run.state, run.known, run.began = agent, agent.model, state, {}, core.clock()
  run.transcript = transcript.new(agent.model, messages, agent.tools)
  run.work = coroutine.create(work)
  go_on(run)
  return run
end

local function start_parked(agent, record, fields)
  fields.record, fields.user = record, record.user
  return start_run(agent, record.messages, record.state, fields)
end

--- Start a run: an iterator of events, worked on while somebody reads them. user and request are for the tools;
--- user must be plain data when calls may have to be approved. resume: the id of a parked run, in place of
--- messages. wait = false: a run that needs an approval ends there, with the finish "approval". What the engine
--- refuses ends the request. Yields.
---@param o table
---@return qhost.Run
function Agent:run(o)
  for key in pairs(o) do
    if not RUN_FIELDS[key] then error(("agent:run has no option '%s'"):format(tostring(key)), 2) end
  end
  local fields = { request = o.request, is_waiting = o.wait ~= false }
  if o.resume then return start_parked(self, approvals.find(o.resume, self.name), fields) end
  fields.user = o.user == nil and "anonymous" or o.user
  return start_run(self, messages_of(self, o), new_state(), fields)
end

--- What goes on with a parked run in this generation once it is decided; nil without its agent.
---@param record table
---@return (fun(decision: table): qhost.Run)?
function M.runner(record)
  local agent = agents[record.agent]
  return agent and function(decision) return start_parked(agent, record, { decision = decision, is_waiting = true }) end
end

--- The next event, or nil at the end. Yields.
Run.__call = function(run)
  if coroutine.status(run.work) == "dead" then return nil end
  return go_on(run)
end

--- What it started is cancelled.
Run.__close = function(run) coroutine.close(run.work) end

function Run:close() coroutine.close(self.work) end

--- Read the run to its end: its outcome. Yields.
---@return table
function Run:result()
  local open <close> = self
  local approval
  for ev in open do
    if ev.type == "approval" then approval = { id = ev.id, calls = ev.calls, expires = ev.expires } end
  end
  if self.outcome.finish == "approval" then self.outcome.approval = approval end
  return self.outcome
end

M.Agent, M.Run = Agent, Run
return M
