"""The whole path without weights: a scripted model says exactly what it is told, at the pace it is told."""
import time

import openai
import pytest

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

APP = '''
local qh = require "qhost"
local m = qh.model "m"
local app = qh.app()
app:openai { models = { m } }
app:post("/say", function(req, res) return res:stream(m:stream { prompt = req:text() }) end)
app:post("/whole", function(req, res)
  local r, message, status = m:chat { prompt = req:text(), max_tokens = 5 }
  return res:json { text = r and r.text, finish = r and r.finish, message = message, status = status }
end)
return app
'''


@pytest.fixture
def scripted(serve, tmp_path):
    def start(text, *args):
        path = tmp_path / "model.lua"
        path.write_text(text)
        server = serve(APP, "--model", f"m=scripted:{path}", *args)
        return server, openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    return start


def test_text_arrives_whole_and_streamed_in_whole_characters(scripted):
    _, client = scripted('return { reply = function() return "naïve 日本 🙂" end }\n')
    ask = dict(model="m", messages=[{"role": "user", "content": "x"}])
    assert client.chat.completions.create(**ask).choices[0].message.content == "naïve 日本 🙂"
    parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True)]
    assert "".join(parts) == "naïve 日本 🙂" and not any("\ufffd" in p for p in parts)


def test_the_prompt_reaches_the_model_through_its_template(scripted):
    server, _ = scripted('return { reply = function(prompt) return prompt end }\n')
    assert "<|im_start|>user\nping<|im_end|>" in server.request("POST", "/say", b"ping")[2]


def test_pace_is_kept_by_each_of_many_streams(scripted):
    _, client = scripted('return { reply = function() return ("x"):rep(25) end, rate = 50 }\n')
    began = time.monotonic()
    list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True))
    assert 0.45 < time.monotonic() - began < 2.5


def test_a_limit_and_a_failing_script_are_told(scripted):
    server, _ = scripted('return { reply = function(p) if p:find("bad", 1, true) then error("no words") end return "0123456789" end }\n')
    assert server.request("POST", "/whole", b"ok")[2] == '{"finish":"length","text":"01234"}'
    status, _, text = server.request("POST", "/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"bad"}]}')
    assert status == 500 and "error" in text
    assert server.request("POST", "/whole", b"ok")[0] == 200
