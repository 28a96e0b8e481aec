"""qhost pull against a local hub: choosing, resuming, checking, and what it says when it cannot."""
import fcntl
import os
import pathlib
import pty
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "http"))
from fake_hub import File, Hub  # noqa: E402

def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.fixture
def hub():
    h = Hub()
    yield h
    h.close()


class Puller:
    def __init__(self, binary, hub, folder):
        self.binary, self.hub, self.folder = binary, hub, folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "QHOST_")) and "proxy" not in k.lower()}
        self.env |= {"HF_ENDPOINT": hub.url + "/", "QHOST_MODELS": str(folder)}

    def start(self, *args, **options):
        return subprocess.Popen([self.binary, "pull", *args], env=self.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def __call__(self, *args, code=0):
        p = self.start(*args)
        out, err = p.communicate(timeout=60)
        assert p.returncode == code, (p.returncode, out, err)
        assert "\r" not in err and "\033" not in err        # no bar where there is no terminal
        if code:
            assert err.splitlines()[-1].startswith("qhost: ") or code == 2
        return out, err

    def names(self):
        return sorted(p.name for p in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def pull(qhost, hub, tmp_path):
    return Puller(qhost, hub, tmp_path / "deep" / "models")


# ---- choosing ----

def test_the_only_model_is_fetched_and_its_path_printed(hub, pull):
    data = noise(300_000)
    hub.repos["o/r"] = {"README.md": File(b"hi", lfs=False), "m.Q8_0.gguf": File(data), "mmproj-m.gguf": File(b"p"),
                        "m.imatrix.gguf": File(b"i")}
    out, err = pull("hf:o/r")
    path = pull.folder / "m.Q8_0.gguf"
    assert out == f"{path}\n" and path.read_bytes() == data and pull.names() == ["m.Q8_0.gguf"]
    assert "SHA-256 as it should be" in err


QUANTS = {f"m-{q}.gguf": File(q.encode()) for q in ("Q4_K", "Q4_K_M", "Q4_K_S", "Q8_0", "f16")}


@pytest.mark.parametrize("source,name", [
    ("hf:o/r", "m-Q4_K_M.gguf"), ("hf:o/r:q4_k", "m-Q4_K.gguf"), ("hf:o/r:Q4_K_S", "m-Q4_K_S.gguf"), ("hf:o/r:F16", "m-f16.gguf"),
    ("hf:o/r/m-Q8_0.gguf", "m-Q8_0.gguf"), ("hf:o/r/config.json", "config.json"), ("hf:o/r/sub/x y.gguf", "x y.gguf"),
    ("hf:o/r/x y.gguf", "x y.gguf"),
])
def test_quantization_and_file_name_choose(hub, pull, source, name):
    hub.repos["o/r"] = QUANTS | {"config.json": File(b"{}", lfs=False), "sub/x y.gguf": File(b"xy")}
    out, _ = pull(source)
    assert out == f"{pull.folder}/{name}\n" and pull.names() == [name]


def test_all_shards_of_a_model_come_in_order(hub, pull):
    shards = {f"Q4_K_M/m-Q4_K_M-{i:05}-of-00003.gguf": File(noise(1000 + i, i)) for i in (2, 1, 3)}
    hub.repos["o/r"] = {**shards, "m-Q8_0-00001-of-00001.gguf": File(b"8")}
    for source in ("hf:o/r:Q4_K_M", "hf:o/r", "hf:o/r/Q4_K_M/m-Q4_K_M-00002-of-00003.gguf"):
        out, _ = pull(source)
        names = [f"m-Q4_K_M-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
        assert out == "".join(f"{pull.folder}/{n}\n" for n in names)
    assert pull.names() == names and len(hub.transfers()) == 3
    for path, file in shards.items():
        assert (pull.folder / pathlib.Path(path).name).read_bytes() == file.data


def test_a_missing_shard_is_named_and_nothing_is_fetched(hub, pull):
    hub.repos["o/r"] = {"m-00001-of-00002.gguf": File(b"1")}
    assert "shard 2 of 2 is missing" in pull("hf:o/r", code=1)[1]
    assert hub.transfers() == []


@pytest.mark.parametrize("source,words", [
    ("hf:o/r:Q2_K", ["no GGUF model of quantization Q2_K", "m-Q4_K.gguf, m-Q4_K_M.gguf"]),
    ("hf:o/r/absent.gguf", ["no file absent.gguf", "m-Q8_0.gguf"]),
    ("hf:o/plain", ["no GGUF model in this repository", "model.safetensors"]),
    ("hf:o/odd", ["several models", "a.gguf, b.gguf"]),
    ("hf:o/twice:Q8_0", ["several models match", "x-Q8_0.gguf, y-Q8_0.gguf"]),
    ("hf:o/twice/z.gguf", ["several files are called z.gguf"]),
    ("hf:o/none", ["o/none: no such repository"]),
    ("hf:o/secret", ["o/secret", "401", "HF_TOKEN"]),
    ("hf:o/evil", ["is no name for a file"]),
])
def test_what_cannot_be_chosen_is_explained(hub, pull, source, words):
    hub.repos |= {"o/r": QUANTS, "o/plain": {"model.safetensors": File(b"s")}, "o/odd": {"a.gguf": File(b"a"), "b.gguf": File(b"b")},
                  "o/twice": {"x-Q8_0.gguf": File(b"x"), "y-Q8_0.gguf": File(b"y"), "a/z.gguf": File(b""), "b/z.gguf": File(b"")},
                  "o/secret": QUANTS, "o/evil": {"a/.hidden.gguf": File(b"e")}}
    hub.tokens["o/secret"] = "t0ken"
    _, err = pull(source, code=1)
    for w in words:
        assert w in err
    assert pull.names() == []


@pytest.mark.parametrize("source", ["hf:", "hf:o", "hf:o/", "hf:o/r:", "hf:o/r/", "hf:o r/x", "x.gguf", "ftp://a/b.gguf",
                                    "http://example.com/x.gguf", "https://", "file:", "file:/absent.gguf", "file:/tmp"])
def test_bad_sources_are_refused(pull, source):
    pull(source, code=1)


def test_usage_errors_have_their_own_exit_code(pull):
    assert "Usage" in pull(code=2)[1]
    assert "Usage" in pull("a", "b", code=2)[1]
    assert "Usage" in pull("--nonsense", code=2)[1]
    out, _ = pull("--help")
    assert "hf:OWNER/REPO:QUANT" in out and "Exit codes" in out


def test_long_listings_have_pages(hub, pull):
    hub.page_size = 3
    hub.repos["o/r"] = {f"f{i}.txt": File(b"", lfs=False) for i in range(10)} | {"last.gguf": File(b"last")}
    pull("hf:o/r")
    assert pull.names() == ["last.gguf"]


# ---- tokens ----

def test_the_token_opens_a_repository_and_goes_nowhere_else(hub, pull):
    hub.repos["o/secret"] = {"m.gguf": File(b"secret")}
    hub.tokens["o/secret"] = "t0ken"
    pull.env["HF_TOKEN"] = "wrong"
    assert "token was refused" in pull("hf:o/secret", code=1)[1]
    pull.env["HF_TOKEN"] = "t0ken"
    hub.requests.clear()
    pull("hf:o/secret")
    for server, _, _, headers in hub.requests:
        assert headers.get("Authorization") == ("Bearer t0ken" if server == "hub" else None)
    assert {server for server, *_ in hub.requests} == {"hub", "store"}


# ---- resuming ----

def test_lost_connections_are_taken_up_by_themselves(hub, pull):
    f = File(noise(500_000), cuts=[100_000, 0, 150_000])
    hub.repos["o/r"] = {"m.gguf": f}
    start = time.time()
    _, err = pull("hf:o/r")
    assert (pull.folder / "m.gguf").read_bytes() == f.data and pull.names() == ["m.gguf"]
    assert [r for _, r in hub.transfers()] == [None, "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert err.count("again in") == 3 and time.time() - start > 2.5


def test_a_server_that_always_stops_at_the_same_byte_is_given_up(hub, pull):
    """Without a tag each attempt begins at 0 and gets bytes, but none gets further than the one before: 31 s of pauses."""
    hub.repos["o/r"] = {"m.gguf": File(noise(100_000), linked=False, etag=None, cuts=[60_000] * 80)}
    _, err = pull(f"{hub.store_url}/o/r/m.gguf", code=1)
    pauses = [line.split("again in ")[1] for line in err.splitlines() if "again in" in line]
    assert pauses == ["1.0 s", "2.0 s", "4.0 s", "8.0 s", "16.0 s"] and len(hub.transfers()) == 6


def test_a_killed_transfer_goes_on_later(hub, pull):
    f = File(noise(400_000), cuts=[150_000] + [0] * 10)
    hub.repos["o/r"] = {"m.gguf": f}
    p = pull.start("hf:o/r")
    wait_for_part(pull, "m.gguf", 150_000)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=10)
    assert p.returncode == 1 and "interrupted; 0.1 MB are kept in" in err and "m.gguf.part" in err
    assert pull.names() == ["m.gguf.part", "m.gguf.part.tag"]
    f.cuts = []
    hub.requests.clear()
    pull("hf:o/r")
    assert hub.transfers() == [("/o/r/m.gguf", "bytes=150000-")]
    assert (pull.folder / "m.gguf").read_bytes() == f.data and pull.names() == ["m.gguf"]


def wait_for_part(pull, name, n_bytes):
    part, stop = pull.folder / f"{name}.part", time.time() + 10
    while not part.exists() or part.stat().st_size < n_bytes:
        assert time.time() < stop
        time.sleep(0.01)


def leave_part(pull, name, data, tag):
    pull.folder.mkdir(parents=True, exist_ok=True)
    (pull.folder / f"{name}.part").write_bytes(data)
    if tag:
        (pull.folder / f"{name}.part.tag").write_text(tag + "\n")


def test_a_part_of_another_version_is_not_joined(hub, pull):
    f = File(noise(100_000))
    hub.repos["o/r"] = {"m.gguf": f}
    for data, tag in [(b"old" * 1000, "sha256 " + "0" * 64), (b"old" * 1000, 'etag "x"'), (b"old" * 1000, None),
                      (f.data + b"more", "sha256 " + f.sha256)]:
        leave_part(pull, "m.gguf", data, tag)
        hub.requests.clear()
        pull("hf:o/r")
        assert hub.transfers() == [("/o/r/m.gguf", None)]
        assert (pull.folder / "m.gguf").read_bytes() == f.data and pull.names() == ["m.gguf"]
        (pull.folder / "m.gguf").unlink()


def test_a_whole_part_is_only_checked(hub, pull):
    f = File(noise(100_000))
    hub.repos["o/r"] = {"m.gguf": f}
    leave_part(pull, "m.gguf", f.data, "sha256 " + f.sha256)
    pull("hf:o/r")
    assert hub.transfers() == [] and (pull.folder / "m.gguf").read_bytes() == f.data


def test_a_server_without_ranges_sends_all_again(hub, pull):
    f = File(noise(100_000), ranges=False, cuts=[60_000])
    hub.repos["o/r"] = {"m.gguf": f}
    pull("hf:o/r")
    assert (pull.folder / "m.gguf").read_bytes() == f.data
    assert [r for _, r in hub.transfers()] == [None, "bytes=60000-"]


def test_a_broken_part_is_found_by_its_hash(hub, pull):
    f = File(noise(100_000))
    hub.repos["o/r"] = {"m.gguf": f}
    leave_part(pull, "m.gguf", b"x" * 50_000, "sha256 " + f.sha256)
    _, err = pull("hf:o/r", code=1)
    assert "SHA-256 is" in err and f.sha256 in err and pull.names() == []


def test_wrong_bytes_never_get_the_name(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(noise(10_000), wrong_bytes=True)}
    assert "the part was removed" in pull("hf:o/r", code=1)[1]
    assert pull.names() == []


def test_passing_trouble_is_waited_out_and_lasting_trouble_is_told(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(b"data" * 100, statuses=[503, 429])}
    pull("hf:o/r")
    assert len(hub.transfers()) == 3
    hub.repos["o/r"] = {"n.gguf": File(b"data", statuses=[403] * 9)}
    hub.requests.clear()
    assert "403" in pull("hf:o/r", code=1)[1]
    assert len(hub.transfers()) == 1 and pull.names() == ["m.gguf"]


def test_a_store_that_lost_the_file_is_told(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(b"data")}
    original = hub._get_store
    hub._get_store = lambda h: hub._reply(h, 404, b"gone")
    assert "404, not found" in pull("hf:o/r", code=1)[1]
    hub._get_store = original
    assert pull.names() == []


def test_a_length_other_than_listed_is_refused(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(b"data" * 100)}
    original = hub._get_store
    hub._get_store = lambda h: hub._reply(h, 200, b"short")
    assert "400 bytes announced, the server sends 5" in pull("hf:o/r", code=1)[1]
    hub._get_store = original
    assert pull.names() == []


def cap_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, 64_000))


def test_a_full_disk_is_told_and_what_fits_is_kept(hub, pull):
    f = File(noise(200_000))
    hub.repos["o/r"] = {"m.gguf": f}
    p = pull.start("hf:o/r", preexec_fn=cap_file_size)
    _, err = p.communicate(timeout=20)
    assert p.returncode == 1 and "File too large; 0.1 MB are kept in" in err
    pull("hf:o/r")
    assert hub.transfers()[-1] == ("/o/r/m.gguf", "bytes=64000-")
    assert (pull.folder / "m.gguf").read_bytes() == f.data


# ---- what is there ----

def test_a_file_that_is_there_is_checked_and_kept(hub, pull):
    f = File(noise(10_000))
    hub.repos["o/r"] = {"m.gguf": f}
    pull("hf:o/r")
    hub.requests.clear()
    out, err = pull("hf:o/r")
    assert out == f"{pull.folder}/m.gguf\n" and "already there" in err and hub.transfers() == []
    (pull.folder / "m.gguf").write_bytes(b"y" * 10_000)
    assert "another file of that name" in pull("hf:o/r", code=1)[1]
    assert (pull.folder / "m.gguf").read_bytes() == b"y" * 10_000
    pull("hf:o/r", "--force")
    assert (pull.folder / "m.gguf").read_bytes() == f.data


def test_two_at_once_do_not_write_one_part(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(b"data")}
    leave_part(pull, "m.gguf", b"", None)
    with open(pull.folder / "m.gguf.part", "r+") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert "another process" in pull("hf:o/r", code=1)[1]
    pull("hf:o/r")


def test_another_folder_can_be_named(hub, pull, tmp_path):
    hub.repos["o/r"] = {"m.gguf": File(b"data")}
    out, _ = pull("hf:o/r", "--dir", str(tmp_path / "a" / "b"))
    assert out == f"{tmp_path}/a/b/m.gguf\n" and (tmp_path / "a" / "b" / "m.gguf").read_bytes() == b"data"


def test_a_folder_that_cannot_be_made_is_named(hub, pull, tmp_path):
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path}/file" in pull("hf:o/r", "--dir", str(tmp_path / "file" / "b"), code=1)[1]


# ---- plain addresses ----

def test_an_address_is_fetched_and_checked_against_a_given_hash(hub, pull):
    f = File(noise(50_000), linked=False)
    hub.repos["o/r"] = {"m.gguf": f, "n%41.gguf": f}
    out, err = pull(f"{hub.store_url}/o/r/m.gguf?download=1#x")
    assert out == f"{pull.folder}/m.gguf\n" and f.sha256 in err
    (pull.folder / "m.gguf").unlink()
    assert "SHA-256 as it should be" in pull(f"{hub.store_url}/o/r/m.gguf", "--sha256", f.sha256.upper())[1]
    (pull.folder / "m.gguf").unlink()
    assert "wanted " + "0" * 64 in pull(f"{hub.store_url}/o/r/m.gguf", "--sha256", "0" * 64, code=1)[1]
    assert "64 hex digits" in pull(f"{hub.store_url}/o/r/m.gguf", "--sha256", "0" * 63, code=1)[1]
    assert pull.names() == []


def test_the_hash_that_the_hub_names_is_used_for_addresses_too(hub, pull):
    f = File(noise(90_000))
    hub.repos["o/r"] = {"m.gguf": f}
    url = f"{hub.url}/o/r/resolve/main/m.gguf"
    assert "its SHA-256 is" in pull(url, "--sha256", "0" * 64, code=1)[1]
    f.cuts = [30_000] + [0] * 10
    p = pull.start(url)
    wait_for_part(pull, "m.gguf", 30_000)
    p.terminate()
    p.communicate(timeout=10)
    f.cuts = []
    assert "SHA-256 as it should be" in pull(url)[1]
    assert hub.transfers()[-1] == ("/o/r/m.gguf", "bytes=30000-")
    (pull.folder / "m.gguf").unlink()
    leave_part(pull, "m.gguf", b"old", "sha256 " + "1" * 64)       # the file was another one then
    pull(url)
    assert (pull.folder / "m.gguf").read_bytes() == f.data


@pytest.mark.parametrize("options,ranges", [
    ({}, [None, "bytes=40000-"]),                   # a strong ETag: the same bytes are promised
    ({"etag": "weak"}, [None, None]),
    ({"etag": None}, [None, None]),
    ({"length": False, "etag": "hash"}, None),
])
def test_an_address_without_a_hash_is_resumed_only_by_a_strong_etag(hub, pull, options, ranges):
    cuts = [40_000] if options.get("length", True) else []
    f = File(noise(100_000), linked=False, cuts=cuts, **options)
    hub.repos["o/r"] = {"m.gguf": f}
    pull(f"{hub.store_url}/o/r/m.gguf")
    assert (pull.folder / "m.gguf").read_bytes() == f.data and pull.names() == ["m.gguf"]
    if ranges:
        assert [r for _, r in hub.transfers()] == ranges


def test_a_changed_file_is_fetched_anew(hub, pull):
    f = File(noise(100_000), linked=False)
    hub.repos["o/r"] = {"m.gguf": f}
    leave_part(pull, "m.gguf", b"x" * 40_000, 'etag "older"')
    pull(f"{hub.store_url}/o/r/m.gguf")
    assert (pull.folder / "m.gguf").read_bytes() == f.data


def test_shards_behind_an_address_come_together(hub, pull):
    hub.repos["o/r"] = {f"m-{i:05}-of-00002.gguf": File(noise(100, i)) for i in (1, 2)}
    out, _ = pull(f"{hub.store_url}/o/r/m-00001-of-00002.gguf?x=1")
    assert len(out.splitlines()) == 2 and len(pull.names()) == 2


# ---- local files ----

def test_local_files_are_copied_whole(pull, tmp_path):
    data = noise(3_000_000)
    for i in (1, 2):
        (tmp_path / f"m-{i:05}-of-00002.gguf").write_bytes(data[i:])
    out, _ = pull(f"file:{tmp_path}/m-00001-of-00002.gguf")
    assert len(out.splitlines()) == 2 and pull.names() == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert (pull.folder / "m-00002-of-00002.gguf").read_bytes() == data[2:]
    (tmp_path / "one.gguf").write_bytes(data)
    pull(f"file://{tmp_path}/one.gguf")
    (tmp_path / "one.gguf").write_bytes(data + b"longer")
    assert "another file of that name" in pull(f"file:{tmp_path}/one.gguf", code=1)[1]
    pull(f"file:{tmp_path}/one.gguf", "--force")
    assert (pull.folder / "one.gguf").read_bytes() == data + b"longer"
    assert "SHA-256 is" in pull(f"file:{tmp_path}/one.gguf", "--force", "--sha256", "0" * 64, code=1)[1]
    assert (pull.folder / "one.gguf").read_bytes() == data + b"longer"
    assert not [n for n in pull.names() if "part" in n]


def test_a_local_source_that_is_no_file_is_refused_at_once(pull, tmp_path):
    os.mkfifo(tmp_path / "m.gguf")
    (tmp_path / "d.gguf").mkdir()
    for name in ("m.gguf", "d.gguf"):
        assert "not a regular file" in pull(f"file:{tmp_path}/{name}", code=1)[1]
    assert pull.names() == []


# ---- the bar ----

def test_a_terminal_gets_a_bar(hub, pull):
    hub.repos["o/r"] = {"m.gguf": File(noise(20_000_000))}
    ours, theirs = pty.openpty()
    p = subprocess.Popen([pull.binary, "pull", "hf:o/r"], env=pull.env, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:                                 # the other end is gone
        pass
    out, _ = p.communicate(timeout=30)
    assert p.returncode == 0 and out.decode() == f"{pull.folder}/m.gguf\n"
    assert b"\r" in shown and b"#" in shown and b"100 %" in shown and b"20.0/20.0 MB" in shown
