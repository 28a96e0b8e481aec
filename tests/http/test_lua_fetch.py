"""qh.fetch: replies, limits, refusals, streams, and fetches whose client has left."""
import http.server
import json
import os
import socket
import threading
import time

import pytest
from lua_client import ECHO, Host, error_of
from net_client import request

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

APP = r"""
local qh = require "qhost"
local app = qh.app()
local at = "http://127.0.0.1:" .. qh.env "UPSTREAM_PORT"
app:get("/get", function(req, res)
  local r = qh.fetch(at .. req.query.path, { headers = { ["X-One"] = "1", ["x-two"] = 2 } })
  return res:json { status = r.status, type = r.headers["content-type"], text = r:text(), url = r.url:gsub("^.*:%d+", "") }
end)
app:get("/try", function(req, res)
  local opts = req.query.opts and load("return " .. req.query.opts)() or {}
  local ok, e = pcall(qh.fetch, req.query.url:gsub("AT", at), opts)
  if ok then return res:json { status = e.status, n = #e:text() } end
  return res:json { code = type(e) == "table" and e.code or "raised", status = type(e) == "table" and e.status or 0, message = tostring(e) }
end)
app:get("/post", function(_, res) return res:json(qh.fetch(at .. "/echo", { json = { b = 1, a = { "x" } } }):json()) end)
app:get("/put", function(_, res) return res:text(qh.fetch(at .. "/echo", { method = "PUT", body = "raw" }):text()) end)
app:get("/not_json", function() return qh.fetch(at .. "/hello"):json() end)
app:get("/uncaught", function(req) return qh.fetch(req.query.url:gsub("AT", at), { timeout = 0.2 }) end)
app:get("/side_by_side", function(_, res)
  local all = qh.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function() return qh.fetch(at .. "/slow"):text() end)
  return res:text(table.concat(all))
end)
app:get("/relay", function(_, res)
  local r <close> = qh.fetch(at .. "/drip", { stream = true })
  for piece in r:chunks() do res:write(piece) end
end)
app:get("/stop_early", function(_, res)
  local r <close> = qh.fetch(at .. "/endless", { stream = true })
  for piece in r:chunks() do return res:text("got " .. (#piece > 0 and "some" or "none")) end
end)
app:get("/slow_reader", function(_, res)
  local r <close> = qh.fetch(at .. "/count", { stream = true, max_bytes = 1 << 30 })
  local n = 0
  for piece in r:chunks() do n = n + #piece if n > 1000000 then break end end
  qh.sleep(0.3)
  return res:text "read"
end)
app:get("/hang", function() return qh.map({ 1, 2, 3 }, function() return qh.fetch(at .. "/hang") end) end)
app:get("/hoard", function() return qh.map({ 1, 2, 3, 4 }, function() return qh.fetch(at .. "/big?n=6000000") end) end)
app:get("/in_sort", function() table.sort({ 3, 2, 1 }, function() qh.fetch(at .. "/hello") end) end)
return app
"""


class Upstream(http.server.ThreadingHTTPServer):
    """What is asked of, and how many connections hang in /hang or were cut."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hanging, self.sent = 0, 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, n):
        with self.lock:
            self.hanging += n

    def handle_error(self, *_):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, pieces):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for p in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(p), p))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply(json.dumps({"method": self.command, "type": self.headers["Content-Type"], "body": body.decode()}).encode())

    do_PUT = do_POST

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/hello":
            self.reply(("hello " + self.headers["X-One"] + self.headers["X-Two"]).encode() if self.headers["X-One"] else b"hello")
        elif path == "/missing":
            self.reply(b"no", 404)
        elif path == "/to":
            self.reply(b"", 302, Location=query)
        elif path == "/big":
            self.reply(b"x" * int(query[2:]))
        elif path == "/slow":
            time.sleep(0.2)
            self.reply(b"s")
        elif path == "/cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
            self.close_connection = True
        elif path == "/garbage":
            self.wfile.write(b"SMTP ready\r\n\r\n")
            self.close_connection = True
        elif path == "/drip":
            def pieces():
                for i in range(4):
                    yield b"piece %d\n" % i
                    time.sleep(0.1)
            self.stream(pieces())
        elif path in ("/endless", "/count"):
            def pieces():
                while True:
                    self.server.sent += 10000
                    yield b"y" * 10000
            self.stream(pieces())
        elif path == "/hang":
            self.server.count(1)
            self.connection.settimeout(20)
            try:
                self.connection.recv(1)
            finally:
                self.server.count(-1)
                self.close_connection = True


@pytest.fixture(scope="module")
def upstream():
    server = Upstream()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def host(upstream):
    os.environ["UPSTREAM_PORT"] = str(upstream.server_port)
    os.environ["http_proxy"] = "http://127.0.0.1:9"         # nobody is there, and nobody asks
    try:
        with Host(APP, args=["--heap-mb", "16", "--allow-net", "allowed.invalid", "--allow-net", "*.below.invalid:81"]) as h:
            del os.environ["http_proxy"]
            h.wait_log("app.loaded")
            yield h
    finally:
        os.environ.pop("http_proxy", None)


def attempt(host, url, opts=""):
    return json.loads(host.get(f"/try?url={url}&opts={opts}".replace(" ", "%20").replace('"', "%22")).body)


def test_replies_of_any_status(host):
    got = json.loads(host.get("/get?path=/hello").body)
    assert got == {"status": 200, "type": "text/plain", "text": "hello 12", "url": "/hello"}
    assert json.loads(host.get("/get?path=/missing").body)["status"] == 404
    assert json.loads(host.get("/get?path=/to?/hello").body)["url"] == "/hello"
    assert json.loads(host.get("/post").body) == {"method": "POST", "type": "application/json", "body": '{"a":["x"],"b":1}'}
    assert json.loads(host.get("/put").body)["method"] == "PUT"


def test_failures_name_what_went_wrong(host):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{s.getsockname()[1]}/x"
        e = attempt(host, dead)
        assert (e["code"], e["status"]) == ("upstream_unreachable", 502) and dead in e["message"]
    cases = {"AT/hang": ("{timeout=0.1}", "upstream_timeout"), "AT/cut": ("", "upstream_unreachable"),
             "AT/garbage": ("", "upstream_invalid"), "AT/big?n=1001": ("{max_bytes=1000}", "upstream_too_large"),
             "ftp://127.0.0.1/": ("", "fetch_invalid"), "nonsense": ("", "fetch_invalid"),
             "AT/hello": ('{headers={["a:b"]="c"}}', "fetch_invalid")}
    for url, (opts, code) in cases.items():
        e = attempt(host, url, opts or "{}")
        assert e["code"] == code, (url, e)
    assert attempt(host, "AT/big?n=1000", "{max_bytes=1000}") == {"status": 200, "n": 1000}
    assert "qh.fetch has no option 'metod'" in attempt(host, "AT/hello", "{metod=1}")["message"]
    assert "timeout must be seconds" in attempt(host, "AT/hello", "{timeout=-1}")["message"]


def test_hosts_must_be_allowed(host):
    e = attempt(host, "http://example.com/a")
    assert e["code"] == "fetch_refused" and "--allow-net example.com" in e["message"]
    e = attempt(host, "AT/to?http://example.org/")
    assert e["code"] == "fetch_refused" and "--allow-net example.org" in e["message"]
    assert attempt(host, "http://a.below.invalid/")["code"] == "fetch_refused"
    for url in ("http://allowed.invalid/", "http://a.below.invalid:81/"):
        assert attempt(host, url, "{timeout=5}")["code"] in ("upstream_unreachable", "upstream_timeout")
    r = host.get("/uncaught?url=http://example.com/secret")
    assert (r.status, error_of(r)["code"]) == (500, "fetch_refused") and "example" not in error_of(r)["message"]


def test_uncaught_failures_are_gateway_errors(host):
    r = host.get("/uncaught?url=AT/hang")
    assert (r.status, error_of(r)["code"], r.fields["x-should-retry"]) == (504, "upstream_timeout", "false")
    assert "127.0.0.1" not in error_of(r)["message"]
    r = host.get("/not_json")
    assert (r.status, error_of(r)["code"]) == (502, "upstream_invalid")
    assert error_of(host.get("/in_sort"))["code"] == "script_error"
    host.wait_log("qh.fetch cannot wait inside table.sort, app.lua:")


def test_fetches_run_side_by_side(host):
    start = time.time()
    assert host.get("/side_by_side").body == b"s" * 8
    assert time.time() - start < 1.2


def test_streams_arrive_as_they_come(host):
    with host.connect() as s:
        s.sendall(request("GET", "/relay"))
        start, data, first = time.time(), b"", None
        while b"0\r\n\r\n" not in data:
            data += s.recv(65536)
            if first is None and b"piece 0" in data:
                first = time.time() - start
        assert b"piece 3" in data and time.time() - start - first > 0.2
    assert host.get("/stop_early").body == b"got some"


def test_a_slow_reader_holds_its_sender_back(host, upstream):
    upstream.sent = 0
    assert host.get("/slow_reader").body == b"read"
    assert upstream.sent < 20_000_000           # the kernel's buffers, not all that could be sent in 300 ms


def test_replies_count_for_the_memory_of_the_request(host):
    r = host.get("/hoard")
    assert r.status in (500, 502) and error_of(r)["code"] in ("upstream_too_large", "script_memory")
    assert host.get("/get?path=/hello").status == 200


def test_clients_that_leave_end_their_fetches(host, upstream):
    before = len(os.listdir(f"/proc/{host.proc.pid}/fd"))

    def one():
        with host.connect() as s:
            s.sendall(request("GET", "/hang"))
            time.sleep(0.3)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for t in threads:
        t.start()
    until = time.time() + 5
    while upstream.hanging < 60 and time.time() < until:
        time.sleep(0.01)
    most = upstream.hanging
    for t in threads:
        t.join()
    assert most > 30, most
    host.wait_stats(lambda s: s["requests"] == 0 and s["conns"] == 0)
    until = time.time() + 5
    while upstream.hanging and time.time() < until:
        time.sleep(0.01)
    assert upstream.hanging == 0
    assert len(os.listdir(f"/proc/{host.proc.pid}/fd")) <= before + 2
