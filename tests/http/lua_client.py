"""Start tests/http/lua_host.c on an app written by the test, and talk to it."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import textwrap
import threading
import time

from net_client import BUILD, Reply, request

# A scripted model that says what it is told: the last user message, up to "!!" from behind.
ECHO = """
return { rate = %s, ctx = 8192, reply = function(prompt)
  local last
  for text in prompt:gmatch "<|im_start|>user\\n(.-)<|im_end|>" do last = text end
  return last
end }
"""


class Host:
    """An app being served. files: name -> source; models: name -> source of a scripted model."""

    def __init__(self, app, models=None, files=None, args=()):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.models = {} if models is None else models
        self.args = list(args)
        self.lines = []
        self.write("app.lua", app)
        for name, source in (files or {}).items():
            self.write(name, source)

    def write(self, name, source):
        """Replace a file as editors do: a new one is renamed over it."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(textwrap.dedent(source))
        new.rename(path)

    def __enter__(self):
        args = [os.path.join(BUILD, "tests", "lua_host"), str(self.path / "app.lua"), *self.args]
        for name, source in self.models.items():
            self.write(f"model_{name}.lua", source)
            args.append(f"{name}={self.path / f'model_{name}.lua'}")
        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        line = self.proc.stdout.readline().split()
        assert line and line[0] == "port", self.log()
        self.port = int(line[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def _read_log(self):
        for line in self.proc.stderr:
            self.lines.append(line.rstrip("\n"))

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(20)
        finally:
            self.proc.kill()
            self._reader.join(5)
            self.folder.cleanup()
        assert self.proc.returncode == 0, (self.proc.returncode, self.log()[-3000:])

    def log(self):
        return "\n".join(self.lines)

    def wait_log(self, text, seconds=10, start=0):
        """The first log line from `start` on that holds text."""
        until = time.time() + seconds
        while time.time() < until:
            for line in self.lines[start:]:
                if text in line:
                    return line
            assert self.proc.poll() is None, self.log()
            time.sleep(0.005)
        raise AssertionError(f"no log line with {text!r}:\n{self.log()[-3000:]}")

    def stats(self):
        self.proc.stdin.write("stats\n")
        self.proc.stdin.flush()
        return json.loads(self.proc.stdout.readline())

    def wait_stats(self, check, seconds=5):
        """Poll until check(stats) holds; returns how long that took."""
        start = time.time()
        while not check(stats := self.stats()):
            assert time.time() - start < seconds, stats
            time.sleep(0.01)
        return time.time() - start

    def connect(self, timeout=20):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def ask(self, method, path, body=b"", headers=""):
        """One request on a connection of its own."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        with self.connect() as s:
            s.sendall(request(method, path, headers, body))
            return Reply(s, method=method)

    def get(self, path, headers=""):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body, headers=""):
        return self.ask("POST", path, body, headers)


def is_sanitized():
    """Whether the host was built with the address sanitizer."""
    return b"__asan_init" in pathlib.Path(BUILD, "tests", "lua_host").read_bytes()


def error_of(reply):
    """The error object of a reply in the shape of the OpenAI API."""
    error = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    return error
