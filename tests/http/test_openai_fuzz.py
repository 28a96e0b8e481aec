"""Requests out of the API's own schema, and broken ones: never a 5xx, every reply in the shape of the API.

Short here; scripts/soak sets QH_FUZZ_REQUESTS. A failure names the seed of its request."""
import http.client
import json
import os
import random

import pytest

from openapi import Document, mutate, spoil
from serving import Server

N_REQUESTS = int(os.environ.get("QH_FUZZ_REQUESTS", 1200))
APP = 'local qh = require "qhost"\nlocal m = qh.model "m"\nlocal app = qh.app()\napp:openai { models = { m } }\nreturn app\n'
MODEL = r'''
local TEMPLATE = "{% if tools %}{# <tool_call> #}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
  .. "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant"
return { template = TEMPLATE, ctx = 4096, next = function(text)
  local prompt, done = text:match "^(.*<|im_start|>assistant)(.*)$"
  if not prompt then return #text % 61 > 0 and string.char(97 + #text % 26) or "" end
  local said = prompt:match "^.*<|im_start|>user\n(.-)<|im_end|>\n" or "hello"
  return said:sub(#done + 1)
end }
'''
ROUTES = {"/v1/chat/completions": ("CreateChatCompletionRequest", "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"),
          "/v1/completions": ("CreateCompletionRequest", "CreateCompletionResponse", "CreateCompletionResponse")}


@pytest.fixture(scope="module")
def server(qhost, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "app.lua").write_text(APP)
    (folder / "model.lua").write_text(MODEL)
    s = Server(qhost, folder / "app.lua", "--model", f"m=scripted:{folder / 'model.lua'}")
    yield s
    assert s.stop() == 0, "\n".join(list(s.lines)[-30:])


def request_of(document, seed):
    """(path, body as bytes) of a seed."""
    rng = random.Random(seed)
    path = rng.choice(list(ROUTES))
    body = document.make({"$ref": "#/components/schemas/" + ROUTES[path][0]}, rng)
    if path.endswith("chat/completions") and rng.random() < 0.7:        # most made messages hold images or sound
        text = {"$ref": "#/components/schemas/ChatCompletionRequestMessageContentPartText"}
        body["messages"] = [dict(role=rng.choice(["user", "system", "developer", "assistant"]),
                                 content=rng.choice([document.make({"type": "string"}, rng), [document.make(text, rng)]]))
                            for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.8:                                               # few made requests ask for what is served
        for key in ("response_format", "functions", "function_call", "audio", "modalities", "web_search_options", "suffix", "best_of"):
            body.pop(key, None)
        if "tool_choice" in body:
            body["tool_choice"] = rng.choice(["auto", "none"])
        if body.get("tools"):
            body["tools"] = [t for t in body["tools"] if isinstance(t, dict) and "function" in t]
    body["model"] = "m" if rng.random() < 0.95 else body.get("model", "m")
    for _ in range(rng.choice([0, 0, 0, 1, 1, 3])):
        body = mutate(body, rng)
    if isinstance(body, dict) and isinstance(body.get("max_tokens"), int):
        body["max_tokens"] = min(body["max_tokens"], 200)
    data = json.dumps(body)
    return path, spoil(data, rng) if rng.random() < 0.1 else data.encode("utf-8", "surrogatepass")


def as_served(document):
    """Where the API serves null and its schema does not say so: chunks of completions before their end, and
    what the first token of an echoed prompt has no probability for."""
    choice = document.schemas["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
    choice["finish_reason"]["nullable"] = True
    for part in choice["logprobs"].get("anyOf", [choice["logprobs"]]):
        for key in ("token_logprobs", "top_logprobs") if "properties" in part else ():
            part["properties"][key]["items"]["nullable"] = True
    return document


def problems_of(document, path, status, headers, text):
    """What is wrong with a reply."""
    _, whole, chunk = ({"$ref": "#/components/schemas/" + name} for name in ROUTES[path])
    if status >= 500:
        return [f"status {status}: {text}"]
    if status != 200:
        if status not in (400, 404, 413, 429):
            return [f"status {status}: {text}"]
        return document.problems({"$ref": "#/components/schemas/ErrorResponse"}, json.loads(text))
    if not headers["content-type"].startswith("text/event-stream"):
        return document.problems(whole, json.loads(text))
    lines = [line for line in text.split("\n\n") if line]
    if lines[-1] != "data: [DONE]":
        return [f"the stream ends with {lines[-1]}"]
    out = []
    for line in lines[:-1]:
        out += document.problems(chunk, json.loads(line.removeprefix("data: ")))
    return out


def about(server, reply):
    """What the log says of the request of a broken reply."""
    return [line for line in list(server.lines) if reply and reply.headers.get("x-request-id", "?") in line]


def test_no_request_is_answered_with_a_5xx_or_out_of_shape(server, shared_data):
    document = as_served(Document(shared_data / "openapi" / "openai-chat.json"))
    first = int(os.environ.get("QH_FUZZ_SEED", 1))
    statuses, failures = {}, {}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for seed in range(first, first + N_REQUESTS):
        reply = None
        path, data = request_of(document, seed)
        try:
            connection.request("POST", path, data, {"content-type": "application/json"})
            reply = connection.getresponse()
            text = reply.read().decode()
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            problems = problems_of(document, path, reply.status, reply.headers, text)
        except (OSError, http.client.HTTPException, ValueError) as e:
            problems = [f"{type(e).__name__}: {e}"] + about(server, reply)
            connection.close()
        if problems:
            failures[seed] = (problems[:3], path, data[:600])
    print(f"{N_REQUESTS} requests: {dict(sorted(statuses.items()))}")
    assert not failures, "\n".join(f"seed {seed}: {what}" for seed, what in list(failures.items())[:5])
    assert statuses[200] > N_REQUESTS / 10 and statuses[400] > N_REQUESTS / 10
    assert server.find("script.error") is None and server.find("script.failed") is None
    server.wait_until(lambda: server.pages_in_use() == 0, what="pages back")
