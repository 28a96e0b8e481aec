#!/usr/bin/env python3
"""Write small random models as GGUF, each with reference logits, to prove forward passes with.

    make_models.py OUT_DIR [--only NAME ...] [--keep] [--check]

For each model NAME.gguf, and twice its reference, over more positions than a KV page has: NAME.npz with
ids int32 [n] and logits float32 [n, n_vocab], and for tests in C the same numbers little-endian in
NAME.ref: i32 n, i32 n_vocab, i32 ids[n], f32 logits[n][n_vocab]. Weights come from numpy's PCG64 with a seed per model, in the layout of
transformers; they are converted as llama.cpp's converter does (q and k of llama permuted for
interleaved rope), stored in the model's tensor types, and dequantized again by the `gguf` package: the
reference computes with exactly the stored values. With torch and transformers installed the reference
is transformers in float64; without, it is scripts/oracle.py in float32 (the npz says which in
"reference"). --check computes both and fails where they differ.

Types that the `gguf` package cannot quantize to (the K and IQ4 ones) get random blocks whose scales
are set for the wanted spread, so that every bit of the format is exercised.

Needs: pip install gguf numpy; better also: torch transformers.
"""
import argparse
import math
import pathlib
import sys
import zlib

try:
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFWriter, RopeScalingType
    from gguf.quants import dequantize, quantize
except ImportError as missing:
    print(f"skipped: {missing}; pip install gguf numpy", file=sys.stderr)
    sys.exit(77)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from oracle import Oracle, log_softmax  # noqa: E402

N_IDS = 150
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Where the 16-bit scales lie in a block, and how much larger the minimum's scale has to be for values
# around zero: {type: (offset of d, offset of dmin or None, dmin / d)}.
RANDOM_BLOCKS = {
    T.Q2_K: (80, 82, 1.5),
    T.Q3_K: (108, None, 0),
    T.Q4_K: (0, 2, 7.5),
    T.Q5_K: (0, 2, 15.5),
    T.Q6_K: (208, None, 0),
    T.IQ4_NL: (0, None, 0),
    T.IQ4_XS: (0, None, 0),
}

BASE = dict(dim=256, ffn=512, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, n_vocab=320, n_ctx=1024,
            rope_theta=10000.0, eps=1e-5, tied=False, rope=None, types=T.F32, vector_type=T.F32)


def recipe(arch, **changes):
    return {**BASE, "arch": arch, **changes}


QWEN3 = dict(head_dim=128, tied=True, rope_theta=1e6, eps=1e-6)
NARROW = dict(dim=96, ffn=160, n_heads=3, n_kv_heads=1, head_dim=32, n_layers=3, n_vocab=323)
MODELS = {f"llama-{t.name.lower()}": recipe("llama", types=t) for t in [
    T.F32, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
    T.IQ4_NL, T.IQ4_XS]}
MODELS |= {
    "llama-f16": recipe("llama", types=T.F16, vector_type=T.F16, tied=True),
    # Odd widths, one KV head, a vocabulary that is no multiple of anything.
    "llama-narrow": recipe("llama", types={"": T.Q4_1, "token_embd": T.Q8_0}, tied=True, **NARROW),
    "llama-rope3": recipe("llama", types=T.Q8_0, rope_theta=500000.0, rope=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)),
    "llama-linear": recipe("llama", types=T.Q8_0, rope=dict(rope_type="linear", factor=4.0)),
    "qwen2-f32": recipe("qwen2", rope_theta=1e6, eps=1e-6),
    "qwen2-narrow": recipe("qwen2", types={"": T.Q5_0, "token_embd": T.Q8_0}, **NARROW),
    "qwen2-mixed": recipe("qwen2", rope_theta=1e6, types={
        "": T.Q4_K, "attn_v": T.Q6_K, "ffn_down": T.Q6_K, "token_embd": T.Q5_0, "output": T.Q8_0}),
    "qwen2-yarn": recipe("qwen2", types=T.Q8_0, rope=dict(
        rope_type="yarn", factor=16.0, original_max_position_embeddings=64)),
    "qwen3-f32": recipe("qwen3", **QWEN3),
    "qwen3-q8_0": recipe("qwen3", types=T.Q8_0, **QWEN3),
    "qwen3-q4_k": recipe("qwen3", types={"": T.Q4_K, "token_embd": T.Q6_K}, **QWEN3),
}


# ---- weights, by the names of transformers ----

def weight_shapes(m):
    q, kv, dim, ffn = m["n_heads"] * m["head_dim"], m["n_kv_heads"] * m["head_dim"], m["dim"], m["ffn"]
    shapes = {"model.embed_tokens.weight": (m["n_vocab"], dim), "model.norm.weight": (dim,)}
    if not m["tied"]:
        shapes["lm_head.weight"] = (m["n_vocab"], dim)
    for i in range(m["n_layers"]):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (dim,), at + "post_attention_layernorm.weight": (dim,),
            at + "self_attn.q_proj.weight": (q, dim), at + "self_attn.k_proj.weight": (kv, dim),
            at + "self_attn.v_proj.weight": (kv, dim), at + "self_attn.o_proj.weight": (dim, q),
            at + "mlp.gate_proj.weight": (ffn, dim), at + "mlp.up_proj.weight": (ffn, dim),
            at + "mlp.down_proj.weight": (dim, ffn)}
        if m["arch"] == "qwen2":
            shapes |= {at + f"self_attn.{x}_proj.bias": (n,) for x, n in (("q", q), ("k", kv), ("v", kv))}
        if m["arch"] == "qwen3":
            shapes |= {at + f"self_attn.{x}_norm.weight": (m["head_dim"],) for x in "qk"}
    return shapes


def gguf_name(name):
    for theirs, ours in (
            ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
            ("model.layers.", "blk."), ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"), ("self_attn.o_proj", "attn_output"),
            ("self_attn.", "attn_"), ("mlp.", "ffn_"), ("_proj", "")):
        name = name.replace(theirs, ours)
    return name


def spread(shape, name):
    """Standard deviation of a matrix: activations keep their size, logits spread over a few nats."""
    return 0.1 if "embed" in name or "lm_head" in name else 1.2 / math.sqrt(shape[-1])


def rows_as_halves(w, n_heads):
    """Interleaved rope (2i, 2i+1) to transformers' (i, i + d/2): undoes to_interleaved."""
    return w.reshape(n_heads, w.shape[0] // n_heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rows_interleaved(w, n_heads):
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def heads_to_permute(m, name):
    if m["arch"] != "llama":
        return 0
    return m["n_heads"] if "q_proj" in name else m["n_kv_heads"] if "k_proj" in name else 0


def random_blocks(rng, qtype, shape, std):
    block_len, block_bytes = GGML_QUANT_SIZES[qtype]
    at_d, at_dmin, ratio = RANDOM_BLOCKS[qtype]
    blocks = rng.integers(0, 256, size=(shape[0] * shape[1] // block_len, block_bytes), dtype=np.uint8)

    def set_scales(d):
        blocks[:, at_d:at_d + 2] = d.astype(np.float16)[:, None].view(np.uint8)
        if at_dmin is not None:
            blocks[:, at_dmin:at_dmin + 2] = (d * ratio).astype(np.float16)[:, None].view(np.uint8)

    set_scales(np.ones(len(blocks)))
    unit = dequantize(blocks.reshape(shape[0], -1), qtype).std()
    set_scales(std / unit * rng.uniform(0.5, 1.5, len(blocks)))
    return blocks.reshape(shape[0], -1)


def type_of(m, name):
    types = m["types"] if isinstance(m["types"], dict) else {"": m["types"]}
    return next((t for part, t in types.items() if part and part in name), types[""])


def make_weights(m, seed):
    """{name: (stored bytes, type, values in the layout of transformers)}"""
    rng = np.random.Generator(np.random.PCG64(seed))
    weights = {}
    for name, shape in weight_shapes(m).items():
        n_permuted = heads_to_permute(m, name)
        if len(shape) == 1:
            qtype = m["vector_type"]
            values = rng.normal(0, 0.3, shape) + (0 if name.endswith("bias") else 1)
            stored = quantize(values.astype(np.float32), qtype)
        else:
            qtype, std = type_of(m, gguf_name(name)), spread(shape, name)
            if qtype in RANDOM_BLOCKS:
                stored = random_blocks(rng, qtype, shape, std)
            else:
                values = rng.normal(0, std, shape).astype(np.float32)
                stored = quantize(rows_interleaved(values, n_permuted) if n_permuted else values, qtype)
        values = dequantize(stored, qtype).reshape(shape).astype(np.float32)
        weights[name] = (stored, qtype, rows_as_halves(values, n_permuted) if n_permuted else values)
    return weights


# ---- GGUF ----

def byte_alphabet():
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def add_vocabulary(w, m):
    letters = byte_alphabet()
    n_merged = m["n_vocab"] - 256 - len(SPECIALS)
    merged = [(a, b) for a in "Ġetaoins" for b in "etaoinshr"][:n_merged]
    assert len(merged) == n_merged
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm" if m["arch"] == "llama" else "qwen2")
    w.add_token_list(letters + [a + b for a, b in merged] + SPECIALS)
    w.add_token_types([1] * (256 + n_merged) + [3] * len(SPECIALS))
    w.add_token_merges([f"{a} {b}" for a, b in merged])
    w.add_bos_token_id(m["n_vocab"] - 3)
    w.add_eos_token_id(m["n_vocab"] - 1)
    w.add_add_bos_token(False)
    w.add_chat_template(CHATML)


def llama3_factors(m):
    """Divisors of the frequencies, as llama.cpp's converter writes them."""
    r, d = m["rope"], m["head_dim"]
    original, factor = r["original_max_position_embeddings"], r["factor"]
    low, high = r["low_freq_factor"], r["high_freq_factor"]
    out = []
    for freq in m["rope_theta"] ** (-np.arange(0, d, 2) / d):
        turns = original * freq / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0), 1)
        out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def add_rope(w, m):
    w.add_rope_freq_base(m["rope_theta"])
    w.add_rope_dimension_count(m["head_dim"])
    kind = m["rope"]["rope_type"] if m["rope"] else None
    if kind == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(m))
    if kind in ("linear", "yarn"):
        w.add_rope_scaling_type(RopeScalingType(kind))
        w.add_rope_scaling_factor(m["rope"]["factor"])
    if kind == "yarn":
        w.add_rope_scaling_orig_ctx_len(m["rope"]["original_max_position_embeddings"])


def write_gguf(path, name, m, weights):
    w = GGUFWriter(str(path), m["arch"])
    w.add_name(f"random {name}")
    w.add_block_count(m["n_layers"])
    w.add_context_length(m["n_ctx"])
    w.add_embedding_length(m["dim"])
    w.add_feed_forward_length(m["ffn"])
    w.add_head_count(m["n_heads"])
    w.add_head_count_kv(m["n_kv_heads"])
    if m["arch"] == "qwen3":
        w.add_key_length(m["head_dim"])
        w.add_value_length(m["head_dim"])
    w.add_layer_norm_rms_eps(m["eps"])
    add_rope(w, m)
    add_vocabulary(w, m)
    for key, (stored, qtype, _) in weights.items():
        w.add_tensor(gguf_name(key), stored, raw_dtype=qtype)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- reference logits ----

def transformers_logits(m, weights, ids):
    import torch
    import transformers

    config_of = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config,
                 "qwen3": transformers.Qwen3Config}
    rope = {"rope_theta": m["rope_theta"], "rope_type": "default", **(m["rope"] or {})}
    config = config_of[m["arch"]](
        vocab_size=m["n_vocab"], hidden_size=m["dim"], intermediate_size=m["ffn"],
        num_hidden_layers=m["n_layers"], num_attention_heads=m["n_heads"],
        num_key_value_heads=m["n_kv_heads"], head_dim=m["head_dim"], max_position_embeddings=m["n_ctx"],
        rms_norm_eps=m["eps"], tie_word_embeddings=m["tied"], rope_parameters=rope,
        attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    state = {name: torch.from_numpy(values.astype(np.float64)) for name, (_, _, values) in weights.items()}
    if m["tied"]:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy().astype(np.float32)


def oracle_logits(path, ids):
    return np.concatenate(list(Oracle(path).logits([ids])))


def have_transformers():
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def mean_kl(wanted, got):
    p, q = log_softmax(wanted), log_softmax(got)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def is_current(out_dir, name):
    made = [out_dir / f"{name}.{end}" for end in ("gguf", "npz", "ref")]
    source = pathlib.Path(__file__).stat().st_mtime
    return all(p.exists() and p.stat().st_mtime >= source for p in made)


def make(out_dir, name, check):
    m, path = MODELS[name], out_dir / f"{name}.gguf"
    seed = zlib.crc32(name.encode())
    weights = make_weights(m, seed)
    write_gguf(path, name, m, weights)
    ids = np.random.Generator(np.random.PCG64(seed + 1)).integers(0, m["n_vocab"], N_IDS, dtype=np.int32)
    reference = "transformers" if have_transformers() else "oracle"
    logits = transformers_logits(m, weights, ids) if reference == "transformers" else oracle_logits(path, ids)
    np.savez(out_dir / f"{name}.npz", ids=ids, logits=logits, reference=np.array(reference))
    with open(out_dir / f"{name}.ref", "wb") as f:
        f.write(np.array(logits.shape, dtype="<i4").tobytes() + ids.astype("<i4").tobytes())
        f.write(logits.astype("<f4").tobytes())
    if not check:
        return True
    if reference != "transformers":
        sys.exit("--check needs torch and transformers")
    other = oracle_logits(path, ids)
    kl, worst = mean_kl(logits, other), float(np.abs(logits - other).max())
    is_good = kl < 1e-9 and worst < 1e-3
    print(f"{name:14} std {logits.std():.2f}  KL {kl:.1e}  max difference {worst:.1e}  "
          f"{'ok' if is_good else 'DIFFERS'}")
    return is_good


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out_dir", type=pathlib.Path)
    p.add_argument("--only", nargs="+", choices=sorted(MODELS), metavar="NAME")
    p.add_argument("--keep", action="store_true", help="leave files that are newer than this script")
    p.add_argument("--check", action="store_true", help="compare scripts/oracle.py with transformers")
    args = p.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    names = [n for n in args.only or MODELS if not (args.keep and is_current(args.out_dir, n))]
    results = [make(args.out_dir, name, args.check) for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
