"""What is kept of a tensor between its blocks: the newest values, or what gradients owe, and the step of each block."""

from __future__ import annotations

import math
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.compression.learned import HeldBasis, Learned, without_rows
from qstream.module.draft import Draft
from schemas.frame import Axes, Count, Frame, Name
from schemas.tensors import ITEM_BYTES, TensorBlock, TensorPart

MAX_BLOCKS: Final = 1024  # of a tensor whose values are kept, or one for each `BLOCK_BYTES` of a larger limit
BLOCK_BYTES: Final = 2048


class TensorMemory(Frame):
    """State of one tensor; `base` and `residual` are the whole tensor's, in C order, and each agent keeps at most one.

    `step` is -1 for a block that has not come yet; `start` and `count` are the values that it had. Who codes keeps what it has
    `learned`, who restores the newest `basis` that travelled.
    """

    dtype: Name
    shape: Annotated[tuple[Count, ...], Field(strict=False)]
    step: Annotated[NDArray[np.int64], Axes("blocks")]
    start: Annotated[NDArray[np.int64], Axes("blocks")]
    count: Annotated[NDArray[np.int64], Axes("blocks")]
    since_anchor: Annotated[NDArray[np.int32], Axes("blocks")]
    base: Annotated[NDArray[np.uint8], Axes("bytes")] | None = None
    residual: Annotated[NDArray[np.uint16], Axes("values", wire="BF16")] | None = None
    learned: Learned | None = None
    basis: HeldBasis | None = None


Memory = Draft[TensorMemory] | None


def bare(part: TensorPart) -> Draft[TensorMemory]:
    """Nothing of the tensor's values, and no room for them."""
    none = np.zeros(0, np.int64)
    return Draft(
        TensorMemory(dtype=part.dtype, shape=part.shape, step=none, start=none, count=none, since_anchor=none.astype(np.int32))
    )


def fits(part: TensorPart, nbytes: int, limit: int) -> bool:
    """Whether `nbytes` of the tensor may be kept."""
    return nbytes <= limit and part.blocks <= max(MAX_BLOCKS, limit // BLOCK_BYTES)


def fresh(part: TensorPart, before: Memory = None, *, base: bool) -> Draft[TensorMemory]:
    """Nothing of the tensor's values yet: room for them (`base`), or else for residuals; what was learnt before stays."""
    none = np.zeros(part.blocks, np.int64)
    empty = {"base": np.zeros(part.tensor_nbytes, np.uint8)} if base else {"residual": np.zeros(math.prod(part.shape), np.uint16)}
    return Draft(
        TensorMemory(
            dtype=part.dtype,
            shape=part.shape,
            step=none - 1,
            start=none,
            count=none,
            since_anchor=none.astype(np.int32),
            learned=None if before is None or before.now.learned is None else without_rows(before.now.learned),
            basis=None if before is None else before.now.basis,
            **empty,
        )
    )


def is_of(memory: TensorMemory, part: TensorPart, *, base: bool) -> bool:
    """Whether it keeps this tensor, cut into as many blocks."""
    held = memory.base if base else memory.residual
    return (memory.dtype, memory.shape, len(memory.step)) == (part.dtype, part.shape, part.blocks) and held is not None


def last_step(memory: TensorMemory, part: TensorPart) -> int | None:
    """Step at which the same values came last; None if they have not."""
    at = part.block
    known = memory.step[at] >= 0 and (memory.start[at], memory.count[at]) == (part.start, part.count)
    return int(memory.step[at]) if known else None


def is_same(draft: Draft[TensorMemory], state: TensorMemory | None) -> bool:
    """Whether no block was noted, and nothing learnt, since the draft was made of the state."""
    now = draft.now
    return state is not None and now.step is state.step and now.learned is state.learned and now.basis is state.basis


def place(part: TensorPart, itemsize: int = 1) -> slice:
    """Where the block lies in the tensor."""
    return slice(part.start * itemsize, (part.start + part.count) * itemsize)


def note(draft: Draft[TensorMemory], part: TensorPart, *, anchor: bool) -> None:
    """Remember that a block came."""
    at = part.block
    since = 0 if anchor else int(draft.now.since_anchor[at]) + 1
    for name, value in (("step", part.step), ("start", part.start), ("count", part.count), ("since_anchor", since)):
        draft.edit(name)[at] = value


def hold(block: TensorBlock, memory: Draft[TensorMemory] | None) -> Draft[TensorMemory]:
    """With the values of a block that travels another way, for deltas to step on."""
    known = memory if memory is not None and is_of(memory.now, block, base=True) else fresh(block, memory, base=True)
    known.edit("base")[place(block, ITEM_BYTES[block.dtype])] = block.data
    note(known, block, anchor=True)
    return known


def seeded(part: TensorPart, base: NDArray[np.uint8], memory: Draft[TensorMemory] | None) -> Draft[TensorMemory]:
    """With the values of a tensor that its reader has from elsewhere, for a block of it that has not come yet."""
    known = memory
    if known is None or not is_of(known.now, part, base=True):
        known = fresh(part, base=True)
        known.edit("base")[:] = base
    if known.now.step[part.block] < 0:
        note(known, part, anchor=False)
    return known
