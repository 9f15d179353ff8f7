"""Warming loads the kernels of compression, and one compiled form of each serves every caller."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qstream.compression import CompressionOptions, classes, compress, delta, huffman, parts, quantise, rans, restore, split
from qstream.compression.warm import warm

# Forms by kernel: planes of 2, 4 and 8 bytes, values of 4 and 8 bytes.
FORMS = {
    split: {"_split_turned": 1, "_join_turned": 1, "_split": 3, "_join": 3, "_turn_back": 3},
    quantise: {"_quantise": 2, "_restore": 2, "_restore_high": 2, "_to_bfloat16": 1, "_compare": 1},
    huffman: {"_prepared": 1, "_set_lengths": 1, "_set_table": 1, "_streams": 1, "_stream": 1},
    parts: {"_same": 1, "_sampled_bits": 1},
    rans: {"_count": 1, "_fill_slots": 1, "_encode": 1, "_push": 1, "_decode": 1, "_pull": 1},
    classes: {"_context": 1, "_count": 1},
    delta: {"_scan": 1, "_write": 1, "_apply": 1},
}


def test_warming_compiles_what_every_caller_needs() -> None:
    warm()
    before = {(room, name): len(getattr(room, name).signatures) for room, names in FORMS.items() for name in names}
    frozen = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32)
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + frozen.tobytes(), np.uint8)[1:].view(np.float32).reshape(64, 128)
    for given in (frozen, frozen[::2, ::3], unaligned, frozen.astype(np.float64)):
        for mode in ("lossless", "bounded", "rate", "gradient", "int8"):
            for level in ("fast", "balanced", "small"):
                restore(compress(given, CompressionOptions(mode=mode, level=level)).data)
    assert huffman.encode(np.arange(1 << 14).astype(np.uint8) & 63) is not None
    bits = frozen.view(np.uint16)
    restore(compress(bits, CompressionOptions(mode="delta"), base=bits[::-1], dtype="bfloat16"), base=bits[::-1])
    after = {(room, name): len(getattr(room, name).signatures) for room, names in FORMS.items() for name in names}
    assert after == before
    assert all(after[room, name] <= most for room, names in FORMS.items() for name, most in names.items())


@pytest.mark.parametrize("name", ["compression", "decompression"])
def test_a_warmed_agent_has_loaded_neither_torch_nor_pennylane(name: str) -> None:
    code = (
        "import sys; from agents.registry import find_agent, start_processor; from qstream.config import Settings\n"
        f"start_processor(find_agent({name!r}), Settings()).warm()\n"
        "print([m for m in ('torch', 'pennylane', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
