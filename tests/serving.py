"""Starting and watching `qhost serve` from tests."""
import collections
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Server:
    """A running `qhost serve`; stop() ends it and says how it ended."""

    def __init__(self, binary, app, *args, env=None, ready_timeout=60):
        self.process = subprocess.Popen([str(binary), "serve", str(app), "--port", "0", *map(str, args)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)
        self.lines = collections.deque(maxlen=5000)
        self.port = None
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for("serve.listening", ready_timeout)
        self.port = int(re.search(r"url=https?://[^ ]*:(\d+)", self.find("serve.listening")).group(1))
        self.url = f"http://127.0.0.1:{self.port}"
        self.wait_for("serve.ready", ready_timeout)

    def _read(self):
        for line in self.process.stderr:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def find(self, text, start=0):
        with self._more:
            return next((line for line in list(self.lines)[start:] if text in line), None)

    def wait_for(self, text, timeout=10, start=0):
        """The first log line at or after `start` that holds text."""
        until = time.monotonic() + timeout
        with self._more:
            while True:
                line = next((x for x in list(self.lines)[start:] if text in x), None)
                if line:
                    return line
                left = until - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._more.wait(0.2)):
                    raise AssertionError(f"no line with {text!r} (exit {self.process.poll()}):\n" + "\n".join(list(self.lines)[-30:]))
                self._more.wait(min(left, 0.5))

    def get(self, path, headers=None, timeout=30):
        """(status, headers, text) of a GET."""
        return self.request("GET", path, headers=headers, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=30):
        r = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(r, timeout=timeout) as f:
                return f.status, f.headers, f.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read().decode()

    def metrics(self):
        """Values of /metrics, those with labels summed by name."""
        out = collections.Counter()
        for line in self.get("/metrics")[2].splitlines():
            m = re.match(r"(\w+)(?:\{[^}]*\})? (\S+)$", line)
            if m:
                out[m[1]] += float(m[2])
        return out

    def pages_in_use(self):
        m = self.metrics()
        return m["qhost_kv_pages"] - m["qhost_kv_pages_free"] - m["qhost_kv_pages_cached"]

    def wait_until(self, condition, timeout=5, what="condition"):
        until = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < until, f"{what} did not come true within {timeout} s"
            time.sleep(0.02)

    def connect(self, timeout=30):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def n_files(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self, signo=signal.SIGTERM, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(signo)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server did not stop:\n" + "\n".join(list(self.lines)[-30:]))
