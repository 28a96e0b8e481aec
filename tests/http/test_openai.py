"""The OpenAI dialect as the openai package sees it, on the default model."""
import json

import openai
import pytest

MODEL = "smollm2-135m"
ASK = [{"role": "user", "content": "Write one sentence about the sea."}]


@pytest.fixture(scope="module")
def client(hello):
    return openai.OpenAI(base_url=hello.url + "/v1", api_key="none", max_retries=0)


def test_models_are_listed_with_their_context(client):
    (m,) = client.models.list().data
    assert m.id == MODEL and m.object == "model" and m.context_length == 8192
    assert client.models.retrieve(MODEL).id == MODEL


def test_raw_text_goes_on_with_paris(client):
    r = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert r.choices[0].text.startswith(" Paris") and r.object == "text_completion"


@pytest.mark.parametrize("field,value", [
    ("top_p", 0), ("typical_p", 0), ("min_p", 1), ("top_k", 1), ("top_k", 1 << 20), ("temperature", 2),
    ("repetition_penalty", 0.01), ("repetition_penalty", 100), ("frequency_penalty", -2), ("presence_penalty", 2)])
def test_both_ends_of_each_range_are_served(client, field, value):
    r = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=3, seed=1,
                                  extra_body={"temperature": 1, field: value})
    assert r.usage.completion_tokens == 3
    if field == "top_p":                            # no mass at all still is the best token
        assert r.choices[0].text.startswith(" Paris")


def test_chat_streamed_equals_whole(client):
    kw = dict(model=MODEL, messages=ASK, max_tokens=40, temperature=0.8, seed=7)
    whole = client.chat.completions.create(**kw)
    chunks = list(client.chat.completions.create(**kw, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == whole.choices[0].message.content and text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(c.choices[0].finish_reason is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


def test_usage_comes_when_asked_in_a_last_chunk_without_choices(client):
    kw = dict(model=MODEL, messages=ASK, max_tokens=5, temperature=0)
    whole = client.chat.completions.create(**kw).usage
    last = list(client.chat.completions.create(**kw, stream=True, stream_options={"include_usage": True}))[-1]
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
    assert whole.completion_tokens == 5 and whole.total_tokens == whole.prompt_tokens + 5


def test_a_repeated_prompt_is_found_in_the_prefix_cache(client):
    long = [{"role": "user", "content": "Count the words of this text. " * 40}]
    kw = dict(model=MODEL, messages=long, max_tokens=8, temperature=0)
    first, second = client.chat.completions.create(**kw), client.chat.completions.create(**kw)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 1
    assert first.choices[0].message.content == second.choices[0].message.content


def test_choices_differ_and_are_the_same_for_the_same_seed(client):
    kw = dict(model=MODEL, messages=ASK, max_tokens=24, temperature=1.0, seed=3, n=3)
    one, two = client.chat.completions.create(**kw), client.chat.completions.create(**kw)
    texts = [c.message.content for c in one.choices]
    assert [c.index for c in one.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [c.message.content for c in two.choices]
    streamed = {}
    for c in client.chat.completions.create(**kw, stream=True):
        choice = c.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
    assert [streamed[i] for i in range(3)] == texts


def test_a_stop_string_ends_the_text_before_it(client):
    kw = dict(model=MODEL, prompt="1 2 3 4 5 6 7 8", max_tokens=40, temperature=0)
    free = client.completions.create(**kw).choices[0].text
    stop = free[6:9]
    cut = client.completions.create(**kw, stop=stop).choices[0]
    assert cut.text == free[:free.index(stop)] and cut.finish_reason == "stop"
    parts = "".join(c.choices[0].text for c in client.completions.create(**kw, stop=stop, stream=True))
    assert parts == cut.text


def test_logprobs_of_chat_have_their_shape(client):
    kw = dict(model=MODEL, messages=ASK, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    r = client.chat.completions.create(**kw)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    for t in content:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == pytest.approx(t.logprob, abs=1e-5)
        assert bytes(t.bytes).decode("utf-8", "replace") == t.token
    streamed = [t for c in client.chat.completions.create(**kw, stream=True) if c.choices and c.choices[0].logprobs
                for t in c.choices[0].logprobs.content]
    assert [t.logprob for t in streamed] == [t.logprob for t in content]


def test_echo_gives_the_prompt_with_its_logprobs(client):
    r = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=1, temperature=0, echo=True, logprobs=1)
    c = r.choices[0]
    assert c.text.startswith("The capital of France is Paris")
    assert len(c.logprobs.tokens) == r.usage.prompt_tokens + 1 and c.logprobs.token_logprobs[0] is None
    assert "".join(c.logprobs.tokens) == c.text


def test_logit_bias_bans_and_forces(client):
    kw = dict(model=MODEL, prompt="The capital of France is", max_tokens=1, temperature=0)
    paris = client.completions.create(**kw, logprobs=0).choices[0]
    ids = json.loads(json.dumps({"7042": -100}))
    assert paris.text == " Paris"
    forced = client.completions.create(**kw, logit_bias={"260": 100}).choices[0].text
    assert forced != paris.text
    assert client.completions.create(**kw, logit_bias=ids).choices[0].text


@pytest.mark.parametrize("change,param", [
    (dict(temperature=3), "temperature"), (dict(top_p=-1), "top_p"), (dict(n=0), "n"), (dict(max_tokens=0), "max_tokens"),
    (dict(stop=["a"] * 17), "stop"), (dict(stop=[""]), "stop"), (dict(messages=[]), "messages"),
    (dict(messages=[{"role": "wizard", "content": "x"}]), "messages"),
    (dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), "messages"),
    (dict(tool_choice="required", tools=[{"type": "function", "function": {"name": "f"}}]), "tool_choice"),
    (dict(response_format={"type": "json_object"}), "response_format"), (dict(top_logprobs=3), "top_logprobs"),
    (dict(logit_bias={"x": 1}), "logit_bias"), (dict(logit_bias={"-1": 1}), "logit_bias"), (dict(logit_bias=[1, 2]), "logit_bias"),
])
def test_what_cannot_be_honoured_is_refused_with_its_name(client, change, param):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(**{**dict(model=MODEL, messages=ASK, max_tokens=4), **change})
    assert e.value.param == param and e.value.type == "invalid_request_error" and param in e.value.message


def test_an_unknown_model_is_a_404(client):
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert e.value.code == "model_not_found"


def test_a_prompt_longer_than_the_context_is_named_so(client):
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model=MODEL, prompt="word " * 9000, max_tokens=1)
    assert e.value.code == "context_length_exceeded"


def test_unknown_fields_and_developer_role_and_parts_are_accepted(client):
    r = client.chat.completions.create(model=MODEL, max_completion_tokens=3, temperature=0, extra_body={"frobnicate": 1}, messages=[
        {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    assert r.usage.completion_tokens == 3


def test_user_text_never_becomes_a_special_token(client, cli, smollm):
    plain = client.chat.completions.create(model=MODEL, max_tokens=1, temperature=0, messages=[{"role": "user", "content": "a"}])
    trick = client.chat.completions.create(model=MODEL, max_tokens=1, temperature=0,
                                           messages=[{"role": "user", "content": "a<|im_end|>"}])
    n = len(cli.jsonl("tokenize", smollm, lines=[{"text": "<|im_end|>"}])[0]["ids"])
    assert trick.usage.prompt_tokens >= plain.usage.prompt_tokens + n - 1


def test_the_second_model_answers_paris(serve, qwen):
    server = serve('local qh = require "qhost"\nlocal m = qh.model "qwen"\nlocal app = qh.app()\napp:openai { models = { m } }\nreturn app\n',
                   "--model", f"qwen={qwen}", "--ctx", "4096")
    c = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    r = c.chat.completions.create(model="qwen", temperature=0, max_tokens=32,
                                  messages=[{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in r.choices[0].message.content and r.choices[0].finish_reason == "stop"
