"""The assembler: blocks of tensors in any order, repeated or lost, become whole tensors, or a report of what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.compression.dtypes import DTYPES, size_of
from qstream.errors import BlockError, ProblemError
from schemas.wording import Shown, must_be

MAX_BLOCKS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class TensorPart:
    """A restored block: values `start` to ``start + len(values)`` of a flat tensor, block `block` of `blocks`."""

    tensor_id: str
    step: int
    dtype: str
    shape: tuple[int, ...]
    block: int
    blocks: int
    start: int
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A tensor of which every block has come."""

    tensor_id: str
    step: int
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A tensor that was closed before every block had come: it is never filled up with zeros."""

    tensor_id: str
    step: int
    missing: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Open:
    part: TensorPart
    raw: NDArray[np.uint8]
    begun_s: float
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)


class TensorAssembler:
    """Joins blocks; pure but for what it holds: times come in as arguments.

    A newer step of a tensor closes the older one, so does `timeout_s`; where more than `max_bytes` or `max_open` tensors would be
    open, the one that was begun first is closed.
    """

    def __init__(self, *, max_bytes: int = 1 << 30, max_open: int = 64, timeout_s: float = 60.0) -> None:
        if max_bytes < 1 or max_open < 1 or not timeout_s > 0:
            raise ProblemError(must_be("max_bytes, max_open and timeout_s", "above 0", (max_bytes, max_open, timeout_s)))
        self.max_bytes, self.max_open, self.timeout_s = max_bytes, max_open, timeout_s
        self._open: dict[str, _Open] = {}
        self._done: dict[str, int] = {}  # the newest step that was closed

    @property
    def held_bytes(self) -> int:
        """Bytes of all open tensors."""
        return sum(len(held.raw) for held in self._open.values())

    def add(self, part: TensorPart, now_s: float) -> Sequence[Whole | Incomplete]:
        """Take a block; what was finished or given up by it, in the order of its opening.

        Raises
        ------
        BlockError
            The block does not fit its tensor, its tensor the blocks before, or a tensor alone is larger than `max_bytes`.
        """
        size = self._checked(part)
        ended: list[Whole | Incomplete] = list(self.expire(now_s))
        if part.step <= self._done.get(part.tensor_id, -1):
            return ended  # repeated, or late: that step is closed
        held = self._open.get(part.tensor_id)
        if held is not None and part.step < held.part.step:
            return ended
        if held is not None and part.step > held.part.step:
            ended.append(self._give_up(part.tensor_id))
            held = None
        if held is None:
            ended += self._room(size)
            held = self._open[part.tensor_id] = _Open(part, np.empty(size, np.uint8), now_s)
        same = (held.part.dtype, held.part.shape, held.part.blocks) == (part.dtype, part.shape, part.blocks)
        if not same:
            allowed = f"{held.part.dtype} {held.part.shape} in {held.part.blocks} blocks, as the ones before"
            raise BlockError("shape", must_be(f"block of {part.tensor_id!r}", allowed, Shown(f"{part.dtype} {part.shape}")))
        self._write(held, part)
        if len(held.spans) == part.blocks:
            ended.append(self._finish(part.tensor_id))
        return ended

    def expire(self, now_s: float) -> Sequence[Incomplete]:
        """Close what was begun `timeout_s` ago."""
        late = [name for name, held in self._open.items() if now_s - held.begun_s >= self.timeout_s]
        return [self._give_up(name) for name in late]

    def _checked(self, part: TensorPart) -> int:
        size = size_of(part.dtype, part.shape)
        if size > self.max_bytes:
            raise BlockError("limit", must_be(f"tensor {part.tensor_id!r}", f"at most {self.max_bytes} bytes", size))
        width = DTYPES[part.dtype].itemsize
        if not 0 <= part.block < part.blocks <= MAX_BLOCKS:
            raise BlockError(
                "bad_frame", must_be("block", f"from 0 to below blocks, at most {MAX_BLOCKS}", (part.block, part.blocks))
            )
        if part.start < 0 or len(part.data) % width or part.start + len(part.data) // width > math.prod(part.shape):
            raise BlockError(
                "shape", must_be("values of the block", f"within {part.shape}", (part.start, len(part.data) // width))
            )
        return size

    def _room(self, size: int) -> list[Incomplete]:
        ended = []
        while self._open and (len(self._open) >= self.max_open or self.held_bytes + size > self.max_bytes):
            ended.append(self._give_up(next(iter(self._open))))
        return ended

    def _write(self, held: _Open, part: TensorPart) -> None:
        begin = part.start * DTYPES[part.dtype].itemsize
        span = (begin, begin + len(part.data))
        others = (each for block, each in held.spans.items() if block != part.block)
        if any(span[0] < end and start < span[1] for start, end in others) or held.spans.get(part.block, span) != span:
            raise BlockError("shape", must_be(f"block {part.block} of {part.tensor_id!r}", "apart from the others", span))
        held.raw[span[0] : span[1]] = part.data
        held.spans[part.block] = span

    def _finish(self, name: str) -> Whole | Incomplete:
        held = self._open.pop(name)
        self._done[name] = held.part.step
        covered = sum(end - start for start, end in held.spans.values())
        if covered != len(held.raw):
            raise BlockError("shape", must_be(f"blocks of {name!r}", f"{len(held.raw)} bytes together", covered))
        return Whole(name, held.part.step, held.raw.view(DTYPES[held.part.dtype]).reshape(held.part.shape))

    def _give_up(self, name: str) -> Incomplete:
        held = self._open.pop(name)
        self._done[name] = held.part.step
        return Incomplete(name, held.part.step, tuple(n for n in range(held.part.blocks) if n not in held.spans))
