"""What a tensor's blocks teach: state frames, and which options, steps and basis the next block is coded with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.basis import MAX_COLUMNS, Basis
from qstream.compression.guide import Domain, Found, Guide
from qstream.compression.header import digest
from qstream.compression.stream_options import EncodeOptions
from qstream.learn import gate, rate
from qstream.learn.evolve import evolve
from qstream.learn.gate import GateState
from qstream.learn.rate import RateState
from schemas.frame import Axes, Count, Frame, Name, TimeNs
from schemas.tensors import TensorBlock

MAX_LEARNT: Final = 262_144  # entries of a basis that is learnt: its second moment takes 1 MiB
LEAST_WIDTH: Final = 32  # of its groups of columns: narrower ones save little
ROWS: Final = 4  # a column of a group, for a basis
OPTIONS: Final = ("basis", "table", "spectral", "denoiser", "dropout")
_RANGE: Final = 4.0  # of a step, log2
_KEPT: Final = 64
_bases: dict[str, Basis] = {}  # of held ones, so that their vectors are made orthonormal once


class HeldBasis(Frame):
    """A basis in the state of a tensor; the record is JSON."""

    kind: Name
    record: str = "{}"
    values: Annotated[NDArray[np.int8], Axes("columns", "width")]
    scale: Annotated[NDArray[np.float32], Axes("columns")]
    mean: Annotated[NDArray[np.float32], Axes("columns")]


class Rows(Frame):
    """Sums of the rows that a basis will be learnt from, without `origin`, the mean of the first block's; of products, of columns
    of one group, and these groups one below the other."""

    count: Count
    origin: Annotated[NDArray[np.float32], Axes("columns")]
    total: Annotated[NDArray[np.float32], Axes("columns")]
    moment: Annotated[NDArray[np.float32], Axes("columns", "width")]


class Learned(Frame):
    """What was learnt of a tensor; it begins again with another type, width, role or aim.

    `rows` are being collected, or, since `begun_ns`, made into a basis; `since_anchor` counts the blocks since the basis
    travelled, -1 before it did. `more_bits` a value were those of the newest header.
    """

    of: Name
    gates: GateState
    plain: RateState | None = None
    basis_rate: RateState | None = None
    pruned_rate: RateState | None = None
    rows: Rows | None = None
    begun_ns: TimeNs | None = None
    basis: HeldBasis | None = None
    since_anchor: int = -1
    more_bits: float = 0.0


def begun(block: TensorBlock, columns: int, options: EncodeOptions) -> Learned:
    """Nothing is learnt: each option is to be tried."""
    return Learned(of=name_of(block, columns, options), gates=gate.start(OPTIONS))


def name_of(block: TensorBlock, columns: int, options: EncodeOptions) -> str:
    """What was learnt serves blocks of this name."""
    aim = f"{options.bound_kind}/{options.bound:g}" if options.mode == "bounded" else f"{options.bits:g}"
    return f"{block.dtype}/{columns}/{block.role}/{options.mode}/{aim}"


def may_learn_basis(block: TensorBlock, columns: int, options: EncodeOptions) -> bool:
    """Whether the options ask for a basis and the block may get one."""
    asked = (
        options.qae or options.transform == "klt" or (options.transform == "auto" and block.role in ("kv_cache", "activation"))
    )
    return asked and options.mode in ("rate", "bounded") and 1 < columns <= MAX_COLUMNS and width_of(columns) > 0


def width_of(columns: int) -> int:
    """Columns of a group of a basis that is learnt: all that the state has room for, or else a power of two of them that divides
    the row; 0 where that is too few."""
    if columns**2 <= MAX_LEARNT:
        return columns
    width = columns & -columns
    while columns * width > MAX_LEARNT:
        width //= 2
    return width if width >= LEAST_WIDTH else 0


def due(learned: Learned) -> dict[str, bool]:
    """Which options the next block should try."""
    return dict(zip(OPTIONS, gate.due(learned.gates).tolist(), strict=True))


def guide_of(learned: Learned, anchor_every: int) -> Guide:
    """How the next block is coded: steps that need no search, and whether a basis travels with it, once in `anchor_every`."""
    known: Mapping[Domain, RateState | None] = {
        "plain": learned.plain,
        "basis": learned.basis_rate,
        "pruned": learned.pruned_rate,
    }
    factors = {name: rate.factor(state) for name, state in known.items() if state is not None}
    travels = anchor_every > 0 and (learned.since_anchor < 0 or learned.since_anchor + 1 >= anchor_every)
    return Guide(factors, anchor_every if travels else 0, learned.more_bits)


def taught(
    learned: Learned, gains: Mapping[str, float], domains: Mapping[Domain, Found], more_bits: float, target: float
) -> Learned:
    """After a block: gains of the options that it tried, and what each domain cost; `more_bits` are those of the header."""
    tried = np.array([name in gains for name in OPTIONS])
    gates, on = gate.learn(learned.gates, [gains.get(name, 0.0) for name in OPTIONS], tried)
    fields: dict[str, Any] = {"gates": gates, "more_bits": more_bits}
    for field, name in (("plain", "plain"), ("basis_rate", "basis"), ("pruned_rate", "pruned")):
        found = domains.get(name)  # type: ignore[call-overload]
        if found is not None:
            state = getattr(learned, field) or rate.start(limit=_RANGE)
            state = evolve(state, offset=min(max(found.offset, -_RANGE), _RANGE))
            fields[field] = rate.learn(state, min(found.bits + more_bits, rate.BITS_MAX), target)
    if "basis" in gains and not on[OPTIONS.index("basis")]:  # another one is learnt when it is time to try again
        fields |= {"basis": None, "basis_rate": None, "since_anchor": -1}
    return learned.model_copy(update=fields)


def with_rows(learned: Learned, x: NDArray[Any], ts_ns: int) -> Learned:
    """With the rows of a block [rows, columns]; they are made into a basis from when there are enough on."""
    wide = x.astype(np.float64)
    held = learned.rows
    origin = wide.mean(axis=0).astype(np.float32) if held is None else held.origin
    away = wide - origin
    width = width_of(x.shape[1])
    total, moment = away.sum(axis=0), np.concatenate([part.T @ part for part in np.split(away, x.shape[1] // width, axis=1)])
    if held is not None:
        total, moment = total + held.total, moment + held.moment
    with np.errstate(over="ignore"):
        sums = total.astype(np.float32), moment.astype(np.float32)
    if not (np.isfinite(origin).all() and all(np.isfinite(each).all() for each in sums)):
        return learned
    count = len(x) + (0 if held is None else held.count)
    rows = Rows(count=count, origin=origin, total=sums[0], moment=sums[1])
    return learned.model_copy(update={"rows": rows, "begun_ns": ts_ns if count >= ROWS * width else None})


def without_rows(learned: Learned) -> Learned:
    """Without the sums for a basis, which take the room of values."""
    return learned.model_copy(update={"rows": None, "begun_ns": None})


def held(basis: Basis) -> HeldBasis:
    """A basis for the state."""
    record = json.dumps(basis.record, sort_keys=True)
    return HeldBasis(kind=basis.kind, record=record, values=basis.values, scale=basis.scale, mean=basis.mean)


def is_other(kept: HeldBasis | None, basis: Basis) -> bool:
    """Whether a basis is not the one that is kept."""
    return kept is None or basis_of(kept).digest != basis.digest


def basis_of(kept: HeldBasis) -> Basis:
    """The basis of a state; the newest ones are kept here as well, with their vectors."""
    name = digest(b"".join(part.tobytes() for part in (kept.values, kept.scale, kept.mean)))
    if name not in _bases:
        if len(_bases) >= _KEPT:
            del _bases[next(iter(_bases))]
        _bases[name] = Basis(kept.kind, kept.values, kept.scale, kept.mean, json.loads(kept.record))  # type: ignore[arg-type]
    return _bases[name]
