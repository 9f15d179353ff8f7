"""Chains: which operations code a tensor, by mode; whatever does not pay is left out, with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.compression import delta, integers, lossy, point, prune, quantise, refine, rounding, search, split
from qstream.compression.basis import MAX_COLUMNS, Basis, learn_basis
from qstream.compression.dtypes import LOSSY, Form, as_floats, from_floats, rows_of
from qstream.compression.guide import NO_GUIDE, Domain, Found, Guide, Measured
from qstream.compression.header import Correction, Int8, Promise, Quality, Reason, digest, shortened
from qstream.compression.nets import Net
from qstream.compression.options import CompressionOptions
from qstream.compression.parts import Level, Piece, code, stored
from qstream.errors import BlockError, ProblemError
from schemas.wording import Shown, must_be

UNMEASURED: Final = Quality()
SMALL: Final = 65_536  # values: one-dimensional tensors of fewer, such as biases, stay exact in every mode
_TRY_LOSSLESS: Final = 2.0  # ratio of a lossy block below which the lossless one is tried as well
_SHRINK: Final = (1.0, 0.98, 0.96, 0.92)  # of the step of a 16-bit type, whose own rounding uses up a part of the bound
_ESCAPE_BITS: Final = 40
_SAMPLE: Final = 65_536
_LEAST_WEIGHT: Final = 0.25
_NEARLY_BITS: Final = 0.5
_LEAST_BITS: Final = 0.05
_LEAST_PRUNED: Final = 8  # columns
_DOMAINS: Final[dict[str, Domain]] = {"basis": "basis", "dropout": "pruned"}
_NETS: Final = {"denoiser": ("lstm",)}
_MOST_MOMENT: Final = 8192  # columns


@dataclass(slots=True, eq=False)
class Draft:
    """A coded tensor before its header is written; `shared` are bytes of a basis that other blocks pay for."""

    ops: list[Any]
    pieces: list[Piece]
    promise: Promise = "exact"
    quality: Quality = UNMEASURED
    digest: str | None = None
    base_digest: str | None = None
    basis: Basis | None = None
    gains: dict[str, float] | None = None
    reason: Reason | None = None
    measured: Measured = field(default_factory=Measured)
    shared: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the parts."""
        return sum(len(piece.data) for piece in self.pieces)


def draft(
    form: Form,
    options: CompressionOptions,
    base: Form | None,
    basis: Basis | None,
    moment: ArrayLike | None,
    influence: ArrayLike | None,
    net: Net | None = None,
    guide: Guide = NO_GUIDE,
) -> Draft:
    """The chain of a tensor and its parts."""
    if options.mode == "delta":
        return _delta(form, base, options.level)
    if options.mode == "lossless":
        return _lossless(form, options.level)
    if form.dtype not in LOSSY or form.array.size == 0 or (form.array.ndim < 2 and form.array.size < SMALL):
        return _lossless(form, options.level, "not_needed")
    return _lossy(form, options, basis, moment, influence, net, guide)


@np.errstate(over="ignore", invalid="ignore")  # values may be NaN, infinite, or as large as their type allows
def _lossy(
    form: Form,
    options: CompressionOptions,
    basis: Basis | None,
    moment: ArrayLike | None,
    influence: ArrayLike | None,
    net: Net | None,
    guide: Guide,
) -> Draft:
    """The chain that keeps the promise, or the exact one where that is smaller."""
    x = as_floats(form.array.reshape(-1), form.dtype)
    if options.mode == "int8":
        found = _int8(form, x, options, _allowed(net, options))
    elif options.mode == "bounded" and options.bound_kind == "point":
        found = _point(form, x, options)
    elif options.mode == "bounded" and options.bound_kind != "l2":
        found = _bounded(form, x, options)
    else:
        found = _by_error_or_rate(form, x, options, basis, moment, influence, net, guide)
    if found is None:
        return _lossless(form, options.level, "gain_below_gate")
    cost = found.nbytes - found.shared
    if cost * _TRY_LOSSLESS > form.array.nbytes:
        exact = _lossless(form, options.level, "gain_below_gate")
        return exact if exact.nbytes <= cost else found
    return found


def _lossless(form: Form, level: Level, reason: Reason | None = None) -> Draft:
    ops, pieces = split.encode(form.raw, form.dtype, level)
    return Draft([*ops], pieces, digest=digest(form.raw), reason=reason)


def _delta(form: Form, base: Form | None, level: Level) -> Draft:
    if base is None:
        raise ProblemError(must_be("base", "given in mode delta", None))
    if base.dtype != form.dtype or base.array.shape != form.array.shape:
        code_, got = ("dtype", base.dtype) if base.dtype != form.dtype else ("shape", str(base.array.shape))
        raise BlockError(code_, must_be("base", f"{form.dtype} {form.array.shape}, as the tensor", Shown(got)))
    ops, pieces = delta.encode(form.raw, base.raw, form.dtype, level)
    return Draft([*ops], pieces, digest=digest(form.raw), base_digest=digest(base.raw))


def _int8(form: Form, x: NDArray[Any], options: CompressionOptions, net: Net | None) -> Draft | None:
    shape = rows_of(form.array.shape)
    if not np.isfinite(x).all():
        return None
    values, scales = integers.quantise(x.reshape(shape), options.int8_scale)
    plain = integers.restored(values, scales)
    raw = from_floats(plain.reshape(-1), form.dtype)
    pieces = [code("values", values.reshape(-1).view(np.uint8), options.level), stored("scales", scales.astype("<f4"))]
    quality = lossy.measured(x, raw, form.dtype, 0)
    made = Draft([Int8(op="int8", scale=options.int8_scale)], pieces, "none", quality)
    if net is not None:
        corrected = from_floats(net.correct(plain, integers.spread(scales, shape)).reshape(-1), form.dtype)
        better = lossy.measured(x, corrected, form.dtype, 0)
        left = (better.rel_l2 / quality.rel_l2) ** 2 if quality.rel_l2 > 0 else 1.0
        made.measured.gains["denoiser"] = 1 - left
        if left < refine.GATE:
            made.ops.append(Correction(op="net", kind=net.kind, digest=net.digest))
            made.quality, made.gains = better, {net.kind: left}
            return made
    made.digest = digest(np.ascontiguousarray(raw).view(np.uint8))
    if options.denoiser:
        made.reason = "not_trained" if net is None else "gain_below_gate"
    return made


def _point(form: Form, x: NDArray[Any], options: CompressionOptions) -> Draft | None:
    original, shape = form.array.reshape(-1), rows_of(form.array.shape)
    ops, pieces, raw, escapes = point.encode(x, original, form.dtype, shape, options.bound, options.level)
    quality = lossy.measured(x, raw, form.dtype, escapes, options.bound)
    worst = point.largest_error(x, as_floats(raw, form.dtype))
    quality = quality.model_copy(update={"max_relative_error": shortened(worst)})
    return Draft(ops, pieces, "bound", quality, digest(raw.view(np.uint8)))


def _bounded(form: Form, x: NDArray[Any], options: CompressionOptions) -> Draft | None:
    original = form.array.reshape(-1)
    eps = _absolute(x, options)
    step = quantise.largest_step(eps)
    if not quantise.usable(step, form.dtype):
        return None
    low_bits = quantise.low_bits_for(x, step)
    if form.array.dtype.itemsize == 2:
        step *= _shrink(x, form.dtype, step, eps, low_bits)
    found = quantise.quantise(x, form.dtype, step, eps, low_bits)
    if len(found.escapes) * 3 > len(x):
        return None
    raw = from_floats(found.restored, form.dtype)
    raw[found.escapes] = original[found.escapes]
    matrix = x.reshape(rows_of(form.array.shape))
    more, pieces = lossy.symbol_pieces(found, matrix, step, low_bits, options.level)
    pieces += lossy.escape_pieces(found.escapes, original)
    quality = lossy.measured(x, raw, form.dtype, len(found.escapes), eps)
    return Draft([lossy.quantised(step, low_bits), *more], pieces, "bound", quality, digest(raw.view(np.uint8)))


def _absolute(x: NDArray[Any], options: CompressionOptions) -> float:
    """The bound as an absolute error."""
    if options.bound_kind == "abs":
        return options.bound
    if options.bound_kind == "rms":
        return options.bound * lossy.rms_of(x)
    seen = x[np.isfinite(x)]
    return options.bound * (float(seen.max()) - float(seen.min())) if len(seen) else 0.0


def _shrink(x: NDArray[Any], dtype: str, step: float, eps: float, low_bits: int) -> float:
    """The part of the step that costs least: a smaller one codes more bits, a larger one lets more values escape."""
    some = np.ascontiguousarray(x[:: max(1, len(x) // _SAMPLE)])
    costs = []
    for part in _SHRINK:
        escaped = len(quantise.quantise(some, dtype, step * part, eps, low_bits).escapes) / len(some)
        costs.append((escaped * _ESCAPE_BITS - float(np.log2(part)), part))
    return min(costs)[1]


def _by_error_or_rate(
    form: Form,
    x: NDArray[Any],
    options: CompressionOptions,
    basis: Basis | None,
    moment: ArrayLike | None,
    influence: ArrayLike | None,
    net: Net | None,
    guide: Guide,
) -> Draft | None:
    """Mode rate, gradient, or bounded with l2: each domain that may pay is tried, and the smallest kept."""
    shape = rows_of(form.array.shape)
    size = lossy.rms_of(x)
    if not quantise.usable(size * 1e-6, form.dtype) or not quantise.usable(size * 1e3, form.dtype):
        return None
    target = max(options.bits - guide.more_bits, _LEAST_BITS)
    tried: list[tuple[float, Domain, Draft]] = []
    measured = Measured()
    given_net, net = net, _allowed(net, options)
    for domain, own in _domains(form, x, shape, options, basis, influence):
        name: Domain = "pruned" if domain.pruned is not None else "plain" if domain.basis is None else "basis"
        upper = _moment(moment, shape[1]) if domain.plain and domain.finite and options.mode == "rate" else None
        # A basis that travels counts among the target's bits.
        travels = 8 * sum(len(piece.data) for piece in lossy.basis_pieces(domain.basis)) / x.size if own and domain.basis else 0.0
        trial = _trial(domain, options, size, upper, net, max(target - travels, _LEAST_BITS), guide.factors.get(name))
        if trial is None:
            continue
        shared = bool(guide.share) and domain.basis is basis is not None
        ops, pieces = lossy.coded(domain, trial, form.array.reshape(-1), "small", hold_basis=own or shared)
        bound = options.bound if options.mode == "bounded" else None
        quality = trial.quality if bound is None else trial.quality.model_copy(update={"bound": bound})
        named = None if own or shared else domain.basis
        made = Draft(ops, pieces, "none" if bound is None else "l2", quality, basis=named, gains=trial.gains, measured=measured)
        if domain.basis is not None:
            made.reason = domain.basis.record.get("fallback_reason")
        held = sum(len(piece.data) for piece in lossy.basis_pieces(basis)) if shared and basis is not None else 0
        bits = 8 * (made.nbytes - held) / x.size
        planned = _planned(domain, options.bits)  # 0 where all rows are their mean
        measured.domains[name] = Found(float(np.log2(trial.step / planned)) if planned > 0 else 0.0, bits)
        made.shared = held - held / max(guide.share, 1)
        cost = made.nbytes - made.shared
        # A step that was not searched gives other bits: an error counts as it would at equal ones.
        tried.append((cost if bound is not None else quality.rel_l2**2 * 4.0 ** (8 * cost / x.size), name, made))
    if not tried:
        return None
    best = min(tried, key=lambda each: each[0])[2]
    _note_gains(measured, tried, best, options, net)
    if options.denoiser and (given_net is None or given_net.kind == "table"):
        best.reason = "not_trained"
    if options.qae and best.reason is None and not any(op.op == "transform" for op in best.ops):
        best.reason = next((draft.reason for _, _, draft in tried if draft.reason), "gain_below_gate")
    if options.dropout and not options.qae and best.reason is None and not any(op.op == "prune" for op in best.ops):
        best.reason = "gain_below_gate" if any(name == "pruned" for _, name, _ in tried) else "too_few_rows"
    return best


def _note_gains(
    measured: Measured, tried: list[tuple[float, Domain, Draft]], best: Draft, options: CompressionOptions, net: Net | None
) -> None:
    """What each option gained that was tried: the refiners over none, the basis over none."""
    left = best.gains or {}
    nets = net is not None and net.kind != "table"
    refiners = {"table": options.table, "spectral": options.spectral, "denoiser": nets}
    for name, asked in refiners.items():
        if asked:
            measured.gains[name] = 1 - min(
                (part for key, part in left.items() if key in (name, *_NETS.get(name, ()))), default=1.0
            )
    costs = {name: cost for cost, name, _ in tried}
    for option, domain in _DOMAINS.items():
        if domain in costs and costs.get("plain", 0) > 0:
            measured.gains[option] = 1 - costs[domain] / costs["plain"]


def _domains(
    form: Form,
    x: NDArray[Any],
    shape: tuple[int, int],
    options: CompressionOptions,
    basis: Basis | None,
    influence: ArrayLike | None,
) -> list[tuple[lossy.Domain, bool]]:
    """Domains to try, each with whether its basis must travel with the data."""
    weights = None if influence is None else _weights(influence, shape[1])
    found = [(lossy.domain_of(x, form.dtype, shape, weights=weights), False)]
    if not found[0][0].finite or weights is not None:
        return found
    if options.dropout and shape[1] >= _LEAST_PRUNED and shape[0] >= 2 * min(shape[1], prune.GROUP):
        less = prune.pruned(found[0][0].x, options.keep, samples=options.dropout_samples, seed=options.seed)
        found.append((lossy.domain_of(x, form.dtype, shape, pruned=less), False))
    if options.transform == "none":
        return found
    if basis is not None:
        if basis.columns != shape[1]:
            raise ProblemError(must_be("basis", f"one of {shape[1]} columns", Shown(f"{basis.columns} columns")))
        return [*found, (lossy.domain_of(x, form.dtype, shape, basis=basis), False)]
    kind = "qae" if options.qae else options.transform
    if kind in ("klt", "qae", "fourier") and shape[0] > 1 and shape[1] <= MAX_COLUMNS:
        samples = options.dropout_samples if options.dropout else None
        learnt = learn_basis(x.reshape(shape), kind=kind, seed=options.seed, dropout=samples)
        found.append((lossy.domain_of(x, form.dtype, shape, basis=learnt), True))
    return found


def _allowed(net: Net | None, options: CompressionOptions) -> Net | None:
    """The net or table of the codebook, if the options ask for it."""
    if net is None:
        return None
    asked = options.table and options.mode in ("rate", "gradient") if net.kind == "table" else options.denoiser
    return net if asked else None


def _planned(domain: lossy.Domain, bits: float) -> float:
    """The step that normal values would need for so many bits, about; those that are left out give theirs to the others."""
    each = bits * domain.x.size / domain.values.size
    return float(lossy.rms_of(domain.values.reshape(-1)) * 2.0 ** (2.0 - each))


def _trial(
    domain: lossy.Domain,
    options: CompressionOptions,
    size: float,
    upper: NDArray[np.float64] | None,
    net: Net | None,
    target: float,
    factor: float | None = None,
) -> lossy.Trial | None:
    """The step that keeps the bound or gives the bits; with a factor the planned one times that, if it gives nearly the bits.

    None where no step keeps the bound, or the domain has nothing to quantise, such as rows that all are their mean.
    """
    rows = domain.x.shape
    spectral = options.spectral and (options.refine_ms == 0 or refine.spectral_ms(rows) <= options.refine_ms)
    # Where rounding is calibrated, the error is not white and a small one is not the aim.
    table, spectral = options.table and upper is None, spectral and upper is None

    def at(step: float) -> lossy.Trial:
        moved = None if upper is None else rounding.fed_forward(domain.x, step, upper)
        return lossy.attempt(domain, step, table=table, spectral=spectral, moved=moved, net=net if upper is None else None)

    if options.mode == "bounded":
        most = 4 * float(np.abs(domain.values).max()) if domain.finite else np.inf  # with this step all multiples are zero
        within = search.largest_within(partial(_error, at), options.bound, options.bound * np.sqrt(12) * size, most)
        return None if within is None else within[1]

    def bits(step: float) -> tuple[float, lossy.Trial]:
        trial = at(step) if upper is not None else lossy.attempt(domain, step, table=False, spectral=False)
        _, pieces = lossy.coded(domain, trial, domain.x.reshape(-1), "small", hold_basis=False)
        return 8 * sum(len(piece.data) for piece in pieces) / domain.x.size, trial

    planned = _planned(domain, options.bits)
    if not quantise.usable(planned, domain.values.dtype.name):
        return None
    if factor is not None and abs(bits(planned * factor)[0] - target) < _NEARLY_BITS:
        return at(planned * factor)
    found = search.step_for(bits, target, planned)
    return found if upper is not None else at(found.step)


def step_of(x: NDArray[Any], options: CompressionOptions) -> float:
    """The step that rate mode finds for a matrix [rows, columns] of floats."""
    domain = lossy.domain_of(x.reshape(-1), "float64" if x.dtype == np.float64 else "float32", (x.shape[0], x.shape[1]))
    found = _trial(
        domain, options.changed({"table": False, "spectral": False}), lossy.rms_of(x.reshape(-1)), None, None, options.bits
    )
    if found is None:
        raise ProblemError(must_be("x", "a matrix that a step can code", Shown("another")))
    return found.step


def _error(at: Any, step: float) -> tuple[float, lossy.Trial]:
    trial: lossy.Trial = at(step)
    return trial.quality.rel_l2, trial


def _weights(influence: ArrayLike, columns: int) -> NDArray[np.float32]:
    """Steps of columns beside the common one: the fourth root of their influence, inverted."""
    given = np.asarray(influence, np.float64)
    if given.shape != (columns,) or not np.isfinite(given).all() or (given < 0).any():
        raise ProblemError(must_be("influence", f"{columns} finite numbers of 0 or more", Shown(f"shape {given.shape}")))
    part = given / given.mean() if given.mean() > 0 else np.ones(columns)
    return np.clip(np.maximum(part, 1e-30) ** -0.25, _LEAST_WEIGHT, 1 / _LEAST_WEIGHT).astype(np.float32)


def _moment(moment: ArrayLike | None, columns: int) -> NDArray[np.float64] | None:
    if moment is None:
        return None
    given = np.asarray(moment, np.float64)
    if given.shape != (columns, columns) or columns > _MOST_MOMENT or not np.isfinite(given).all():
        allowed = f"finite [{columns}, {columns}], of at most {_MOST_MOMENT} columns"
        raise ProblemError(must_be("moment", allowed, Shown(f"shape {given.shape}")))
    try:
        return rounding.factor(given)
    except np.linalg.LinAlgError as exc:
        raise ProblemError(must_be("moment", "positive semi-definite", Shown("another matrix"))) from exc
