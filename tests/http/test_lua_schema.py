"""Schemas at the door: req:json(schema) hands over checked values, or answers 400 with the place."""
import json

from lua_client import Host, error_of

APP = """
    local qh = require "qhost"
    local t, app = qh.schema, qh.app()
    local order = t.object {
      { "messages", t.messages() },
      { "count", t.int { min = 1, max = 9, default = 1 } },
    }
    app:post("/order", function(req, res) res:json(req:json(order)) end)
    app:post("/list", function(req, res) res:json(req:json(t.list(t.int()))) end)
    app:post("/raw", function(req, res) res:json(req:json(t.json { type = "object", required = { "a" } })) end)
    return app
"""


def test_bodies_are_checked_and_defaults_filled_in():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        reply = host.post("/order", {"messages": [{"role": "user", "content": "hi"}], "x": None})
        assert json.loads(reply.body) == {"messages": [{"role": "user", "content": "hi"}], "x": None, "count": 1}
        assert host.post("/list", [1, 2.0]).body == b"[1,2]"
        assert host.post("/list", []).body == b"[]"
        assert host.post("/raw", {"a": 1}).status == 200


def test_a_body_that_does_not_fit_is_a_400_with_its_place():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        cases = [("/order", {"messages": [{"role": "boss", "content": ""}]}, "invalid_value", "messages[0].role", "must be one of"),
                 ("/order", {"messages": [{"role": "user", "content": ""}], "count": "3"}, "invalid_type", "count", "an integer"),
                 ("/order", {"count": 3}, "missing_required_parameter", "messages", "is required"),
                 ("/list", {"a": 1}, "invalid_type", None, "the request body: expected a list, got an object"),
                 ("/list", None, "invalid_type", None, "got null"),
                 ("/raw", {}, "missing_required_parameter", "a", "is required")]
        for path, body, code, param, part in cases:
            reply = host.post(path, body)
            error = error_of(reply)
            assert reply.status == 400 and error["code"] == code and error["param"] == param, error
            assert part in error["message"] and error["type"] == "invalid_request_error"


def test_a_broken_schema_keeps_the_app_from_loading_and_names_the_line():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        host.write("app.lua", APP.replace("min = 1", "minn = 1"))
        line = host.wait_log("minn")
        assert "app.lua:6" in line and "qh.schema.int has no option 'minn'" in line, line
