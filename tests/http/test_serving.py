"""What a service must keep: clients that leave, saves, signals, bad apps, keys."""
import concurrent.futures
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import time

import openai
import pytest

from certs import install, make_cert
from serving import ROOT, Server

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

APP = '''
local qh = require "qhost"
local m = qh.model "m"
local app = qh.app()
app:openai { models = { m } }
app:get("/version", function(req, res) return res:text "one" end)
app:get("/boom", function(req, res) error("kaboom") end)
app:get("/teapot", function(req, res) qh.abort(418, "teapot", { message = "short and stout" }) end)
app:get("/none", function(req, res) end)
app:get("/hi/:name", function(req, res) return res:json { name = req.params.name, q = req.query.q } end)
app:post("/echo", function(req, res) return res:json(req:json()) end)
return app
'''
LONG = {"model": "m", "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "temperature": 1.0, "seed": 1}


@pytest.fixture(scope="module")
def app_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("app") / "app.lua"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def server(qhost, smollm, app_file):
    s = Server(qhost, app_file, "--model", f"m={smollm}")
    yield s
    assert s.stop() == 0


def post_raw(server, path, body, read=True):
    s = server.connect()
    data = json.dumps(body).encode()
    s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
    return s


def test_health_and_metrics(server):
    status, _, text = server.get("/health")
    assert status == 200 and json.loads(text)["status"] == "ok"
    assert server.metrics()["qhost_kv_pages"] > 0


def test_routes_parameters_queries_and_bodies(server):
    assert json.loads(server.get("/hi/J%C3%BCrgen?q=a+b%26c")[2]) == {"name": "Jürgen", "q": "a b&c"}
    body = '{"z":1,"a":[],"b":{},"n":null,"f":1.5,"i":12345678901}'
    assert server.request("POST", "/echo", body.encode())[2] == body
    assert server.get("/nope")[0] == 404
    status, headers, _ = server.request("DELETE", "/version")
    assert status == 405 and headers["allow"] == "GET, HEAD"
    assert server.request("POST", "/echo", b"{")[0] == 400


def test_script_errors_are_500_that_sdks_do_not_retry_and_hide_the_script(server):
    for path in ("/boom", "/none"):
        status, headers, text = server.get(path)
        assert status == 500 and headers["x-should-retry"] == "false"
        assert json.loads(text)["error"]["code"] == "script_error" and "kaboom" not in text
    assert server.wait_for("kaboom", 2)
    status, _, text = server.get("/teapot")
    assert status == 418 and json.loads(text)["error"]["message"] == "short and stout"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_pages_within_a_second(server, stream):
    server.wait_until(lambda: server.pages_in_use() == 0, what="no pages in use")
    s = post_raw(server, "/v1/completions", {**LONG, "stream": stream})
    server.wait_until(lambda: server.pages_in_use() > 1, what="the generation runs")
    s.close()
    server.wait_until(lambda: server.pages_in_use() == 0, timeout=1, what="pages back")


def test_a_client_that_leaves_in_the_queue_and_in_prefill_frees_its_pages(server):
    server.wait_until(lambda: server.pages_in_use() == 0, what="no pages in use")
    socks = [post_raw(server, "/v1/completions", {**LONG, "prompt": f"{i} " + "word " * 3000}) for i in range(6)]
    time.sleep(0.3)
    for s in socks:
        s.close()
    server.wait_until(lambda: server.pages_in_use() == 0 and server.metrics()["qhost_jobs_queued"] == 0, timeout=1,
                      what="pages back")


def test_many_that_leave_at_random_moments_lose_no_page(server):
    rng = random.Random(1)

    def one(i):
        s = post_raw(server, "/v1/completions", {**LONG, "seed": i, "stream": i % 2 == 0, "prompt": "word " * rng.randrange(1, 300)})
        time.sleep(rng.random() * 0.5)
        if i % 3 == 0:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")      # reset
        s.close()

    n = int(os.environ.get("QH_LEAVERS", 60))
    files = server.n_files()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(n)))
    server.wait_until(lambda: server.pages_in_use() == 0, timeout=1, what="pages back")
    server.wait_until(lambda: server.n_files() <= files, timeout=2, what="files back")


def test_streams_of_different_lengths_all_end_well(server):
    def one(i):
        status, _, text = server.request("POST", "/v1/completions", json.dumps({
            **LONG, "seed": i, "stream": True, "prompt": "word " * (i * 7 % 90 + 1), "max_tokens": 4 + i % 13}).encode(), timeout=120)
        assert status == 200 and text.endswith("data: [DONE]\n\n") and '"error":' not in text
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(48)))
    server.wait_until(lambda: server.pages_in_use() == 0, timeout=1, what="pages back")


def test_saving_the_app_swaps_it_and_a_stream_goes_on(server, app_file):
    try:
        s = post_raw(server, "/v1/completions", {**LONG, "stream": True, "max_tokens": 300})
        first = s.recv(4096)
        app_file.write_text(APP.replace('"one"', '"two"'))
        server.wait_until(lambda: server.get("/version")[2] == "two", timeout=3, what="the new version")
        app_file.write_text("local x = = 1\n")
        assert "app.lua:1" in server.wait_for("app.failed", 3)
        report = json.loads(server.get("/qhost/reload")[2])
        assert report["failed"] and report["last_error"]["line"] == 1 and "1 | local x = = 1" in report["last_error"]["excerpt"]
        assert server.get("/version")[2] == "two"
        rest = b""
        while part := s.recv(65536):
            rest += part
            if rest.endswith(b"0\r\n\r\n"):
                break
        assert b"data: [DONE]" in first + rest
    finally:
        app_file.write_text(APP)
        server.wait_until(lambda: server.get("/version")[2] == "one", timeout=3, what="the old version again")


def test_sigterm_drains_what_is_at_work(qhost, smollm, app_file):
    server = Server(qhost, app_file, "--model", f"m={smollm}")
    s = post_raw(server, "/v1/completions", {**LONG, "stream": True, "max_tokens": 100})
    s.recv(1024)
    server.process.send_signal(signal.SIGTERM)
    data = b""
    while part := s.recv(65536):
        data += part
    assert b"[DONE]" in data and server.process.wait(10) == 0


def test_a_signal_while_loading_stops_at_once(qhost, qwen, tmp_path):
    (tmp_path / "app.lua").write_text('local qh = require "qhost"\nqh.model "big"\nreturn qh.app()\n')
    p = subprocess.Popen([qhost, "serve", tmp_path / "app.lua", "--port", "0", "--model", qwen], stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if "device.open" in line:
            break
    began = time.monotonic()
    p.terminate()
    assert p.wait(30) == 1 and time.monotonic() - began < 0.5
    assert "stopped while loading" in p.stderr.read()


def test_a_second_interrupt_stops_at_once(qhost, smollm, app_file):
    server = Server(qhost, app_file, "--model", f"m={smollm}")
    s = post_raw(server, "/v1/completions", {**LONG, "stream": True})
    s.recv(1024)
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(3) is not None
    s.close()


def serve_fails(qhost, *args, timeout=60, env=None):
    r = subprocess.run([qhost, "serve", *map(str, args)], capture_output=True, text=True, timeout=timeout, env=env)
    assert r.returncode != 0
    return r


def test_off_loopback_needs_a_key_or_the_word_insecure(qhost, app_file, smollm):
    r = serve_fails(qhost, app_file, "--host", "0.0.0.0", "--port", "0", "--model", f"m={smollm}")
    assert "--api-key" in r.stderr and "--insecure" in r.stderr


@pytest.mark.parametrize("env,args", [({"QHOST_API_KEY": ""}, []), ({"QHOST_API_KEY": "from-env"}, ["--api-key", ""])])
def test_an_empty_key_is_no_key(qhost, app_file, smollm, env, args):
    args = [app_file, "--port", "0", "--model", f"m={smollm}", *args]
    r = serve_fails(qhost, *args, "--host", "0.0.0.0", env={**os.environ, **env})
    assert "--api-key" in r.stderr and "--insecure" in r.stderr
    server = Server(qhost, *args[:1], *args[3:], env={**os.environ, **env, "QHOST_ADMIN_KEY": ""})
    try:
        assert server.get("/version")[0] == 200 and server.get("/metrics")[0] == 200
        assert server.get("/version", {"authorization": "Bearer "})[0] == 200
    finally:
        assert server.stop() == 0


def test_a_key_is_asked_for(qhost, app_file, smollm):
    server = Server(qhost, app_file, "--model", f"m={smollm}", "--api-key", "s3cret")
    try:
        status, headers, _ = server.get("/version")
        assert status == 401 and "bearer" in headers["www-authenticate"].lower()
        assert server.get("/version", {"authorization": "Bearer s3cretX"})[0] == 401
        assert server.get("/version", {"authorization": "Bearer s3cret"})[0] == 200
        assert server.get("/health")[0] == 200 and server.get("/metrics")[0] == 401
    finally:
        assert server.stop() == 0


def test_metrics_and_reload_ask_for_the_admin_key(qhost, app_file, smollm):
    args = ["--model", f"m={smollm}", "--api-key", "user", "--admin-key", "admin"]
    for more in ([], ["--host", "0.0.0.0"]):
        server = Server(qhost, app_file, *args, *more)
        try:
            for path in ("/metrics", "/qhost/reload", "/qhost/none"):
                assert server.get(path)[0] == 401
                assert server.get(path, {"authorization": "Bearer user"})[0] == 401
            admin = {"authorization": "Bearer admin"}
            assert server.get("/metrics", admin)[0] == server.get("/qhost/reload", admin)[0] == 200
            assert server.get("/qhost/none", admin)[0] in (401, 404) and server.get("/version", admin)[0] == 401
        finally:
            assert server.stop() == 0


def test_off_loopback_the_operators_pages_are_shut_without_an_admin_key(qhost, app_file, smollm):
    server = Server(qhost, app_file, "--model", f"m={smollm}", "--host", "0.0.0.0", "--api-key", "user")
    try:
        for path in ("/metrics", "/qhost/reload"):
            status, _, text = server.get(path, {"authorization": "Bearer user"})
            assert status == 403 and "admin_key_needed" in text
        assert server.get("/version", {"authorization": "Bearer user"})[0] == 200
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("text,word", [("return 1\n\n", "app"), ("local x = = 1\n\n", ":1"), ("error('at load')\n\n", "at load"),
                                       ("while true do end\n\n", "load"), ('require("qhost").model "nothing-here"\n\n', "nothing-here")])
def test_an_app_that_does_not_load_is_refused_with_the_reason(qhost, tmp_path, text, word):
    bad = tmp_path / "bad.lua"
    bad.write_text(text)
    t = time.monotonic()
    assert word in serve_fails(qhost, bad, "--port", "0").stderr
    assert time.monotonic() - t < 3
    r = subprocess.run([qhost, "check", bad], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and word in r.stderr


def test_memory_that_does_not_fit_is_refused_with_numbers(qhost, app_file, smollm):
    r = serve_fails(qhost, app_file, "--port", "0", "--model", f"m={smollm}", "--kv-memory", "4000000")
    assert "MB" in r.stderr


def test_https_with_the_real_client_and_new_certificates_on_hangup(qhost, smollm, app_file, tmp_path):
    live = tmp_path / "cert.pem", tmp_path / "key.pem"
    install(make_cert(tmp_path, "first"), live)
    server = Server(qhost, app_file, "--model", f"m={smollm}", "--tls-cert", live[0], "--tls-key", live[1])
    try:
        assert "url=https://127.0.0.1:" in server.find("serve.listening")
        base = f"https://127.0.0.1:{server.port}/v1"

        def ask(trusted):
            with openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(trusted))) as http:
                client = openai.OpenAI(base_url=base, api_key="-", http_client=http, max_retries=0)
                return client.completions.create(model="m", prompt="The capital of France is", max_tokens=2, temperature=0)

        assert ask(tmp_path / "first.pem").choices[0].text.startswith(" Paris")
        live[1].write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        assert "private key" in server.wait_for("tls.reload_failed")
        assert ask(tmp_path / "first.pem").choices[0].text.startswith(" Paris")
        install(make_cert(tmp_path, "second"), live)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("tls.reloaded")
        assert ask(tmp_path / "second.pem").choices[0].text.startswith(" Paris")
        with pytest.raises(openai.APIConnectionError):
            ask(tmp_path / "first.pem")
    finally:
        assert server.stop() == 0


def test_tls_files_that_cannot_be_used_are_named(qhost, smollm, app_file, tmp_path):
    cert, key = make_cert(tmp_path, "one")
    for args, words in [(["--tls-cert", cert], "needs both"), (["--tls-key", key], "needs both"),
                        (["--tls-cert", tmp_path / "absent.pem", "--tls-key", key], "absent.pem"),
                        (["--tls-cert", cert, "--tls-key", cert], "private key")]:
        assert words in serve_fails(qhost, app_file, "--port", "0", "--model", f"m={smollm}", *args).stderr


def test_cold_start_is_quick(qhost, smollm):
    times = []
    for _ in range(3):
        t = time.monotonic()
        server = Server(qhost, ROOT / "examples" / "hello.lua", "--model", f"smollm2-135m={smollm}")
        while server.get("/health")[0] != 200:
            time.sleep(0.01)
        times.append(time.monotonic() - t)
        assert server.stop() == 0
    print(f"cold start to /health 200: {sorted(times)[1]:.2f} s (median of 3)")


def test_a_save_that_names_a_model_too_large_is_refused_with_the_numbers(qhost, tmp_path, smollm):
    """A new model is loaded before the app that names it serves."""
    app, script = tmp_path / "app.lua", tmp_path / "model.lua"
    script.write_text("return { reply = function() return 'x' end }\n")
    text = 'local qh = require "qhost"\nlocal m = qh.model "%s"\nreturn qh.app():get("/name", function(_, res) return res:text "%s" end)\n'
    app.write_text(text % ("small", "small"))
    server = Server(qhost, app, "--model", f"small=scripted:{script}", "--model", f"big={smollm}", "--kv-memory", "10000000")
    try:
        app.write_text(text % ("big", "big"))
        line = server.wait_for("app.failed", 20)
        assert "app.lua:2" in line and re.search(r"\d+(\.\d+)? [MG]B", line), line
        assert server.get("/name")[2] == "small"
        assert "MB" in json.loads(server.get("/qhost/reload")[2])["last_error"]["message"]
    finally:
        assert server.stop() == 0
