"""Values of many types, shapes and distributions, as tests and benchmarks of compression want them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import DTYPES, from_floats

DISTRIBUTIONS = ("normal", "laplace", "heavy", "uniform", "half steps", "offset", "denormal", "sparse")


def of_bits(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Random bits of a type: every NaN payload, infinity and denormal may be among them."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    raw = rng.integers(0, 256, size, dtype=np.uint8)
    return (raw % 2 if dtype == "bool" else raw).view(DTYPES[dtype]).reshape(shape)


def drawn(rng: np.random.Generator, distribution: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values of a distribution, rounded to a float type."""
    x = rng.standard_normal(shape)
    made = {
        "normal": x,
        "laplace": rng.laplace(size=shape),
        "heavy": rng.standard_t(2, shape),
        "uniform": rng.uniform(-1, 1, shape),
        "half steps": (rng.integers(-8, 8, shape) + 0.5) * 0.1,
        "offset": 1000 + x,
        "denormal": x * 3e-40,
        "sparse": np.where(rng.random(shape) < 0.05, x, 0.0),
    }[distribution]
    with np.errstate(over="ignore"):
        return from_floats(made.astype(np.float64 if dtype == "float64" else np.float32), dtype)


def with_specials(x: NDArray[Any]) -> NDArray[Any]:
    """The values with NaN, infinities and a negative zero among them."""
    x.reshape(-1)[:4] = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32).astype(x.dtype)
    return x


def stepped(rng: np.random.Generator, base: NDArray[np.uint16], rate: float) -> NDArray[np.uint16]:
    """Bits of bfloat16 one optimizer step later: the lower the exponent, the likelier a change."""
    exponent = (base >> 7 & 255).astype(float)
    chance = np.minimum(rate * 2.0 ** (120 - exponent), 1)
    move = np.where(rng.random(base.shape) < chance, rng.choice([-2, -1, 1], base.shape), 0)
    size = ((base & 0x7FFF).astype(np.int64) + move).clip(0, 0x7F7F).astype(np.uint16)
    return base & np.uint16(0x8000) | size
