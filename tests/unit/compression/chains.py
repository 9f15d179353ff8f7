"""A small block of every chain, what restoring it needs, and what comes back; and golden ones, written by ``python -m``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qstream.compression import CompressionOptions, compress, learn_basis, restore
from tests.unit.compression.values import drawn, stepped

GOLDEN = Path(__file__).with_name("golden")


class Block(NamedTuple):
    """A coded tensor."""

    name: str
    data: bytes
    needs: dict[str, Any]
    wanted: np.ndarray


def blocks() -> list[Block]:
    """One of every chain."""
    rng = np.random.default_rng(1)
    bits = drawn(rng, "normal", "bfloat16", (32, 48)).view(np.uint16)
    x = drawn(rng, "heavy", "float32", (40, 64))
    low = (rng.standard_normal((64, 3)) @ rng.standard_normal((3, 64))).astype(np.float32)
    basis = learn_basis(x)
    new = stepped(rng, bits, 0.1)
    made = {
        "split-rans": (compress(bits, CompressionOptions(level="small"), dtype="bfloat16"), {}),
        "split": (compress(x), {}),
        "raw": (compress(np.arange(900) // 7), {}),
        "delta": (compress(new, CompressionOptions(mode="delta"), base=bits, dtype="bfloat16"), {"base": bits}),
        "xor": (compress(x + 1, CompressionOptions(mode="delta"), base=x), {"base": x}),
        "bounded": (compress(x, CompressionOptions(mode="bounded", bound=0.02, level="small")), {}),
        "point": (compress(x, CompressionOptions(mode="bounded", bound_kind="point", bound=0.1)), {}),
        "named-basis": (
            compress(x, CompressionOptions(mode="bounded", bound_kind="l2", bound=0.1), basis=basis),
            {"basis": basis},
        ),
        "own-basis": (compress(x, CompressionOptions(mode="rate", transform="klt")), {}),
        "weights": (compress(x, CompressionOptions(mode="rate"), influence=np.arange(1.0, 65.0)), {}),
        "spectral": (compress(low, CompressionOptions(mode="gradient")), {}),
        "int8": (compress(x, CompressionOptions(mode="int8")), {}),
    }
    return [Block(name, done.data, needs, restore(done.data, **needs).array) for name, (done, needs) in made.items()]


def write() -> None:
    """Golden blocks: written once for a version of the format, and read by all that come after."""
    for block in blocks():
        if "basis" in block.needs:
            continue
        np.savez_compressed(
            GOLDEN / f"{block.name}.npz",
            data=np.frombuffer(block.data, np.uint8),
            wanted=block.wanted,
            **{name: each for name, each in block.needs.items() if isinstance(each, np.ndarray)},
        )


if __name__ == "__main__":
    write()
