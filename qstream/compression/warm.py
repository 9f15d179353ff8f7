"""Load every compiled kernel of this package before the first tensor arrives."""

from __future__ import annotations

import numpy as np

from qstream.compression import huffman
from qstream.compression.decode import restore
from qstream.compression.encode import compress
from qstream.compression.options import CompressionOptions


def warm() -> None:
    """Code small tensors in each mode: on a new machine the kernels compile (about ten seconds), else they load from disk."""
    bits = np.arange(2048, dtype=np.uint16).reshape(32, 64) % 700 + 16000
    x = np.sin(np.arange(2048, dtype=np.float32)).reshape(32, 64)
    bounded = CompressionOptions(mode="bounded", bound=0.05)
    huffman.encode(np.arange(1 << 14, dtype=np.uint16).view(np.uint8) & np.uint8(63))
    for level in ("balanced", "small"):
        restore(compress(bits, CompressionOptions(level=level), dtype="bfloat16"))
        restore(compress(bits, bounded.changed({"level": level}), dtype="bfloat16"))
        restore(compress(x, bounded.changed({"level": level})))
    restore(compress(x))
    restore(compress(x, bounded.changed({"bound": 1e-3})))
    restore(compress(x.astype(np.float64)))
    restore(compress(x.astype(np.float64), bounded))
    restore(compress(x, CompressionOptions(mode="gradient")))
    restore(compress(bits ^ 1, CompressionOptions(mode="delta"), base=bits, dtype="bfloat16"), base=bits)
