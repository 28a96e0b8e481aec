"""The command line as outside suites drive it: JSON Lines, exit codes, help."""
import json
import math
import os
import shutil
import subprocess

import pytest

COMMANDS = ["serve", "run", "pull", "list", "inspect", "tokenize", "detokenize", "render", "eval-ids",
            "bench", "quantize", "check"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_on_stdout(cli, command):
    r = cli.run(command, "--help")
    assert r.stdout.startswith(f"Usage: qhost {command}") and r.stderr == ""


@pytest.mark.parametrize("command,fields", [
    ("tokenize", ["text", "add_special", "parse_special", "ids", "error"]), ("detokenize", ["ids", "show_special", "text", "error"]),
    ("render", ["template", "messages", "tools", "add_generation_prompt", "text", "error"]), ("eval-ids", ["ids", "top", "logprobs", "error"]),
    ("inspect", ["key", "tensor", "shape", "model"])])
def test_json_lines_are_documented_field_by_field(cli, command, fields):
    text = cli.run(command, "--help").stdout
    assert all(f'"{f}"' in text for f in fields)


def test_help_lists_every_command(cli):
    out = cli.run("--help").stdout
    assert all(f"  {c} " in out for c in COMMANDS)


@pytest.mark.parametrize("args,word", [
    (["frobnicate"], "frobnicate"), (["list", "extra"], "extra"), (["bench"], "too few"),
    (["bench", "x", "--threads", "many"], "many"), (["bench", "x", "--threads", "-3"], "0 to 1024"),
    (["bench", "x", "-p", "1,,2"], "-p"), (["inspect", "x", "--nope"], "--nope"), (["eval-ids", "m", "-c"], "needs a value"),
])
def test_wrong_usage_exits_with_2_and_names_what_is_wrong(cli, args, word):
    r = cli.run(*args, ok=False)
    assert r.returncode == 2 and word in r.stderr and r.stdout == ""


def test_bench_says_which_numbers_it_takes(cli):
    r = cli.run("bench", "x", "-p", "9999999", ok=False)
    assert r.returncode == 2 and "1048576" in r.stderr


@pytest.mark.parametrize("args,stdin", [(["list"], ""), (["inspect"], ""), (["tokenize"], '{"text": "a"}\n')])
def test_results_that_cannot_be_written_are_a_failure(qhost, smollm, args, stdin):
    with open("/dev/full", "w") as full:
        r = subprocess.run([qhost, *args, *([] if args == ["list"] else [smollm])], input=stdin, stdout=full,
                           stderr=subprocess.PIPE, text=True, timeout=60)
    assert r.returncode == 1 and "No space left" in r.stderr


def test_templates_see_the_time_of_the_place(cli):
    line = [{"template": "{{ strftime_now('%H:%M') }}", "messages": []}]
    texts = [subprocess.run([cli.binary, "render"], input=json.dumps(line[0]), capture_output=True, text=True,
                            env={**os.environ, "TZ": tz}).stdout for tz in ("UTC0", "XXX-5:30")]
    utc, local = (int(t[:2]) * 60 + int(t[3:]) for t in (json.loads(x)["text"] for x in texts))
    assert (local - utc) % 1440 in (330, 331)


def test_a_model_that_is_not_there_is_named_with_what_is(cli, tmp_path):
    (tmp_path / "abc-1b.Q8_0.gguf").write_bytes(b"not a model")
    r = cli.run("inspect", "nothing", ok=False, env={"QHOST_MODELS": str(tmp_path)})
    assert r.returncode == 1 and "nothing" in r.stderr and "abc-1b.Q8_0" in r.stderr


def test_names_are_found_by_their_beginning_and_refused_when_ambiguous(cli, tmp_path, smollm):
    for name in ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Base.Q4_1.gguf"):
        (tmp_path / name).symlink_to(smollm)
    env = {"QHOST_MODELS": str(tmp_path)}
    assert '"SmolLM2-135M-Base' in cli.run("inspect", "smollm2-135m-base", env=env).stdout.splitlines()[0].replace(str(tmp_path) + "/", "")
    r = cli.run("inspect", "smollm2-135m", ok=False, env=env)
    assert r.returncode == 1 and "Instruct" in r.stderr and "Base" in r.stderr
    assert cli.run("inspect", "smollm2-135", ok=False, env=env).returncode == 1     # not at a boundary


def test_list_shows_names_sizes_and_folders(cli, tmp_path, smollm):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "m.gguf").symlink_to(smollm)
    r = cli.run("list", env={"QHOST_MODELS": str(tmp_path)})
    assert "owner/m" in r.stdout and "98.4 MB" in r.stdout
    assert cli.run("list", env={"QHOST_MODELS": str(tmp_path / "none")}).stdout == ""


def test_list_leaves_out_links_that_lead_nowhere(cli, tmp_path):
    for i in range(4):
        (tmp_path / f"there{i}.gguf").write_bytes(b"GGUF")
        (tmp_path / f"gone{i}.gguf").symlink_to(tmp_path / "nothing")
    names = cli.run("list", env={"QHOST_MODELS": str(tmp_path)}).stdout
    assert names.count("there") == 4 and "gone" not in names


def test_inspect_writes_keys_tensors_and_the_description(cli, smollm):
    lines = [json.loads(x) for x in cli.run("inspect", smollm).stdout.splitlines()]
    assert lines[0]["version"] == 3 and lines[0]["bytes"] == 98362432
    keys = {x["key"]: x for x in lines if "key" in x}
    assert keys["general.architecture"]["value"] == "llama"
    assert keys["tokenizer.ggml.tokens"]["n_items"] == 49152 and len(keys["tokenizer.ggml.tokens"]["value"]) == 8
    tensors = {x["tensor"]: x for x in lines if "tensor" in x}
    assert tensors["token_embd.weight"]["shape"] == [576, 49152] and tensors["token_embd.weight"]["type"] == "Q8_0"
    assert lines[-1]["model"]["layers"] == 30 and lines[-1]["model"]["head_dim"] == 64


def test_tokenize_and_detokenize_are_inverse_line_by_line(cli, smollm):
    texts = ["The capital of France is", "naïve 日本語 🙂", "", " two  spaces\n\ttab", "<|im_start|>user"]
    ids = cli.jsonl("tokenize", smollm, lines=[{"text": t} for t in texts])
    back = cli.jsonl("detokenize", smollm, lines=ids)
    assert [b["text"] for b in back] == texts


def test_special_tokens_are_parsed_only_when_asked(cli, smollm):
    plain, parsed = cli.jsonl("tokenize", smollm, lines=[
        {"text": "<|im_start|>"}, {"text": "<|im_start|>", "parse_special": True}])
    assert len(plain["ids"]) > 1 and parsed["ids"] == [1]
    shown, hidden = cli.jsonl("detokenize", smollm, lines=[{"ids": [1], "show_special": True}, {"ids": [1]}])
    assert shown["text"] == "<|im_start|>" and hidden["text"] == ""


@pytest.mark.parametrize("line,word", [
    ("{", "not JSON"), ("[1]", "object"), ('{"text": 3}', "'text'"), ("{}", "'text' is missing"),
    ('{"text": "a", "add_special": "yes"}', "'add_special'"),
])
def test_a_bad_line_gives_an_error_line_and_the_next_one_works(cli, smollm, line, word):
    r = cli.run("tokenize", smollm, stdin=line + '\n{"text": "a"}\n', ok=False)
    first, second = [json.loads(x) for x in r.stdout.splitlines()]
    assert r.returncode == 1 and word in first["error"] and "line 1" in first["error"] and second["ids"]


def test_eval_ids_gives_normalized_logprobs(cli, smollm):
    ids = cli.jsonl("tokenize", smollm, lines=[{"text": "The capital of France is Paris"}])[0]["ids"]
    (r,) = cli.jsonl("eval-ids", smollm, lines=[{"ids": ids, "top": 1000}])
    assert len(r["logprobs"]) == len(ids) - 1 == len(r["top"])
    for top, lp, nxt in zip(r["top"], r["logprobs"], ids[1:]):
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        assert 0.5 < sum(math.exp(p) for _, p in top) <= 1.0001
        assert dict(top).get(nxt, lp) == pytest.approx(lp, abs=1e-6)
    assert r["top"][-1][0][0] == ids[-1]                     # " Paris" is the best continuation


@pytest.mark.parametrize("line,word", [
    ({"ids": [49152]}, "0 to 49151"), ({"ids": [-1]}, "'ids'[0]"), ({"ids": "x"}, "array"),
    ({"ids": [1, 2], "top": 1001}, "'top'"), ({"ids": [1] * 70}, "--ctx"),
])
def test_eval_ids_refuses_with_the_field(cli, smollm, line, word):
    (r,) = cli.jsonl("eval-ids", smollm, "--ctx", 64, lines=[line], ok=False)
    assert word in r["error"]


def test_eval_ids_writes_logits_that_agree_with_its_logprobs(cli, smollm, tmp_path):
    np = pytest.importorskip("numpy")
    ids = list(range(100, 170))
    (r,) = cli.jsonl("eval-ids", smollm, "--logits", tmp_path / "l.f32", lines=[{"ids": ids}])
    rows = np.fromfile(tmp_path / "l.f32", dtype="<f4").reshape(len(ids) - 1, 49152).astype(np.float64)
    lse = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
    mine = rows[np.arange(len(ids) - 1), ids[1:]] - lse
    assert np.allclose(mine, r["logprobs"], atol=1e-5)


def test_keys_and_values_in_8_bits_change_little_and_are_refused_where_they_do_not_exist(cli, smollm):
    text = "The first law of thermodynamics says that energy is neither created nor destroyed. " * 6
    (ids,) = cli.jsonl("tokenize", smollm, lines=[{"text": text}])
    wide, narrow = (cli.jsonl("eval-ids", smollm, "--kv-type", k, lines=[ids])[0]["logprobs"] for k in ("bf16", "q8_0"))
    differences = [abs(a - b) for a, b in zip(wide, narrow)]
    assert wide != narrow and sum(differences) / len(differences) < 0.06
    r = cli.run("eval-ids", smollm, "--kv-type", "q4_0", ok=False)
    assert r.returncode == 1 and "q4_0" in r.stderr and "q8_0" in r.stderr
    r = cli.run("eval-ids", smollm, "--kv-type", "q8_0", "--isa", "ref", ok=False)
    assert r.returncode == 1 and "ref" in r.stderr and "bf16" in r.stderr


def test_bench_reports_json_in_the_documented_shape(cli, smollm):
    r = json.loads(cli.run("bench", smollm, "-p", "32", "-n", "4", "-d", "0,16", "-b", "1,2", "-r", "2", "--json").stdout)
    assert [(x["test"], x["depth"], x["batch"]) for x in r["results"]] == [
        ("pp32", 0, 1), ("tg4", 0, 1), ("tg4", 0, 2), ("tg4", 16, 1), ("tg4", 16, 2)]
    assert all(0 < x["tok_s_min"] <= x["tok_s"] <= x["tok_s_max"] for x in r["results"])
    assert all(("floor_share" in x) == x["test"].startswith("tg") and x.get("floor_share", 1) > 0 for x in r["results"])
    assert r["machine"] and r["model"]


def test_bench_tells_where_the_time_goes(cli, smollm):
    r = json.loads(cli.run("bench", smollm, "-p", "64", "-n", "0", "-r", "1", "-t", "2", "--json", "--profile").stdout)
    (x,) = r["results"]
    spent = [sum(us[t] for us in x["profile"].values()) for t in range(2)]
    whole = 1e6 / x["tok_s"]
    assert "attention" in x["profile"] and all(0.5 * whole < s < 1.1 * whole for s in spent)


def test_a_vocabulary_alone_is_enough_to_tokenize(cli, shared_data):
    vocab = shared_data / "tokenizers" / "ggml-vocab-gpt-2.gguf"
    (ids,) = cli.jsonl("tokenize", vocab, lines=[{"text": "Hello world"}])
    assert cli.jsonl("detokenize", vocab, lines=[ids])[0]["text"] == "Hello world"


def test_a_damaged_model_file_is_refused_by_name(cli, smollm, tmp_path):
    bad = tmp_path / "cut.gguf"
    shutil.copyfile(smollm, bad)
    with open(bad, "r+b") as f:
        f.truncate(50_000_000)
    r = cli.run("tokenize", bad, ok=False)
    assert r.returncode == 1 and "cut.gguf" in r.stderr
