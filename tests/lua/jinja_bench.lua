--- jinja_bench.lua: how long chat templates take: lua5.4 tests/lua/jinja_bench.lua ROOT [FOLDER]
---
--- Renders a conversation of 20 messages with 10 tools with every template of the folder (default:
--- templates/ in $QH_TEST_DATA) that accepts one, and prints the time of a rendering per template
--- and over all. Times are CPU time of a plain interpreter, collector included. Exit status 1 over a median of
--- 0.5 ms or a p99 of 3 ms.
local root = assert(arg[1], "usage: jinja_bench.lua ROOT [FOLDER]")
package.path = root .. "/lua/?.lua;" .. root .. "/tests/lua/?.lua"
local jinja = require "qhost.jinja"
local json = require "json"

local ROUNDS = 200
local folder = arg[2] or (os.getenv "QH_TEST_DATA" or root .. "/../shared/data") .. "/templates"

local function tool(i)
  return ([[{"type": "function", "function": {"name": "lookup_%d",
    "description": "Looks up the current state of entity number %d in the \"inventory\" system.",
    "parameters": {"type": "object", "properties": {
      "query": {"type": "string", "description": "What to look for, in plain words"},
      "limit": {"type": "integer", "description": "The most results to return", "default": 10},
      "unit": {"type": "string", "enum": ["metric", "imperial"]},
      "filters": {"type": "array", "items": {"type": "string"}, "description": "Names of filters"}},
      "required": ["query"]}}}]]):format(i, i)
end

local TEXT = "Here is a paragraph of ordinary length, such as people write: it has a few sentences, "
  .. "some of them with \\\"quotes\\\" and line breaks.\\nIt goes on for a while, because messages do, "
  .. "and it ends with a question that the other side can answer. What do you think?"

-- 20 messages; with tools, some turns call one and get its answer.
local function conversation(with_tools)
  local list = { ('{"role": "system", "content": "%s"}'):format(TEXT) }
  local turn = 0
  while #list < 19 do
    turn = turn + 1
    list[#list + 1] = ('{"role": "user", "content": "%s"}'):format(TEXT)
    if with_tools and turn % 3 == 0 and #list < 17 then
      list[#list + 1] = ([[{"role": "assistant", "content": "", "tool_calls": [{"id": "call%05d",
        "type": "function", "function": {"name": "lookup_1",
        "arguments": {"query": "%s", "limit": 3}}}]}]]):format(turn, "a thing")
      list[#list + 1] = ([[{"role": "tool", "tool_call_id": "call%05d", "name": "lookup_1",
        "content": "{\"found\": [1, 2, 3]}"}]]):format(turn)
    end
    list[#list + 1] = ('{"role": "assistant", "content": "%s"}'):format(TEXT)
  end
  list[#list + 1] = ('{"role": "user", "content": "%s"}'):format(TEXT)
  return "[" .. table.concat(list, ",") .. "]"
end

local tools = {}
for i = 1, 10 do tools[i] = tool(i) end
tools = "[" .. table.concat(tools, ",") .. "]"

local function vars(with_tools)
  local v = assert(json.decode('{"add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"}'))
  v.messages = assert(json.decode(conversation(with_tools)))
  v.tools = with_tools and assert(json.decode(tools)) or nil
  return v
end

local function read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read "a"
  f:close()
  return s
end

local all, names = {}, {}
for line in io.popen('ls "' .. folder .. '"/*.jinja'):lines() do names[#names + 1] = line end
for _, path in ipairs(names) do
  local name = path:match "[^/]+$"
  local source = read(path)
  local start = os.clock()
  local template = assert(jinja.compile(source, { name = name }))
  local compile_ms = (os.clock() - start) * 1000
  local kind, given = "tools", vars(true)
  local text, err = template:render_text(given, { now = 1735819200 })
  if not text then
    kind, given = "plain", vars(false)
    text, err = template:render_text(given, { now = 1735819200 })
  end
  if text then
    local times = {}
    for i = 1, ROUNDS do
      start = os.clock()
      assert(template:render(given, { now = 1735819200 }))
      times[i] = (os.clock() - start) * 1000
      all[#all + 1] = times[i]
    end
    table.sort(times)
    print(("%-62s %-5s %7d bytes  median %.3f ms  p99 %.3f ms  compile %.1f ms"):format(name, kind,
      #text, times[ROUNDS // 2], times[math.ceil(ROUNDS * 0.99)], compile_ms))
  else
    print(("%-62s refuses: %s"):format(name, err:match "^[^\n]*"))
  end
end
table.sort(all)
local median, p99 = all[#all // 2], all[math.ceil(#all * 0.99)]
print(("all %d renderings: median %.3f ms, p99 %.3f ms, worst %.3f ms"):format(#all, median, p99, all[#all]))
os.exit(median < 0.5 and p99 < 3)
