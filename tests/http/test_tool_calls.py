"""Tool calls and reasoning, read back from exact text: plain and streamed, by scripts and through the openai package."""
import json

import openai
import pytest

APP = r'''
local qh = require "qhost"
local m = qh.model "m"
local app = qh.app()
local weather = { type = "function", ["function"] = { name = "get_weather", description = "x", parameters = {
  type = "object", properties = { city = { type = "string" } } } } }
local as_object = { spec = weather }
local by_method = { spec = function(self) return self.own end, own = weather }
local TOOLS = { plain = { weather }, object = { as_object }, method = { by_method }, short = { weather["function"] } }
app:openai { models = { m, with = m:with { as = "with", defaults = { max_tokens = 3 } } } }

app:post("/chat/:tools", function(req, res)
  local r, message, status = m:chat { prompt = req:text(), tools = TOOLS[req.params.tools] }
  if not r then return res:json { message = message, status = status } end
  return res:json { text = r.text, reasoning = r.reasoning, finish = r.finish, unparsed = r.unparsed, calls = r.tool_calls }
end)
app:post("/stream/:tools", function(req, res)
  return res:stream(m:stream { prompt = req:text(), tools = TOOLS[req.params.tools] }, { as = "ndjson" })
end)
local own = m:with { template = qh.template { name = "own", parse = "plain", render = function(out, conv)
  out:special "<|im_start|>user\n":text(conv.messages[1].content):special "<|im_end|>\n<|im_start|>assistant\n"
end } }
app:post("/own", function(req, res)
  local r = own:chat { prompt = req:text(), tools = TOOLS.plain }
  return res:json { text = r.text, calls = r.tool_calls }
end)
local function broken(parse)
  return m:with { template = qh.template { parse = parse, render = function(out, conv)
    out:special "<|im_start|>user\n":text(conv.messages[1].content):special "<|im_end|>\n<|im_start|>assistant\n"
  end } }
end
local BROKEN = {
  new = broken(function() error "no parser" end), feed = broken(function() return { feed = function() error "no" end } end),
  finish = broken(function() return { feed = function(_, t) return { { type = "text", text = t } } end, finish = function() return 7 end } end),
  events = broken(function() return { feed = function(_, t) return { { type = "tool_call", name = {} }, { type = "text", text = t } } end,
    finish = function() return {} end } end),
  marks = broken { { open = "<c>", kind = "call", body = "until", close = "</c>", read = function() return { { name = "f", arguments = "{}" } } end } },
}
app:post("/broken/:how", function(req, res)
  local r = BROKEN[req.params.how]:chat { prompt = req:text(), tools = TOOLS.plain }
  return res:json { text = r.text, unparsed = r.unparsed, calls = r.tool_calls }
end)
app:post("/history", function(req, res)
  local r = m:chat { prompt = "call" , tools = TOOLS.plain }
  local second = m:chat { tools = TOOLS.plain, messages = { { role = "user", content = "call" },
    { role = "assistant", content = r.text, tool_calls = r.tool_calls },
    { role = "tool", tool_call_id = r.tool_calls[1].id, content = "sunny" } } }
  return res:text(second.text)
end)
return app
'''
# Says after the last user message what stands there, or "Done" after a tool's answer; shows the whole prompt for "show".
MODEL = r'''
local TEMPLATE = "{% if tools %}<|im_start|>system\n{# <tool_call> #}{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
  .. "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
  .. "[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
local CALL = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>"
return { template = TEMPLATE, reply = function(prompt)
  local role, said
  for r, s in prompt:gmatch "<|im_start|>(%a+)\n(.-)<|im_end|>\n" do role, said = r, s end
  if role == "tool" then return "It saw " .. (prompt:match "%[get_weather.-%]" or "nothing") .. " and " .. said end
  if said == "show" then return prompt end
  if said == "call" then return CALL end
  return said
end }
'''
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
         {"type": "function", "function": {"name": "note", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NOTE = '<tool_call>\n{"name": "note", "arguments": {"text": "naïve \\"日本\\""}}\n</tool_call>'
TEXTS = ["Hello.", CALL, "Let me look.\n" + CALL, CALL + "\n" + NOTE, "<think>\nHm, ok.\n</think>\n\nYes.",
         "<think>why</think>\n" + CALL + "\n" + NOTE, "<tool_call>\nnonsense\n</tool_call> and text", '<tool_call>{"name": "cut", "argu',
         '```json\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n```', "a < b <tool", "", "naïve 日本 🙂"]


@pytest.fixture(scope="module")
def server(qhost, tmp_path_factory):
    from serving import Server
    folder = tmp_path_factory.mktemp("calls")
    (folder / "app.lua").write_text(APP)
    (folder / "model.lua").write_text(MODEL)
    s = Server(qhost, folder / "app.lua", "--model", f"m=scripted:{folder / 'model.lua'}")
    yield s
    assert s.stop() == 0, "\n".join(list(s.lines)[-30:])


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def post(server, path, text):
    status, _, body = server.request("POST", path, text.encode())
    assert status == 200, body
    return body


def whole_of(message):
    calls = [(c.id is not None, c.type, c.function.name, c.function.arguments) for c in message.tool_calls or []]
    return message.content, getattr(message, "reasoning_content", None), calls


def streamed_message(chunks):
    """What a client that adds deltas up gets, and the finish reason; checks the rules of deltas on the way."""
    content, reasoning, calls, finish, role = None, None, [], None, None
    for chunk in chunks:
        (choice,) = chunk.choices
        delta = choice.delta
        assert finish is None, "something came after the finish reason"
        if delta.role:
            assert role is None
            role = delta.role
        else:
            assert role == "assistant", "the first chunk has no role"
        if delta.content is not None:
            content = (content or "") + delta.content
        if getattr(delta, "reasoning_content", None):
            reasoning = (reasoning or "") + delta.reasoning_content
        for call in delta.tool_calls or []:
            assert isinstance(call.index, int)
            if call.index == len(calls):
                assert call.id and call.type == "function" and call.function.name
                calls.append([call.id, call.type, call.function.name, ""])
            else:
                assert call.index == len(calls) - 1 and not call.id and not call.type and not call.function.name
            calls[call.index][3] += call.function.arguments
        finish = choice.finish_reason
    return (content, reasoning, [(bool(c[0]), *c[1:]) for c in calls]), finish


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_equals_whole_through_the_openai_package(client, text):
    ask = dict(model="m", messages=[{"role": "user", "content": text}], tools=TOOLS)
    whole = client.chat.completions.create(**ask).choices[0]
    streamed, finish = streamed_message(client.chat.completions.create(**ask, stream=True))
    assert streamed == whole_of(whole.message) and finish == whole.finish_reason
    assert finish == ("tool_calls" if whole.message.tool_calls else "stop")


def test_calls_have_the_shape_of_the_api(client):
    r = client.chat.completions.create(model="m", messages=[{"role": "user", "content": CALL + "\n" + NOTE}], tools=TOOLS)
    message = r.choices[0].message
    assert message.content is None and r.choices[0].finish_reason == "tool_calls"
    a, b = message.tool_calls
    assert a.id != b.id and a.type == "function" and json.loads(a.function.arguments) == {"city": "Paris"}
    assert json.loads(b.function.arguments) == {"text": 'naïve "日本"'}
    one = client.chat.completions.create(model="m", messages=[{"role": "user", "content": CALL + "\n" + NOTE}], tools=TOOLS,
                                         parallel_tool_calls=False).choices[0].message
    assert [c.function.name for c in one.tool_calls] == ["get_weather"]


def test_without_tools_a_call_is_text(client):
    for extra in ({}, dict(tools=TOOLS, tool_choice="none"), dict(tools=[])):
        r = client.chat.completions.create(model="m", messages=[{"role": "user", "content": CALL}], **extra).choices[0]
        assert r.message.content == CALL and r.message.tool_calls is None and r.finish_reason == "stop"


@pytest.mark.parametrize("tools", ["plain", "object", "method", "short"])
def test_scripts_get_decoded_calls_whatever_form_the_tools_have(server, tools):
    r = json.loads(post(server, f"/chat/{tools}", "call"))
    (call,) = r["calls"]
    assert r["text"] == "" and r["finish"] == "tool_calls"
    assert call["name"] == "get_weather" and call["arguments"] == {"city": "Paris"} and len(call["id"]) == 9
    assert json.loads(call["raw"]) == call["arguments"]
    shown = json.loads(post(server, f"/chat/{tools}", "show"))["text"]
    assert '{"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": {' in shown


def test_scripts_stream_the_same(server):
    events = [json.loads(line) for line in post(server, "/stream/plain", "<think>why</think>\nLook: " + CALL).splitlines()]
    assert "".join(e["text"] for e in events if e["type"] == "reasoning") == "why"
    assert "".join(e["text"] for e in events if e["type"] == "text") == "Look:"
    (call,) = [e for e in events if e["type"] == "tool_call"]
    assert (call["index"], call["name"], json.loads(call["arguments"])) == (1, "get_weather", {"city": "Paris"})
    assert events[-1]["type"] == "done" and events[-1]["finish"] == "tool_calls"
    assert events[-1]["tool_calls"][0]["id"] == call["id"] and events[-2]["type"] == "usage"


def test_what_cannot_be_read_is_text_with_a_flag(server):
    text = '<tool_call>{"name": "get_weather", "arguments": {"city'
    r = json.loads(post(server, "/chat/plain", text))
    assert r["text"] == text and r["unparsed"] is True and r["calls"] == [] and r["finish"] == "stop"


def test_a_template_says_how_it_is_read(server):
    r = json.loads(post(server, "/own", CALL))
    assert r["text"] == CALL and r["calls"] == []
    r = json.loads(post(server, "/broken/marks", "a<c>x</c>b"))
    assert r["text"] == "ab" and r["calls"][0]["name"] == "f"


@pytest.mark.parametrize("how", ["new", "feed", "finish", "events"])
def test_a_broken_parser_of_a_script_costs_no_text(server, how):
    r = json.loads(post(server, f"/broken/{how}", "Hello, wörld"))
    assert r["text"] == "Hello, wörld" and r["unparsed"] is True and r["calls"] == []


def test_a_result_goes_back_into_the_conversation(server, client):
    assert post(server, "/history", "") == 'It saw [get_weather {"city": "Paris"}] and sunny'
    for arguments in ('{"city": "Paris"}', '{"city" "Paris"}'):
        r = client.chat.completions.create(model="m", tools=TOOLS, messages=[
            {"role": "user", "content": "call"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "abc", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "abc", "content": [{"type": "text", "text": "sunny"}]}])
        shown = arguments if arguments == '{"city": "Paris"}' else json.dumps(arguments)
        assert r.choices[0].message.content == f"It saw [get_weather {shown}] and sunny"


@pytest.mark.parametrize("messages,place", [
    ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "messages[0].tool_calls[0]"),
    ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls"),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}],
     "messages[1].tool_calls[0].function.arguments"),
])
def test_broken_calls_in_messages_are_refused_with_their_place(client, messages, place):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="m", messages=messages)
    assert place in e.value.message and e.value.param == "messages"


def test_a_model_with_other_settings_has_its_own_name(client):
    assert sorted(m.id for m in client.models.list()) == ["m", "with"]
    r = client.chat.completions.create(model="with", messages=[{"role": "user", "content": "Hello."}])
    assert r.choices[0].message.content == "Hel" and r.choices[0].finish_reason == "length"
    r = client.chat.completions.create(model="with", messages=[{"role": "user", "content": "Hello."}], max_tokens=5)
    assert r.choices[0].message.content == "Hello"


MARKS_APP = r'''
local qh = require "qhost"
local m, app = qh.model "m", qh.app()
local function template(parse)
  return qh.template { parse = parse, render = function(out, conv) out:text(conv.messages[1].content) end }
end
local MARKS = { thinks = template { { open = "<|im_start|>", kind = "reasoning", close = "<|im_end|>" } }, plain = template "plain" }
app:post("/:marks", function(req, res)
  local r = m:with { template = MARKS[req.params.marks] }:chat { prompt = "x", max_tokens = 3, logit_bias = { [1] = 1000 } }
  return res:json { text = r.text, reasoning = r.reasoning }
end)
return app
'''


def test_marks_that_are_control_tokens_reach_the_parser(serve, smollm):
    server = serve(MARKS_APP, "--model", f"m={smollm}")
    assert json.loads(post(server, "/thinks", "")) == {"text": "", "reasoning": "<|im_start|><|im_start|>"}
    assert json.loads(post(server, "/plain", "")) == {"text": ""}


def test_the_small_qwen_calls_a_tool_and_reads_its_answer(serve, qwen):
    """A real model, greedy: it writes its call without the tags that it was asked for, and is understood."""
    server = serve('local qh = require "qhost"\nlocal m = qh.model "qwen"\nlocal app = qh.app()\napp:openai { models = { m } }\nreturn app\n',
                   "--model", f"qwen={qwen}", "--ctx", "2048")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    city = {"type": "string", "description": "City name"}
    tools = [{"type": "function", "function": {"name": "get_weather", "description": "Get the current weather for a city",
              "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"]}}}]
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    ask = dict(model="qwen", tools=tools, temperature=0, max_tokens=60)
    whole = client.chat.completions.create(**ask, messages=messages).choices[0]
    (call,) = whole.message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"].startswith("Paris")
    streamed, finish = streamed_message(client.chat.completions.create(**ask, messages=messages, stream=True))
    assert streamed == whole_of(whole.message) and finish == whole.finish_reason == "tool_calls"
    messages += [whole.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 17, "unit": "C"}'}]
    answer = client.chat.completions.create(**ask, messages=messages)
    assert "17" in answer.choices[0].message.content and answer.usage.prompt_tokens_details.cached_tokens > 100
