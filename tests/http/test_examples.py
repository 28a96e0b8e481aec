"""The examples, as they are, on the default model."""
import json
import os
import re

import openai
import pytest

from serving import ROOT


@pytest.fixture
def example(serve, smollm, tmp_path):
    """example(name): a server of examples/NAME.lua on the default model."""
    def start(name, *args, model=None, **kw):
        server = serve(ROOT / "examples" / f"{name}.lua", "--model", f"smollm2-135m={model or smollm}",
                       "--data", tmp_path / "data", *args, **kw)

        def post(path, headers=None, **body):
            return server.request("POST", path, json.dumps(body).encode(), headers)
        server.post = post
        return server
    return start


def ask(text):
    return [{"role": "user", "content": text}]


EXAMPLES = [p for p in sorted((ROOT / "examples").glob("*.lua")) if not p.stem.endswith("_test")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_fits_on_two_screens(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 120
    assert lines[0].startswith(f"-- {path.name}: ") and f"qhost serve examples/{path.name}" in "\n".join(lines[:6])


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.with_stem(p.stem + "_test").exists()], ids=lambda p: p.stem)
def test_the_tests_of_an_example_pass(cli, path):
    assert ", 0 failed" in cli.run("test", path, path.with_stem(path.stem + "_test")).stdout


def test_chat_serves_a_page_and_streams_answers(example):
    server = example("chat")
    status, headers, page = server.get("/")
    assert status == 200 and headers["content-type"].startswith("text/html") and "<script>" in page
    status, _, text = server.post("/chat", messages=ask("Say hello."))
    assert status == 200 and text.strip()
    status, _, text = server.post("/chat", messages=[{"role": "user"}])
    assert status == 400 and json.loads(text)["error"]["param"] == "messages[0].content"


def test_template_renders_its_own_prompt(example):
    server = example("template")
    talk = [{"role": "system", "content": "A radio show."}, *ask("Who  are\nyou? <|im_end|>")]
    assert server.post("/prompt", messages=talk)[2].endswith("(A radio show.)\n\nQ: Who are you? <|im_end|>\nA:")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    assert sorted(m.id for m in client.models.list()) == ["interview", "smollm2-135m"]
    r = client.chat.completions.create(model="interview", messages=ask("What is the capital of France?"), max_tokens=20)
    assert r.choices[0].message.content.strip() and "\nQ:" not in r.choices[0].message.content


def test_background_works_on_when_the_client_is_gone(example):
    server = example("background")
    status, headers, text = server.post("/stories", topics=["a fox", "the sea"])
    assert status == 202 and headers["location"] == "/stories/" + json.loads(text)["id"]

    def job():
        return json.loads(server.get(headers["location"])[2])
    server.wait_until(lambda: job()["status"] == "done", timeout=60, what="the job")
    assert [s["topic"] for s in job()["stories"]] == ["a fox", "the sea"] and all(s["text"] for s in job()["stories"])
    assert server.get("/stories/nonsense")[0] == 404 and server.post("/stories", topics=[])[0] == 400


def test_policy_keeps_a_letter_out(example):
    server = example("policy")
    asked = {"prompt": "Describe a tree near the sea.", "max_tokens": 40, "seed": 1}
    status, _, text = server.post("/without/e", **asked)
    assert status == 200 and len(text) > 20 and "e" not in text.lower()
    assert "e" in server.post("/without/q", **asked)[2].lower()
    status, _, text = server.post("/without/ee", **asked)
    assert status == 400 and "one letter from a to z" in json.loads(text)["error"]["message"]
    answer = json.loads(server.post("/careful", **asked)[2])
    assert answer["text"] and answer["finish"] in ("stop", "length", "low_confidence")


def test_router_knows_keys_limits_and_variants(example):
    server = example("router")

    def chat(key, model="auto"):
        return server.post("/v1/chat/completions", {"authorization": f"Bearer {key}"}, model=model, max_tokens=2, messages=ask("Hi"))
    assert chat("demo-eve")[0] == 401 and server.get("/v1/models")[0] == 401
    assert [chat("demo-ann")[0] for _ in range(2)] == [200, 200]
    server.wait_until(lambda: sum('user="ann"' in line for line in list(server.lines)) == 2, what="two log lines")
    lines = [line for line in list(server.lines) if 'user="ann"' in line]
    variants = {re.search('variant="(calm|lively)"', line)[1] for line in lines}
    assert len(variants) == 1                            # a user's variant stays
    assert [chat("demo-bob")[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    status, headers, text = chat("demo-bob")
    assert status == 429 and 1 <= int(headers["retry-after"]) <= 20
    assert json.loads(text)["error"]["code"] == "rate_limit_exceeded" and chat("demo-ann", "lively")[0] == 200


def test_agent_answers_on_a_model_that_knows_no_tools(example):
    server = example("agent")
    status, _, text = server.post("/agent", messages=ask("Say hello."))
    assert status == 200 and text.endswith("data: [DONE]\n\n") and '"content":' in text
    assert json.loads(server.get("/approvals")[2]) == {"approvals": []}
    assert server.post("/agent", resume="nonsense")[0] == 404


def test_proxy_asks_the_upstream_when_nothing_can_be_had_here(example, serve, tmp_path):
    (tmp_path / "far.lua").write_text('return { reply = function() return "from far" end }\n')
    (tmp_path / "sick.lua").write_text('return { reply = function() error "out of order" end }\n')
    far = serve('''local qh = require "qhost"
local app = qh.app()
app:openai { models = { qh.model "far" } }
return app
''', "--model", f"far=scripted:{tmp_path / 'far.lua'}", "--api-key", "secret")
    env = {**os.environ, "UPSTREAM": far.url + "/v1", "UPSTREAM_KEY": "secret", "UPSTREAM_MODEL": "far"}
    call = dict(messages=ask("Hi"), max_tokens=20)

    def chat(server, model):
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        parts = client.chat.completions.create(model=model, stream=True, **call)
        return "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
    near = example("proxy", env=env)
    assert chat(near, "far") == "from far" and chat(near, "auto") not in ("", "from far")
    sick = example("proxy", model=f"scripted:{tmp_path / 'sick.lua'}", env=env)
    assert chat(sick, "auto") == "from far"
    far.stop()
    with pytest.raises(openai.APIStatusError) as e:
        chat(sick, "auto")
    assert e.value.status_code in (500, 502)
