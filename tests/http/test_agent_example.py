"""The agent example with a model that was trained for tools, a weather service and the openai package."""
import http.server
import json
import os
import re
import threading
import urllib.parse

import openai
import pytest

from serving import ROOT, Server

Chunk = openai.types.chat.ChatCompletionChunk


class Weather:
    """A weather service on a free port; temps: city -> degrees Celsius, or an HTTP status that it fails with."""

    def __init__(self, **temps):
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                city = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["q"][0]
                asked.append(city)
                c = temps.get(city)
                body = json.dumps({"temp": {"c": c, "f": c * 9 / 5 + 32}}).encode() if isinstance(c, float) else b"{}"
                self.send_response(200 if isinstance(c, float) else c or 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def weather():
    service = Weather(Paris=17.5, Oslo=-3.5, Tokyo=28.25, Lima=503)
    yield service
    service.server.shutdown()


@pytest.fixture(scope="module")
def agent(qhost, qwen, weather, tmp_path_factory):
    server = Server(qhost, ROOT / "examples" / "agent.lua", "--model", f"smollm2-135m={qwen}",
                    "--data", tmp_path_factory.mktemp("data"), env={**os.environ, "WEATHER_URL": weather.url})
    yield server
    assert server.stop() == 0, "\n".join(list(server.lines)[-30:])


class Streamed:
    """What the openai package makes of a run."""

    def __init__(self, server, path="/agent", **body):
        client = openai.OpenAI(base_url=server.url, api_key="ann", max_retries=0)
        self.text, self.calls, self.results, self.approvals, self.finish = "", {}, [], [], None
        for chunk in client.post(path, body=body, cast_to=Chunk, stream=True, stream_cls=openai.Stream[Chunk]):
            for choice in chunk.choices:
                self.take(choice, server)

    def take(self, choice, server):
        delta = choice.delta
        self.text += delta.content or ""
        for c in delta.tool_calls or []:
            call = self.calls.setdefault(c.index, {"id": c.id, "name": c.function.name, "arguments": ""})
            call["arguments"] += c.function.arguments or ""
        if getattr(delta, "tool_result", None):
            self.results.append(delta.tool_result)
        if getattr(delta, "approval", None):
            self.approvals.append(delta.approval)
            said = {"id": delta.approval["id"], "approve": True}
            assert server.request("POST", "/approvals", json.dumps(said).encode())[0] == 200
        self.finish = choice.finish_reason or self.finish


def ask(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("city, degrees", [("Paris", 17.5), ("Oslo", -3.5), ("Tokyo", 28.25)])
def test_the_model_calls_the_weather_tool_and_answers_with_its_number(agent, weather, city, degrees):
    weather.asked.clear()
    run = Streamed(agent, messages=ask(f"What is the weather in {city}?"))
    assert weather.asked and set(weather.asked) == {city}
    assert run.calls[0]["name"] == "weather" and json.loads(run.calls[0]["arguments"])["city"] == city
    unit = json.loads(run.results[0]["content"])["unit"]
    expected = degrees if unit == "c" else degrees * 9 / 5 + 32
    said = re.findall(r"-?\d+(?:\.\d+)?", run.text.replace("\u2212", "-"))
    assert any(abs(float(n) - expected) < 0.01 for n in said), run.text
    assert run.finish == "stop"


def test_a_note_is_saved_when_somebody_approves(agent):
    run = Streamed(agent, messages=ask("Save a note that I like tea."))
    assert run.approvals and run.approvals[0]["calls"][0]["name"] == "save_note"
    assert json.loads(run.results[0]["content"]) == {"id": 1}
    assert "tea" in json.loads(run.calls[0]["arguments"])["text"]


def test_a_service_that_is_down_is_told_to_the_model(agent):
    run = Streamed(agent, messages=ask("What is the weather in Lima?"))
    assert run.results[0]["is_error"] and "weather service answered 503" in run.results[0]["content"]
    assert run.finish in ("stop", "length")              # it need not be wise about it


def test_no_step_computes_what_the_one_before_did(serve, qwen):
    """With a real tokenizer, whose text would hardly ever be cut into the same tokens again."""
    server = serve("""local qh = require "qhost"
local t = qh.schema
local note = qh.tool { name = "weather", description = "Current weather for a city",
  input = t.object { { "city", t.string() } }, run = function(args) return { city = args.city, temp = #args.city + 0.5 } end }
local agent = qh.agent { model = qh.model("m"):with { defaults = { temperature = 0 } }, tools = { note } }
local app = qh.app()
app:post("/run", function(req, res)
  local run <close> = agent:run { prompt = req:text() }
  return res:stream(run, { as = "ndjson" })
end)
return app
""", "--model", f"m={qwen}")
    events = [json.loads(line) for line in
              server.request("POST", "/run", b"Is it warmer in Rome or in Berlin?", timeout=120)[2].splitlines()]
    steps = [e["usage"] for e in events if e["type"] == "step"]
    assert len(steps) >= 3
    for before, now in zip(steps, steps[1:]):
        assert now["cached"] >= before["prompt"] + before["completion"] - 1, (before, now)
