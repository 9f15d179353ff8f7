"""Cutting: a tensor as blocks of whole rows, each of which travels and is coded by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import Form
from qstream.compression.header import digest
from qstream.errors import ProblemError
from schemas.tensors import MAX_BLOCK_BYTES, MAX_BLOCKS, Role, TensorBlock, TensorPolicy
from schemas.wording import Shown, must_be

MIN_BLOCK_BYTES: Final = 4096
MAX_ID: Final = 200  # characters


def series_of(model: str, role: Role, worker: str | None = None) -> str:
    """The name of what one publisher sends of a model, with which the ids of its tensors begin; `ProblemError` for a role that is
    not known."""
    if role not in get_args(Role):
        raise ProblemError(must_be("role", f"one of {', '.join(get_args(Role))}", role))
    if role == "weight" and worker is None:
        return model
    return "/".join((model, role) if worker is None else (model, role, worker))


def cut(shape: Sequence[int], itemsize: int, block_bytes: int) -> list[tuple[int, int]]:
    """First value and number of values of each block of a tensor, in C order.

    A block has as many whole rows as go into `block_bytes`; only a row that is larger is cut. A tensor without values is one
    block without values.
    """
    size = math.prod(shape)
    if size == 0:
        return [(0, 0)]
    columns = shape[-1] if shape else 1
    row = columns * itemsize
    if row <= block_bytes:
        most = block_bytes // row * columns
        return [(start, min(most, size - start)) for start in range(0, size, most)]
    most = max(1, block_bytes // itemsize)
    return [(row + at, min(most, columns - at)) for row in range(0, size, columns) for at in range(0, columns, most)]


def blocks_of(
    form: Form,
    name: str,
    *,
    model: str,
    role: Role,
    step: int,
    ts_ns: int,
    worker: str | None = None,
    block_bytes: int = 1 << 19,
    policy: TensorPolicy | None = None,
    influence: NDArray[np.float32] | None = None,
) -> Iterator[TensorBlock]:
    """The blocks of one tensor, in order; they share its bytes.

    Parameters
    ----------
    form
        The tensor, from `canonical`.
    name
        Of the tensor within its series.
    block_bytes
        Largest block, 4,096 to 960,000 bytes of values.
    influence : float32 [columns]
        How much each column matters, for mode rate; not for rows that are cut.

    Raises
    ------
    ProblemError
        An id is too long, or `block_bytes` is out of range, or there would be more than 2^20 blocks.
    """
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES:
        raise ProblemError(must_be("block_bytes", f"{MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}", block_bytes))
    tensor_id = tensor_id_of(series_of(model, role, worker), name)
    parts = cut(form.array.shape, form.array.itemsize, block_bytes)
    if len(parts) > MAX_BLOCKS:
        raise ProblemError(must_be(f"blocks of {tensor_id!r}", f"at most {MAX_BLOCKS}", Shown(f"{len(parts)}: larger blocks")))
    raw, width = _read_only(form.raw), form.array.itemsize
    shared: dict[str, Any] = {
        "tensor_id": tensor_id,
        "model": model,
        "role": role,
        "step": step,
        "ts_ns": ts_ns,
        "dtype": form.dtype,
        "shape": tuple(map(int, form.array.shape)),
        "blocks": len(parts),
        "policy": policy,
        "influence": influence,
    }
    for at, (start, count) in enumerate(parts):
        data = raw[start * width : (start + count) * width]
        yield TensorBlock.build(**shared, block=at, start=start, count=count, digest=digest(data), data=data)


def tensor_id_of(series: str, name: str) -> str:
    """The id of a tensor; `ProblemError` if it is too long."""
    found = f"{series}/{name}"
    if not name or len(found) > MAX_ID:
        raise ProblemError(must_be("<series>/<tensor>", f"1 to {MAX_ID} characters with a name", found))
    return found


def _read_only(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view that frames share: they copy what can be written to."""
    view = raw.view()
    view.flags.writeable = False
    return view
