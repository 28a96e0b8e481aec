--- doubles.lua: what stands in for the world while `qhost test` runs: models, fetch, the clock, the log.
---
--- Installed into core before anything else is loaded, so that the library and the app meet the doubles only. Each
--- test begins with fresh ones.
local M = {}

local CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
local CONTROL = { ["<|endoftext|>"] = 256, ["<|im_start|>"] = 257, ["<|im_end|>"] = 258 }
local CONTROL_TEXT = { [256] = "<|endoftext|>", [257] = "<|im_start|>", [258] = "<|im_end|>" }
local CONTEXT = 32768
local IDLE_TURNS = 30            -- turns of the loop in which nothing happens before virtual time jumps

local core, real                 -- real: what core had
local state                      -- of the test at work

--- Something happens, so virtual time stands still.
local function touch()
  local clock = state and state.clock
  if clock then clock.version = clock.version + 1 end
end

-- Tokens: bytes and three control tokens ---------------------------------------------------------------

local function add_bytes(ids, text)
  for i = 1, #text do ids[#ids + 1] = text:byte(i) end
end

local function add_text(ids, text, is_special)
  local at = 1
  while is_special do
    local from, to, name = text:find("(<|[a-z_]+|>)", at)
    if not from then break end
    add_bytes(ids, text:sub(at, from - 1))
    if CONTROL[name] then ids[#ids + 1] = CONTROL[name] else add_bytes(ids, name) end
    at = to + 1
  end
  add_bytes(ids, text:sub(at))
  return ids
end

local function text_of(ids)
  local out = {}
  for i, id in ipairs(ids) do out[i] = CONTROL_TEXT[id] or string.char(id) end
  return table.concat(out)
end

-- Models -------------------------------------------------------------------------------------------------

--- What the user said last: the answer of a model that nobody told what to say.
local function echo(prompt) return prompt:match "^.*<|im_start|>user\n(.-)<|im_end|>" or prompt end

local function call_text(call)
  local json = core.json
  return "<tool_call>" .. json.encode(json.object({ name = call.name, arguments = call.arguments or json.object() },
    { "name", "arguments" })) .. "</tool_call>"
end

--- An answer as the text that a model would write: a string, or {text=, tool_calls={{name=, arguments=}}}.
local function written(answer)
  if type(answer) == "string" then return answer end
  if type(answer) ~= "table" then error("a model's answer is a string or a table, not a " .. type(answer), 0) end
  local parts = { answer.text or "" }
  for _, call in ipairs(answer.tool_calls or {}) do parts[#parts + 1] = call_text(call) end
  return table.concat(parts)
end

local function answer_of(name, prompt)
  local said = state.prompts[name] or {}
  state.prompts[name] = said
  said[#said + 1] = prompt
  local script = state.models[name]
  if not script then return echo(prompt) end
  local answers = script.answers
  script.n = script.n + 1
  if type(answers) == "function" then return written(answers(prompt, script.n)) end
  if type(answers) == "table" and answers[1] ~= nil then
    if answers[script.n] == nil then
      error(("model '%s' is asked more often than the %d times that the test has an answer for"):format(name, #answers), 0)
    end
    return written(answers[script.n])
  end
  return written(answers)
end

--- The text cut where a stop string or max_tokens ends it: text, finish, stop_match.
local function cut(text, spec)
  local finish, match
  for _, stop in ipairs(spec.stop or {}) do
    local from = text:find(stop, 1, true)
    if from then text, finish, match = text:sub(1, from - 1), "stop", stop end
  end
  if spec.max_tokens and #text > spec.max_tokens then return text:sub(1, spec.max_tokens), "length" end
  return text, finish or "stop", match
end

local Generation = {}
Generation.__index = Generation
Generation.__close = function(g) g.events = {} end

function Generation:cancel() self.events = {} end

function Generation:next()
  touch()
  if #self.events > 0 then real.sleep(0) end               -- as a model, it lets the others go on
  return table.remove(self.events, 1)
end

local function events_of(name, spec)
  local prompt, list = text_of(spec.ids), {}
  for choice = 1, spec.n or 1 do
    local text, finish, match = cut(answer_of(name, prompt), spec)
    for piece in text:gmatch "%s*%S*" do
      if piece ~= "" then list[#list + 1] = { type = "text", choice = choice, text = piece } end
    end
    list[#list + 1] = { type = "done", choice = choice, finish = finish, stop_match = match,
      usage = { prompt = #spec.ids, cached = 0, completion = #text },
      timings = { queue = 0, prefill = 0, ttft = 0, decode = 0 } }
  end
  return list
end

local Handle = {}
Handle.__index = Handle

function Handle:meta()
  return { name = self.name, arch = "scripted", n_ctx = CONTEXT, n_vocab = 259, chat_template = CHATML,
    bos = "<|endoftext|>", eos = "<|im_end|>" }
end

function Handle:encode(text, opts) return add_text({}, text, opts and opts.parse_special) end

function Handle:encode_segments(segments)
  local ids = {}
  for _, s in ipairs(segments) do add_text(ids, s.text, s.special) end
  return ids
end

function Handle:decode(ids) return text_of(ids) end
function Handle:piece(id) return text_of { id } end

function Handle:submit(spec)
  if spec.logprobs or spec.prompt_logprobs then
    return nil, "a test's model has no probabilities", "EUNSUPPORTED"
  end
  if #spec.ids >= CONTEXT then
    return nil, ("the prompt has %d tokens, the context %d"):format(#spec.ids, CONTEXT), "ECONTEXT"
  end
  return setmetatable({ events = events_of(self.name, spec) }, Generation)
end

local handles = {}

local function open_model(name)
  handles[name] = handles[name] or setmetatable({ name = name }, Handle)
  return handles[name]
end

-- Fetch --------------------------------------------------------------------------------------------------

local function as_pattern(glob)
  return "^" .. glob:gsub("[%^%$%(%)%%%.%[%]%+%-%?]", "%%%0"):gsub("%*", ".*") .. "$"
end

local function header_list(headers)
  local list = {}
  for name, value in pairs(headers or {}) do list[#list + 1] = { name:lower(), tostring(value) } end
  table.sort(list, function(a, b) return a[1] < b[1] end)
  return list
end

local Response = {}
Response.__index = Response
Response.__close = function() end
function Response:head() return self.status end
function Response:headers() return self.list end
function Response:url() return self.where end
function Response:body() return self.text end
function Response:cancel() end
function Response:read()
  local text = self.text
  self.text = nil
  return text
end

local function response_of(reply, url, timeout)
  if type(reply) == "string" then reply = { body = reply } end
  if type(reply) ~= "table" then error("the reply of a fetch is a string or a table, not a " .. type(reply), 0) end
  local delay = reply.delay or 0
  if timeout and delay > timeout then
    core.sleep(timeout)
    return nil, ("%s: timed out after %g s"):format(url, timeout), "ETIMEDOUT"
  end
  if delay > 0 then core.sleep(delay) end
  if reply.error then return nil, reply.error, reply.status_name or "EIO" end
  local headers, text = reply.headers or {}, reply.body or ""
  if reply.json ~= nil then
    text, headers = core.json.encode(reply.json), setmetatable({ ["content-type"] = "application/json" }, nil)
    for name, value in pairs(reply.headers or {}) do headers[name:lower()] = value end
  end
  return setmetatable({ status = reply.status or 200, list = header_list(headers), text = text, where = url }, Response)
end

local function asked(url, opts)
  local headers = {}
  for _, field in ipairs(opts.headers or {}) do headers[field[1]:lower()] = field[2] end
  return { url = url, method = opts.method or (opts.body and "POST" or "GET"), headers = headers, body = opts.body,
    json = opts.body and core.json.decode(opts.body) }
end

local function fetch(url, opts)
  touch()
  local request = asked(url, opts or {})
  state.fetched[#state.fetched + 1] = request
  for i = #state.fetches, 1, -1 do
    local entry = state.fetches[i]
    if url:find(entry.pattern) then
      local reply = entry.reply
      if type(reply) == "function" then reply = reply(request) end
      return response_of(reply, url, opts and opts.timeout)
    end
  end
  return nil, ("%s %s: the test has no reply for it; give one with qh.mock.fetch"):format(request.method, url), "EACCES"
end

-- The clock ----------------------------------------------------------------------------------------------

local function forget(clock, sleeper)
  for i, s in ipairs(clock.sleepers) do
    if s == sleeper then return table.remove(clock.sleepers, i) end
  end
end

local function sleep(seconds)
  local clock = state and state.clock
  if not clock then return real.sleep(seconds) end
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds <= 86400 * 365) then
    error("qh.sleep takes seconds, from 0 to a year", 2)
  end
  local sleeper = { at = clock.mono + seconds, channel = core.channel(1) }
  clock.sleepers[#clock.sleepers + 1] = sleeper
  clock.version = clock.version + 1
  local _ <close> = setmetatable({}, { __close = function() forget(clock, sleeper) end })
  sleeper.channel:recv()
end

--- Let everybody who can go on go on.
local function settle()
  for _ = 1, 8 do real.sleep(0) end
end

local function earliest(clock, until_)
  local first
  for _, s in ipairs(clock.sleepers) do
    if s.at <= until_ and (not first or s.at < first.at) then first = s end
  end
  return first
end

local function move_to(clock, mono)
  clock.wall = clock.wall + (mono - clock.mono)
  clock.mono = mono
end

--- Wake the first who sleeps until `until_` at most; false when there is none.
local function wake_first(clock, until_)
  local sleeper = earliest(clock, until_)
  if not sleeper then return false end
  forget(clock, sleeper)
  move_to(clock, math.max(sleeper.at, clock.mono))
  clock.version = clock.version + 1
  sleeper.channel:send(true)
  return true
end

local function advance(clock, seconds)
  local target = clock.mono + seconds
  settle()
  while wake_first(clock, target) do settle() end
  move_to(clock, target)
end

--- While nothing else happens, time goes to the next who sleeps. Turns are counted, not real time, so a busy machine
--- changes nothing. Runs until it is cancelled.
local function run_clock(clock)
  local seen, n_turns = nil, 0
  while true do
    local is_busy = state and state.n_pending > 0
    real.sleep((is_busy or #clock.sleepers == 0) and 0.0005 or 0)
    if is_busy or clock.version ~= seen then n_turns = 0 else n_turns = n_turns + 1 end
    seen = clock.version
    if n_turns >= IDLE_TURNS and wake_first(clock, math.huge) then n_turns = 0 end
  end
end

--- The calls of a store are real, and time stands still while one is under way.
local function counted(run)
  return function(...)
    local s = state
    if not s then return run(...) end
    s.n_pending = s.n_pending + 1
    local _ <close> = setmetatable({}, { __close = function()
      s.n_pending = s.n_pending - 1
      touch()
    end })
    return run(...)
  end
end

-- Installing ---------------------------------------------------------------------------------------------

--- Put the doubles into core.
function M.install(into)
  core, real = into, { wall = into.wall, clock = into.clock, sleep = into.sleep, log = into.log, background = into.background }
  M.periodic = {}
  core.wall = function() return state and state.clock and state.clock.wall or real.wall() end
  core.clock = function() return state and state.clock and state.clock.mono or real.clock() end
  core.sleep = sleep
  core.model = open_model
  core.models = function() return {} end
  core.fetch = fetch
  if core.store then core.store = { open = core.store.open, run = counted(core.store.run) } end
  core.background = function(name, fn, period)
    if not state then
      M.periodic[#M.periodic + 1] = { name = name, fn = fn, period = period }
      return true
    end
    return state.spawn(name, fn)
  end
  core.log = function(level, event, fields)
    if not state then return real.log(level, event, fields) end
    state.logs[#state.logs + 1] = { level = level, event = event,
      text = type(fields) == "table" and core.json.encode(fields, { sort = true }) or fields or "" }
  end
end

--- Begin a test: nothing is mocked. spawn(name, fn): runs work that requests leave behind.
function M.begin(spawn)
  state = { models = {}, prompts = {}, fetches = {}, fetched = {}, tools = {}, logs = {}, spawn = spawn,
    n_pending = 0 }
  return state
end

function M.finish() state = nil end
function M.state() return state end

--- What fn(...) returns within that much real time; else it is cancelled, and nil, nil, "ETIMEDOUT" come back.
function M.timeout(seconds, fn)
  local group <close> = core.group "test"
  group:spawn(real.sleep, seconds)
  group:spawn(fn)
  local i, ok, value, failure = group:next()
  if i == 1 then return nil, nil, "ETIMEDOUT" end
  if not ok then error(value, 0) end
  return value, failure
end

--- Run fn as a task of the host, beside the tests.
function M.run_apart(name, fn) return real.background(name, fn) end

M.as_pattern, M.advance, M.run_clock = as_pattern, advance, run_clock
return M
