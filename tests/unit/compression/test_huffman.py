"""Huffman codes that zstd reads: of any size and counts, as small as zstd's own."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from qstream.compression import huffman
from qstream.compression.parts import code


def exponents(size: int) -> np.ndarray:
    x = (0.03 * np.random.default_rng(size).standard_normal(size)).astype(np.float32)
    return (x.view(np.uint32) >> 23 & 255).astype(np.uint8)


def restored(data: bytes | None) -> bytes:
    assert data is not None
    return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)


@pytest.mark.parametrize("size", [1 << 14, (1 << 14) + 15, 131_071, 131_072, 131_088, 400_001, (1 << 20) + 17])
def test_zstd_reads_planes_of_any_size(size: int) -> None:
    plane = exponents(size)
    data = huffman.encode(plane)
    assert restored(data) == plane.tobytes()
    assert data is not None
    counts = np.bincount(plane)
    part = counts[counts > 0] / size
    assert 8 * (len(data) - 100) / size < -float(part @ np.log2(part)) + 0.06
    assert zstandard.get_frame_parameters(data).content_size == size


def test_a_plane_at_any_address_gives_the_same_bytes() -> None:
    plane = exponents(50_000)
    assert huffman.encode(np.concatenate([plane[:3], plane])[3:]) == huffman.encode(plane)


def test_codes_longer_than_eleven_bits_are_cut() -> None:
    counts = [1, 1]
    while len(counts) < 24:
        counts.append(counts[-1] + counts[-2])
    counts[-1] = counts[-2]  # with fewer than .45 of all
    plane = np.random.default_rng(1).permutation(np.repeat(np.arange(24), counts)).astype(np.uint8)
    assert restored(huffman.encode(plane)) == plane.tobytes()


def test_every_symbol_up_to_128_and_no_more() -> None:
    plane = np.random.default_rng(2).integers(0, 129, 1 << 15).astype(np.uint8)
    assert restored(huffman.encode(plane)) == plane.tobytes()
    plane[7] = 129
    assert huffman.encode(plane) is None
    plane[7] = 5
    assert restored(huffman.encode(plane)) == plane.tobytes()  # nothing is left of what was counted before


@pytest.mark.parametrize(
    "plane",
    [np.zeros(1 << 15, np.uint8), exponents(1000), np.repeat(exponents(1 << 12), 8), np.minimum(exponents(1 << 15), 121)],
    ids=["one symbol", "short", "runs", "mostly one symbol"],
)
def test_zstd_itself_codes_the_others(plane: np.ndarray) -> None:
    assert huffman.encode(plane) is None


def test_a_part_of_runs_is_as_small_as_zstd_makes_it() -> None:
    plane = np.repeat(exponents(1 << 12), 8)
    assert len(code("a", plane, "balanced").data) < 0.6 * 3 * len(plane) / 8
