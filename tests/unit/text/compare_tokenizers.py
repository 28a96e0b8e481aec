#!/usr/bin/env python3
"""Compare our tokenizer with independent ones, built from the vocabulary of the same GGUF file.

    compare_tokenizers.py TEXT_TOOL DATA_FOLDER GGUF[@PRETOKENIZER]...

Byte-level BPE is compared with Hugging Face tokenizers (its own splitters and merges), SentencePiece
with the sentencepiece library (a model written from the file's pieces and scores). Texts: wikitext,
prompts, random Unicode, random mixtures of white space, digits and punctuation. Special tokens are not
parsed. With @PRETOKENIZER that one is used in place of the file's. Exit status: 0 equal, 1 different, 77 a needed package or file is absent.
"""
import json
import os
import random
import subprocess
import sys
import unicodedata

SKIP = 77
try:
    from gguf import GGUFReader
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
except ImportError as e:
    print(f"skipped: {e} (wanted: pip install gguf tokenizers sentencepiece protobuf)")
    sys.exit(SKIP)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def byte_alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def llama3(digits):
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def bytes_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


PRE_TOKENIZERS = {
    "gpt-2": [bytes_level(True)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), bytes_level(True)],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True), bytes_level(True)],
    "qwen2": [split(llama3(r"\p{N}")), bytes_level(False)],
    "falcon": [
        pre_tokenizers.Punctuation("contiguous"),
        bytes_level(True),
        pre_tokenizers.Digits(individual_digits=False),
        split("[0-9][0-9][0-9]"),
    ],
    "default": [
        split(r"[\p{P}\$\+<=>\^~\|]+"),
        split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
        split(r"\p{N}+"),
        split("[0-9][0-9][0-9]"),
        bytes_level(False),
    ],
    "llama-bpe": [split(llama3(r"\p{N}{1,3}")), bytes_level(False)],
}


class Vocab:
    def __init__(self, path, pre):
        fields = GGUFReader(path).fields
        get = lambda key, default=None: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else default
        self.model, self.pre = get("model"), pre or get("pre", "default")
        self.tokens, self.merges, self.scores = get("tokens"), get("merges", []), get("scores")
        self.types = get("token_type") or [NORMAL] * len(self.tokens)
        self.unk = get("unknown_token_id")


def bpe_oracle(v):
    """An encoder, and the bytes that the vocabulary has (the library drops the others)."""
    if v.pre not in PRE_TOKENIZERS:
        return None, None
    vocab = {t: i for i, t in enumerate(v.tokens) if v.types[i] == NORMAL}
    merges = [tuple(m.split(" ")) for m in v.merges]
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=v.pre == "llama-bpe"))
    t.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[v.pre])
    t.decoder = decoders.ByteLevel()
    return lambda text: t.encode(text).ids, {b for b, c in byte_alphabet().items() if c in vocab}


def spm_oracle(v):
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2 as pb
    except ImportError as e:
        print(f"skipped: {e}")
        sys.exit(SKIP)
    m = pb.ModelProto()
    kinds = {NORMAL: 1, UNKNOWN: 2, CONTROL: 3, USER_DEFINED: 4, UNUSED: 5, BYTE: 6}
    for i, (piece, score) in enumerate(zip(v.tokens, v.scores)):
        # The library wants exactly one unknown piece, at the trainer's id.
        kind = UNKNOWN if i == v.unk else v.types[i] if v.types[i] != UNKNOWN else CONTROL
        m.pieces.add(piece=piece, score=score, type=kinds[kind])
    m.trainer_spec.model_type = 2
    m.trainer_spec.byte_fallback = True
    m.trainer_spec.unk_id = v.unk
    m.trainer_spec.bos_id, m.trainer_spec.eos_id, m.trainer_spec.pad_id = -1, -1, -1
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = True
    m.normalizer_spec.remove_extra_whitespaces = False
    m.normalizer_spec.escape_whitespaces = True
    sp = sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString())
    return sp.encode, set(range(256))


def random_texts(rng, n):
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    spaces = " \t\n\r\v\f\x85\xa0\u1680\u180e\u2003\u2028\u202f\u200b\u3000"
    marks = "'’.,!?;:\"()[]{}<>|=+-_*/\\~^`@#$%&…、。，！"
    words = ["I've", "WE'LL", "they'RE", "'ſ", "d'être", "x'K", "été", "naïve", "日本語", "한국어", "привет", "Ⅷ", "½", "٣٤"]
    for _ in range(n):
        kind = rng.randrange(4)
        if kind == 0:
            pool = assigned
            yield "".join(chr(rng.choice(pool)) for _ in range(rng.randrange(1, 40)))
        elif kind == 1:
            yield "".join(rng.choice(spaces + " \n" * 6) for _ in range(rng.randrange(1, 12)))
        elif kind == 2:
            parts = [spaces, marks, "0123456789", "abcXYZ", "      "]
            yield "".join(rng.choice(rng.choice(parts)) for _ in range(rng.randrange(1, 60)))
        else:
            yield "".join(rng.choice(words) + rng.choice(spaces + marks + "    ") * rng.randrange(4) for _ in range(rng.randrange(1, 20)))


def all_texts(data, n_random):
    with open(f"{data}/text/wikitext2_valid.txt", encoding="utf-8") as f:
        lines = f.read().split("\n")
    yield from (line + "\n" for line in lines)
    yield from ("\n".join(lines[i:i + 20]) for i in range(0, len(lines), 20))
    with open(f"{data}/prompts/spec_bench.jsonl", encoding="utf-8") as f:
        for row in f:
            yield from json.loads(row)["turns"]
    yield from random_texts(random.Random(1), n_random)


def our_ids(tool, path, pre, texts):
    blob = b"".join(b"%d\n%s" % (len(b), b) for b in (t.encode() for t in texts))
    out = subprocess.run([tool, "ids", path] + [pre] * bool(pre), input=blob, stdout=subprocess.PIPE, check=True).stdout
    rows = out.decode().split("\n")[:-1]
    assert len(rows) == len(texts), (len(rows), len(texts))
    return [[int(x) for x in row.split()] for row in rows]


def compare(tool, data, arg):
    path, _, pre = arg.partition("@")
    v = Vocab(path, pre)
    encode, has = spm_oracle(v) if v.model == "llama" else bpe_oracle(v)
    name = os.path.basename(arg)
    if not encode:
        print(f"{name}: no oracle for pre-tokenizer {v.pre}")
        return True
    found_anywhere = [t for t, k in zip(v.tokens, v.types) if k == USER_DEFINED]
    texts = [t for t in all_texts(data, 10000) if has.issuperset(t.encode()) and "\u2581" not in t and not any(s in t for s in found_anywhere)]
    n_bad = 0
    for text, ours in zip(texts, our_ids(tool, path, pre, texts)):
        theirs = list(encode(text))
        if ours != theirs:
            n_bad += 1
            if n_bad <= 10:
                print(f"{name}: {text[:200]!r}\n  ours   {ours[:40]}\n  theirs {theirs[:40]}")
    print(f"{name}: {len(texts)} texts, {sum(map(len, texts))} characters, {n_bad} differ")
    return n_bad == 0


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    tool, data, paths = sys.argv[1], sys.argv[2], [p for p in sys.argv[3:] if os.path.exists(p.partition("@")[0])]
    if not paths or not os.path.exists(f"{data}/text/wikitext2_valid.txt"):
        print("skipped: test data or vocabularies are absent")
        sys.exit(SKIP)
    sys.exit(0 if all([compare(tool, data, p) for p in paths]) else 1)


main()
