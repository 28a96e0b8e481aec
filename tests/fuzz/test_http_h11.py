"""The request parser beside Python's h11, on mutated requests: never more lenient.

Whatever our parser accepts h11 must accept too, with the same requests in it: the same methods,
targets, numbers of fields and bodies, so that none is smuggled past either. The other way round
ours may refuse more. Two liberties are known and wanted, and are not held against it:
  - transfer codings besides chunked (gzip, identity): h11 refuses them all; ours frames them and the
    server answers 501 when somebody wants such a body read
  - UTF-8 in the target: h11 takes ASCII only

FUZZ_SECONDS (default 5) bounds the time; FUZZ_SEED repeats a run. A failure prints the input.
"""
import os
import random
import struct
import subprocess
import time

import pytest

h11 = pytest.importorskip("h11")

BUILD = os.environ.get("QHOST_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a?b=c#d HTTP/1.1\r\nHost: example.com:80\r\nAccept: */*\r\nX: a \t b\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nHost: b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n"
    b"A;x=y;z=\"q\\\"\"\r\n0123456789\r\n001\r\n!\r\n0;e\r\nX-T: 1\r\nY: 2\r\n\r\n",
    b"PUT /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    b"GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    b"GET http://u:p@[::1]:8080/x HTTP/1.1\r\nHost: [::1]:8080\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"DELETE /x HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nAuthorization: Bearer z\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\xff", b"\xc3\xa9", b"\"", b"0",
    b"1", b"a", b"A", b"_", b"-", b"+", b"0x", b"\r\n ", b"\r\n\r\n", b"0\r\n\r\n", b"chunked", b"identity", b"gzip",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: +5\r\n",
    b"Host: b\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b" HTTP/1.1\r\n", b"ffffffffffffffff", b"00000000000000000000", b"Trailer: x\r\n",
]


def mutate(rng):
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 1, 2, 4, 9)))
        kind = rng.randrange(8)
        if kind == 0:
            data[at:at] = rng.choice(PIECES)
        elif kind == 1:
            data[at:end] = rng.choice(PIECES)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = bytes([rng.randrange(256)])
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 5:
            data[at:at] = data[at:end]
        elif kind == 6:                                 # at a line's start: fields go where fields stand
            starts = [i + 2 for i in range(len(data) - 1) if data[i:i + 2] == b"\r\n"] or [0]
            at = rng.choice(starts)
            data[at:at] = rng.choice(PIECES)
        else:
            other = rng.choice(SEEDS)
            data += other[rng.randrange(len(other)):]
    return bytes(data)


def ask_h11(data):
    """Requests that h11 finds, as our filter writes them; None: it refuses some of the input."""
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    found, request, body = [], None, b""
    conn.receive_data(data)
    is_ended = False
    try:
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                if is_ended:
                    return None
                conn.receive_data(b"")
                is_ended = True
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found.append((request.method, request.target, len(request.headers), body))
                conn.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                conn.send(h11.EndOfMessage())
                if conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
                    return found                        # the connection ends here
                conn.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return found
            elif event is h11.PAUSED:
                return found
    except h11.RemoteProtocolError:
        return None


class Judge:
    def __init__(self):
        path = os.path.join(BUILD, "tests", "http_judge")
        self.proc = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, data):
        """Requests that our parser finds, whether any hides behind another coding, and the refusal or None."""
        self.proc.stdin.write(struct.pack("<I", len(data)) + data)
        self.proc.stdin.flush()
        found, is_coded = [], False
        while True:
            line = self.proc.stdout.readline().rstrip(b"\n")
            assert line, f"the judge died on {data!r}"
            if line == b"ok":
                return found, is_coded, None
            if line.startswith(b"bad "):
                return found, is_coded, line.decode()
            _, method, target, _, n_fields, coded, body = line.split(b" ")
            is_coded |= coded == b"1"
            found.append((method, target, int(n_fields), b"" if body == b"-" else bytes.fromhex(body.decode())))


def is_wanted_liberty(data, found, is_coded):
    return is_coded or b"identity" in data.lower() or any(max(r[1]) >= 0x80 for r in found)


def test_never_more_lenient_than_h11():
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 1_000_000))
    rng = random.Random(seed)
    judge = Judge()
    for data in SEEDS:
        found, _, refusal = judge.ask(data)
        assert refusal is None, (data, refusal)
        theirs = ask_h11(data)
        assert theirs == found[:len(theirs)] and theirs, data
    n = n_accepted = n_both = 0
    stop = time.time() + float(os.environ.get("FUZZ_SECONDS", "5"))
    while time.time() < stop:
        data = mutate(rng)
        n += 1
        found, is_coded, refusal = judge.ask(data)
        if refusal is not None:
            continue
        n_accepted += 1
        if is_wanted_liberty(data, found, is_coded):
            continue
        theirs = ask_h11(data)
        n_both += 1
        assert theirs is not None, f"seed {seed}: h11 refuses what we accept: {data!r}"
        # h11 never keeps an HTTP/1.0 connection, so it may stop earlier.
        assert found[:len(theirs)] == theirs, f"seed {seed}: {data!r}: ours {found}, theirs {theirs}"
    judge.proc.stdin.close()
    print(f"seed {seed}: {n} inputs, {n_accepted} accepted, {n_both} of them compared")
    assert n_both > n / 100, "the mutations are too wild to compare anything"
