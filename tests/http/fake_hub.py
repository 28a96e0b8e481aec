"""A local server that behaves like the model hub: listings, redirects to a second origin, ranges,
tokens, and the ways in which all of that goes wrong."""
import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class File:
    """One file: its bytes, and how its transfers go wrong."""

    def __init__(self, data, *, lfs=True, cuts=(), ranges=True, etag="hash", linked=True, wrong_bytes=False,
                 statuses=(), length=True):
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.lfs = lfs                      # the listing tells the hash
        self.cuts = list(cuts)              # of the coming transfers: end each after so many bytes
        self.ranges = ranges
        self.etag = {"hash": f'"{self.sha256[:32]}"', "weak": 'W/"x"', None: None}[etag]
        self.linked = linked                # X-Linked-Etag
        self.wrong_bytes = wrong_bytes      # what is sent is not what was announced
        self.statuses = list(statuses)      # of the coming transfers, before any succeeds
        self.length = length                # Content-Length is sent


class Hub:
    """hub.url is the endpoint; files are served from a second origin, as the real hub does."""

    def __init__(self):
        self.repos = {}                     # "owner/name" -> {path: File}
        self.tokens = {}                    # "owner/name" -> token that may read it
        self.page_size = 1000
        self.requests = []                  # (server, method, path, headers)
        self.front, self.store = self._serve("hub"), self._serve("store")
        self.url = f"http://127.0.0.1:{self.front.server_port}"
        self.store_url = f"http://127.0.0.1:{self.store.server_port}"

    def _serve(self, name):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.requests.append((name, self.command, self.path, dict(self.headers)))
                getattr(hub, f"_get_{name}")(self)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self):
        for server in (self.front, self.store):
            server.shutdown()
            server.server_close()

    @staticmethod
    def _reply(h, status, body=b"", **headers):
        h.send_response(status)
        for key, value in headers.items():
            h.send_header(key.replace("_", "-"), value)
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def _get_hub(self, h):
        url = urllib.parse.urlsplit(h.path)
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main", url.path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", url.path)
        repo = (listing or file)[1] if listing or file else None
        token = self.tokens.get(repo)
        if token and h.headers.get("Authorization") != f"Bearer {token}":
            return self._reply(h, 401, b'{"error":"Invalid credentials"}')
        if repo not in self.repos:
            return self._reply(h, 404, b'{"error":"Repository not found"}')
        if listing:
            return self._list(h, repo, urllib.parse.parse_qs(url.query))
        path = urllib.parse.unquote(file[2])
        f = self.repos[repo].get(path)
        if not f:
            return self._reply(h, 404, b"Entry not found")
        headers = {"Location": f"{self.store_url}/{repo}/{urllib.parse.quote(path)}?signature=x"}
        if f.linked:
            headers |= {"X_Linked_Etag": f'"{f.sha256}"', "X_Linked_Size": str(len(f.data))}
        self._reply(h, 302, b"Found", **headers)

    def _list(self, h, repo, query):
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "some-folder"}]
        for path, f in self.repos[repo].items():
            entry = {"type": "file", "oid": "1" * 40, "size": len(f.data), "path": path}
            if f.lfs:
                entry["lfs"] = {"oid": f.sha256, "size": len(f.data), "pointerSize": 134}
            entries.append(entry)
        start = int(query.get("cursor", ["0"])[0])
        headers = {"Content_Type": "application/json"}
        if start + self.page_size < len(entries):
            headers["Link"] = (f"<{self.url}/api/models/{repo}/tree/main?recursive=true"
                               f'&cursor={start + self.page_size}>; rel="next"')
        self._reply(h, 200, json.dumps(entries[start:start + self.page_size]).encode(), **headers)

    def _get_store(self, h):
        owner, name, path = urllib.parse.unquote(urllib.parse.urlsplit(h.path).path)[1:].split("/", 2)
        f = self.repos.get(f"{owner}/{name}", {}).get(path)
        if not f:
            return self._reply(h, 404, b"no such object")
        if f.statuses:
            return self._reply(h, f.statuses.pop(0), b"not now", Retry_After="0")
        data = bytes(b ^ 1 for b in f.data) if f.wrong_bytes else f.data
        asked = re.fullmatch(r"bytes=(\d+)-", h.headers.get("Range", ""))
        condition = h.headers.get("If-Range")
        start = int(asked[1]) if asked and f.ranges and condition in (None, f.etag) else 0
        if start and start >= len(data):
            return self._reply(h, 416, b"", Content_Range=f"bytes */{len(data)}")
        h.send_response(206 if start else 200)
        if start:
            h.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if f.etag:
            h.send_header("ETag", f.etag)
        if f.length:
            h.send_header("Content-Length", str(len(data) - start))
        else:
            h.send_header("Connection", "close")
        h.end_headers()
        part = data[start:]
        if f.cuts:
            part = part[:f.cuts.pop(0)]
            h.close_connection = True
        h.wfile.write(part)
        h.close_connection |= not f.length

    def transfers(self):
        """Requests that reached the store, as (path, range or None)."""
        return [(p.split("?")[0], headers.get("Range")) for s, _, p, headers in self.requests if s == "store"]
