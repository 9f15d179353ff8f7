"""Lossless and delta: every bit comes back."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.compression import BlockError, CompressionOptions, compress, rans, restore
from qstream.compression.dtypes import DTYPES
from qstream.compression.header import Header
from qstream.compression.parts import entropy_of, entropy_of_sample
from tests.unit.compression.values import drawn, of_bits, stepped, with_specials

LEVELS = ("fast", "balanced", "small")
SHAPES = ((), (0,), (7,), (3, 0), (33, 65), (2, 3, 4, 5, 6))
DELTA = CompressionOptions(mode="delta")


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == wanted.dtype and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_shape_comes_back_bit_for_bit(dtype: str) -> None:
    rng = np.random.default_rng(1)
    for level in LEVELS:
        for shape in SHAPES:
            given = of_bits(rng, dtype, shape)
            done = compress(given, CompressionOptions(level=level))
            back = restore(done.data)
            assert same(back.array, given)
            assert (back.verified, done.promise) == (True, "exact")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_floats_become_smaller_and_come_back_with_nan_and_infinity(dtype: str, level: str) -> None:
    given = with_specials(drawn(np.random.default_rng(2), "normal", dtype, (64, 512)))
    done = compress(given, CompressionOptions(level=level))
    assert same(restore(done).array, given)
    assert done.ratio > {"float64": 1.08, "float32": 1.15, "float16": 1.12, "bfloat16": 1.4}[dtype]


def test_views_and_big_endian_arrays_come_back_as_they_were() -> None:
    whole = np.random.default_rng(3).standard_normal((40, 50))
    for given in (whole[::3, ::-2], whole.T, whole.astype(">f4"), np.asfortranarray(whole)):
        assert same(restore(compress(given)).array, np.ascontiguousarray(given))


def test_bits_of_bfloat16_come_back_as_bits() -> None:
    given = np.random.default_rng(4).integers(0, 65536, (8, 16)).astype(np.uint16)
    assert same(restore(compress(given, dtype="bfloat16")).array, given)


def test_repeats_are_found_in_what_is_no_float() -> None:
    assert compress(np.arange(100_000) // 7).ratio > 50
    assert compress(np.zeros((300, 300), bool)).ratio > 100
    assert compress(np.zeros((300, 300), np.float32)).ratio > 500


def test_floats_that_are_few_different_ones_are_coded_as_a_whole() -> None:
    rng = np.random.default_rng(15)
    given = rng.choice(rng.standard_normal(16), (300, 300))
    for level, least in (("balanced", 7), ("small", 9)):
        done = compress(given, CompressionOptions(level=level))
        assert done.ratio > least
        assert same(restore(done).array, given)


def test_a_delta_chain_of_twenty_steps_gives_each_tensor() -> None:
    rng = np.random.default_rng(5)
    held = now = drawn(rng, "normal", "bfloat16", (96, 128)).view(np.uint16)
    for step in range(20):
        now = stepped(rng, now, 0.02)
        done = compress(now, DELTA, base=held, dtype="bfloat16", step=step)
        held = restore(done.data, base=held).array
        assert same(held, now)
        assert done.nbytes / done.payload_bytes > 15


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int16", "uint8", "float64"])
def test_a_delta_of_unlike_tensors_is_exact_as_well(dtype: str) -> None:
    rng = np.random.default_rng(6)
    for shape in ((), (0,), (50, 70)):
        base, new = of_bits(rng, dtype, shape), of_bits(rng, dtype, shape)
        assert same(restore(compress(new, DELTA, base=base), base=base).array, new)
        assert same(restore(compress(base, DELTA, base=base), base=base).array, base)


def test_a_delta_needs_its_own_base() -> None:
    base = np.arange(600, dtype=np.uint16).reshape(20, 30)
    data = compress(base + 1, DELTA, base=base, dtype="bfloat16").data
    for wrong in (None, base + 2, base[:5], base.astype(np.float32)):
        with pytest.raises(BlockError) as caught:
            restore(data, base=wrong)
        assert caught.value.code in ("base_mismatch", "dtype")
    with pytest.raises(BlockError, match=r"^shape: base must be bfloat16 \(20, 30\)"):
        compress(base, DELTA, base=base[:5], dtype="bfloat16")


def test_a_header_of_our_own_fields_is_the_one_that_a_reader_checks() -> None:
    for given, options in (
        (np.ones((40, 50), np.float32), {}),
        (np.eye(64), {"mode": "rate"}),
        (np.arange(9) > 3, {"level": "fast"}),
    ):
        header = compress(given, CompressionOptions(**options), name='a "name"').header
        checked = Header.model_validate_json(header.model_dump_json(exclude_unset=True))
        assert checked == header
        assert checked.model_fields_set == header.model_fields_set
        assert checked.model_dump_json() == header.model_dump_json()


def test_equal_calls_give_equal_bytes_and_out_is_written_to() -> None:
    given = np.random.default_rng(7).standard_normal((30, 40)).astype(np.float32)
    data = compress(given).data
    out = np.empty_like(given)
    assert data == compress(given.copy()).data
    assert restore(memoryview(data), out=out).array is out
    assert same(out, given)


@pytest.mark.parametrize("size", [1, 513, 4096, 5000])
def test_the_sampled_entropy_is_that_of_the_counts(size: int) -> None:
    plane = np.random.default_rng(size).binomial(40, 0.3, size).astype(np.uint8)
    counts = np.bincount(plane[:: max(1, size // 1024)], minlength=256)
    expected = entropy_of(counts) + (np.count_nonzero(counts) - 1) / (2 * np.log(2) * counts.sum())
    assert entropy_of_sample(plane) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert entropy_of_sample(plane[:0]) == 0.0


def test_rans_reaches_the_entropy_of_each_context() -> None:
    rng = np.random.default_rng(8)
    context = rng.integers(0, 3, 200_000).astype(np.uint8)
    chance = np.array([0.5, 0.05, 0.001])[context]
    symbols = (rng.random(200_000) < chance).astype(np.uint8)
    ideal = -(chance * np.log2(chance) + (1 - chance) * np.log2(1 - chance)).sum() / 8
    data = rans.encode(symbols, context, 3)
    assert len(data) < 1.01 * ideal + 64
    found = rans.decode(np.frombuffer(data, np.uint8), len(symbols), context)
    assert found is not None
    assert np.array_equal(found, symbols)
