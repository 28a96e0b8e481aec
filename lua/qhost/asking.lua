--- asking.lua: chat and stream for whatever has submit: models, upstreams, fallbacks. Their answers have
--- next() and cancel() and are closable; the events of next are those of qhost.answer.
local errors = require "qhost.errors"
local M = {}

--- All of an answer: a list of results, or nil, message, status name. Yields.
---@param visit? fun(ev: table)  sees every event on its way
---@return table[]? results
---@return string? message
---@return string? status
function M.collect(answer, visit)
  local open <close> = answer
  local results = {}
  for ev in function() return open:next() end do
    if visit then visit(ev) end
    if ev.type == "done" then
      if ev.finish == "error" then return nil, ev.message, ev.status end
      ev.type = nil
      results[ev.choice], ev.choice = ev, nil
    end
  end
  return results
end

--- Ask and wait for all of it. Yields.
---@return qhost.Result? result
---@return string? message
---@return string? status
function M.chat(model, o)
  local open, message, status = model:submit(o)
  if not open then return nil, message, status end
  local results, why, code = open:collect()
  if not results then return nil, why, code end
  local first = results[1]
  if #results > 1 then first.choices = results end
  return first
end

---@class qhost.Stream
local Stream = {}
Stream.__index = Stream
Stream.__close = function(s) s.answer:cancel() end
--- The next event, or nil at the end: text, reasoning and tool_call as qhost.answer has them, then
--- {type = "usage", usage, timings} and {type = "done", finish, tool_calls, unparsed}. A failure ends the
--- request. Yields.
Stream.__call = function(s)
  local waiting = s.waiting
  if waiting then
    s.waiting = nil
    return waiting
  end
  local ev = s.answer:next()
  if not ev or ev.type ~= "done" then return ev end
  if ev.finish == "error" then errors.abort_engine(ev.message, ev.status) end
  s.waiting = { type = "done", finish = ev.finish, choice = ev.choice, unparsed = ev.unparsed,
    tool_calls = #ev.tool_calls > 0 and ev.tool_calls or nil }
  return { type = "usage", usage = ev.usage, timings = ev.timings, choice = ev.choice }
end

--- Ask; what comes is read piece by piece. A refusal ends the request. Yields.
---@return qhost.Stream
function M.stream(model, o)
  local open, message, status = model:submit(o)
  if not open then errors.abort_engine(message, status) end
  return setmetatable({ answer = open, model = model }, Stream)
end

return M
