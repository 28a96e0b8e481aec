"""Pages of other origins, OPTIONS and HEAD."""
import pytest
from lua_client import Host

APP = """
local qh = require "qhost"
local app = qh.app { cors = %s }
app:use("auth", function(req, next) if not req:bearer() then qh.abort(401, "no_key") end return next() end)
app:get("/x", function(_, res) return res:text "x" end)
app:post("/x", function(_, res) return res:text "posted" end)
app:options("/own", function(_, res) return res:text "own" end)
return app
"""
KEY = "Authorization: Bearer k\r\n"
ASK = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-y\r\n"


def serve(cors):
    return Host(APP % cors)


def test_a_listed_origin_may_ask_and_read():
    with serve('{ origins = { "https://a.example" }, expose = { "x-request-id" }, credentials = true, max_age = 5 }') as h:
        h.wait_log("app.loaded")
        r = h.ask("OPTIONS", "/x", headers=ASK)
        assert r.status == 204 and r.body == b""
        assert r.fields["access-control-allow-origin"] == "https://a.example" and r.fields["vary"] == "Origin"
        assert r.fields["access-control-allow-headers"] == "authorization, x-y" and r.fields["access-control-max-age"] == "5"
        assert "POST" in r.fields["access-control-allow-methods"] and r.fields["access-control-allow-credentials"] == "true"
        for headers, status in ((KEY, 200), ("", 401)):         # a page may read errors too
            r = h.get("/x", headers + "Origin: https://a.example\r\n")
            assert r.status == status and r.fields["access-control-allow-origin"] == "https://a.example"
            assert r.fields["access-control-expose-headers"] == "x-request-id"
        for headers in ("Origin: https://b.example\r\n", "Origin: null\r\n", ""):
            r = h.get("/x", KEY + headers)
            assert r.status == 200 and "access-control-allow-origin" not in r.fields and r.fields["vary"] == "Origin"
        r = h.ask("OPTIONS", "/x", headers=ASK.replace("a.example", "b.example"))
        assert r.status == 204 and not [f for f in r.fields if f.startswith("access-control")]


def test_any_origin_may_ask_when_the_app_says_so():
    with serve('{ origins = "*", headers = { "content-type" } }') as h:
        h.wait_log("app.loaded")
        r = h.ask("OPTIONS", "/none", headers=ASK)
        assert r.status == 204 and r.fields["access-control-allow-origin"] == "*" and "vary" not in r.fields
        assert r.fields["access-control-allow-headers"] == "content-type"
        assert h.get("/none", KEY + "Origin: https://q.example\r\n").fields["access-control-allow-origin"] == "*"


def test_options_and_head_without_cors():
    with serve("nil") as h:
        h.wait_log("app.loaded")
        r = h.ask("OPTIONS", "/x", headers=ASK)
        assert r.status == 204 and r.fields["allow"] == "GET, HEAD, POST, OPTIONS" and "access-control-allow-origin" not in r.fields
        assert h.ask("OPTIONS", "/none").status == 404 and h.ask("OPTIONS", "/own", headers=KEY).body == b"own"
        r = h.ask("HEAD", "/x", headers=KEY)
        assert r.status == 200 and r.fields["content-length"] == "1" and r.body == b""


@pytest.mark.parametrize("cors,message", [("{}", "cors.origins is"), ('{ origins = "a" }', "cors.origins is"), ("{ origins = {} }", "cors.origins is"),
                                          ('{ origins = "*", credentials = true }', "credentials need a list"), ("5", "cors is a table"),
                                          ('{ origins = { "a\\r\\nb" } }', "cors.origins is a list of names"), ("{ origin = 1 }", "no option 'origin'")])
def test_options_that_make_no_sense_do_not_load(cors, message):
    with serve(cors) as h:
        line = h.wait_log("app.failed")
        assert message in line and "app.lua:3:" in line, line
