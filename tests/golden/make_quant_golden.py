#!/usr/bin/env python3
"""Write quant_blocks.bin: random blocks of every stored type and what they stand for.

The values come from the `gguf` package's numpy dequantization (MIT), an implementation independent
of core/model/quant.c. The bytes are numpy's PCG64 with the seed below, so that scales include
subnormals, infinities and NaN. Needs: pip install gguf numpy. Run it when a type is added.

    record: u32 type number, u32 n elements, u32 n bytes, bytes, n float32 (little-endian)
"""
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

SEED = 20240607
TYPES = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K,
         T.Q6_K, T.IQ4_NL, T.IQ4_XS]


def main(path):
    rng = np.random.Generator(np.random.PCG64(SEED))
    with open(path, "wb") as f:
        for t in TYPES:
            block_len, block_bytes = GGML_QUANT_SIZES[t]
            n_blocks = max(2, 256 // block_len)
            raw = rng.integers(0, 256, size=(1, n_blocks * block_bytes), dtype=np.uint8)
            if t == T.F16:
                values = raw.view(np.float16).astype(np.float32)
            elif t == T.F32:
                values = raw.view(np.float32)
            else:
                with np.errstate(all="ignore"):
                    values = dequantize(raw, t)
            values = values.reshape(-1)
            assert values.size == n_blocks * block_len
            f.write(np.array([t.value, values.size, raw.size], dtype="<u4").tobytes())
            f.write(raw.tobytes())
            f.write(values.astype("<f4").tobytes())


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    main(sys.argv[1] if len(sys.argv) > 1 else here / "quant_blocks.bin")
