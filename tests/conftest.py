"""Fixtures that every black-box test shares: the binary, the models, the folder of test material."""
import json
import os
import pathlib
import subprocess

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: looks at times or at the whole machine; nothing else may run beside it")


ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def qhost():
    """Path of the binary under test: $QHOST_BUILD/qhost."""
    build = pathlib.Path(os.environ.get("QHOST_BUILD", ROOT / "build"))
    binary = build / "qhost"
    if not binary.exists():
        pytest.fail(f"{binary} is not built; set QHOST_BUILD to the build folder")
    return binary


def model_path(file):
    own = os.environ.get("QHOST_MODELS")
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    path = (pathlib.Path(own) if own else pathlib.Path(cache) / "qhost" / "models") / file
    if not path.exists():
        pytest.skip(f"{file} is not in the model folder (scripts/fetch-model gets it)")
    return path


@pytest.fixture(scope="session")
def smollm():
    return model_path("SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def qwen():
    """The second real model: tests that use it are skipped where it is not to be had."""
    return model_path("Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf")


@pytest.fixture(scope="session")
def shared_data():
    path = pathlib.Path(os.environ.get("QH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.exists():
        pytest.skip(f"no test material at {path}")
    return path


class Cli:
    """Runs the binary; jsonl() feeds JSON Lines and reads them back."""

    def __init__(self, binary):
        self.binary = binary

    def run(self, *args, stdin="", ok=True, timeout=120, env=None):
        r = subprocess.run([self.binary, *map(str, args)], input=stdin, capture_output=True, text=True,
                           timeout=timeout, env={**os.environ, **(env or {})})
        if ok:
            assert r.returncode == 0, f"exit {r.returncode}: {r.stderr}"
        return r

    def jsonl(self, *args, lines, ok=True, timeout=120):
        stdin = "".join(json.dumps(line) + "\n" for line in lines)
        r = self.run(*args, stdin=stdin, ok=ok, timeout=timeout)
        return [json.loads(line) for line in r.stdout.splitlines()]


@pytest.fixture(scope="session")
def cli(qhost):
    return Cli(qhost)
