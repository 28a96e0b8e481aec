"""Clients that leave, stall, crawl, flood and crowd. Short limits, so that it takes seconds."""
import concurrent.futures
import random
import signal
import socket
import struct
import time

import pytest
from net_client import Reply, Server, closed_within, request

pytestmark = pytest.mark.alone        # looks at times or at the whole machine


@pytest.fixture(scope="module")
def server():
    with Server(queued=65536) as s:
        yield s


def reset(s):
    """Close with a reset instead of an end."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


LEAVING = {
    "a reply that never comes": request("GET", "/wait"),
    "a stream between pieces": request("GET", "/stream?n=9&delay_ms=60000"),
    "a body read whole": request("POST", "/echo", "Content-Length: 100\r\n") + b"abc",
    "a body in pieces": request("POST", "/take", "Content-Length: 100\r\n") + b"abc",
    "a paused body": request("POST", "/take?delay_ms=60000", "Content-Length: 9000000\r\n") + b"abc" * 1000,
    "a paused body with more than is read ahead":
        request("POST", "/take?delay_ms=60000", "Content-Length: 9000000\r\n") + b"abc" * 30_000,
    "an unread body larger than is read ahead":
        request("POST", "/wait", "Content-Length: 9000000\r\n") + b"abc" * 30_000,
    "pipelined requests behind one at work": request("GET", "/wait") + request("GET", "/hello") * 20,
    "more pipelined requests than are read ahead": request("GET", "/wait") + request("GET", "/hello") * 2500,
    "a stalled stream": request("GET", "/stream?n=100000&size=10000"),
}


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["end", "reset"])
@pytest.mark.parametrize("phase", LEAVING)
def test_leaving_is_noticed_within_a_second(server, phase, leave):
    closed = server.counts()["closed"]
    s = server.connect()
    s.sendall(LEAVING[phase])
    server.wait_counts(exchanges=2)                 # that one and the one that counts
    leave(s)
    assert server.wait_counts(exchanges=1, closed=closed + 1, seconds=2) < 1.0


def test_reset_is_noticed_behind_any_amount_of_unread_input(server):
    closed = server.counts()["closed"]
    s = server.connect()
    s.settimeout(0.3)
    with pytest.raises(socket.timeout):
        s.sendall(request("POST", "/wait", "Content-Length: 900000000\r\n") + b"abc" * 10_000_000)
    reset(s)
    assert server.wait_counts(closed=closed + 1, seconds=2) < 1.0


def test_half_closing_counts_as_leaving(server):
    closed = server.counts()["closed"]
    with server.connect() as s:
        s.sendall(request("GET", "/wait"))
        server.wait_counts(exchanges=2)
        s.shutdown(socket.SHUT_WR)
        server.wait_counts(closed=closed + 1, seconds=1)
        assert closed_within(s, 1)[0] == b""


def test_reply_in_the_same_turn_reaches_a_client_that_half_closed(server):
    with server.connect() as s:
        s.sendall(request("GET", "/hello"))
        s.shutdown(socket.SHUT_WR)
        assert Reply(s).body == b"hello\n"


def test_stalled_reader_holds_back_the_writer_and_costs_only_itself(server):
    before = server.counts()["rss_kb"]
    stalled = [server.connect() for _ in range(20)]
    for s in stalled:
        s.sendall(request("GET", "/stream?n=20000&size=10000"))     # 200 MB each
    time.sleep(0.3)
    r = server.get("/stream?n=1000&size=10000")
    assert len(r.body) == 10_000_000 and r.is_complete
    assert server.counts()["rss_kb"] - before < 10_000
    # One of them goes on reading and gets all of it: 8 bytes of framing a piece and the end marker.
    stalled[0].sendall(request("GET", "/hello"))
    n, tail = 0, b""
    while not tail.endswith(b"\r\n\r\nhello\n"):
        data = stalled[0].recv(1 << 20)
        n, tail = n + len(data), (tail + data)[-100:]
    assert 200_160_005 < n < 200_161_000
    for s in stalled:
        s.close()
    server.wait_counts(exchanges=1)


def test_paused_body_holds_back_the_client(server):
    with server.connect() as s:
        s.sendall(request("POST", "/take?delay_ms=400&max=100000000", "Content-Length: 100000000\r\n"))
        s.settimeout(0.3)
        sent = 0
        with pytest.raises((socket.timeout, BlockingIOError)):
            while sent < 50_000_000:
                sent += s.send(b"a" * 65536)
        assert sent < 50_000_000
        reset(s)                                    # else the kernel goes on sending what it took
    server.wait_counts(exchanges=1, seconds=2)


def test_thousand_connections(server):
    before = server.counts()
    socks = [server.connect() for _ in range(1000)]
    for i, s in enumerate(socks):
        s.sendall(request("GET", f"/wait?ms={i % 50}"))
    for s in socks:
        assert Reply(s).body == b"late\n"
    assert server.counts()["conns"] >= 1000
    start = time.time()
    assert server.get("/hello").status == 200
    assert time.time() - start < 0.5
    for s in socks:
        s.close()
    server.wait_counts(conns=1, exchanges=1)
    after = server.counts()
    assert after["ok"] - before["ok"] >= 1001
    assert after["rss_kb"] - before["rss_kb"] < 20_000


def test_storm_of_leavers_leaves_nothing_behind(server):
    base = server.counts()["rss_kb"]
    for round_ in range(5):
        socks = []
        for i in range(200):
            s = server.connect()
            s.sendall(request("GET", ["/stream?n=999&delay_ms=3", "/wait", "/stream?n=99999&size=999"][i % 3]))
            socks.append(s)
        for i, s in enumerate(socks):
            reset(s) if i % 2 else s.close()
        server.wait_counts(conns=1, exchanges=1, seconds=3)
    assert server.counts()["rss_kb"] - base < 20_000
    assert server.get("/hello").status == 200


def misbehave(server, rng):
    """One client that does something allowed, half of it, or nonsense, and may leave at any moment."""
    talk = b"".join(rng.choice([
        request("GET", rng.choice(["/hello", "/show", "/wait", "/wait?ms=3", "/cut", "/forget", "/forget?begin=1"])),
        request("GET", f"/stream?n={rng.randrange(300)}&size={rng.randrange(1, 9000)}&delay_ms={rng.choice([0, 0, 1])}"),
        request("POST", rng.choice(["/echo", "/take", "/take?delay_ms=1", "/hello", "/echo?max=99"]), body=bytes(rng.randrange(70000))),
        request("POST", "/take", "Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\n" * rng.randrange(9) + b"0\r\n\r\n",
        request("POST", "/hello", "Transfer-Encoding: chunked\r\n") + b"5\r\nhello\r\nzz",
        request("HEAD", "/stream"), request("GET", "/hello", version="1.0"), rng.randbytes(rng.randrange(1, 50)), b"GET / HTTP/1.1\r\n"])
        for _ in range(rng.randrange(1, 6)))
    s = server.connect()
    s.setblocking(False)
    while talk and rng.random() > 0.1:
        try:
            n = s.send(talk[:rng.choice([1, 7, 100, 5000, 100_000])])
            talk = talk[n:]
            if rng.random() < 0.5:
                s.recv(rng.choice([1, 1000, 100_000]))
        except BlockingIOError:
            if rng.random() < 0.3:
                break
        except (ConnectionResetError, BrokenPipeError):
            break
        if rng.random() < 0.2:
            time.sleep(0.001)
    if rng.random() < 0.3:
        try:
            s.shutdown(rng.choice([socket.SHUT_WR, socket.SHUT_RDWR]))
        except OSError:
            pass
    return s


def test_misbehaving_clients_leave_nothing_behind(server):
    rng = random.Random(7)
    kept, stop = [], time.time() + 4
    while time.time() < stop:
        kept.append(misbehave(server, rng))
        if len(kept) > 40:
            s = kept.pop(rng.randrange(len(kept)))
            reset(s) if rng.random() < 0.5 else s.close()
    for s in kept:
        reset(s)
    server.wait_counts(conns=1, exchanges=1, seconds=5)
    assert server.get("/hello").body == b"hello\n"


# ---- time limits ----

@pytest.fixture(scope="module")
def hasty():
    with Server(first_byte_us=400000, head_us=500000, body_us=600000, body_min_rate=1000, idle_us=300000,
                stall_us=500000, queued=65536) as s:
        yield s


def test_silent_client_is_closed(hasty):
    with hasty.connect() as s:
        data, seconds = closed_within(s, 2)
        assert data == b"" and 0.4 <= seconds < 1.0


def test_idle_connection_is_closed(hasty):
    with hasty.connect() as s:
        s.sendall(request("GET", "/hello"))
        assert Reply(s).status == 200
        data, seconds = closed_within(s, 2)
        assert data == b"" and 0.25 <= seconds < 0.9


def crawl(s, data, pause):
    for b in data:
        try:
            s.sendall(bytes([b]))
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(pause)


def test_slow_head_gets_408_although_bytes_keep_coming(hasty):
    with hasty.connect() as s, concurrent.futures.ThreadPoolExecutor() as pool:
        start = time.time()
        pool.submit(crawl, s, b"GET /hello HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 10, 0.05)
        r = Reply(s)
        assert r.status == 408 and 0.5 <= time.time() - start < 1.2
        assert closed_within(s, 4)


@pytest.mark.parametrize("path", ["/echo", "/take"])
def test_slow_body_gets_408(hasty, path):
    with hasty.connect() as s, concurrent.futures.ThreadPoolExecutor() as pool:
        s.sendall(request("POST", path, "Content-Length: 1000\r\n"))
        start = time.time()
        pool.submit(crawl, s, b"a" * 30, 0.05)
        r = Reply(s)
        assert r.status == 408 and 0.6 <= time.time() - start < 1.3


def test_body_at_a_fair_rate_may_take_longer(hasty):
    with hasty.connect() as s:
        s.sendall(request("POST", "/take", "Content-Length: 5000\r\n"))
        for _ in range(10):
            s.sendall(b"a" * 500)
            time.sleep(0.12)
        assert Reply(s).body.startswith(b"bytes=5000")


def test_pause_of_the_handler_is_not_held_against_the_client(hasty):
    with hasty.connect() as s:
        s.sendall(request("POST", "/take?delay_ms=900", body=b"abc"))
        assert Reply(s).body.startswith(b"bytes=3")


def test_late_reply_is_no_idle_time(hasty):
    with hasty.connect() as s:
        s.sendall(request("GET", "/wait?ms=1200"))
        assert Reply(s).body == b"late\n"


def test_stalled_reader_is_cut_after_its_time(hasty):
    timedout = hasty.counts()["timedout"]
    with hasty.connect() as s:
        s.sendall(request("GET", "/stream?n=100000&size=10000"))
        hasty.wait_counts(timedout=timedout + 1, seconds=3)


# ---- crowds ----

def test_connections_over_the_limit_are_told_503():
    with Server(conns=5) as server:
        kept = [server.connect() for _ in range(5)]
        for s in kept:
            s.sendall(request("GET", "/hello"))
            assert Reply(s).status == 200
        with server.connect() as s:
            r = Reply(s)
            assert r.status == 503 and r.fields["connection"] == "close"
            closed_within(s, 4)
        kept.pop().close()
        time.sleep(0.1)
        assert server.get("/hello").status == 200


def test_bodies_in_memory_share_a_limit():
    with Server(body_total=1_000_000) as server:
        holders = []
        for _ in range(3):
            s = server.connect()
            s.sendall(request("POST", "/echo", "Content-Length: 300000\r\n") + b"a" * 262_100)
            holders.append(s)
        time.sleep(0.1)
        with server.connect() as s:
            try:
                s.sendall(request("POST", "/echo", body=b"a" * 600_000))
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert Reply(s).status == 503
        for s in holders:
            s.sendall(b"a" * (300_000 - 262_100))
            assert len(Reply(s).body) == 300_000
        with server.connect() as s:                 # all of it was given back
            s.sendall(request("POST", "/echo", body=b"a" * 600_000))
            assert len(Reply(s).body) == 600_000


def test_without_descriptors_it_neither_spins_nor_dies():
    with Server(max_files=40) as server:
        socks = [server.connect() for _ in range(80)]
        time.sleep(0.3)
        before = server.cpu_seconds()
        time.sleep(0.7)
        assert server.cpu_seconds() - before < 0.2
        assert "http.accept" in server.log()
        for s in socks:
            s.close()
        assert server.get("/hello").status == 200


# ---- places to listen ----

def test_a_name_is_listened_on_at_all_its_addresses():
    with Server(host="localhost") as server:
        addresses = {a[4][0] for a in socket.getaddrinfo("localhost", server.port, type=socket.SOCK_STREAM)}
        n = 0
        for address in addresses:
            try:
                s = socket.create_connection((address, server.port), timeout=5)
            except OSError as e:
                assert e.errno in (99, 97), address         # this machine has no such address
                continue
            with s:
                s.sendall(request("GET", "/hello"))
                assert Reply(s).status == 200
            n += 1
        assert n


def test_a_taken_port_and_an_unknown_name_are_told():
    import subprocess
    from net_client import BUILD
    binary = BUILD + "/tests/net_server"
    with Server() as server:
        p = subprocess.run([binary, f"port={server.port}"], capture_output=True, timeout=10)
        assert p.returncode == 1 and b"Address already in use" in p.stderr
    p = subprocess.run([binary, "host=no-such-host.invalid"], capture_output=True, timeout=20)
    assert p.returncode == 1 and b"listen: no-such-host.invalid: " in p.stderr


# ---- the end ----

def test_drain_finishes_what_runs_and_closes_the_rest():
    with Server() as server:
        idle, silent, busy, streaming, late = (server.connect() for _ in range(5))
        idle.sendall(request("GET", "/hello"))
        assert Reply(idle).status == 200
        busy.sendall(request("GET", "/wait?ms=600"))
        streaming.sendall(request("GET", "/stream?n=10&delay_ms=60"))
        late.sendall(b"GET /hello HTTP/1.1\r\n")    # a head half sent
        server.wait_counts(exchanges=3)
        server.proc.send_signal(signal.SIGTERM)
        assert closed_within(idle, 1)[0] == b"" and closed_within(silent, 1)[0] == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        late.sendall(b"Host: a\r\n\r\n")
        r = Reply(late)
        assert r.status == 200 and r.fields["connection"] == "close"
        r = Reply(busy)
        assert r.body == b"late\n" and r.fields["connection"] == "close"
        r = Reply(streaming)
        assert r.is_complete and len(r.chunks) == 10
        server.proc.wait(5)


def test_stop_cancels_at_once():
    with Server() as server:
        socks = [server.connect() for _ in range(5)]
        for s in socks:
            s.sendall(request("GET", "/wait"))
        server.wait_counts(exchanges=6)
        start = time.time()
        server.proc.send_signal(signal.SIGINT)
        server.proc.wait(5)
        assert time.time() - start < 1
        assert all(closed_within(s, 1)[0] == b"" for s in socks)
        assert server.log().count("why=ECANCELED") == 5
