"""Lossy modes: bounds hold for every value, rates are met, and what does not pay is left out."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.compression import (
    Codebook,
    CompressionOptions,
    RestoreOptions,
    codebook_bytes,
    compress,
    learn_basis,
    read_codebook,
    restore,
    train_codebook,
)
from qstream.compression.dtypes import as_floats
from qstream.errors import OptionError, ProblemError
from tests.unit.compression.values import DISTRIBUTIONS, drawn, with_specials

FLOATS = ("float32", "float16", "bfloat16", "float64")
SHAPE = (96, 1024)


def errors(given: np.ndarray, back: np.ndarray, dtype: str) -> np.ndarray:
    x, y = as_floats(given, dtype).astype(np.float64), as_floats(back, dtype).astype(np.float64)
    seen = np.isfinite(x)
    assert np.array_equal(x[~seen], y[~seen], equal_nan=True)
    return np.abs(x[seen] - y[seen])


@pytest.mark.parametrize("kind", ["rms", "abs", "range", "point"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_no_value_leaves_its_bound(dtype: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    for distribution in DISTRIBUTIONS:
        given = with_specials(drawn(rng, distribution, dtype, SHAPE))
        bound = {"rms": 0.05, "abs": 0.03, "range": 1e-3, "point": 0.1}[kind]
        done = compress(given, CompressionOptions(mode="bounded", bound_kind=kind, bound=bound))
        found = errors(given, restore(done.data).array, dtype)
        x = as_floats(given, dtype).astype(np.float64)
        x = x[np.isfinite(x)]
        size = {"rms": np.sqrt(np.mean(x**2)), "abs": 1.0, "range": x.max() - x.min(), "point": np.abs(x)}[kind]
        assert (found <= bound * size * (1 + 1e-9)).all(), distribution
        assert done.promise in ("bound", "exact")
        if kind == "point" and done.promise == "bound":
            worst = float(np.max(found[x != 0] / np.abs(x[x != 0]), initial=0))
            assert worst <= (done.quality.max_relative_error or 0) <= worst * (1 + 2e-5), distribution


@pytest.mark.parametrize("dtype", FLOATS)
def test_none_of_a_million_values_of_any_distribution_leaves_its_bound(dtype: str) -> None:
    rng = np.random.default_rng(9)
    options = CompressionOptions(mode="bounded", bound=0.05)
    for distribution in DISTRIBUTIONS:
        given = with_specials(drawn(rng, distribution, dtype, (1000, 1000)))
        found = errors(given, restore(compress(given, options)).array, dtype)
        x = as_floats(given, dtype).astype(np.float64)
        assert found.max() <= 0.05 * np.sqrt(np.mean(np.square(x[np.isfinite(x)]))) * (1 + 1e-9), distribution


def test_a_bound_costs_what_theory_says() -> None:
    given = np.random.default_rng(2).standard_normal((512, 512)).astype(np.float32)
    for level, most in (("balanced", 0.09), ("small", 0.02)):
        done = compress(given, CompressionOptions(mode="bounded", bound=0.1, level=level))
        ideal = 0.5 * np.log2(2 * np.pi * np.e) - np.log2(0.2)  # of a normal variable in steps of .2, at a high rate
        assert 8 * done.payload_bytes / done.size < ideal + most
        assert done.quality.rel_l2 == pytest.approx(0.1 / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("mode", ["rate", "gradient"])
def test_a_rate_is_met(mode: str, dtype: str) -> None:
    given = drawn(np.random.default_rng(3), "normal", dtype, (256, 256))
    done = compress(given, CompressionOptions(mode=mode))
    target = {"rate": 4.4, "gradient": 1.0}[mode]
    assert 8 * done.payload_bytes / done.size == pytest.approx(target, abs=0.05)
    assert restore(done).array.dtype == given.dtype


def test_a_basis_that_travels_counts_among_the_bits_of_a_rate() -> None:
    rng = np.random.default_rng(12)
    given = (rng.standard_normal((500, 32)) @ (rng.standard_normal((32, 32)) * 0.7 ** np.arange(32)[:, None])).astype(np.float32)
    done = compress(given, CompressionOptions(mode="rate", transform="klt"))
    assert "basis" in [part.name for part in done.header.parts]
    assert 8 * done.payload_bytes / done.size == pytest.approx(4.4, abs=0.05)
    assert done.quality.rel_l2 < 0.5 * compress(given, CompressionOptions(mode="rate")).quality.rel_l2


def test_the_spectral_refiner_helps_low_rank_values_and_is_left_out_of_noise() -> None:
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((256, 192)).astype(np.float32)
    low = (rng.standard_normal((256, 6)) @ rng.standard_normal((6, 192))).astype(np.float32)
    gradient = CompressionOptions(mode="gradient")
    plain = gradient.changed({"spectral": False, "table": False})
    refined, without = compress(low, gradient), compress(low, plain)
    assert refined.quality.rel_l2 < 0.6 * without.quality.rel_l2
    assert restore(refined).refined[0].name == "spectral"
    assert compress(noise, gradient.changed({"table": False})).data == compress(noise, plain).data


def test_a_basis_of_earlier_rows_saves_bits_and_is_named_by_its_digest() -> None:
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((64, 64)) * 0.7 ** np.arange(64)[:, None]
    rows = (rng.standard_normal((1500, 64)) @ mixing).astype(np.float32)
    basis = learn_basis(rows[:1000])
    assert np.allclose(basis.matrix[0].T @ basis.matrix[0], np.eye(64), atol=1e-5)
    options = CompressionOptions(mode="bounded", bound_kind="l2", bound=0.03)
    with_basis, without = compress(rows[1000:], options, basis=basis), compress(rows[1000:], options)
    assert with_basis.payload_bytes < 0.8 * without.payload_bytes
    back = restore(with_basis, basis=basis).array
    assert np.linalg.norm(back - rows[1000:]) <= 0.03 * np.linalg.norm(rows[1000:])
    book = train_codebook([("keys", rows[:1000]), ("few", rows[:100])])
    assert set(book.bases) == {"keys"}
    assert set(train_codebook([("few", rows[:128])], role="kv_cache").bases) == {"few"}
    with pytest.raises(ProblemError, match=r"role must be one of weight, .* got 'keys'"):
        train_codebook([("keys", rows)], role="keys")
    named = compress(rows[1000:], options, codebook=book, name="keys")
    assert named.header.basis_digest == basis.digest
    assert np.array_equal(restore(named, codebook=read_codebook(codebook_bytes(book))).array, back)
    noise = rng.standard_normal((500, 64)).astype(np.float32)
    by_chance, plain = compress(noise, options, basis=basis), compress(noise, options)
    assert plain.payload_bytes * 0.99 < by_chance.payload_bytes <= plain.payload_bytes


def test_input_moments_steer_rounding_errors_away_from_the_output() -> None:
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((128, 96)).astype(np.float32)
    inputs = rng.standard_normal((2000, 8)) @ rng.standard_normal((8, 96)) + 0.3 * rng.standard_normal((2000, 96))
    inputs *= np.where(np.arange(96) % 4, 0.25, 4)
    moment = inputs.T @ inputs / len(inputs)

    def output_error(back: np.ndarray) -> float:
        return float(np.einsum("ij,jk,ik->", back - weight, moment, back - weight))

    rate = CompressionOptions(mode="rate")
    plain = output_error(restore(compress(weight, rate)).array)
    assert output_error(restore(compress(weight, rate, moment=moment)).array) < 0.5 * plain
    assert output_error(restore(compress(weight, rate, influence=np.diag(moment))).array) < 0.8 * plain


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ({}, "base", "mode must be delta where base is given, got lossless"),
        (
            {"mode": "bounded"},
            "basis",
            "mode must be rate, gradient or bounded with bound_kind l2 where basis is given, got bounded",
        ),
        ({"mode": "gradient"}, "moment", "mode must be rate where moment is given, got gradient"),
        ({"mode": "int8"}, "influence", "mode must be rate, gradient or bounded with bound_kind l2 where influence is given"),
        (
            {"mode": "delta"},
            "codebook",
            "mode must be rate, gradient, int8 or bounded with bound_kind l2 where codebook is given",
        ),
        ({"mode": "rate", "transform": "none"}, "basis", "option transform must be auto, klt or fourier where basis is given"),
        ({"mode": "rate"}, "influence moment", "moment must be absent where influence is given, got both"),
        ({"mode": "rate"}, "basis influence", "basis must be absent where influence is given, got both"),
    ],
)
def test_an_argument_that_nothing_would_use_is_refused(options: dict[str, str], given: str, said: str) -> None:
    x = np.random.default_rng(14).standard_normal((64, 8)).astype(np.float32)
    known = {"base": x, "basis": learn_basis(x), "moment": np.eye(8), "influence": np.ones(8), "codebook": Codebook({})}
    with pytest.raises(ProblemError, match=said):
        compress(x, CompressionOptions(**options), **{name: known[name] for name in given.split()})


@pytest.mark.parametrize("scale", ["tensor", "row", "group"])
def test_int8_is_the_usual_format(scale: str) -> None:
    given = np.random.default_rng(7).standard_normal((32, 300)).astype(np.float32)
    done = compress(given, CompressionOptions(mode="int8", int8_scale=scale))
    back = restore(done).array
    peak = np.abs(given).max() if scale == "tensor" else np.abs(given).max(axis=1, keepdims=True)
    assert (np.abs(back - given) <= peak / 254 * 1.0001).all()


@pytest.mark.parametrize("mode", ["bounded", "rate", "gradient", "int8"])
def test_small_vectors_whole_numbers_and_hopeless_values_stay_exact_with_a_reason(mode: str) -> None:
    options = CompressionOptions(mode=mode)
    for given, reason in ((np.ones(300, np.float32), "not_needed"), (np.arange(600).reshape(20, 30), "not_needed")):
        done = compress(given, options)
        assert (done.promise, done.fallback_reason) == ("exact", reason)
        assert np.array_equal(restore(done).array, given)
    hopeless = np.full((20, 30), np.nan, np.float32)
    assert compress(hopeless, options).promise == "exact"


@pytest.mark.parametrize(
    "options",
    [
        {"bound": 0.0},
        {"bound": float("nan")},
        {"mode": "lossless", "transform": "klt"},
        {"mode": "bounded", "transform": "fourier"},
        {"mode": "bounded", "bound_kind": "point", "bound": 1.0},
        {"mode": "huge"},
    ],
)
def test_contradictory_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="must"):
        CompressionOptions().changed(options)


def test_recommended_options_are_those_of_the_table() -> None:
    assert CompressionOptions.recommended("weight_sync").mode == "delta"
    assert CompressionOptions.recommended("kv_cache").bound_kind == "l2"
    assert RestoreOptions.recommended("noisy").qsvt
    with pytest.raises(OptionError, match="scenario must be one of archive"):
        CompressionOptions.recommended("unknown")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [3.7, 0.0, 1e-38])
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "rate", "transform": "klt"},
        {"mode": "rate", "transform": "fourier"},
        {"mode": "gradient", "qae": True},
        {"mode": "rate", "dropout": True},
        {"mode": "bounded", "bound_kind": "l2", "dropout": True},
        {"mode": "bounded", "bound_kind": "l2", "transform": "klt"},
    ],
)
def test_rows_that_all_are_the_same_are_coded(options: dict[str, object], size: float, dtype: str) -> None:
    given = np.full((64, 16), size, dtype)
    back = restore(compress(given, CompressionOptions(**options))).array  # type: ignore[arg-type]
    assert np.linalg.norm(back / (size or 1) - given / (size or 1)) <= 0.051 * 32
