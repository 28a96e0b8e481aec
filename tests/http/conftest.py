import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from serving import ROOT, Server  # noqa: E402


@pytest.fixture
def serve(qhost, tmp_path):
    """serve(app_text_or_path, *args): a running server that is stopped, and must end well, afterwards."""
    running = []

    def start(app, *args, **kw):
        if isinstance(app, str) and "\n" in app:
            path = tmp_path / f"app{len(running)}.lua"
            path.write_text(app)
            app = path
        running.append(Server(qhost, app, *args, **kw))
        return running[-1]

    yield start
    for server in running:
        if server.process.poll() is None:
            assert server.stop() == 0, "\n".join(list(server.lines)[-30:])


@pytest.fixture(scope="module")
def hello(qhost, smollm):
    """examples/hello.lua on the default model, shared by the tests of a module."""
    server = Server(qhost, ROOT / "examples" / "hello.lua", "--model", f"smollm2-135m={smollm}")
    yield server
    assert server.stop() == 0, "\n".join(list(server.lines)[-30:])
