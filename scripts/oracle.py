#!/usr/bin/env python3
"""Logits of a GGUF model in plain float32 numpy: the independent oracle of qhost's kernels.

It shares no code with qhost: the file is read and dequantized by the `gguf` package, and the forward
pass is written from the papers (tests/golden/make_models.py checks it against transformers). All
positions of a sequence go through a layer together, so 2,000 positions of a 135M model take seconds.

    oracle.py MODEL.gguf --ids ids.jsonl --out logits.npy              [n_positions, n_vocab] float32
    oracle.py MODEL.gguf --ids ids.jsonl --out logprobs.npy --logprobs
    oracle.py MODEL.gguf --ids ids.jsonl                              JSON Lines on stdout

--ids: "-" for stdin, or a file of JSON Lines, each {"ids": [...]} or a plain list. Without --out each
line gives {"logprobs": [one for each position after the first], "perplexity": p}. With --out the rows
of all sequences follow each other. As a module:

    model = Oracle("model.gguf")
    for rows in model.logits([ids, more_ids]): ...    # blocks of rows, in order, all positions

Needs: pip install gguf numpy.
"""
import argparse
import json
import math
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

ARCHITECTURES = {"llama": "interleaved", "qwen2": "halves", "qwen3": "halves"}
HEAD_ROWS = 256             # rows that meet the vocabulary at a time
QUERY_ROWS = 256            # queries that meet the keys at a time


class Oracle:
    def __init__(self, path, keep_weights=True):
        """keep_weights: hold dequantized layers (4 bytes a weight) for the next call."""
        reader = GGUFReader(path)
        self._fields = reader.fields
        self._tensors = {t.name: t for t in reader.tensors}
        self._kept = {} if keep_weights else None
        self.arch = self._get("general.architecture")
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"{path}: architecture {self.arch}, expected one of {sorted(ARCHITECTURES)}")
        self.n_layers = self._key("block_count")
        self.dim = self._key("embedding_length")
        self.n_heads = self._key("attention.head_count")
        self.n_kv_heads = self._key("attention.head_count_kv", self.n_heads)
        self.head_dim = self._key("attention.key_length", self.dim // self.n_heads)
        self.eps = np.float32(self._key("attention.layer_norm_rms_epsilon"))
        self.n_ctx = self._key("context_length")
        self.n_vocab = int(self._tensors["token_embd.weight"].shape[1])
        self.rope_dim = self._key("rope.dimension_count", self.head_dim)
        self._freq, self._magnitude = self._rope_frequencies()

    # ---- the file ----

    def _get(self, key, default=None):
        field = self._fields.get(key)
        if field is None:
            if default is None:
                raise KeyError(key)
            return default
        return field.contents()

    def _key(self, name, default=None):
        return self._get(f"{self.arch}.{name}", default)

    def _has(self, name):
        return name in self._tensors

    def tensor(self, name):
        """Dequantized, [rows, columns] as in y = W x."""
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        t = self._tensors[name]
        values = np.ascontiguousarray(dequantize(t.data, t.tensor_type), dtype=np.float32)
        values = values.reshape(tuple(int(n) for n in reversed(t.shape)))
        if self._kept is not None:
            self._kept[name] = values
        return values

    # ---- the maths ----

    def _rope_frequencies(self):
        """Radians a position of each pair, and the factor on the turned values (YaRN)."""
        base = float(self._key("rope.freq_base", 10000.0))
        n = self.rope_dim
        freq = base ** (-np.arange(0, n, 2, dtype=np.float64) / n)
        if self._has("rope_freqs.weight"):
            return freq / self.tensor("rope_freqs.weight").astype(np.float64), 1.0
        kind = self._key("rope.scaling.type", "linear")
        factor = float(self._key("rope.scaling.factor", 1.0)) or 1.0
        if kind == "none" or (kind == "linear" and factor == 1.0):
            return freq, 1.0
        if kind == "linear":
            return freq / factor, 1.0
        if kind != "yarn":
            raise ValueError(f"rope scaling {kind}")
        original = self._key("rope.scaling.original_context_length", self.n_ctx)

        def pair_turning(turns):
            return n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(pair_turning(float(self._key("rope.scaling.yarn_beta_fast", 32.0)))), 0)
        high = min(math.ceil(pair_turning(float(self._key("rope.scaling.yarn_beta_slow", 1.0)))), n - 1)
        ramp = np.clip((np.arange(n // 2) - low) / max(high - low, 0.001), 0, 1)
        magnitude = float(self._key("rope.scaling.attn_factor", 1.0)) * (1 + 0.1 * math.log(factor))
        return freq / factor * ramp + freq * (1 - ramp), magnitude

    def _norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * weight

    def _turn(self, x, cos, sin):
        """Rotary embedding of x [positions, heads, head_dim]; cos, sin [positions, pairs]."""
        n, cos, sin = self.rope_dim, cos[:, None, :], sin[:, None, :]
        if ARCHITECTURES[self.arch] == "interleaved":
            a, b = x[..., 0:n:2], x[..., 1:n:2]
        else:
            a, b = x[..., : n // 2], x[..., n // 2 : n]
        left, right = a * cos - b * sin, a * sin + b * cos
        if ARCHITECTURES[self.arch] == "interleaved":
            turned = np.stack([left, right], axis=-1).reshape(*x.shape[:-1], n)
        else:
            turned = np.concatenate([left, right], axis=-1)
        return np.concatenate([turned, x[..., n:]], axis=-1)

    def _attend(self, q, k, v):
        """Causal attention of one sequence: q [T, heads, d], k and v [T, kv_heads, d]."""
        out = np.empty_like(q)
        group = self.n_heads // self.n_kv_heads
        scale = np.float32(self._key("attention.scale", 0.0) or 1 / math.sqrt(self.head_dim))
        for h in range(self.n_heads):
            keys, values = k[:, h // group], v[:, h // group]
            for begin in range(0, len(q), QUERY_ROWS):
                end = min(begin + QUERY_ROWS, len(q))
                scores = (q[begin:end, h] @ keys[:end].T) * scale
                scores[np.arange(end)[None, :] > np.arange(begin, end)[:, None]] = -np.inf
                scores -= scores.max(axis=1, keepdims=True)
                weights = np.exp(scores)
                weights /= weights.sum(axis=1, keepdims=True)
                out[begin:end, h] = weights @ values[:end]
        return out

    def _linear(self, x, layer, name):
        y = x @ self.tensor(f"blk.{layer}.{name}.weight").T
        bias = f"blk.{layer}.{name}.bias"
        return y + self.tensor(bias) if self._has(bias) else y

    def _layer(self, x, layer, starts, cos, sin):
        def norm(value, name):
            return self._norm(value, self.tensor(f"blk.{layer}.{name}.weight"))

        h = norm(x, "attn_norm")
        q = self._linear(h, layer, "attn_q").reshape(-1, self.n_heads, self.head_dim)
        k = self._linear(h, layer, "attn_k").reshape(-1, self.n_kv_heads, self.head_dim)
        v = self._linear(h, layer, "attn_v").reshape(-1, self.n_kv_heads, self.head_dim)
        if self._has(f"blk.{layer}.attn_q_norm.weight"):
            q, k = norm(q, "attn_q_norm"), norm(k, "attn_k_norm")
        q, k = self._turn(q, cos, sin), self._turn(k, cos, sin)
        attended = [self._attend(q[a:b], k[a:b], v[a:b]) for a, b in zip(starts, starts[1:])]
        x = x + self._linear(np.concatenate(attended).reshape(len(x), -1), layer, "attn_output")

        h = norm(x, "ffn_norm")
        gate, up = self._linear(h, layer, "ffn_gate"), self._linear(h, layer, "ffn_up")
        with np.errstate(over="ignore"):            # exp of a large number: the gate is 0
            gate = gate / (1 + np.exp(-gate))
        return x + self._linear(gate * up, layer, "ffn_down")

    def hidden(self, sequences):
        """The normed last hidden state of every position of every sequence, [rows, dim]."""
        starts = np.cumsum([0] + [len(ids) for ids in sequences])
        positions = np.concatenate([np.arange(len(ids)) for ids in sequences])
        angles = positions[:, None] * self._freq[None, :]
        cos = (np.cos(angles) * self._magnitude).astype(np.float32)
        sin = (np.sin(angles) * self._magnitude).astype(np.float32)
        ids = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])
        if len(ids) == 0 or ids.min() < 0 or ids.max() >= self.n_vocab:
            raise ValueError(f"expected ids from 0 to {self.n_vocab - 1}")
        x = self.tensor("token_embd.weight")[ids]
        for layer in range(self.n_layers):
            x = self._layer(x, layer, starts, cos, sin)
        return self._norm(x, self.tensor("output_norm.weight"))

    def logits(self, sequences):
        """Blocks of logits [up to HEAD_ROWS, n_vocab], over all positions of all sequences."""
        x = self.hidden(sequences)
        head = self.tensor("output.weight" if self._has("output.weight") else "token_embd.weight")
        for begin in range(0, len(x), HEAD_ROWS):
            yield x[begin : begin + HEAD_ROWS] @ head.T


def log_softmax(rows):
    """In double: the sum over a vocabulary is where float32 would lose."""
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


def next_logprobs(model, sequences):
    """For each sequence the log-probability of its tokens after the first."""
    targets = np.concatenate([np.append(np.asarray(s[1:], dtype=np.int64), -1) for s in sequences])
    found, at = [], 0
    for rows in model.logits(sequences):
        wanted = targets[at : at + len(rows)]
        found.append(log_softmax(rows)[np.arange(len(rows)), wanted])
        at += len(rows)
    found = np.concatenate(found)
    ends = np.cumsum([len(s) for s in sequences])
    return [found[end - len(s) : end - 1] for s, end in zip(sequences, ends)]


def read_sequences(path):
    with sys.stdin if path == "-" else open(path) as f:
        lines = [json.loads(line) for line in f if line.strip()]
    return [line["ids"] if isinstance(line, dict) else line for line in lines]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model")
    p.add_argument("--ids", required=True, help='JSON Lines of {"ids": [...]}; - for stdin')
    p.add_argument("--out", help=".npy of logits, rows of all sequences after each other")
    p.add_argument("--logprobs", action="store_true", help="log-probabilities instead of logits in --out")
    args = p.parse_args()
    model, sequences = Oracle(args.model), read_sequences(args.ids)
    if args.out:
        n_rows, at = sum(len(s) for s in sequences), 0
        out = np.lib.format.open_memmap(args.out, "w+", np.float32, (n_rows, model.n_vocab))
        for rows in model.logits(sequences):
            out[at : at + len(rows)] = log_softmax(rows) if args.logprobs else rows
            at += len(rows)
        out.flush()
        return
    for found in next_logprobs(model, sequences):
        perplexity = math.exp(-found.mean()) if len(found) else None
        print(json.dumps({"logprobs": found.tolist(), "perplexity": perplexity}))


if __name__ == "__main__":
    main()
