--- Reading generations back: every case is fed whole, byte by byte, cut in two at every place, and in
--- random pieces, and must give the same events.
local json = require "json"
local formats = require "formats"

local TOOLS = assert(json.decode [[
[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties":
   {"city": {"type": "string"}, "days": {"type": "integer"}, "code": {"type": ["string", "null"]},
    "unit": {"enum": ["c", "f"]}, "flags": {"type": "array"}}}}},
 {"name": "brave_search", "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}}},
 "note"]
]])

local CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'

local function text(s) return { type = "text", text = s } end
local function unparsed(s) return { type = "text", text = s, unparsed = true } end
local function reasoning(s) return { type = "reasoning", text = s } end
local function call(index, name, arguments, id)
  return { type = "tool_call", index = index, name = name, arguments = arguments, id = id }
end
local PARIS = call(0, "get_weather", '{"city": "Paris"}')

-- format, generation, events, options
local CASES = {
  -- text and white space
  { "plain", "  <think>x</think> <tool_call>{}</tool_call>\n", { text "  <think>x</think> <tool_call>{}</tool_call>\n" } },
  { "hermes", "", {} },
  { "hermes", "Hello.", { text "Hello." } },
  { "hermes", "  Hello. \n", { text "  Hello. \n" } },
  { "hermes", "a < b <t <tool <tool_cal l>", { text "a < b <t <tool <tool_cal l>" } },
  { "hermes", "ends in <tool_ca", { text "ends in <tool_ca" } },
  { "hermes", "ends in spaces and <tool_ca  ", { text "ends in spaces and <tool_ca  " } },
  { "hermes", "é日😀 <", { text "é日😀 <" } },

  -- reasoning
  { "hermes", "<think>\nFirst, think.\n\nThen more.\n</think>\n\nAnswer.\n", { reasoning "First, think.\n\nThen more.", text "Answer.\n" } },
  { "hermes", "<think></think>Answer", { text "Answer" } },
  { "hermes", "<think>\n\n</think>\n\nAnswer", { text "Answer" } },
  { "hermes", "<think>cut off in </thi", { reasoning "cut off in </thi" } },
  { "hermes", "<think>cut off \n", { reasoning "cut off" } },
  { "hermes", "think</think>Answer", { reasoning "think", text "Answer" }, { in_reasoning = true } },
  { "hermes", "\nall of it is thought\n", { reasoning "all of it is thought" }, { in_reasoning = true } },
  { "hermes", "<think>a < b </b </think x></think>ok", { reasoning "a < b </b </think x>", text "ok" } },
  { "hermes", "<think>no <tool_call>{}</tool_call> here</think>ok", { reasoning "no <tool_call>{}</tool_call> here", text "ok" } },
  { "hermes", "a<think>b</think>c<think>d</think>e", { text "a", reasoning "b", text "c", reasoning "d", text "e" } },
  { "mistral", "[THINK]hm[/THINK]yes", { reasoning "hm", text "yes" } },
  { "hermes", "<think>x</think>\n<tool_call>\n" .. CALL .. "\n</tool_call>", { reasoning "x", PARIS } },
  { "hermes", "x</think>" .. CALL, { reasoning "x", PARIS }, { in_reasoning = true } },

  -- Hermes
  { "hermes", "<tool_call>\n" .. CALL .. "\n</tool_call>", { PARIS } },
  { "hermes", "Let me see.\n\n<tool_call>\n" .. CALL .. "\n</tool_call>\n", { text "Let me see.", PARIS } },
  { "hermes", "<tool_call>" .. CALL .. "</tool_call>\n<tool_call>" .. CALL .. "</tool_call>",
    { PARIS, call(1, "get_weather", '{"city": "Paris"}') } },
  { "hermes", "<tool_call>" .. CALL .. "</tool_call>\n\nDone.", { PARIS, text "Done." } },
  { "hermes", "<tool_call>\n" .. CALL .. "\n" .. CALL .. "\n</tool_call>", { PARIS, call(1, "get_weather", '{"city": "Paris"}') } },
  { "hermes", "<tool_call>[" .. CALL .. ", " .. CALL .. "]</tool_call>", { PARIS, call(1, "get_weather", '{"city": "Paris"}') } },
  { "hermes", "<tool_call>" .. CALL, { PARIS } },
  { "hermes", "<tool_call>" .. CALL .. "</tool_c", { PARIS } },
  { "hermes", "<tool_call>" .. CALL .. " and more", { PARIS, text "and more" } },
  { "hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', { call(0, "unknown", "{}") } },
  { "hermes", '<tool_call>{"name": "note"}</tool_call>', { call(0, "note", "{}") } },
  { "hermes", '<tool_call>{"name": "note", "arguments": null}</tool_call>', { call(0, "note", "{}") } },
  { "hermes", '<tool_call>{"arguments": {"a": [1, {"b": "}]{"}], "c": "\\"}"}, "name": "note"}</tool_call>',
    { call(0, "note", '{"a": [1, {"b": "}]{"}], "c": "\\"}"}') } },
  { "hermes", '<tool_call>{"name": "note", "arguments": {"t": "a </tool_call> b <think>"}}</tool_call>x',
    { call(0, "note", '{"t": "a </tool_call> b <think>"}'), text "x" } },
  { "hermes", '<tool_call>{"name": "note", "arguments": "{\\"a\\": 1}"}</tool_call>', { call(0, "note", '{"a": 1}') } },
  { "hermes", '<tool_call>{"type": "function", "id": "c1", "function": {"name": "note", "arguments": {"a": 1}}}</tool_call>',
    { call(0, "note", '{"a": 1}', "c1") } },
  { "hermes", '<tool_call>\n{"name": "note", "arguments": {"a": 1}\n</tool_call>ok', { call(0, "note", '{"a": 1}'), text "ok" } },
  { "hermes", "x <tool_call>\nnonsense\n</tool_call> y", { text "x", unparsed " <tool_call>\nnonsense\n</tool_call>", text " y" } },
  { "hermes", "<tool_call>{'name': 'note'}</tool_call>", { unparsed "<tool_call>{", text "'name': 'note'}</tool_call>" } },
  { "hermes", '<tool_call>{"name": "note", "arguments": [1]}</tool_call>', { unparsed '<tool_call>{"name": "note", "arguments": [1]}', text "</tool_call>" } },
  { "hermes", '<tool_call>{"name": 5}</tool_call>', { unparsed '<tool_call>{"name": 5}', text "</tool_call>" } },
  { "hermes", '<tool_call>{"name": "note", "arguments": {"a": "cut', { unparsed '<tool_call>{"name": "note", "arguments": {"a": "cut' } },
  { "hermes", '<tool_call>{"name": "note", "arguments": {"a": 1', { unparsed '<tool_call>{"name": "note", "arguments": {"a": 1' } },
  { "hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}\n', { PARIS } },
  { "hermes", '<tool_call>{"name": "note", "arguments": {"a": {"b": 1}', { unparsed '<tool_call>{"name": "note", "arguments": {"a": {"b": 1}' } },
  { "hermes", "<tool_call>", { unparsed "<tool_call>" } },
  { "hermes", "say <tool_call>\n ", { text "say", unparsed " <tool_call>\n " } },
  { "hermes", "<tool_call>bad</tool_call><tool_call>" .. CALL .. "</tool_call>", { unparsed "<tool_call>bad</tool_call>", PARIS } },
  { "hermes", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", { PARIS } },

  -- JSON without tags, and fenced: only with tools, and only calls of known ones
  { "hermes", CALL, { PARIS } },
  { "hermes", "\n " .. CALL .. "\n", { PARIS } },
  { "hermes", "[" .. CALL .. "]", { PARIS } },
  { "hermes", CALL .. "\n" .. CALL, { PARIS, call(1, "get_weather", '{"city": "Paris"}') } },
  { "hermes", CALL .. "\nThat is it.", { PARIS, text "That is it." } },
  { "hermes", "Then: " .. CALL, { text("Then: " .. CALL) } },
  { "hermes", '{"name": "Bob", "arguments": {}}', { text '{"name": "Bob", "arguments": {}}' } },
  { "hermes", '{"name": "Bob", "age": 3} is a person', { text '{"name": "Bob", "age": 3} is a person' } },
  { "hermes", '{"name": "get_weather"}', { text '{"name": "get_weather"}' } },
  { "hermes", '{"other": 1}', { text '{"other": 1}' } },
  { "hermes", "{", { text "{" } },
  { "hermes", "[1, 2]", { text "[1, 2]" } },
  { "hermes", "[", { text "[" } },
  { "hermes", '{"nam', { text '{"nam' } },
  { "hermes", '{"name": "get_weather", "arguments": {"ci', { text '{"name": "get_weather", "arguments": {"ci' } },
  { "hermes", '{"name": "get_weather", "arguments": {"city": "Paris"}', { PARIS } },
  { "hermes", '{"name": "unknown", "arguments": {"city": "Paris"}', { text '{"name": "unknown", "arguments": {"city": "Paris"}' } },
  { "hermes", '```json\n{"name": "get_weather", "arguments": {"city": "Paris"}\n```', { PARIS } },
  { "hermes", CALL, { text(CALL) }, { tools = false } },
  { "hermes", "```json\n" .. CALL .. "\n```", { PARIS } },
  { "hermes", "Sure:\n```json\n" .. CALL .. "\n```\nDone", { text "Sure:", PARIS, text "Done" } },
  { "hermes", "```json\n[" .. CALL .. "]\n```", { PARIS } },
  { "hermes", "```json\n" .. CALL .. "\n```", { text("```json\n" .. CALL .. "\n```") }, { tools = false } },
  { "hermes", '```json\n{"a": 1}\n```', { text '```json\n{"a": 1}\n```' } },
  { "hermes", '```json\n{"name": "Bob"}\n```\n', { text '```json\n{"name": "Bob"}\n```\n' } },
  { "hermes", "```json\nnull\n```", { text "```json\nnull\n```" } },
  { "hermes", "```json", { text "```json" } },
  { "hermes", "```python\nprint(1)\n```", { text "```python\nprint(1)\n```" } },
  { "hermes", "<tools>\n" .. CALL .. "\n</tools>", { PARIS } },
  { "hermes", "<tools>none</tools>", { text "<tools>none</tools>" } },

  -- Qwen3-Coder
  { "qwen3_coder", "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nNew York\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    { text "I look.", call(0, "get_weather", '{"city": "New York", "days": 3}') } },
  { "qwen3_coder", "<function=get_weather>\n<parameter=city>\nx\n</parameter>\n</function>\n</tool_call>", { call(0, "get_weather", '{"city": "x"}') } },
  { "qwen3_coder", "<tool_call>\n<function=note>\n</function>\n</tool_call>", { call(0, "note", "{}") } },
  { "qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\n42\n</parameter>\n<parameter=code>\n\nline 1\n  \"line\" 2\n\n</parameter>\n<parameter=unit>\nc\n</parameter>\n<parameter=flags>\n[1, \"a\"]\n</parameter>\n</function>\n</tool_call>",
    { call(0, "get_weather", '{"city": "42", "code": "\\nline 1\\n  \\"line\\" 2\\n", "unit": "c", "flags": [1, "a"]}') } },
  { "qwen3_coder", "<tool_call>\n<function=other>\n<parameter=a>\ntrue\n</parameter>\n<parameter=b>\nwords\n</parameter>\n<parameter=c>\nTrue\n</parameter>\n<parameter=d>\n1.5\n</parameter>\n</function>\n</tool_call>",
    { call(0, "other", '{"a": true, "b": "words", "c": true, "d": 1.5}') } },
  { "qwen3_coder", "<tool_call>\n<function=note>\n<parameter=a>\n1\n</parameter>\n</function>\n<function=note>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
    { call(0, "note", '{"a": 1}'), call(1, "note", '{"a": 2}') } },
  { "qwen3_coder", "<tool_call>\n<function=note>\n<parameter=a>\n1\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>", { call(0, "note", '{"a": 1, "b": 2}') } },
  { "qwen3_coder", "<tool_call>\n<function=note>\n<parameter=html>\n<p>a < b</p>\n</parameter>\n</function>\n</tool_call>", { call(0, "note", '{"html": "<p>a < b</p>"}') } },
  { "qwen3_coder", "<tool_call>\n" .. CALL .. "\n</tool_call>", { PARIS } },
  { "qwen3_coder", "<tool_call>\n<function=note>\n<parameter=a>\ncut", { unparsed "<tool_call>\n<function=note>\n<parameter=a>\ncut" } },
  { "qwen3_coder", "<function=note>nonsense</function>", { unparsed "<function=note>nonsense</function>" } },
  { "qwen3_coder", '<function=note>{"a": 1}</function>', { call(0, "note", '{"a": 1}') } },

  -- Llama 3
  { "llama3", '{"name": "get_weather", "parameters": {"city": "Paris"}}', { PARIS } },
  { "llama3", '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', { PARIS } },
  { "llama3", '{"name": "note", "parameters": {}}; {"name": "note", "parameters": {"a": 1}}', { call(0, "note", "{}"), call(1, "note", '{"a": 1}') } },
  { "llama3", '<|python_tag|>{"name": "unknown", "parameters": {}}', { call(0, "unknown", "{}") } },
  { "llama3", '<|python_tag|>brave_search.call(query="who is it?")', { call(0, "brave_search", '{"query": "who is it?"}') } },
  { "llama3", '<|python_tag|>note.call(a="x", b=2, c=True)<|eom_id|>', { call(0, "note", '{"a": "x", "b": 2, "c": true}') } },
  { "llama3", "<|python_tag|>print(1)\nprint(2)", { unparsed "<|python_tag|>print(1)\nprint(2)" } },
  { "llama3", '<function=get_weather>{"city": "Paris"}</function>', { PARIS } },
  { "llama3", "Plain answer {x}", { text "Plain answer {x}" } },

  -- Mistral
  { "mistral", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abc123xyz"}]', { call(0, "get_weather", '{"city": "Paris"}', "abc123xyz") } },
  { "mistral", '[TOOL_CALLS] [{"name": "note", "arguments": {}}, {"name": "note", "arguments": {"a": 1}}]', { call(0, "note", "{}"), call(1, "note", '{"a": 1}') } },
  { "mistral", 'Looking. [TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', { text "Looking.", PARIS } },
  { "mistral", '[TOOL_CALLS]note[CALL_ID]id9[ARGS]{"a": 1}[TOOL_CALLS]note[ARGS]{"a": 2}', { call(0, "note", '{"a": 1}', "id9"), call(1, "note", '{"a": 2}') } },
  { "mistral", "[TOOL_CALLS]note[ARGS]{broken", { unparsed "[TOOL_CALLS]note[ARGS]{broken" } },
  { "mistral", "[TOOL_CALLS]note[ARGS]broken", { unparsed "[TOOL_CALLS]note[ARGS]", text "broken" } },
  { "mistral", "[TOOL_CALLS]note[ARGS]", { unparsed "[TOOL_CALLS]note[ARGS]" } },
  { "mistral", "[TOOL_CALLS] the marks of calls", { unparsed "[TOOL_CALLS]", text " the marks of calls" } },
  { "mistral", "[TOOL_CALLS]cut", { unparsed "[TOOL_CALLS]", text "cut" } },
  { "mistral", "a [TOOL and [INST]", { text "a [TOOL and [INST]" } },

  -- DeepSeek
  { "deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', { PARIS } },
  { "deepseek", 'ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>note<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    { text "ok", PARIS, call(1, "note", "{}") } },
  { "deepseek", 'why</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}', { reasoning "why", PARIS }, { in_reasoning = true } },
  { "deepseek", "<｜tool▁call▁begin｜>nonsense<｜tool▁call▁end｜>x", { unparsed "<｜tool▁call▁begin｜>nonsense<｜tool▁call▁end｜>", text "x" } },
  { "deepseek", "<｜tool▁call▁begin｜>note<｜tool▁sep｜>{cut", { unparsed "<｜tool▁call▁begin｜>note<｜tool▁sep｜>{cut" } },
  { "deepseek", "日本 ｜ <｜tool", { text "日本 ｜ <｜tool" } },

  -- Generic: all of them
  { "generic", "<think>x</think><tool_call>" .. CALL .. "</tool_call>", { reasoning "x", PARIS } },
  { "generic", '[TOOL_CALLS]note[ARGS]{"a": 1}', { call(0, "note", '{"a": 1}') } },
  { "generic", "[1] is a reference, [THINK] is not", { text "[1] is a reference,", reasoning "is not" } },
  { "generic", "```json\n" .. CALL .. "\n```", { PARIS } },
  { "generic", CALL, { PARIS } },
}

-- Events with neighbouring plain texts, and neighbouring reasoning, made one.
local function merged(events)
  local out = {}
  for _, ev in ipairs(events) do
    local last = out[#out]
    if last and last.type == ev.type and ev.type ~= "tool_call" and not last.unparsed and not ev.unparsed then
      last.text = last.text .. ev.text
    else
      local copy = {}
      for k, v in pairs(ev) do copy[k] = v end
      out[#out + 1] = copy
    end
  end
  return out
end

local function run(format, opts, pieces)
  local parser = format.new(opts)
  local events = {}
  local function take(new)
    for _, ev in ipairs(new) do events[#events + 1] = ev end
  end
  for _, piece in ipairs(pieces) do take(parser:feed(piece)) end
  take(parser:finish())
  return merged(events)
end

-- A small generator of its own: the pieces must be the same in every run.
local function random(seed)
  return function(n)
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % n + 1
  end
end

local function random_pieces(s, next_random)
  local pieces, at = {}, 1
  while at <= #s do
    local n = next_random(12)
    pieces[#pieces + 1] = s:sub(at, at + n - 1)
    at = at + n
  end
  return pieces
end

local function options(extra)
  local opts = { json_decode = json.decode, tools = TOOLS }
  for k, v in pairs(extra or {}) do opts[k] = v or nil end
  return opts
end

return function(t)
  for i, case in ipairs(CASES) do
    local name, generation, expected, extra = case[1], case[2], case[3], case[4]
    t.test(name .. ": " .. generation, function()
      local format = assert(formats.get(name))
      local opts = options(extra)
      t.equal(run(format, opts, { generation }), expected, "whole")
      local bytes = {}
      for b = 1, #generation do bytes[b] = generation:sub(b, b) end
      t.equal(run(format, opts, bytes), expected, "byte by byte")
      for cut = 1, #generation - 1 do
        t.equal(run(format, opts, { generation:sub(1, cut), generation:sub(cut + 1) }), expected, "cut after " .. cut)
      end
      local next_random = random(i)
      for _ = 1, 20 do
        local pieces = random_pieces(generation, next_random)
        t.equal(run(format, opts, pieces), expected, "pieces " .. t.show(pieces))
      end
    end)
  end

  t.test("random mixtures of marks give the same events under every cutting", function()
    local parts = { "<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "{", "}", "[", "]", '"', "\\", " ", "\n", "text",
      "```json\n", "```", "<tools>", "</tools>", "<function=note>", "</function>", "<parameter=a>", "</parameter>", "1",
      "[TOOL_CALLS]", "[ARGS]", "note", "<|python_tag|>", "[THINK]", "[/THINK]", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
      "<｜tool▁call▁end｜>", "<｜tool▁calls▁begin｜>", '{"name": "note", "arguments": {', ";", ",", "<", '{"name"', "é" }
    local next_random = random(42)
    for round = 1, 3000 do
      local format = assert(formats.get(formats.names()[next_random(7)]))
      local list = {}
      for k = 1, next_random(12) do list[k] = parts[next_random(#parts)] end
      local generation = table.concat(list)
      local opts = options { in_reasoning = next_random(4) == 1 or nil }
      local whole = run(format, opts, { generation })
      for _ = 1, 4 do
        local pieces = random_pieces(generation, next_random)
        t.equal(run(format, opts, pieces), whole, ("%s, round %d, %s"):format(format.name, round, t.show(pieces)))
      end
      local bytes = {}
      for b = 1, #generation do bytes[b] = generation:sub(b, b) end
      t.equal(run(format, opts, bytes), whole, ("%s, round %d, %s"):format(format.name, round, t.show(generation)))
    end
  end)

  t.test("a long call arrives in linear time", function()
    local format = assert(formats.get "hermes")
    local parser = format.new(options())
    local start = os.clock()
    parser:feed '<tool_call>{"name": "note", "arguments": {"text": "'
    for _ = 1, 100000 do parser:feed "some text " end
    local events = parser:feed '"}}</tool_call>'
    t.equal(#events, 1)
    t.check(#events[1].arguments > 1000000)
    t.check(os.clock() - start < 2, ("took %.1f s"):format(os.clock() - start))
  end)

  t.test("text is passed on at once", function()
    local parser = formats.get("generic").new(options())
    t.equal(parser:feed "Hello", { text "Hello" })
    t.equal(parser:feed ", world", { text ", world" })
    t.equal(parser:feed " ", {})
    t.equal(parser:feed "<", {})
    t.equal(parser:feed "b", { text " <b" })
  end)

  t.test("no mark begins another", function()
    for _, name in ipairs(formats.names()) do
      local markers = formats.get(name).markers
      for i, a in ipairs(markers) do
        for k, b in ipairs(markers) do
          t.check(i == k or b.open:sub(1, #a.open) ~= a.open, name .. ": " .. a.open .. " begins " .. b.open)
        end
      end
    end
  end)

  t.test("formats are known by their templates", function()
    local folder = t.data .. "/templates/"
    local expected = {
      ["llama.cpp__Qwen-Qwen2.5-7B-Instruct.jinja"] = "hermes",
      ["ik_llama.cpp__Qwen-Qwen3-0.6B.jinja"] = "hermes",
      ["llama.cpp__NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja"] = "hermes",
      ["minja__Qwen-Qwen3-Coder-30B-A3B-Instruct.jinja"] = "qwen3_coder",
      ["llama.cpp__meta-llama-Llama-3.1-8B-Instruct.jinja"] = "llama3",
      ["llama.cpp__meta-llama-Llama-3.2-3B-Instruct.jinja"] = "llama3",
      ["llama.cpp__mistralai-Mistral-Nemo-Instruct-2407.jinja"] = "mistral",
      ["mistral-common__v13.jinja"] = "mistral",
      ["ik_llama.cpp__deepseek-ai-DeepSeek-V3.1.jinja"] = "deepseek",
      ["llama.cpp__llama-cpp-deepseek-r1.jinja"] = "deepseek",
      ["chat_templates__zephyr.jinja"] = "generic",
    }
    for file, name in pairs(expected) do
      local source = t.read(folder .. file)
      if source then t.equal(formats.of_template(source).name, name, file) end
    end
    t.equal(formats.of_template("").name, "generic")
    local format, err = formats.get "nope"
    t.check(not format and err:find("no format 'nope'; there are hermes, ", 1, true), err)
  end)

  t.test("a prompt may end inside the reasoning", function()
    local hermes = formats.get "hermes"
    t.check(formats.opens_reasoning(hermes, "<|im_start|>assistant\n<think>\n"))
    t.check(not formats.opens_reasoning(hermes, "<|im_start|>assistant\n"))
    t.check(not formats.opens_reasoning(hermes, "<think>\n\n</think>\n\n"))
    t.check(not formats.opens_reasoning(formats.get "plain", "<think>\n"))
    t.check(not formats.opens_reasoning(hermes, ""))
  end)
end
