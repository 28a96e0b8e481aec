"""The OpenAI dialect on models that say exactly what they are told: shapes, refusals, tokens, pings, prompts."""
import json
import time

import openai
import pytest

from serving import Server

APP = '''
local qh = require "qhost"
local m, slow = qh.model "m", qh.model "slow"
local app = qh.app()
app:openai { models = { m, slow, pick = function() return m end } }
return app
'''
# Answers a conversation with its last user message, and goes on with raw text by what follows its last letter.
MODEL = r'''
local TEMPLATE = "{% if tools %}{# <tool_call> #}tools: {{ tools | length }}\n{% endif %}{% if enable_thinking is defined %}thinking: {{ enable_thinking }}\n{% endif %}"
  .. "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  .. "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
local function answer(prompt)
  local said
  for s in prompt:gmatch "<|im_start|>user\n(.-)<|im_end|>\n" do said = s end
  return said == "prompt" and prompt or said
end
return { %s template = TEMPLATE, ctx = 2048, next = function(text)
  local prompt, done = text:match "^(.*<|im_start|>assistant\n)(.*)$"
  if prompt then return answer(prompt):sub(#done + 1) end
  local last = text:byte(-1) or 96
  return { [string.char(97 + last % 26)] = 3, [string.char(97 + (last + 7) % 26)] = 1 }
end }
'''
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "GetWeatherArgs", "get_stock_price")]


@pytest.fixture(scope="module")
def server(qhost, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialect")
    (folder / "app.lua").write_text(APP)
    (folder / "m.lua").write_text(MODEL.replace("%s", ""))
    (folder / "slow.lua").write_text(MODEL.replace("%s", "rate = 20, prefill_rate = 40,"))
    s = Server(qhost, folder / "app.lua", "--model", f"m=scripted:{folder / 'm.lua'}", "--model", f"slow=scripted:{folder / 'slow.lua'}",
               "--max-seqs", "4", "--max-queued", "3")
    yield s
    assert s.stop() == 0, "\n".join(list(s.lines)[-30:])


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def post(server, path, body, **kw):
    status, headers, text = server.request("POST", path, json.dumps(body).encode(), **kw)
    return status, headers, text


def say(text, **kw):
    return dict(model="m", messages=[{"role": "user", "content": text}], **kw)


def chunks_of(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


# Shapes --------------------------------------------------------------------------------------------------

def shape(v):
    """Keys in order and types of values; of a list, the first entry's."""
    if isinstance(v, dict):
        return tuple((k, shape(x)) for k, x in v.items())
    if isinstance(v, list):
        return [shape(v[0])] if v else []
    return type(v).__name__


def recorded(path):
    """What a recorded stream said: its chunks, the text and the calls of its first choice, its options."""
    chunks = chunks_of(path.read_text())
    text, calls = "", []
    for c in chunks:
        for choice in c["choices"]:
            if choice["index"] == 0:
                text += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or []:
                    if call["index"] == len(calls):
                        calls.append([call["function"]["name"], ""])
                    calls[call["index"]][1] += call["function"]["arguments"]
    has_logprobs = any(choice["logprobs"] for c in chunks for choice in c["choices"])
    n = 1 + max(choice["index"] for c in chunks for choice in c["choices"])
    return chunks, text, calls, dict(n=n, logprobs=has_logprobs)


def test_chunks_have_the_shapes_of_the_recordings(server, shared_data):
    known, ours, n_compared = set(), {}, 0
    for path in sorted((shared_data / "sse").glob("*.sse")):
        chunks, text, calls, options = recorded(path)
        for c in chunks:
            if "usage" in c:                              # the details of a usage differ: cached for reasoning tokens
                assert c["choices"] == [] and list(c["usage"])[:3] == ["prompt_tokens", "completion_tokens", "total_tokens"]
                del c["usage"]
            known.add(repr(shape(c)))
        if not text and not calls:
            continue                                      # a refusal: no model of ours gives one
        said = text + "".join('\n<tool_call>{"name": "%s", "arguments": %s}</tool_call>' % tuple(c) for c in calls)
        body = say(said, stream=True, stream_options={"include_usage": True}, **options, **(dict(tools=TOOLS) if calls else {}))
        status, headers, reply = post(server, "/v1/chat/completions", body)
        assert status == 200 and headers["content-type"] == "text/event-stream" and reply.endswith("data: [DONE]\n\n")
        mine = chunks_of(reply)
        usage = mine[-1].pop("usage")
        assert mine[-1]["choices"] == [] and list(usage)[:3] == ["prompt_tokens", "completion_tokens", "total_tokens"]
        assert isinstance(usage["prompt_tokens_details"]["cached_tokens"], int)
        assert not any("usage" in c for c in mine[:-1])
        finishes = {c["choices"][0]["finish_reason"] for c in mine[:-1]} - {None}
        assert finishes == {"tool_calls" if calls else "stop"}
        for c in mine:
            ours[repr(shape(c))] = path.name
        n_compared += 1
    assert n_compared >= 9
    assert set(ours) - known == set(), {s: ours[s] for s in set(ours) - known}


def test_logprobs_cover_every_token_plain_and_streamed(client):
    kw = say("naïve 日本", logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**kw)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens and whole.choices[0].logprobs.refusal is None
    assert bytes(b for t in content for b in t.bytes).startswith("naïve 日本".encode())
    streamed = [t for c in client.chat.completions.create(**kw, stream=True) if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == content
    with_tools = [t for c in client.chat.completions.create(**kw, stream=True, tools=TOOLS) if c.choices[0].logprobs
                  for t in c.choices[0].logprobs.content]
    assert [t.token for t in with_tools] == [t.token for t in content]


def completion_of(chunks):
    """Text and logprobs of each choice of a stream."""
    out = {}
    for c in chunks:
        choice = c.choices[0]
        text, tokens = out.setdefault(choice.index, ["", []])
        out[choice.index][0] = text + choice.text
        if choice.logprobs:
            tokens += zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.text_offset,
                          map(str, choice.logprobs.top_logprobs))
    return out


@pytest.mark.parametrize("prompt", ["ab", "é", [104, 105], ["ab", "cde", "f"], [[97], [98, 99]]])
@pytest.mark.parametrize("extra", [{}, dict(echo=True), dict(echo=True, logprobs=2), dict(logprobs=0), dict(n=2, echo=True, logprobs=1),
                                   dict(echo=True, logprobs=1, max_tokens=0)])
def test_completions_streamed_equal_whole(client, prompt, extra):
    kw = dict(model="m", prompt=prompt, max_tokens=3, seed=5) | extra
    whole = client.completions.create(**kw)
    n_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert [c.index for c in whole.choices] == list(range(n_prompts * kw.get("n", 1)))
    streamed = completion_of(client.completions.create(**kw, stream=True))
    for c in whole.choices:
        tokens = c.logprobs and list(zip(c.logprobs.tokens, c.logprobs.token_logprobs, c.logprobs.text_offset, map(str, c.logprobs.top_logprobs)))
        assert streamed[c.index] == [c.text, tokens or []]
        if kw.get("echo"):
            one = prompt[c.index // kw.get("n", 1)] if n_prompts > 1 else prompt
            assert c.text.startswith(one if isinstance(one, str) else bytes(one).decode())
        if c.logprobs and kw.get("echo"):
            assert c.logprobs.token_logprobs[0] is None and len(c.logprobs.tokens) == len(c.text.encode())
            assert prompt == "é" or "".join(c.logprobs.tokens) == c.text


def test_a_reply_may_hold_very_many_probabilities_but_not_any_number(server):
    ask = dict(model="m", prompt="abc", max_tokens=400, logprobs=20, n=4)
    status, _, text = post(server, "/v1/completions", ask, timeout=120)
    assert status == 200 and [len(c["logprobs"]["tokens"]) for c in json.loads(text)["choices"]] == [400] * 4
    status, _, text = post(server, "/v1/completions", ask | dict(stream=True), timeout=120)
    assert status == 200 and text.endswith("data: [DONE]\n\n")
    assert sum(len(c["choices"][0]["logprobs"]["tokens"]) for c in chunks_of(text) if c["choices"][0]["logprobs"]) == 1600
    status, _, text = post(server, "/v1/completions", ask | dict(prompt=["abc", "def", "ghi"], max_tokens=1500), timeout=120)
    error = json.loads(text)["error"]
    assert status == 400 and error["code"] == "response_too_large" and error["param"] == "logprobs"


def test_a_prompt_can_be_scored_without_making_a_token(client):
    r = client.completions.create(model="m", prompt="abc", max_tokens=0, echo=True, logprobs=1)
    assert r.choices[0].text == "abc" and r.choices[0].logprobs.tokens == ["a", "b", "c"] and r.choices[0].finish_reason == "length"


def test_usage_adds_prompts_up_and_counts_them_once_for_all_choices(client):
    kw = dict(model="m", prompt=["ab", "cde"], max_tokens=2, n=2)
    whole = client.completions.create(**kw).usage
    assert (whole.prompt_tokens, whole.completion_tokens) == (5, 8)
    last = list(client.completions.create(**kw, stream=True, stream_options={"include_usage": True}))[-1]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.choices) == (5, 8, [])


def test_models_show_their_context(client, server):
    assert [m.id for m in client.models.list()] == ["m", "pick", "slow"]
    m = client.models.retrieve("m")
    assert m.context_length == m.max_model_len == 2048 and m.owned_by == "qhost"
    assert client.chat.completions.create(**say("x") | dict(model="pick")).choices[0].message.content == "x"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/none")


# Refusals --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change,param", [
    (dict(tool_choice="required", tools=TOOLS), "tool_choice"),
    (dict(tool_choice={"type": "function", "function": {"name": "get_weather"}}, tools=TOOLS), "tool_choice"),
    (dict(response_format={"type": "json_object"}), "response_format"),
    (dict(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}), "response_format"),
    (dict(functions=[{"name": "f"}]), "functions"), (dict(audio={"voice": "x", "format": "wav"}), "audio"),
    (dict(modalities=["text", "audio"]), "modalities"), (dict(tools=[{"type": "custom", "custom": {"name": "x"}}]), "tools"),
    (dict(tools="x"), "tools"), (dict(n=9), "n"), (dict(n=1.5), "n"), (dict(logit_bias={"99999": 1}), "logit_bias"), (dict(seed="x"), "seed"),
    (dict(seed=1e30), "seed"), (dict(stream="yes"), "stream"), (dict(stream_options=3), "stream_options"),
    (dict(max_completion_tokens=0), "max_completion_tokens"), (dict(top_logprobs=21, logprobs=True), "top_logprobs"),
    (dict(messages=[{"role": "user", "content": "word " * 600}]), "messages"),
    (dict(messages=[{"role": "user", "content": 5}]), "messages"), (dict(messages={}), "messages"),
    (dict(chat_template_kwargs={"bos_token": "<|im_end|>"}), "chat_template_kwargs"),
    (dict(chat_template_kwargs={"messages": []}), "chat_template_kwargs"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_a_400_that_names_the_parameter(server, change, param, stream):
    status, headers, text = post(server, "/v1/chat/completions", dict(say("x"), stream=stream) | change)
    error = json.loads(text)["error"]
    assert status == 400 and headers["content-type"] == "application/json", text
    assert error["param"] == param and error["type"] == "invalid_request_error" and error["message"] and error["code"]
    if param == "messages" and isinstance(change["messages"], list) and len(str(change["messages"][0]["content"])) > 100:
        assert error["code"] == "context_length_exceeded"


def test_what_changes_nothing_is_accepted(client):
    ask = say("fine", tools=TOOLS, tool_choice="none", response_format={"type": "text"}, user="u", metadata={"a": "b"}, store=False,
              service_tier="auto", reasoning_effort="low", parallel_tool_calls=True, stop=None, logit_bias=None, seed=None,
              max_tokens=None, extra_body={"frobnicate": [1, {"x": None}], "functions": None, "modalities": ["text"]})
    r = client.chat.completions.create(**ask)
    assert r.choices[0].message.content == "fine" and r.object == "chat.completion" and r.system_fingerprint.startswith("fp_")


def test_forms_of_content_and_roles(server):
    r = post(server, "/apply-template", dict(model="m", messages=[
        {"role": "developer", "content": "d"}, {"role": "assistant", "content": None}, {"role": "assistant"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "function", "name": "f", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "pro"}, {"type": "text", "text": "mpt"}]}]))[2]
    turns = ["system\nd", "assistant\n", "assistant\n", "assistant\nno", "tool\nx", "user\nprompt"]
    assert json.loads(r)["prompt"] == "".join(f"<|im_start|>{t}<|im_end|>\n" for t in turns) + "<|im_start|>assistant\n"


def test_variables_of_the_template_can_be_set(client):
    for extra in (dict(extra_body={"chat_template_kwargs": {"enable_thinking": False}}), dict(reasoning_effort="none")):
        assert client.chat.completions.create(**say("prompt"), **extra).choices[0].message.content.startswith("thinking: False\n")


def test_a_full_queue_is_a_429_with_retry_after(server, client):
    busy = [client.chat.completions.create(**say("x" * 200) | dict(model="slow"), stream=True) for _ in range(4)]
    waiting = []
    try:
        for _ in range(8):
            waiting.append(client.chat.completions.create(**say("x" * 200) | dict(model="slow"), stream=True, timeout=20))
        pytest.fail("the queue took more than it may")
    except openai.RateLimitError as e:
        assert int(e.response.headers["retry-after"]) >= 1 and e.response.headers["x-should-retry"] == "true"
        assert e.code == "queue_full" and e.type == "rate_limit_error"
    finally:
        for stream in busy + waiting:
            stream.close()
    server.wait_until(lambda: post(server, "/v1/chat/completions", say("x") | dict(model="slow"))[0] == 200, timeout=30, what="room")


# Tokens ----------------------------------------------------------------------------------------------------

def test_tokenize_detokenize_and_apply_template(server):
    ask = lambda path, **body: json.loads(post(server, path, dict(model="m", **body))[2])
    r = ask("/tokenize", prompt="añ")
    assert r == {"count": 3, "max_model_len": 2048, "tokens": [97, 0xc3, 0xb1]}
    assert ask("/detokenize", tokens=r["tokens"])["prompt"] == "añ"
    assert ask("/tokenize", content="a<|im_end|>")["count"] == 2 and ask("/tokenize", content="a<|im_end|>", parse_special=False)["count"] == 11
    assert ask("/tokenize", prompt="ab", return_token_strs=True)["token_strs"] == ["a", "b"]
    chat = dict(messages=[{"role": "user", "content": "hi<|im_end|>"}], tools=TOOLS)
    text = ask("/apply-template", **chat)["prompt"]
    assert text == "tools: 3\n<|im_start|>user\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    tokens = ask("/tokenize", **chat)["tokens"]
    assert ask("/detokenize", tokens=tokens)["content"] == text
    assert tokens.count(258) == 1, "the user's <|im_end|> became a special token"
    assert "assistant" not in ask("/apply-template", **chat, add_generation_prompt=False)["prompt"]
    assert ask("/detokenize", tokens=[0xff, 97])["prompt"] == "\ufffda"


@pytest.mark.parametrize("path,body,param", [
    ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {"messages": []}, "messages"),
    ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": [1 << 40]}, "tokens"), ("/detokenize", {"tokens": ["a"]}, "tokens"),
    ("/apply-template", {}, "messages"), ("/apply-template", {"messages": [{"role": "user", "content": "x"}], "tools": [1]}, "tools")])
def test_broken_requests_for_tokens_are_refused(server, path, body, param):
    status, _, text = post(server, path, dict(model="m", **body))
    assert status == 400 and json.loads(text)["error"]["param"] == param
    assert post(server, path, body)[0] == 400                      # which of the models?
    assert post(server, path, dict(model="none", **body))[0] == 404


def test_special_tokens_come_from_the_template_only(client):
    """Whatever way a text takes into the prompt, <|im_end|> in it is ten ordinary tokens, not one special one."""
    trick = "<|im_end|>"

    def n_tokens(text):
        ask = say(text, tools=[{"type": "function", "function": {"name": "f", "description": text}}])
        ask["messages"] += [{"role": "assistant", "content": text, "tool_calls": [
            {"id": text, "type": "function", "function": {"name": text, "arguments": json.dumps({text: text})}}]},
            {"role": "tool", "tool_call_id": text, "name": text, "content": [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]}]
        return client.chat.completions.create(**ask, max_tokens=1).usage.prompt_tokens

    assert n_tokens(trick) == n_tokens("x" * len(trick))


# Long waits -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ask,kw", [(say("y" * 500), {}), (say('<tool_call>{"name": "get_weather", "arguments": {"a": "%s"}}</tool_call>' % ("y" * 300)), dict(tools=TOOLS))])
def test_a_silent_stream_gets_comments(server, ask, kw):
    """Through a long prefill, and while a long call is held back until it is whole."""
    began = time.monotonic()
    body = ask | dict(model="slow", stream=True, max_tokens=260 if kw else 4) | kw
    status, _, text = post(server, "/v1/chat/completions", body, timeout=60)
    assert status == 200 and time.monotonic() - began > 10
    assert ": ping\n\n" in text and text.endswith("data: [DONE]\n\n")
