"""Long load on the default model. Short here; scripts/soak sets QH_SOAK_SECONDS for the full length."""
import concurrent.futures
import json
import os
import random
import re
import time

import pytest

from serving import ROOT, Server

pytestmark = pytest.mark.alone        # looks at times or at the whole machine

SECONDS = float(os.environ.get("QH_SOAK_SECONDS", 10))
STREAMS = 64


@pytest.fixture(scope="module")
def server(qhost, smollm):
    s = Server(qhost, ROOT / "examples" / "hello.lua", "--model", f"smollm2-135m={smollm}")
    yield s
    assert s.stop(timeout=60) == 0


def one_stream(server, rng):
    """Read one stream to its end; returns its number of chunks."""
    body = {"model": "smollm2-135m", "prompt": "word " * rng.randrange(1, 400), "stream": True, "seed": rng.randrange(1 << 30),
            "max_tokens": rng.randrange(1, 200), "ignore_eos": True, "temperature": rng.choice([0, 0.7, 1.0])}
    status, _, text = server.request("POST", "/v1/completions", json.dumps(body).encode(), timeout=600)
    assert status == 200 and text.endswith("data: [DONE]\n\n") and '"error":' not in text, text[-300:]
    return text.count("data: ") - 1


def test_64_streams_lose_no_page_and_stay_within_the_plan(server):
    planned = float(re.search(r"total_mb=([\d.]+)", server.find("memory.plan"))[1])
    after_load = server.resident_bytes() / 1e6
    until = time.monotonic() + SECONDS

    def work(i):
        rng, n = random.Random(i), 0
        while time.monotonic() < until:
            one_stream(server, rng)
            n += 1
        return n

    began = server.metrics()
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        counts = list(pool.map(work, range(STREAMS)))
    server.wait_until(lambda: server.pages_in_use() == 0, timeout=2, what="pages back")
    ended = server.metrics()
    resident = server.resident_bytes() / 1e6
    print(f"{STREAMS} streams, {SECONDS:.0f} s: {sum(counts)} requests, {ended['qhost_sampled_tokens_total'] - began['qhost_sampled_tokens_total']:.0f} tokens, "
          f"{ended['qhost_preemptions_total']:.0f} preemptions; resident {after_load:.0f} MB after load, {resident:.0f} MB now, planned {planned:.0f} MB")
    assert min(counts) >= 1
    assert resident < planned * 1.05
