"""Training of codebooks: bases and nets for tensors, from past ones of the same names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.compression import integers, lossy, quantise, refine
from qstream.compression.basis import MAX_COLUMNS, learn_basis
from qstream.compression.chains import step_of
from qstream.compression.codebook import Codebook
from qstream.compression.dtypes import LOSSY, as_floats, canonical, rows_of
from qstream.compression.nets import HELD_OUT, Net, centred_index
from qstream.compression.options import CompressionOptions
from qstream.errors import ProblemError
from schemas.tensors import Role
from schemas.wording import Shown, must_be

What = Literal["klt", "qae", "denoiser", "lstm", "table"]
_LEAST_ROWS: Final = 2  # a column, for a basis


def train_codebook(
    tensors: Iterable[tuple[str, NDArray[Any]]],
    *,
    kind: What = "klt",
    role: str = "other",
    bits: float | None = 4.4,
    steps: int | None = None,
    seed: int = 0,
) -> Codebook:
    """Learn a basis, a net or a table for each name from the rows of all tensors of that name.

    Tensors of other types than floats and with values that are not finite are left out, and for bases names with fewer than 2
    rows a column. A net is kept only where it corrects held-out rows better than the centroid table, by 2 %.

    Parameters
    ----------
    bits
        Of rate mode, in which the net's or table's tensors will be coded; None: mode int8, a scale for each row.
    steps
        Of a net's training; else 500, an lstm 150.

    Raises
    ------
    ProblemError
        No tensor is left to learn from.
    """
    if kind not in get_args(What):
        raise ProblemError(must_be("kind", f"one of {', '.join(get_args(What))}", kind))
    if role not in get_args(Role):
        raise ProblemError(must_be("role", f"one of {', '.join(get_args(Role))}", role))
    rows: dict[tuple[str, int], list[NDArray[Any]]] = {}
    for name, tensor in tensors:
        form = canonical(tensor)
        count, columns = rows_of(form.array.shape)
        if form.dtype not in LOSSY or form.array.ndim < 2 or not 1 < columns <= MAX_COLUMNS or not count:
            continue
        values = as_floats(form.array, form.dtype).reshape(count, columns)
        if np.isfinite(values).all():
            rows.setdefault((name, columns), []).append(values)
    least = _LEAST_ROWS if kind in ("klt", "qae") else 0
    used = {name: found for (name, columns), found in rows.items() if sum(map(len, found)) >= max(least * columns, 10)}
    if not used:
        allowed = f"some with 10 rows, and for a basis {_LEAST_ROWS} a column, of at most {MAX_COLUMNS} columns, finite"
        raise ProblemError(must_be("tensors", allowed, Shown("none")))
    if kind == "klt" or kind == "qae":
        return Codebook({name: learn_basis(np.concatenate(found), kind=kind, seed=seed) for name, found in used.items()}, role)
    if kind == "table":
        if bits is None:
            raise ProblemError(must_be("bits", "given for a table", None))
        return _with_tables(used, role, bits)
    return _with_nets(used, kind, role, bits, steps, seed)


def _with_nets(
    used: dict[str, list[NDArray[Any]]],
    kind: Literal["denoiser", "lstm"],
    role: str,
    bits: float | None,
    steps: int | None,
    seed: int,
) -> Codebook:
    from qstream.compression.train_nets import Pair, train_net  # noqa: PLC0415 - torch, which nothing else here needs

    nets = {}
    for name, found in used.items():
        pairs = [
            Pair(x, *(_by_rate(x, bits) if bits is not None else _by_int8(x)))
            for x in (x.astype(np.float32) for x in found)
            if len(x) >= 10 and lossy.rms_of(x.reshape(-1)) > 0
        ]
        net = train_net(pairs, kind, steps=steps, seed=seed) if pairs else None
        if net is not None and net.record["left"] < refine.GATE * min(net.record["peer"], 1.0):
            nets[name] = net
    return Codebook({}, role, nets)


def _with_tables(used: dict[str, list[NDArray[Any]]], role: str, bits: float) -> Codebook:
    """Centres of the values that are rounded to each multiple, from four rows of five; the others judge."""
    tables = {}
    for name, found in used.items():
        sums, counts, judged = np.zeros(256), np.zeros(256), []
        for x in (x.astype(np.float32) for x in found if lossy.rms_of(x.reshape(-1).astype(np.float64)) > 0):
            y, step, tabled = _by_rate(x, bits)
            at, away = centred_index(y, step), (x.astype(np.float64) - y) / step
            seen = (at > 0) & (np.arange(len(x)) % HELD_OUT != 0)[:, None]
            sums += np.bincount(at[seen], away[seen], 256)
            counts += np.bincount(at[seen], minlength=256)
            judged.append((x[::HELD_OUT], y[::HELD_OUT], tabled[::HELD_OUT], step))
        table = Net("table", {"centres": (sums / np.maximum(counts, 1)).astype(np.float32)})
        before = sum(float(np.square(x - y).sum()) for x, y, _, _ in judged) or 1.0
        left = sum(float(np.square(x - table.correct(y, step)).sum()) for x, y, _, step in judged) / before
        peer = sum(float(np.square(x - tabled).sum()) for x, _, tabled, _ in judged) / before
        if left < refine.GATE:
            tables[name] = Net("table", table.parameters, {"left": left, "peer": peer, "steps": 0, "rows": sum(map(len, found))})
    return Codebook({}, role, tables)


def _by_rate(x: NDArray[Any], bits: float) -> tuple[NDArray[Any], float, NDArray[Any]]:
    """What a reader of rate mode gets, the step, and what a table makes of it."""
    flat = x.reshape(-1)
    step = step_of(x, CompressionOptions(mode="rate", target_bits=bits))
    made = quantise.quantise(flat, "float32", step, np.inf, 0)
    made.restored[made.escapes] = flat[made.escapes]
    tabled = made.restored + refine.shift(refine.centroids(flat, made.high, step), step, made.high)
    return made.restored.reshape(x.shape), step, tabled.reshape(x.shape)


def _by_int8(x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], None]:
    """The same of mode int8, which has no table."""
    values, scales = integers.quantise(x, "row")
    return integers.restored(values, scales), integers.spread(scales, x.shape), None
