"""app:on and app:mount."""
import signal

from lua_client import Host

APP = """
    local qh = require "qhost"
    local app = qh.app()
    for _, event in ipairs { "start", "reload", "stop" } do
      app:on(event, function() qh.sleep(0.01) qh.log.info("hook", { event = event, version = 1 }) end)
    end
    app:on("stop", function() error "in the end" end)
    app:on("stop", function() qh.log.info "last" end)
    local inner = qh.app()
    inner:use("mark", function(req, next, res) res:header("x-inner", req.mark or "") return next() end)
    inner:get("/", function(_, res) res:text "root" end)
    inner:get("/x/:id", function(req, res) res:text(req.params.id .. req.path) end)
    inner:post("/x", { max_body = 3 }, function(req, res) res:text(req:text()) end)
    inner:on("start", function() qh.log.info "inner.start" end)
    app:use("outer", function(req, next) req.mark = "outer" return next() end)
    app:mount("/in/", inner)
    return app
"""


def test_hooks_run_at_the_start_at_a_reload_and_at_the_end():
    with Host(APP) as host:
        assert "event=start version=1" in host.wait_log("app.hook")
        host.wait_log("app.inner.start")
        host.write("app.lua", APP.replace("version = 1", "version = 2"))
        assert "version=2" in host.wait_log("event=reload")
        host.proc.send_signal(signal.SIGTERM)
        assert host.proc.wait(10) == 0
        host._reader.join(5)
        log = host.log()
    assert log.count("event=start") == 1 and log.count("event=stop version=2") == 1 and "version=1" not in log.split("event=reload")[1]
    assert "stop.failed" in log and "in the end" in log and "app.last" in log


def test_a_stop_hook_that_does_not_end_is_cut_off():
    with Host("""
        local qh = require "qhost"
        local app = qh.app()
        app:on("stop", function() qh.sleep(100) end)
        return app
    """) as host:
        host.wait_log("app.loaded")
        host.proc.send_signal(signal.SIGTERM)
        assert host.proc.wait(10) == 0
        host._reader.join(5)
        assert "stop.cancelled" in host.log()


def test_a_mounted_app_keeps_its_middlewares_options_and_parameters():
    with Host(APP) as host:
        host.wait_log("app.loaded")
        reply = host.get("/in")
        assert reply.body == b"root" and reply.fields["x-inner"] == "outer"
        assert host.get("/in/x/7").body == b"7/in/x/7"
        assert host.post("/in/x", b"abc").body == b"abc"
        assert host.post("/in/x", b"abcd").status == 413
        assert host.get("/x/7").status == 404


def test_mistakes_are_told_at_their_line():
    for wrong, part in [('app:on("begin", print)', "there is no event 'begin'"), ('app:mount("/a", app)', "takes a path and another app"),
                        ('app:mount("a", qh.app())', "begins with '/'")]:
        with Host(f'local qh = require "qhost"\nlocal app = qh.app()\n{wrong}\nreturn app') as host:
            line = host.wait_log("app.failed")
            assert "app.lua:3: " in line and part in line, line
