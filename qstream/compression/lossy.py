"""Lossy chains: transform, quantise, classes, refiners; each kept only where the encoder's measure says that it pays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.compression import classes, quantise, refine
from qstream.compression.basis import Basis
from qstream.compression.dtypes import as_floats, from_floats
from qstream.compression.header import (
    Classes,
    Correction,
    Prune,
    Quality,
    Quantise,
    Spectral,
    Table,
    Transform,
    Weights,
    shortened,
)
from qstream.compression.nets import Net
from qstream.compression.parts import Level, Parts, Piece, code, stored
from qstream.compression.prune import Pruned, moment_size
from qstream.errors import BlockError
from schemas.wording import Shown, must_be

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Domain:
    """Where values are quantised: as they are, in the coefficients of a basis, or in units of their column's weight.

    Attributes
    ----------
    x : float [rows, columns]
        The tensor's matrix view, as float32 or float64.
    values : float [rows, columns]
        What is quantised.
    finite
        Every value is finite: what mixes values may be applied.
    """

    x: Floats
    values: Floats
    dtype: str
    finite: bool
    basis: Basis | None = None
    weights: NDArray[np.float32] | None = None
    pruned: Pruned | None = None

    @property
    def plain(self) -> bool:
        """All values are quantised as they are."""
        return self.basis is None and self.weights is None and self.pruned is None


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One step tried: the multiples, the refiners that pay, and what a reader gets, in the tensor's own type."""

    step: float
    low_bits: int
    multiples: quantise.Multiples
    table: NDArray[np.int8] | None
    threshold: float | None
    raw: NDArray[Any]
    quality: Quality
    gains: dict[str, float] = field(default_factory=dict)
    net: Net | None = None


def attempt(
    domain: Domain, step: float, *, table: bool, spectral: bool, moved: Floats | None = None, net: Net | None = None
) -> Trial:
    """Quantise with a step without a bound on each value, then keep the better of the refiners.

    `moved` are the values to round where those are not the domain's own, and `net` one that was trained for this tensor.
    """
    flat = domain.values.reshape(-1) if moved is None else np.ascontiguousarray(moved.reshape(-1), domain.values.dtype)
    kind = "float64" if flat.dtype == np.float64 else "float32"
    low_bits = quantise.low_bits_for(flat, step)
    found = quantise.quantise(flat, kind, step, np.inf, low_bits)
    y, own = found.restored, domain.values.reshape(-1)
    y[found.escapes] = own[found.escapes]
    best: tuple[NDArray[np.int8] | None, float | None, Floats] = (None, None, back(domain, y))
    error = plain_error = _squared(domain.x, best[2])
    gains: dict[str, float] = {}
    if domain.finite and table and low_bits == 0:
        centres = refine.centroids(flat, found.high, step)
        shifted = y + refine.shift(centres, step, found.high)
        shifted[found.escapes] = own[found.escapes]
        whole = back(domain, shifted.astype(y.dtype))
        if (with_table := _squared(domain.x, whole)) < refine.GATE * error:
            best, error = (centres, None, whole), with_table
            gains = {"table": with_table / plain_error}
    if domain.finite and spectral:
        whole = back(domain, y)
        chosen = refine.best_threshold(domain.x, whole)
        if chosen is not None and chosen[1] * plain_error < refine.GATE * error:
            smooth = refine.smoothed(whole, chosen[0]).astype(whole.dtype)
            if (left := _squared(domain.x, smooth)) < refine.GATE * error:
                best, error, gains = (None, chosen[0], smooth), left, {"spectral": left / plain_error}
    used = None
    if domain.finite and domain.plain and net is not None:
        corrected = net.correct(back(domain, y), step).astype(y.dtype)
        left = _squared(domain.x, corrected)
        # A trained table need not travel, so it may be a little worse than one of its own, but not than another refiner.
        enough = (
            min(refine.GATE * plain_error, error / refine.GATE) if net.kind == "table" and not best[1] else refine.GATE * error
        )
        if left < enough:
            best, used, gains = (None, None, corrected), net, {net.kind: left / plain_error}
    raw = from_floats(best[2].reshape(-1), domain.dtype)
    quality = measured(domain.x, raw, domain.dtype, len(found.escapes))
    return Trial(step, low_bits, found, best[0], best[1], raw, quality, gains, used)


def back(domain: Domain, y: Floats) -> Floats:
    """Quantised values [n] as the tensor's matrix [rows, columns]."""
    return undo(y.reshape(domain.values.shape), domain.basis, domain.weights, domain.pruned)


def undo(y: Floats, basis: Basis | None, weights: NDArray[np.float32] | None, pruned: Pruned | None) -> Floats:
    """Values of the matrix in the tensor's own units, those of pruned columns predicted."""
    if pruned is not None:
        return pruned.back(y)
    if basis is not None:
        return basis.back(y)
    return y if weights is None else y * weights


def domain_of(
    x: Floats,
    dtype: str,
    shape: tuple[int, int],
    *,
    basis: Basis | None = None,
    weights: NDArray[np.float32] | None = None,
    pruned: Pruned | None = None,
) -> Domain:
    """The domain of a tensor's values [n], as floats."""
    matrix = x.reshape(shape)
    finite = bool(np.isfinite(x).all())
    if finite and basis is not None:
        return Domain(matrix, basis.forward(matrix), dtype, finite, basis)
    if finite and pruned is not None:
        return Domain(matrix, pruned.forward(matrix), dtype, finite, pruned=pruned)
    if finite and weights is not None:
        return Domain(matrix, np.ascontiguousarray(matrix / weights), dtype, finite, None, weights)
    return Domain(matrix, matrix, dtype, finite)


def coded(
    domain: Domain, trial: Trial, original: NDArray[Any], level: Level, *, hold_basis: bool
) -> tuple[list[Any], list[Piece]]:
    """Operations and parts of a trial; `original` are the tensor's own values [n]."""
    ops: list[Any] = []
    pieces: list[Piece] = []
    if domain.basis is not None:
        ops.append(Transform(op="transform", kind=domain.basis.kind, width=domain.basis.width))
        if hold_basis:
            pieces += basis_pieces(domain.basis)
    if domain.pruned is not None:
        ops.append(Prune(op="prune", kept=int(domain.pruned.kept.sum())))
        pieces += pruned_pieces(domain.pruned)
    if domain.weights is not None:
        ops.append(Weights(op="weights"))
        pieces.append(stored("weights", domain.weights.astype("<f4")))
    ops.append(quantised(trial.step, trial.low_bits))
    matrix = domain.values
    more, symbols = symbol_pieces(trial.multiples, matrix, trial.step, trial.low_bits, level)
    exact = original if domain.plain else matrix.reshape(-1)
    ops, pieces = [*ops, *more], [*pieces, *symbols, *escape_pieces(trial.multiples.escapes, exact)]
    if trial.table is not None:
        ops.append(Table(op="table"))
        pieces.append(code("table", trial.table.view(np.uint8), level, matches=True))
    if trial.threshold is not None:
        ops.append(Spectral(op="spectral", threshold=trial.threshold))
    if trial.net is not None:
        ops.append(Correction(op="net", kind=trial.net.kind, digest=trial.net.digest))
    return ops, pieces


def quantised(step: float, low_bits: int) -> Quantise:
    """The operation, without what every reader supposes."""
    return Quantise(op="quantise", step=step, **({"low_bits": low_bits} if low_bits else {}))


def symbol_pieces(
    found: quantise.Multiples, matrix: Floats, step: float, low_bits: int, level: Level
) -> tuple[list[Any], list[Piece]]:
    """The multiples, by scale classes where those save more than they cost."""
    ops: list[Any] = []
    pieces: list[Piece] = []
    if level == "small" and matrix.size >= 1024 and min(matrix.shape) > 1:
        scales = classes.scales(matrix, step * 2.0**low_bits)
        context = scales.context()
        cost = 8 * (len(scales.row) + len(scales.column))
        if classes.gain(found.high, context) > cost:
            both = np.concatenate([scales.row, scales.column])
            ops.append(Classes(op="classes", count=classes.COUNT))
            pieces.append(code("scales", both, level))
            pieces.append(code("high", found.high, level, context=context, contexts=classes.COUNT))
    if not ops:
        pieces.append(code("high", found.high, level))
    if found.low is not None:
        pieces.append(code("low", found.low, level))
    return ops, pieces


def escape_pieces(at: NDArray[np.int64], original: NDArray[Any]) -> list[Piece]:
    """Indices and exact values of what the multiples do not give back; nothing where there are none."""
    if not len(at):
        return []
    index = np.diff(at, prepend=0).astype("<u4" if len(original) < 2**32 else "<u8")
    values = np.ascontiguousarray(original[at])
    return [
        code("index", index.view(np.uint8), "balanced", matches=True),
        code("value", values.view(np.uint8), "balanced", matches=True),
    ]


def basis_pieces(basis: Basis) -> list[Piece]:
    """A basis that travels with the data; of cosines only the mean does."""
    mean = stored("mean", basis.mean.astype("<f4"))
    if basis.kind == "fourier":
        return [mean]
    return [
        code("basis", basis.values.reshape(-1).view(np.uint8), "balanced"),
        stored("scale", basis.scale.astype("<f4")),
        mean,
    ]


def pruned_pieces(pruned: Pruned) -> list[Piece]:
    """What the reader predicts pruned columns by."""
    return [
        stored("kept", np.packbits(pruned.kept)),
        stored("moment", pruned.moment.astype("<f2")),
        stored("mean", pruned.mean.astype("<f4")),
        stored("spread", pruned.spread.astype("<f4")),
    ]


def pruned_within(parts: Parts, op: Prune | None, columns: int) -> Pruned | None:
    """The same of coded data."""
    if op is None:
        return None
    kept = np.unpackbits(parts.get("kept", -(-columns // 8)).view(np.uint8), count=columns).astype(np.bool_)
    moment = parts.get("moment", 2 * moment_size(columns)).view("<f2")
    mean, spread = (parts.get(name, 4 * columns).view("<f4") for name in ("mean", "spread"))
    sound = all(np.isfinite(each).all() for each in (moment, mean, spread)) and np.all(np.abs(moment) <= 1.01)
    if int(kept.sum()) != op.kept or not sound or np.any(spread < 0):
        raise BlockError("bad_frame", must_be("pruned columns", f"{op.kept} kept, with correlations", Shown("others")))
    return Pruned(kept, moment, mean, spread)


def symbols(parts: Parts, op: Quantise, split: Classes | None, shape: tuple[int, int]) -> tuple[Any, Any]:
    """The multiples of coded data: upper and lower bits."""
    size = shape[0] * shape[1]
    context = None
    if split is not None:
        if split.count != classes.COUNT:
            raise BlockError("bad_frame", must_be("count of classes", str(classes.COUNT), split.count))
        both = parts.get("scales", shape[0] + shape[1])
        context = classes.Scales(both[: shape[0]], both[shape[0] :]).context()
    high = parts.get("high", size, context)
    return high, parts.get("low", size) if op.low_bits else None


def escaped(parts: Parts, size: int) -> NDArray[np.int64]:
    """Indices of the values that the multiples do not give back."""
    if "index" not in parts:
        return np.zeros(0, np.int64)
    step = parts.get("index", parts.size("index")).view(np.uint8)
    width = np.dtype("<u4" if size < 2**32 else "<u8")
    if len(step) % width.itemsize:
        raise BlockError("bad_frame", must_be("part 'index'", f"numbers of {width.itemsize} bytes", Shown(f"{len(step)} bytes")))
    at = np.cumsum(step.view(width), dtype=np.uint64)
    if np.any(at[1:] <= at[:-1]) or int(at.max(initial=0)) >= size:
        raise BlockError("bad_frame", must_be("part 'index'", f"rising and below {size}", Shown("others")))
    return at.astype(np.int64)


def put_escapes(parts: Parts, values: NDArray[Any]) -> None:
    """Write the exact values over those that the multiples gave; `values` are of the type that escaped."""
    if "index" in parts:
        at = escaped(parts, len(values))
        values[at] = parts.get("value", len(at) * values.dtype.itemsize).view(values.dtype)


def measured(x: Floats, raw: NDArray[Any], dtype: str, escapes: int, bound: float | None = None) -> Quality:
    """What a reader's values are away from the tensor's, over finite ones."""
    with np.errstate(invalid="ignore", over="ignore"):
        away = x.reshape(-1) - as_floats(raw, dtype)
        power, error = _power(x.reshape(-1)), _power(away)
        worst = max(float(away.max(initial=0)), -float(away.min(initial=0)))
        if not (np.isfinite(worst) and np.isfinite(error) and np.isfinite(power)):
            seen = np.isfinite(x.reshape(-1))
            away, exact = away[seen].astype(np.float64), x.reshape(-1)[seen].astype(np.float64)
            power, error, worst = float(exact @ exact), float(away @ away), float(np.abs(away).max(initial=0))
    relative = float(np.sqrt(error / power)) if power > 0 and np.isfinite(power) and np.isfinite(error) else 0.0
    found: dict[str, Any] = {"max_abs_error": shortened(worst) if np.isfinite(worst) else 0.0, "rel_l2": shortened(relative)}
    if escapes:
        found["escapes"] = escapes
    if bound is not None:
        found["bound"] = bound
    return Quality(**found)


def _power(x: Floats) -> float:
    """Sum of squares, in float64 where float32 could lose it."""
    found = float(x @ x)
    if not 1e-25 < found < 1e30:
        with np.errstate(over="ignore", invalid="ignore"):
            x64 = x.astype(np.float64)
            found = float(x64 @ x64)
    return found


def rms_of(x: Floats) -> float:
    """Root mean square of the finite values."""
    power, count = _power(x), len(x)
    if not np.isfinite(power):
        x64 = x[np.isfinite(x)].astype(np.float64)
        scale = float(np.abs(x64).max(initial=0))
        return scale * float(np.sqrt(np.mean(np.square(x64 / scale)))) if scale > 0 else 0.0
    return float(np.sqrt(power / max(count, 1)))


def _squared(x: Floats, y: Floats) -> float:
    return _power((x - y).reshape(-1))
