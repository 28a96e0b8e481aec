"""What the server understands and how it frames its replies."""
import email.utils
import json
import socket
import time

import pytest
from net_client import Reply, Server, closed_within, recv_until, request


@pytest.fixture(scope="module")
def server():
    with Server() as s:
        yield s


def test_plain_reply_has_length_date_and_id(server):
    r = server.get("/hello")
    assert (r.status, r.reason, r.body) == (200, "OK", b"hello\n")
    assert r.fields["content-length"] == "6" and "connection" not in r.fields
    assert abs(email.utils.parsedate_to_datetime(r.fields["date"]).timestamp() - time.time()) < 5
    assert r.fields["x-request-id"].startswith("req_")
    assert r.fields["x-request-id"] != server.get("/hello").fields["x-request-id"]


def test_request_is_shown_to_the_handler(server):
    r = server.get("/show?a=%20b", "User-Agent: probe\r\nX-Twice: 1\r\nX-Twice: 2\r\n")
    lines = r.body.decode().split("\n")
    for line in ("method=GET", "target=/show?a=%20b", "path=/show", "query=a=%20b", "version=11", "tls=0",
                 "body_length=0", "header X-Twice=1", "header X-Twice=2", "agent=probe"):
        assert line in lines


def test_head_counts_the_body_and_does_not_send_it(server):
    with server.connect() as s:
        s.sendall(request("HEAD", "/hello") + request("HEAD", "/stream") + request("GET", "/hello"))
        r = Reply(s, method="HEAD")
        assert r.fields["content-length"] == "6"
        r = Reply(s, r.rest, method="HEAD")
        assert r.fields["transfer-encoding"] == "chunked"
        assert Reply(s, r.rest).body == b"hello\n"


@pytest.mark.parametrize("code", [204, 304])
def test_statuses_without_a_body(server, code):
    with server.connect() as s:
        s.sendall(request("GET", f"/status?code={code}") + request("GET", "/hello"))
        r = Reply(s)
        assert r.status == code and not {"content-length", "transfer-encoding"} & set(r.fields)
        assert Reply(s, r.rest).body == b"hello\n"


def test_unknown_path_gets_json_error(server):
    r = server.get("/nowhere")
    assert r.status == 404 and r.fields["content-type"] == "application/json"
    assert json.loads(r.body)["error"] == {"message": "no such path", "type": "invalid_request_error", "code": "not_found"}


def test_error_reply_carries_further_fields(server):
    r = server.get("/refuse")
    assert r.status == 429 and r.fields["retry-after"] == "7"
    assert json.loads(r.body)["error"]["message"] == 'slow "down"'


def test_reply_fields_that_would_split_the_reply_are_refused(server):
    r = server.get("/bad-fields")
    assert r.status == 200 and r.fields["connection"] == "close" and r.body == b"fine"


def test_streamed_reply_is_chunked(server):
    r = server.get("/stream?n=5&size=10&delay_ms=5")
    assert r.fields["transfer-encoding"] == "chunked" and r.is_complete
    assert r.chunks == [b"x" * 10] * 5


def test_pieces_of_one_turn_come_as_chunks_of_their_own(server):
    r = server.get("/stream?n=50&size=3")
    assert r.chunks == [b"xxx"] * 50


def test_http10_stream_ends_with_the_connection(server):
    with server.connect() as s:
        s.sendall(request("GET", "/stream?n=4&size=5", version="1.0"))
        r = Reply(s)
        assert "transfer-encoding" not in r.fields and r.fields["connection"] == "close"
        assert r.body == b"x" * 20


def test_http10_keeps_the_connection_only_when_asked(server):
    with server.connect() as s:
        s.sendall(request("GET", "/hello", "Connection: keep-alive\r\n", version="1.0"))
        r = Reply(s)
        assert r.fields["connection"] == "keep-alive"
        s.sendall(request("GET", "/hello", version="1.0"))
        r = Reply(s)
        assert r.fields["connection"] == "close" and r.body == b"hello\n"
        assert closed_within(s, 2)[0] == b""


def test_connection_close_is_honoured(server):
    with server.connect() as s:
        s.sendall(request("GET", "/hello", "Connection: close\r\n") + request("GET", "/hello"))
        r = Reply(s)
        assert r.fields["connection"] == "close"
        assert r.rest + closed_within(s, 4)[0] == b""


def test_pipelined_requests_are_answered_in_order(server):
    paths = ["/wait?ms=60", "/hello", "/stream?n=3&size=2&delay_ms=3", "/echo", "/wait?ms=1", "/show?last"]
    with server.connect() as s:
        s.sendall(b"".join(request("POST" if p == "/echo" else "GET", p, body=b"body" if p == "/echo" else b"")
                           for p in paths))
        r = Reply(s)
        assert r.body == b"late\n"
        r = Reply(s, r.rest)
        assert r.body == b"hello\n"
        r = Reply(s, r.rest)
        assert r.body == b"x" * 6
        r = Reply(s, r.rest)
        assert r.body == b"body"
        r = Reply(s, r.rest)
        assert r.body == b"late\n"
        r = Reply(s, r.rest)
        assert b"query=last" in r.body and r.rest == b""


def test_thousand_pipelined_requests_in_one_write(server):
    with server.connect() as s:
        s.sendall(request("GET", "/hello") * 1000)
        rest = b""
        for _ in range(1000):
            r = Reply(s, rest)
            assert r.body == b"hello\n"
            rest = r.rest
        assert rest == b""


def test_request_byte_by_byte(server):
    with server.connect() as s:
        for b in request("POST", "/echo", body=b"hi") + request("GET", "/hello"):
            s.sendall(bytes([b]))
        r = Reply(s)
        assert r.body == b"hi"
        assert Reply(s, r.rest).body == b"hello\n"


@pytest.mark.parametrize("n", [0, 1, 100, 70_000, 1_000_000])
def test_body_comes_back_whole(server, n):
    body = bytes(i * 7 % 251 for i in range(n))
    with server.connect() as s:
        s.sendall(request("POST", "/echo", body=body))
        assert Reply(s).body == body
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[i:i + 999] for i in range(0, n, 999)))
        s.sendall(request("POST", "/echo", "Transfer-Encoding: chunked\r\n") + chunked + b"0\r\nX-T: 1\r\n\r\n")
        assert Reply(s).body == body


def test_streamed_body_with_pauses_loses_nothing(server):
    body = bytes(range(256)) * 4000
    with server.connect() as s:
        s.sendall(request("POST", "/take?delay_ms=2", body=body))
        assert Reply(s).body == b"bytes=%d sum=%d" % (len(body), sum(body))


def test_expect_100_continue(server):
    with server.connect() as s:
        s.sendall(request("POST", "/echo", "Expect: 100-continue\r\nContent-Length: 3\r\n"))
        interim = recv_until(s, b"", b"\r\n\r\n")
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b"abc")
        assert Reply(s).body == b"abc"
        # A client that does not wait needs no interim reply.
        s.sendall(request("POST", "/echo", "Expect: 100-continue\r\nContent-Length: 3\r\n") + b"def")
        assert Reply(s).body == b"def"


def test_expect_is_answered_finally_when_the_body_is_not_wanted(server):
    with server.connect() as s:
        s.sendall(request("POST", "/nowhere", "Expect: 100-continue\r\nContent-Length: 3\r\n"))
        r = Reply(s)
        assert r.status == 404 and r.fields["connection"] == "close"
    with server.connect() as s:
        s.sendall(request("POST", "/echo?max=10", "Expect: 100-continue\r\nContent-Length: 11\r\n"))
        assert Reply(s).status == 413


def test_small_unread_body_is_skipped_and_the_connection_lives(server):
    with server.connect() as s:
        s.sendall(request("POST", "/hello", body=b"y" * 5000) + request("GET", "/hello"))
        r = Reply(s)
        assert "connection" not in r.fields
        assert Reply(s, r.rest).body == b"hello\n"


def test_large_unread_body_ends_the_connection_but_the_reply_arrives(server):
    with server.connect() as s:
        s.sendall(request("POST", "/hello", "Content-Length: 5000000\r\n") + b"y" * 500_000)
        r = Reply(s)
        assert r.body == b"hello\n" and r.fields["connection"] == "close"
        closed_within(s, 5)


def test_body_behind_a_transfer_coding_is_refused_only_when_read(server):
    with server.connect() as s:
        s.sendall(request("POST", "/hello", "Transfer-Encoding: gzip, chunked\r\n") + b"0\r\n\r\n")
        assert Reply(s).status == 200
    with server.connect() as s:
        s.sendall(request("POST", "/echo", "Transfer-Encoding: gzip, chunked\r\n") + b"0\r\n\r\n")
        assert Reply(s).status == 501


def test_cut_stream_has_no_end_marker(server):
    for path in ("/cut", "/forget?begin=1"):
        r = server.get(path)
        assert r.body == b"partial" and not r.is_complete


def test_forgotten_request_gets_500(server):
    r = server.get("/forget")
    assert r.status == 500 and json.loads(r.body)["error"]["code"] == "no_reply"


@pytest.mark.parametrize("text,status", [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"GET / HTTP/3.0\r\n", 505),
    (b"GET /" + b"a" * 9000, 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000, 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 10_000, 431),
    (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br, chunked\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"POST /take HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    (b"POST /echo?max=3 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd", 413),
    (b"POST /echo?max=3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", 413),
    (b"POST /take?max=3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", 413),
])
def test_refusals_are_json_and_close(server, text, status):
    with server.connect() as s:
        try:
            s.sendall(text)
        except (BrokenPipeError, ConnectionResetError):
            pass                                    # refused before all was sent
        r = Reply(s)
        assert r.status == status and r.fields["connection"] == "close"
        assert set(json.loads(r.body)["error"]) == {"message", "type", "code"}
        assert closed_within(s, 5)[0] == b""


def test_endless_chunks_stop_at_the_limit(server):
    with server.connect() as s:
        s.sendall(request("POST", "/take?max=1000000", "Transfer-Encoding: chunked\r\n"))
        chunk = b"1000\r\n" + b"z" * 4096 + b"\r\n"
        with pytest.raises((BrokenPipeError, ConnectionResetError, socket.timeout)):
            s.settimeout(5)
            for _ in range(1_000_000):
                s.sendall(chunk)


def test_one_access_line_a_request(server):
    before = server.log().count("http.access")
    r = server.get("/hello?q=%22")
    server.get("/nowhere")
    time.sleep(0.05)
    lines = [x for x in server.log().split("\n") if "http.access" in x][before:]
    assert len(lines) == 2
    assert f"id={r.fields['x-request-id']}" in lines[0] and 'target="/hello?q=%22" status=200 bytes=6' in lines[0]
    assert 'note="a \\"b\\""' in lines[0] and "status=404" in lines[1]
