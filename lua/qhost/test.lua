--- test.lua: what the test files of an app use; `qhost test app.lua` runs them.
---
---     local test, qh = require "qhost.test", require "qhost"
---     test.test("greets", function()
---       local reply = test.request { path = "/hello" }
---       test.equal(reply.status, 200)
---     end)
---
--- Each file gets the app loaded anew; each test its own doubles (qh.mock). Nothing leaves the process.
local core = require "qhost.core"
local app_module = require "qhost.app"
local doubles = require "qhost.doubles"
local runner = require "qhost.test_runner"
local M = {}

local MAX_DIFFERENCES = 8

--- Add a test. A test that waits longer than its timeout (default 5 s) has failed.
---@param name string
---@param opts? {timeout?: number, skip?: string}  skip: why it is left out
---@param fn fun()
function M.test(name, opts, fn)
  if fn == nil then opts, fn = {}, opts end
  if type(name) ~= "string" or type(fn) ~= "function" then error("test.test takes a name and a function", 2) end
  for _, t in ipairs(runner.list) do
    if t.name == name then error(("two tests are called '%s'"):format(name), 2) end
  end
  runner.list[#runner.list + 1] = { name = name, fn = fn, timeout = opts.timeout, skip = opts.skip }
end

-- Assertions -----------------------------------------------------------------------------------------------

local function fail(message, what)
  error(setmetatable({ message = (what and what .. ": " or "") .. message, where = core.place() }, runner.Failed), 0)
end

local function show(v)
  if type(v) == "string" then
    local text = ("%q"):format(v):gsub("\\\n", "\\n")
    return #text > 200 and text:sub(1, 200) .. "..." or text
  end
  if v == core.json.null then return "null" end
  if type(v) ~= "table" then return tostring(v) end
  local ok, text = pcall(core.json.encode, v, { sort = true })
  if not ok then return tostring(v) end
  return #text > 200 and text:sub(1, 200) .. "..." or text
end

local function step(path, key)
  if math.type(key) == "integer" then return ("%s[%d]"):format(path, key) end
  if type(key) == "string" and key:find "^[%a_][%w_]*$" then return path == "" and key or path .. "." .. key end
  return ("%s[%s]"):format(path, show(key))
end

local function sorted_keys(a, b)
  local keys, seen = {}, {}
  for _, t in ipairs { a, b } do
    for key in pairs(t) do
      if not seen[key] then keys[#keys + 1], seen[key] = key, true end
    end
  end
  table.sort(keys, function(x, y)
    if type(x) == type(y) and (type(x) == "number" or type(x) == "string") then return x < y end
    return type(x) .. tostring(x) < type(y) .. tostring(y)
  end)
  return keys
end

-- Long texts that differ: from shortly before the first difference on.
local function text_difference(got, want)
  if #got + #want < 120 then return ("got %s, want %s"):format(show(got), show(want)) end
  local at = 1
  while at <= #got and got:byte(at) == want:byte(at) do at = at + 1 end
  local from, line = math.max(at - 20, 1), 1
  for _ in got:sub(1, at - 1):gmatch "\n" do line = line + 1 end
  return ("differs at byte %d (line %d)\n  got  %s\n  want %s"):format(at, line,
    show(got:sub(from, at + 60)), show(want:sub(from, at + 60)))
end

local function differences(got, want, path, out)
  if #out > MAX_DIFFERENCES or rawequal(got, want) then return out end
  local where = path == "" and "" or path .. ": "
  if type(got) == "table" and type(want) == "table" then
    for _, key in ipairs(sorted_keys(got, want)) do
      local g, w, at = got[key], want[key], step(path, key)
      if g == nil then
        out[#out + 1] = ("%s: missing, want %s"):format(at, show(w))
      elseif w == nil then
        out[#out + 1] = ("%s: got %s, want nothing"):format(at, show(g))
      else
        differences(g, w, at, out)
      end
    end
  elseif type(got) == "string" and type(want) == "string" then
    if got ~= want then out[#out + 1] = where .. text_difference(got, want) end
  elseif got ~= want then
    out[#out + 1] = ("%sgot %s, want %s"):format(where, show(got), show(want))
  end
  return out
end

--- Fail unless both are equal, tables by what is in them. The message lists the places that differ.
---@param got any
---@param want any
---@param what? string
function M.equal(got, want, what)
  local out = differences(got, want, "", {})
  if #out == 0 then return end
  if out[MAX_DIFFERENCES + 1] then out[MAX_DIFFERENCES + 1], out[MAX_DIFFERENCES + 2] = "...", nil end
  fail(table.concat(out, "\n"), what)
end

--- Fail unless the value is true. Returns it.
---@param value any
---@param what? string
function M.check(value, what)
  if not value then fail(("got %s, want something true"):format(show(value)), what) end
  return value
end

--- Fail unless the text matches the Lua pattern.
---@param text string
---@param pattern string
---@param what? string
function M.match(text, pattern, what)
  if type(text) ~= "string" then
    fail(("got %s, want a text that matches %s"):format(show(text), show(pattern)), what)
  end
  if not text:find(pattern) then fail(("%s does not match %s"):format(show(text), show(pattern)), what) end
end

--- Fail unless fn raises an error whose text has `part` in it. Returns the error.
---@param fn fun()
---@param part? string
---@param what? string
function M.error(fn, part, what)
  local ok, e = pcall(fn)
  if ok then fail(("no error was raised, want %s"):format(part and show(part) or "one"), what) end
  if part and not tostring(e):find(part, 1, true) then
    fail(("the error is %s, want %s in it"):format(show(tostring(e)), show(part)), what)
  end
  return e
end

-- Requests -------------------------------------------------------------------------------------------------

local Exchange = {}
Exchange.__index = Exchange
function Exchange:method() return self.request.method end
function Exchange:path() return self.request.path end
function Exchange:query() return self.request.query end
function Exchange:id() return self.request.id end
function Exchange:peer() return "127.0.0.1:1" end
function Exchange:start() return self.request.start end
function Exchange:headers() return self.request.headers end
function Exchange:header(name)
  for _, field in ipairs(self.request.headers) do
    if field[1]:lower() == name:lower() then return field[2] end
  end
end
function Exchange:body() return self.request.body end
function Exchange:is_begun() return self.reply_status ~= nil end
function Exchange:begin(status, headers)
  self.reply_status = status
  for _, field in ipairs(headers or {}) do self.fields[#self.fields + 1] = field end
end
function Exchange:write(text) self.pieces[#self.pieces + 1] = text end
function Exchange:finish() self.is_finished = true end
function Exchange:abort() self.is_cut = true end
function Exchange:tag(key, value) self.tags[key] = value end
function Exchange:on_abort() end
function Exchange:outlive() end
function Exchange:add_field(name, value) self.fields[#self.fields + 1] = { name, value } end
function Exchange:reply(status, headers, body)
  self:begin(status, headers)
  self:write(body or "")
  self:finish()
end

---@class qhost.TestReply
---@field status integer
---@field headers table<string, string>
---@field body string
---@field is_cut boolean  the reply was cut off after its first byte
---@field log string  what the app logged as errors meanwhile
local Reply = {}
Reply.__index = Reply

--- The body as JSON.
function Reply:json()
  local value, message = core.json.decode(self.body)
  if value == nil then fail(("the body is no JSON: %s\n%s"):format(message, show(self.body))) end
  return value
end

--- The events of an event stream: a list of {event=, data=}; data is JSON where it is some.
function Reply:events()
  local out = {}
  for block in (self.body .. "\n\n"):gmatch "(.-)\n\n" do
    local event, data = block:match "event: ([^\n]*)", {}
    for line in block:gmatch "data: ?([^\n]*)" do data[#data + 1] = line end
    if #data > 0 then
      local text = table.concat(data, "\n")
      local value = core.json.decode(text)
      out[#out + 1] = { event = event, data = value == nil and text or value }
    end
  end
  return out
end

local function request_of(o)
  local headers, body = {}, o.body or ""
  if o.json ~= nil then
    body = core.json.encode(o.json)
    headers[1] = { "content-type", "application/json" }
  end
  for name, value in pairs(o.headers or {}) do headers[#headers + 1] = { name, tostring(value) } end
  local path, query = (o.path or "/"):match "^([^?]*)%??(.*)$"
  return { method = o.method or ((o.json ~= nil or o.body) and "POST" or "GET"), path = path,
    query = query ~= "" and query or nil, headers = headers, body = body, id = ("test_%x"):format(core.random() & 0xffffffff),
    start = core.clock() }
end

-- A request is a task of the host, as in a server: it has its own budget, and when it dies the test does not.
local function dispatch(x)
  local over, is_done = core.channel(1), false
  doubles.run_apart("test.request " .. x.request.id, function()
    local _ <close> = setmetatable({}, { __close = function() over:close() end })
    app_module.dispatch(runner.app, x)
    is_done = true
  end)
  over:recv()
  if not is_done then
    app_module.fail(runner.app, x, "script_timeout", "the request ran too long, or used too much memory")
  end
end

local REQUEST_FIELDS = { method = true, path = true, json = true, body = true, headers = true }

--- Ask the app, without a socket: its reply. Waits.
---@param o {method?: string, path: string, json?: any, body?: string, headers?: table<string, string>}
---@return qhost.TestReply
function M.request(o)
  for key in pairs(o) do
    if not REQUEST_FIELDS[key] then error(("test.request has no field '%s'"):format(tostring(key)), 2) end
  end
  local s = doubles.state() or error("test.request is for the inside of a test", 2)
  local x = setmetatable({ request = request_of(o), pieces = {}, tags = {}, fields = {} }, Exchange)
  local first_log = #s.logs + 1
  dispatch(x)
  local reply = { status = x.reply_status, headers = {}, body = table.concat(x.pieces), is_cut = x.is_cut == true, tags = x.tags }
  for _, field in ipairs(x.fields) do reply.headers[field[1]:lower()] = tostring(field[2]) end
  local errors = {}
  for i = first_log, #s.logs do
    if s.logs[i].level == "error" then errors[#errors + 1] = s.logs[i].event .. " " .. s.logs[i].text end
  end
  reply.log = table.concat(errors, "\n")
  return setmetatable(reply, Reply)
end

return M
