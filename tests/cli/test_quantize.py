"""qhost quantize: files that an independent reader and qhost itself read back, errors within what each type
allows, and inputs and outputs that are refused."""
import json
import resource
import signal
import subprocess
import time

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
from gguf.quants import dequantize      # noqa: E402

TYPES = ["Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "Q6_K", "BF16"]
# Largest relative error (root mean square) of bell-shaped weights.
BOUNDS = {"Q4_0": 0.09, "Q4_1": 0.08, "Q5_0": 0.05, "Q8_0": 0.006, "Q4_K": 0.075, "Q6_K": 0.02, "BF16": 0.002, "F16": 0.0005}


def shapes(n_layers, has_head):
    out = {"token_embd.weight": (300, 512), "output_norm.weight": (512,)}
    if has_head:
        out["output.weight"] = (300, 512)
    for i in range(n_layers):
        out[f"blk.{i}.attn_v.weight"] = (64, 512)
        out[f"blk.{i}.attn_q.weight"] = (512, 512)
        out[f"blk.{i}.attn_q.bias"] = (512,)
        out[f"blk.{i}.ffn_down.weight"] = (512, 96)         # rows of 96: no super-blocks
        out[f"blk.{i}.ffn_up.weight"] = (96, 512)
        out[f"blk.{i}.odd.weight"] = (4, 40)                # rows of 40: no blocks at all
    return out


def write(path, tensors):
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("made by a test")
    w.add_file_type(0)
    w.add_array("tokenizer.ggml.tokens", ["a", "", "\u2581ä", "b" * 300])
    w.add_array("some.numbers", [1, -2, 3])
    w.add_bool("some.flag", True)
    for name, x in tensors.items():
        w.add_tensor(name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make(path, n_layers=8, has_head=True):
    rng = np.random.default_rng(7)
    tensors = {n: (rng.standard_normal(s) * 0.05).astype(np.float32) for n, s in shapes(n_layers, has_head).items()}
    write(path, tensors)
    return tensors


def read(path):
    r = gguf.GGUFReader(str(path))
    return r, {t.name: t for t in r.tensors}


@pytest.mark.parametrize("kind", TYPES)
def test_an_independent_reader_finds_the_values_again(cli, tmp_path, kind):
    source = make(tmp_path / "in.gguf")
    r = cli.run("quantize", tmp_path / "in.gguf", tmp_path / "out.gguf", kind)
    _, out = read(tmp_path / "out.gguf")
    assert list(out) == list(source)
    for name, want in source.items():
        t = out[name]
        got = dequantize(t.data, t.tensor_type).reshape(want.shape)
        if want.ndim == 1:
            assert t.tensor_type.name == "F32" and np.array_equal(got, want)
            continue
        error = np.sqrt(((got - want) ** 2).mean() / (want ** 2).mean())
        assert error < BOUNDS[t.tensor_type.name], (name, t.tensor_type.name, error)
        shown = next(line for line in r.stdout.splitlines() if line.startswith(name + " ")).split()
        assert shown[1:3] == ["F32", t.tensor_type.name] and abs(float(shown[4].rstrip("%")) / 100 - error) < 1e-5


def test_keys_are_kept_and_those_about_the_type_follow(cli, tmp_path):
    make(tmp_path / "in.gguf")
    cli.run("quantize", tmp_path / "in.gguf", tmp_path / "out.gguf", "q4_k_m")
    keys = {x["key"]: x["value"] for x in map(json.loads, cli.run("inspect", tmp_path / "out.gguf", ok=False).stdout.splitlines())
            if "key" in x}
    assert keys["general.name"] == "made by a test" and keys["some.numbers"] == [1, -2, 3] and keys["some.flag"] is True
    assert keys["tokenizer.ggml.tokens"] == ["a", "", "\u2581ä", "b" * 300]
    assert keys["general.file_type"] == 15 and keys["general.quantization_version"] == 2


def test_the_mixture_of_q4_k_m(cli, tmp_path):
    make(tmp_path / "in.gguf", n_layers=16)
    cli.run("quantize", tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")
    _, out = read(tmp_path / "out.gguf")
    kind = {n: t.tensor_type.name for n, t in out.items()}
    more = {0, 1, 4, 7, 10, 13, 14, 15}                     # an eighth at each end, every third between
    for i in range(16):
        assert kind[f"blk.{i}.attn_v.weight"] == ("Q6_K" if i in more else "Q4_K")
        assert kind[f"blk.{i}.ffn_down.weight"] == ("Q8_0" if i in more else "Q5_0")
        assert kind[f"blk.{i}.attn_q.weight"] == "Q4_K" and kind[f"blk.{i}.odd.weight"] == "F16"
    assert kind["output.weight"] == "Q6_K" and kind["token_embd.weight"] == "Q4_K"
    make(tmp_path / "tied.gguf", n_layers=1, has_head=False)
    cli.run("quantize", tmp_path / "tied.gguf", tmp_path / "out.gguf", "Q4_0", "--force")
    assert read(tmp_path / "out.gguf")[1]["token_embd.weight"].tensor_type.name == "Q6_K"


def test_names_of_layers_that_no_model_has_are_names_like_others(cli, tmp_path):
    x = np.zeros((4, 256), np.float32)
    names = [f"blk.{n}.attn_v.weight" for n in (0, 1023, 1024, 2147483647, 99999999999999999999, -1)] + ["blk.1.", "blk.x.attn_v.weight"]
    write(tmp_path / "in.gguf", {n: x for n in names})
    cli.run("quantize", tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M")
    kind = {n: t.tensor_type.name for n, t in read(tmp_path / "out.gguf")[1].items()}
    assert [kind[n] for n in names] == ["Q6_K", "Q6_K"] + ["Q4_K"] * 4 + ["F32", "Q4_K"]


def test_threads_do_not_change_a_byte(cli, tmp_path):
    make(tmp_path / "in.gguf")
    for n in (1, 2, 7):
        cli.run("quantize", tmp_path / "in.gguf", tmp_path / f"{n}.gguf", "Q4_K_M", "-t", n)
    one = (tmp_path / "1.gguf").read_bytes()
    assert one == (tmp_path / "2.gguf").read_bytes() == (tmp_path / "7.gguf").read_bytes()


def test_a_real_model_still_speaks(cli, smollm, tmp_path):
    out = tmp_path / "q.gguf"
    r = cli.run("quantize", smollm, out, "Q4_K_M")
    assert "quantized already" in r.stderr
    (ids,) = cli.jsonl("tokenize", out, lines=[{"text": "The capital of France is Paris"}])
    (x,) = cli.jsonl("eval-ids", out, lines=[ids])
    assert x["logprobs"][-1] > -1.5


def test_what_cannot_be_done_is_refused_and_nothing_is_left(cli, tmp_path):
    source = tmp_path / "in.gguf"
    tensors = make(source)
    there = tmp_path / "there.gguf"
    there.write_text("mine")
    nan = tmp_path / "nan.gguf"
    tensors["blk.3.attn_q.weight"][17, 5] = np.nan
    write(nan, tensors)
    (tmp_path / "text.gguf").write_text("no model")
    before = sorted(p.name for p in tmp_path.iterdir())
    for args, words in [((source, tmp_path / "o.gguf", "Q9"), ["Q9", "Q4_K_M"]), ((source, there, "Q4_0"), ["there.gguf", "--force"]),
                        ((source, source, "Q4_0", "--force"), ["same file"]),
                        ((source, tmp_path, "Q4_0", "--force"), ["not a regular file"]), ((source, tmp_path / "no" / "o.gguf", "Q4_0"), ["o.gguf.part"]),
                        ((nan, tmp_path / "o.gguf", "Q4_0"), ["blk.3.attn_q.weight", "row 17"]),
                        ((tmp_path / "text.gguf", tmp_path / "o.gguf", "Q4_0"), ["text.gguf"])]:
        r = cli.run("quantize", *args, ok=False)
        assert r.returncode == 1 and all(w in r.stderr for w in words), r.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before and there.read_text() == "mine"
    assert cli.run("quantize", source, ok=False).returncode == 2


def cut_files_short():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)           # a write past the limit then fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_disk_that_takes_no_more_is_told_and_the_part_removed(qhost, tmp_path):
    make(tmp_path / "in.gguf")
    r = subprocess.run([qhost, "quantize", tmp_path / "in.gguf", tmp_path / "o.gguf", "Q8_0"], capture_output=True, text=True,
                       timeout=60, preexec_fn=cut_files_short)
    assert r.returncode == 1 and "o.gguf.part: cannot write to it" in r.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_an_interrupt_leaves_nothing(qhost, smollm, tmp_path):
    p = subprocess.Popen([qhost, "quantize", smollm, tmp_path / "o.gguf", "Q4_K_M", "-t", "1"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 20
    while not (tmp_path / "o.gguf.part").exists():
        assert time.monotonic() < until and p.poll() is None
        time.sleep(0.005)
    p.send_signal(signal.SIGINT)
    assert p.wait(20) == 1 and "interrupted" in p.stderr.read()
    assert not list(tmp_path.iterdir())
