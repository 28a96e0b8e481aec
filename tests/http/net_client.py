"""Start tests/http/net_server.c and talk to it with raw sockets."""
import os
import re
import resource
import select
import socket
import subprocess
import tempfile
import time

BUILD = os.environ.get("QHOST_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))


class Server:
    """The test server as a process. Leaving the block stops it and checks that it ended well."""

    def __init__(self, max_files=None, **limits):
        self.limits, self.max_files = limits, max_files

    def __enter__(self):
        args = [os.path.join(BUILD, "tests", "net_server")] + [f"{k}={v}" for k, v in self.limits.items()]
        self._log = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=self._log, preexec_fn=self._cap_files)
        line = self.proc.stdout.readline().split()
        assert line and line[0] == b"port", self.log()
        self.port = int(line[1])
        return self

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.proc.send_signal(2)
        try:
            self.proc.wait(10)
        finally:
            self.proc.kill()
        assert self.proc.returncode == 0, (self.proc.returncode, self.log()[-3000:])

    def _cap_files(self):
        if self.max_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.max_files, self.max_files))

    def cpu_seconds(self):
        with open(f"/proc/{self.proc.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self):
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def connect(self, timeout=10):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def counts(self):
        body = self.get("/counts").body.decode()
        return {k: int(v) for k, v in re.findall(r"(\w+)=(-?\d+)", body)}

    def get(self, path, headers=""):
        with self.connect() as s:
            s.sendall(request("GET", path, headers))
            return Reply(s)

    def wait_counts(self, seconds=5, **wanted):
        """Poll until the counts are as wanted; returns how long that took."""
        start = time.time()
        while True:
            have = self.counts()
            if all(have[k] == v for k, v in wanted.items()):
                return time.time() - start
            assert time.time() - start < seconds, (have, wanted)
            time.sleep(0.02)


def request(method, path, headers="", body=b"", version="1.1"):
    host = "Host: test\r\n" if version == "1.1" else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/{version}\r\n{host}{length}{headers}\r\n".encode() + body


def recv_until(s, data, mark):
    while mark not in data:
        more = s.recv(65536)
        assert more, f"the connection ended early: {data[-200:]!r}"
        data += more
    return data


class Reply:
    """One reply read from a socket: status, fields (lower case), body, rest (bytes after it)."""

    def __init__(self, s, data=b"", method="GET"):
        head, data = recv_until(s, data, b"\r\n\r\n").split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) ([ -~]*)", lines[0])
        assert match, lines[0]
        self.status, self.reason = int(match[1]), match[2]
        self.fields = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in self.fields, f"{name} twice"
            self.fields[name.lower()] = value
        self.chunks = []
        self.is_complete = True
        if method == "HEAD" or self.status in (204, 304) or self.status < 200:
            self.body, self.rest = b"", data
        elif self.fields.get("transfer-encoding") == "chunked":
            self._read_chunked(s, data)
        elif "content-length" in self.fields:
            n = int(self.fields["content-length"])
            while len(data) < n:
                more = s.recv(65536)
                assert more, "body cut short"
                data += more
            self.body, self.rest = data[:n], data[n:]
        else:
            while more := s.recv(65536):
                data += more
            self.body, self.rest = data, b""

    def _read_chunked(self, s, data):
        self.body = b""
        while True:
            while b"\r\n" not in data:
                more = s.recv(65536)
                if not more:
                    self.is_complete, self.rest = False, b""
                    return
                data += more
            size, data = data.split(b"\r\n", 1)
            n = int(size, 16)
            while len(data) < n + 2:
                more = s.recv(65536)
                if not more:
                    self.is_complete, self.rest = False, b""
                    return
                data += more
            assert data[n:n + 2] == b"\r\n"
            if n == 0:
                self.rest = data[2:]
                return
            self.chunks.append(data[:n])
            self.body += data[:n]
            data = data[n + 2:]


def closed_within(s, seconds):
    """Read until the peer closes; returns (what came, seconds it took)."""
    start, data = time.time(), b""
    while True:
        left = seconds - (time.time() - start)
        assert left > 0, f"still open after {seconds} s: {data!r}"
        if select.select([s], [], [], left)[0]:
            try:
                more = s.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return data, time.time() - start
            data += more
