"""scripts/bench: rounds, medians and ratios, with a peer whose figures are known."""
import json
import os
import pathlib
import stat
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PEER = '''#!/bin/sh
case "$*" in *"-p 4096"*) echo "no such prompt" >&2; exit 3;; esac
n=$(cat "$0.count" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$0.count"
echo "[{\\"avg_ts\\": $n}]"
'''


def test_rounds_alternate_and_a_row_that_a_peer_cannot_run_says_so(qhost, smollm, tmp_path):
    peer = tmp_path / "llama-bench"
    peer.write_text(PEER)
    peer.chmod(peer.stat().st_mode | stat.S_IXUSR)
    r = subprocess.run([ROOT / "scripts" / "bench", "--qhost", qhost, "--model", smollm, "--peer", f"other={peer}", "--rounds", "3", "--only",
                        "prefill,decode", "--json", tmp_path / "out.json"], capture_output=True, text=True, timeout=300, env=os.environ)
    assert r.returncode == 0, r.stderr
    rows = {x["title"]: x for x in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows["prefill 512"]["figures"]["other"] == [1, 2, 3] and rows["decode"]["figures"]["other"] == [4, 5, 6]
    assert rows["prefill 4096"]["figures"]["other"] == [] and "prefill 4096: other:" in r.stderr and "no such prompt" in r.stderr
    line = next(x for x in r.stdout.splitlines() if x.startswith("decode "))
    mine = sorted(rows["decode"]["figures"]["qhost"])[1]
    assert f"{mine / 5:.2f}x" in line and "%" in line and rows["decode"]["floor_share"] > 0


def test_wrong_words_and_missing_files_are_named(qhost, smollm, tmp_path):
    def fails(*args):
        r = subprocess.run([ROOT / "scripts" / "bench", "--qhost", qhost, *map(str, args)], capture_output=True, text=True, timeout=60)
        assert r.returncode == 1
        return r.stderr
    assert "speed" in fails("--model", smollm, "--only", "decode,speed")
    assert "nothing.gguf" in fails("--model", tmp_path / "nothing.gguf")
