"""Codes a block of a series by what its earlier blocks taught, and learns from it; bases are computed next to the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.ahead import Ahead
from qstream.compression import learned as known
from qstream.compression.basis import Basis, basis_of
from qstream.compression.codebook import Codebook
from qstream.compression.dtypes import LOSSY, as_floats
from qstream.compression.encode import Compressed, compress
from qstream.compression.guide import NO_GUIDE
from qstream.compression.header import Reason, digest
from qstream.compression.learned import Learned, Rows
from qstream.compression.record import solver_record
from qstream.compression.stream_options import EncodeOptions
from qstream.module import planning
from qstream.module.planning import Planned
from schemas.solver import SolverRecord
from schemas.tensors import TensorBlock

AheadOfBlocks = Ahead[Planned[Basis]]
_SWITCHES: Final = ("table", "spectral", "denoiser", "dropout")


class Answer(NamedTuple):
    """A coded block, what is learnt after it, and which options gates have left out."""

    done: Compressed
    learned: Learned | None
    switched_off: tuple[str, ...] = ()
    reason: Reason | None = None
    solver: SolverRecord | None = None


def coded_by_series(
    block: TensorBlock,
    values: NDArray[Any],
    options: EncodeOptions,
    learned: Learned | None,
    codebook: Codebook | None,
    ahead: AheadOfBlocks | None,
    *,
    room: bool = True,
) -> Answer:
    """Code a block and learn from it.

    Parameters
    ----------
    room
        Whether the state has room for the sums that a basis is learnt from.

    Raises
    ------
    NotYet
        The basis that is due with this block is still being computed.
    """
    # A basis that is found in one block would travel with each: here it is learnt from many, a circuit's over seconds.
    plain = options.changed({"qae": False, "transform": "auto" if options.transform == "klt" else options.transform})
    columns = values.shape[-1] if values.ndim > 1 else 0
    by_rate = options.mode in ("rate", "gradient")
    if columns < 2 or block.dtype not in LOSSY or not (by_rate or (options.mode == "bounded" and options.bound_kind == "l2")):
        given = block.influence if options.mode == "rate" else None
        book = codebook if plain.uses("codebook") else None
        return Answer(compress(values, plain, influence=given, codebook=book, **_named(block)), learned)
    if learned is None or learned.of != known.name_of(block, columns, options):
        reason: Reason | None = None if learned is None else "shape_changed"
        learned = known.begun(block, columns, options)
    else:
        reason = None
    learned = _with_basis(block, learned, options, ahead)
    due = known.due(learned)
    has_book = codebook is not None and codebook.for_tensor(block.tensor_id, columns) is not None
    own = None if learned.basis is None else known.basis_of(learned.basis)
    switches = {name: False for name in _SWITCHES if getattr(options, name) and not due[name]}
    left_out = (*switches, *(("basis",) if has_book and own is None and not due["basis"] else ()))
    changes: dict[str, Any] = switches | ({"transform": "none"} if "basis" in left_out else {})
    tried = plain.changed(changes) if changes else plain
    given = block.influence if options.mode == "rate" else None
    guide = NO_GUIDE if given is not None else known.guide_of(learned, options.anchor_every if own is not None else 0)
    basis = None if given is not None or tried.transform == "none" else own
    done = compress(values, tried, basis=basis, influence=given, codebook=codebook, guide=guide, **_named(block))
    measured = done.measured
    if not measured.domains:  # coded exactly: nothing was tried
        return Answer(done, learned, left_out, reason)
    if given is None:
        # A header counts among the target's bits, but small blocks keep three quarters for their values.
        more = min(8 * (len(done.data) - done.payload_bytes) / done.size, options.bits / 4)
        learned = known.taught(learned, measured.gains, measured.domains if by_rate else {}, more, options.bits)
    solver = None
    if own is not None and any(op["op"] == "transform" for op in done.ops):
        solver = solver_record(own.record)
    if learned.basis is not None and any(op["op"] == "transform" for op in done.ops):
        travelled = done.header.basis_digest is None
        learned = learned.model_copy(update={"since_anchor": 0 if travelled else learned.since_anchor + 1})
    if not has_book and room and learned.basis is None and known.may_learn_basis(block, columns, options):
        if not known.due(learned)["basis"]:
            left_out = ("basis", *left_out)
        elif learned.begun_ns is None:
            learned = _with_rows(block, values, columns, learned, options, ahead)
    asked = {
        "basis": options.qae or options.transform == "klt",
        "denoiser": options.denoiser,
        "dropout": options.dropout and not options.qae,
    }
    if reason is None and any(asked.get(name) for name in left_out):
        reason = "gain_below_gate"
    elif reason is None and learned.basis is None and asked["basis"] and not has_book:
        reason = "too_few_rows"
    return Answer(done, learned, left_out, reason, solver)


def _named(block: TensorBlock) -> dict[str, Any]:
    return {"name": block.tensor_id, "step": block.step}


def _with_rows(
    block: TensorBlock, values: NDArray[Any], columns: int, learned: Learned, options: EncodeOptions, ahead: AheadOfBlocks | None
) -> Learned:
    """With a block's rows; the basis is begun where they are enough."""
    x = as_floats(values.reshape(-1), block.dtype).reshape(-1, columns)
    if not np.isfinite(x).all():
        return learned
    learned = known.with_rows(learned, x, block.ts_ns)
    if learned.begun_ns is not None and learned.rows is not None:
        planning.start(ahead, block.tensor_id, *_plan(learned.rows, options))
    return learned


def _with_basis(block: TensorBlock, learned: Learned, options: EncodeOptions, ahead: AheadOfBlocks | None) -> Learned:
    """With the basis in force, if it is due at this block."""
    wait_ms = options.qae_ms if options.qae else options.plan_ms
    if learned.rows is None or learned.begun_ns is None or block.ts_ns < learned.begun_ns + int(wait_ms * 1e6):
        return learned
    basis = planning.planned(ahead, block.tensor_id, *_plan(learned.rows, options)).value
    return learned.model_copy(
        update={"basis": known.held(basis), "rows": None, "begun_ns": None, "basis_rate": None, "since_anchor": -1}
    )


def _plan(rows: Rows, options: EncodeOptions) -> tuple[tuple[Any, ...], Callable[[], Callable[[], Basis]]]:
    """What stands for a basis to be computed, and how that begins."""
    kind, seed = "qae" if options.qae else "klt", options.seed
    samples = options.dropout_samples if options.dropout else None
    snapshot = (digest(rows.moment.tobytes()), digest(rows.total.tobytes()), rows.count, kind, seed, samples)

    def prepare() -> Callable[[], Basis]:
        mean = rows.total.astype(np.float64) / rows.count
        width = rows.moment.shape[1]
        own = mean.reshape(-1, width, 1)
        moment = rows.moment.reshape(-1, width, width).astype(np.float64) / rows.count - own * own.mT
        record = {"kind": kind, "rows": rows.count, "seed": seed, "label": "classical"}
        return lambda: basis_of(moment, mean + rows.origin, record, dropout=samples)

    return snapshot, prepare
