"""TLS in front of the same server: certificates are made here with the openssl program."""
import os
import signal
import socket
import ssl
import subprocess
import time

import pytest
from certs import install, make_cert
from net_client import Reply, Server, closed_within, request

pytestmark = pytest.mark.alone        # looks at times or at the whole machine


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return {name: make_cert(folder, name) for name in ("first", "second")}


@pytest.fixture(scope="module")
def server(certs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    live = folder / "cert.pem", folder / "key.pem"
    install(certs["first"], live)
    with Server(cert=live[0], key=live[1], first_byte_us=600000, queued=65536) as s:
        s.live = live
        yield s


def connect(server, certs, name="first", **options):
    context = ssl.create_default_context(cafile=str(certs[name][0]))
    for key, value in options.items():
        setattr(context, key, value)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context.wrap_socket(server.connect(), server_hostname="127.0.0.1")


def test_requests_and_streams_over_tls(server, certs):
    with connect(server, certs) as s:
        assert s.version() == "TLSv1.3" and s.selected_alpn_protocol() == "http/1.1"
        s.sendall(request("GET", "/show"))
        assert b"\ntls=1\n" in Reply(s).body
        s.sendall(request("GET", "/stream?n=5&size=10&delay_ms=5"))
        assert Reply(s).chunks == [b"x" * 10] * 5
        s.sendall(request("GET", "/hello") * 50)
        rest = b""
        for _ in range(50):
            r = Reply(s, rest)
            assert r.body == b"hello\n"
            rest = r.rest


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_1_2_is_spoken_and_older_is_not(server, certs):
    with connect(server, certs, maximum_version=ssl.TLSVersion.TLSv1_2) as s:
        s.sendall(request("GET", "/hello"))
        assert s.version() == "TLSv1.2" and Reply(s).body == b"hello\n"
    with pytest.raises((ssl.SSLError, OSError)):
        connect(server, certs, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("n", [1, 16384, 16385, 200_000, 5_000_000])
def test_bodies_of_many_records_come_back_whole(server, certs, n):
    body = os.urandom(n)
    with connect(server, certs) as s:
        s.sendall(request("POST", "/echo", body=body))
        assert Reply(s).body == body


def test_streamed_body_with_pauses_over_tls(server, certs):
    body = bytes(range(256)) * 3000
    with connect(server, certs) as s:
        s.sendall(request("POST", "/take?delay_ms=2", body=body))
        assert Reply(s).body == b"bytes=%d sum=%d" % (len(body), sum(body))


def test_large_stream_to_a_slow_reader_over_tls(server, certs):
    with connect(server, certs) as s:
        s.sendall(request("GET", "/stream?n=1000&size=10000"))
        time.sleep(0.5)
        assert len(Reply(s).body) == 10_000_000


def counts(server, certs):
    with connect(server, certs) as s:
        s.sendall(request("GET", "/counts"))
        return dict(p.split("=") for p in Reply(s).body.decode().split())


@pytest.mark.parametrize("path", ["/wait", "/stream?n=9&delay_ms=60000", "/stream?n=99999&size=9999"])
def test_leaving_is_noticed_over_tls(server, certs, path):
    s = connect(server, certs)
    s.sendall(request("GET", path))
    start = time.time()
    while counts(server, certs)["exchanges"] != "2":
        assert time.time() - start < 2
    s.close()
    start = time.time()
    while counts(server, certs)["exchanges"] != "1":
        assert time.time() - start < 1


def test_close_notify_alone_counts_as_leaving(server, certs):
    s = connect(server, certs)
    s.sendall(request("GET", "/wait"))
    s.setblocking(False)
    with pytest.raises((ssl.SSLWantReadError, ssl.SSLZeroReturnError, OSError)):
        s.unwrap()
    start = time.time()
    while counts(server, certs)["exchanges"] != "1":
        assert time.time() - start < 1


def test_plain_talk_to_a_tls_port_is_closed(server):
    with server.connect() as s:
        s.sendall(request("GET", "/hello"))
        closed_within(s, 1)
    with server.connect() as s:                     # says nothing: the first-byte limit covers the handshake
        data, seconds = closed_within(s, 2)
        assert data == b"" and seconds >= 0.6


def test_reload_changes_new_connections_only_and_survives_bad_files(server, certs):
    old = connect(server, certs)
    install(certs["second"], server.live)
    server.proc.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    with connect(server, certs, "second") as s:
        s.sendall(request("GET", "/hello"))
        assert Reply(s).body == b"hello\n"
    old.sendall(request("GET", "/hello"))
    assert Reply(old).body == b"hello\n"
    old.close()
    server.live[1].write_bytes(certs["first"][1].read_bytes())      # a key of another certificate
    server.proc.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert "tls.reload" in server.log()
    connect(server, certs, "second").close()
    install(certs["first"], server.live)
    server.proc.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    connect(server, certs, "first").close()


def test_bad_tls_files_are_named(certs, tmp_path):
    from net_client import BUILD
    binary = os.path.join(BUILD, "tests", "net_server")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no PEM")
    cert, key = certs["first"]
    for c, k, words in [(tmp_path / "absent.pem", key, "absent.pem: cannot use this certificate: not readable"),
                        (garbage, key, "garbage.pem: cannot use this certificate"),
                        (cert, garbage, "garbage.pem: cannot use this private key"),
                        (cert, certs["second"][1], "second.key: not the private key of")]:
        p = subprocess.run([binary, f"cert={c}", f"key={k}"], capture_output=True, timeout=10)
        assert p.returncode == 1 and words in p.stderr.decode()
    p = subprocess.run([binary, f"cert={cert}"], capture_output=True, timeout=10)
    assert p.returncode == 1 and "TLS needs both" in p.stderr.decode()
