"""qh.store: what is kept, what is refused, and what is left after kill -9."""
import json
import pathlib
import random
import sqlite3
import subprocess
import threading
import time
import urllib.request

import pytest
from lua_client import Host, error_of

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

APP = r"""
    local qh = require "qhost"
    local app = qh.app()
    local notes = qh.store "notes"
    local function call(req, res)
      local q = req:json()
      local s = q.store and qh.store(q.store) or notes
      local args = q.args or {}
      local ok, a, b = pcall(s[q.op], s, table.unpack(args, 1, q.n or #args))
      if ok then res:json { a = a, b = b } else res:status(422):json { error = tostring(a) } end
    end
    app:post("/call", call)
    app:post("/plain", function(req, res) res:json(notes:query(req:json().sql)) end)
    app:get("/slow", function(_, res)
      res:json(notes:query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) m FROM n", nil, { timeout = 0.2 }))
    end)
    app:get("/endless", function(_, res)
      res:json(notes:query "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) m FROM n")
    end)
    app:get("/health", function(_, res) res:text "ok" end)
    app:post("/append", function(req, res) res:json { id = qh.store "log":append("s", req:json()) } end)
    app:get("/pair/:n", function(req, res)
      notes:batch { { "INSERT INTO kv VALUES (?, '1')", { "a" .. req.params.n } }, { "INSERT INTO kv VALUES (:k, '1')", { k = "b" .. req.params.n } } }
      res:text "ok"
    end)
    return app
"""


@pytest.fixture
def host(tmp_path):
    with Host(APP, args=["--data", str(tmp_path / "data" / "deep")]) as h:
        h.wait_log("app.loaded")
        yield h


def call(host, op, *args, store=None):
    reply = host.post("/call", {"op": op, "args": list(args), "store": store} if store else {"op": op, "args": list(args)})
    got = json.loads(reply.body)
    if reply.status == 422:
        raise ValueError(got["error"])
    assert reply.status == 200, reply.body
    return got.get("a")


def test_values_come_back_as_they_were(host, tmp_path):
    for value in [1, 1.5, "x", True, False, [1, "a", None], [], {}, {"b": 1, "a": {"c": []}}, "é\u0000\"", 2**53]:
        call(host, "set", "k", value)
        assert call(host, "get", "k") == value
    assert call(host, "get", "none") is None
    assert call(host, "del", "k") is True and call(host, "del", "k") is False
    assert call(host, "get", "k") is None
    assert [p.name for p in (tmp_path / "data" / "deep").glob("*.db")] == ["notes.db"]


def test_keys_with_a_prefix_are_listed_in_order(host):
    for k in ["a/2", "a/1", "b", "a", "a/é", "A/1"]:
        call(host, "set", k, k)
    assert call(host, "list", "a/") == [{"key": k, "value": k} for k in ["a/1", "a/2", "a/é"]]
    assert [e["key"] for e in call(host, "list", "a", {"limit": 2})] == ["a", "a/1"]
    assert [e["key"] for e in call(host, "list", "a", {"after": "a/1"})] == ["a/2", "a/é"]
    assert len(call(host, "list")) == 6


def test_streams_count_from_one_and_keep_the_order(host):
    assert [call(host, "append", "s", {"n": n}) for n in range(5)] == [1, 2, 3, 4, 5]
    assert call(host, "append", "other", 0) == 1
    assert [(e["id"], e["value"]["n"]) for e in call(host, "read", "s", {"after": 3})] == [(4, 3), (5, 4)]
    assert [e["id"] for e in call(host, "read", "s", {"last": 2})] == [4, 5]
    assert abs(call(host, "read", "other")[0]["at"] - time.time()) < 5


def test_sql_with_values_by_place_and_by_name(host):
    call(host, "query", "CREATE TABLE t(id INTEGER PRIMARY KEY, x, y)")
    call(host, "query", "INSERT INTO t(x, y) VALUES (?, ?)", [1.5, "a'b"])
    call(host, "query", "INSERT INTO t(x, y) VALUES (:x, @y)", {"x": True, "y": None})
    assert call(host, "query", "SELECT * FROM t ORDER BY id") == [{"id": 1, "x": 1.5, "y": "a'b"}, {"id": 2, "x": 1}]
    rows, infos = (json.loads(host.post("/call", {"op": "batch", "args": [[
        ["UPDATE t SET x = 7"], ["SELECT count(*) n FROM t WHERE x = 7"]]]}).body)[k] for k in "ab")
    assert rows == [{}, [{"n": 2}]] and infos[0]["changes"] == 2 and infos[1]["changes"] == 0


def test_a_failure_names_the_store_the_sql_and_the_line(host):
    with pytest.raises(ValueError, match=r"store 'notes': no such table: nowhere, in: SELECT \* FROM nowhere"):
        call(host, "query", "SELECT * FROM nowhere")
    with pytest.raises(ValueError, match="syntax error, at byte 8 of: SELECT FROM"):
        call(host, "query", "SELECT FROM")
    with pytest.raises(ValueError, match="1 values for 2 parameters"):
        call(host, "query", "SELECT ?, ?", [1])
    with pytest.raises(ValueError, match="there is no parameter 'z'"):
        call(host, "query", "SELECT :x", {"z": 1})
    with pytest.raises(ValueError, match="one statement at a time; after the first comes: SELECT 2"):
        call(host, "query", "SELECT 1; SELECT 2")
    assert host.post("/call", {"op": "get", "args": ["x"], "store": "../x"}).status == 500
    assert "app.lua:7: qh.store: '../x' is no name for a store" in host.wait_log("is no name for a store")
    reply = host.post("/plain", {"sql": "SELEC 1"})
    assert reply.status == 500
    assert "app.lua:13: store 'notes': near \"SELEC\": syntax error" in host.wait_log("syntax error")


@pytest.mark.parametrize("sql", [
    "ATTACH '/tmp/qhost-test-other.db' AS other", "VACUUM INTO '/tmp/qhost-test-other.db'", "BEGIN", "COMMIT", "SAVEPOINT a",
    "PRAGMA journal_mode = DELETE", "PRAGMA writable_schema = 1", "SELECT load_extension('/x.so')", "PRAGMA temp_store_directory = '/x'",
    "SELECT fts3_tokenizer('simple', 'x')", "DETACH main", "SELECT readfile('/etc/passwd')",
    "UPDATE sqlite_schema SET sql = 'x'"])
def test_what_leads_out_of_the_store_is_refused(host, sql):
    with pytest.raises(ValueError, match="store 'notes'"):
        call(host, "query", sql)
    assert call(host, "query", "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_a_batch_is_all_or_nothing(host):
    call(host, "query", "CREATE TABLE u(x UNIQUE)")
    with pytest.raises(ValueError, match="UNIQUE constraint failed: u.x, in: INSERT INTO u VALUES"):
        call(host, "batch", [["INSERT INTO u VALUES (?)", [1]], ["INSERT INTO u VALUES (?)", [1]]])
    assert call(host, "query", "SELECT count(*) n FROM u") == [{"n": 0}]
    call(host, "query", "INSERT INTO u VALUES (2)")


def test_results_have_limits(host):
    with pytest.raises(ValueError, match="more than 10000 rows; give a LIMIT"):
        call(host, "query", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10001) SELECT i FROM n")
    with pytest.raises(ValueError, match="more than 16777216 bytes of rows"):
        call(host, "query", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200) SELECT hex(zeroblob(50000)) FROM n")
    with pytest.raises(ValueError, match="string or blob too big"):
        call(host, "query", "SELECT zeroblob(100000000)")


def test_a_long_query_ends_at_its_timeout_and_nobody_else_waits(host):
    call(host, "get", "x")
    slow = threading.Thread(target=lambda: host.get("/slow"))
    slow.start()
    worst = 0
    while slow.is_alive():
        start = time.time()
        assert host.get("/health").status == 200
        worst = max(worst, time.time() - start)
    assert worst < 0.15, worst
    assert "it took too long" in host.wait_log("took too long")


def test_a_client_that_leaves_interrupts_its_query(host):
    call(host, "get", "x")
    s = host.connect()
    s.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.3)
    s.close()
    start = time.time()
    assert call(host, "get", "x") is None           # it waits behind the endless one
    assert time.time() - start < 1
    host.wait_stats(lambda st: st["requests"] == 0)


def test_stores_live_through_a_reload(host):
    call(host, "set", "k", 1)
    host.write("app.lua", APP.replace("ok", "OK"))
    host.wait_log("gen=2")
    assert call(host, "get", "k") == 1


def test_another_process_may_hold_the_file_for_a_while(host, tmp_path):
    call(host, "set", "k", 1)
    db = sqlite3.connect(tmp_path / "data" / "deep" / "notes.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    done = []
    writer = threading.Thread(target=lambda: done.append(call(host, "set", "k", 2)))
    writer.start()
    time.sleep(0.4)
    assert not done
    db.execute("COMMIT")
    writer.join(5)
    assert done and call(host, "get", "k") == 2
    db.close()


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "notes.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    with Host(APP, args=["--data", str(tmp_path)]) as host:
        with pytest.raises(ValueError, match="store 'notes': file is not a database"):
            call(host, "get", "x")


def test_without_a_data_folder_there_are_no_stores(tmp_path):
    with Host(APP) as host:
        assert "there is no data folder" in host.wait_log("app.failed")


def test_many_requests_at_once_lose_nothing(host):
    def work(n):
        for i in range(20):
            assert host.post("/append", {"n": n, "i": i}).status == 200
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    got = call(host, "read", "s", store="log")
    assert [e["id"] for e in got] == list(range(1, 161))
    assert len({(e["value"]["n"], e["value"]["i"]) for e in got}) == 160


def test_what_was_answered_is_there_after_kill_9_and_batches_are_whole(tmp_path):
    random.seed(1)
    acked, pairs, n = [], [], 0
    for _ in range(8):
        host = Host(APP, args=["--data", str(tmp_path)])
        host.__enter__()
        stop = threading.Event()

        def write():
            nonlocal n
            while not stop.is_set():
                n += 1
                try:
                    if json.loads(host.post("/append", n).body)["id"]:
                        acked.append(n)
                    if host.get(f"/pair/{n}").status == 200:
                        pairs.append(n)
                except (OSError, ValueError, AssertionError, IndexError, KeyError):
                    return
        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.15 + random.random() * 0.2)
        host.proc.kill()
        host.proc.wait(10)
        stop.set()
        thread.join(30)
        host._reader.join(5)
        host.folder.cleanup()
        for name in ["log", "notes"]:
            db = sqlite3.connect(tmp_path / f"{name}.db")
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            db.close()
    assert len(acked) > 50 and len(pairs) > 50, (len(acked), len(pairs))
    db = sqlite3.connect(tmp_path / "log.db")
    kept = {json.loads(v) for v, in db.execute("SELECT value FROM stream")}
    assert set(acked) <= kept
    db.close()
    db = sqlite3.connect(tmp_path / "notes.db")
    keys = {k for k, in db.execute("SELECT key FROM kv")}
    assert {f"a{i}" for i in pairs} <= keys
    assert {k[1:] for k in keys if k[0] == "a"} == {k[1:] for k in keys if k[0] == "b"}
    db.close()


SERVED = """
local qh = require "qhost"
local app = qh.app()
app:get("/", function(_, res)
  local s = qh.store "n"
  s:set("n", (s:get "n" or 0) + 1)
  res:json(s:get "n")
end)
return app
"""


def test_qhost_serve_keeps_data_from_one_start_to_the_next(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    (tmp_path / "my.app.lua").write_text(SERVED)
    for args, folder in [((), "xdg/qhost/my-*"), (("--data", str(tmp_path / "own")), "own")]:
        for want in (b"1", b"2"):
            server = serve(tmp_path / "my.app.lua", *args)
            with urllib.request.urlopen(server.url + "/") as reply:
                assert reply.read() == want
            assert server.stop() == 0
        assert len(list(tmp_path.glob(folder + "/n.db"))) == 1


def test_qhost_check_takes_an_app_with_stores_and_makes_none(qhost, tmp_path):
    (tmp_path / "app.lua").write_text('local qh = require "qhost" qh.store "n" local app = qh.app() app:on("start", function() '
                                      'qh.store("n"):set("a", 1) end) return app')
    run = subprocess.run([pathlib.Path(qhost).resolve(), "check", "app.lua"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["app.lua"]
