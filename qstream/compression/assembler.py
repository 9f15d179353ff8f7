"""The assembler: blocks of tensors in any order, repeated or lost, become whole tensors, or a report of what is missing."""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from qstream.compression.dtypes import DTYPES, size_of
from qstream.errors import BlockError, ProblemError
from schemas.wording import Shown, must_be

MAX_BLOCKS: Final = 1 << 20
BLOCK_BYTES: Final = 256  # what is kept of each block besides its values, roughly
MAX_KNOWN: Final = 65_536  # tensors of which the newest closed step is known
Span = tuple[int, int]


class Part(Protocol):
    """A block: values `start` to ``start + len(data) / itemsize`` of a flat tensor, block `block` of `blocks`.

    A `TensorPart`, or a frame such as `RestoredBlock`; its `data` are None where the block could not be restored.
    """

    @property
    def tensor_id(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def block(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def data(self) -> NDArray[np.uint8] | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class TensorPart:
    """A block without a frame."""

    tensor_id: str
    step: int
    dtype: str
    shape: tuple[int, ...]
    block: int
    blocks: int
    start: int
    data: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A tensor of which every block has come."""

    tensor_id: str
    step: int
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A tensor that was closed before every block had come: it is never filled up with zeros.

    `missing` are the blocks that did not come, or came without values.
    """

    tensor_id: str
    step: int
    missing: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Open:
    part: Part
    raw: NDArray[np.uint8]
    begun_s: float
    spans: dict[int, Span] = field(default_factory=dict)  # bytes of each block
    ordered: list[Span] = field(default_factory=list)
    skipped: set[int] = field(default_factory=set)
    covered: int = 0

    @property
    def held_bytes(self) -> int:
        return len(self.raw) + BLOCK_BYTES * self.part.blocks


class TensorAssembler:
    """Joins blocks. It has state but does no I/O: times come in as arguments.

    A newer step of a tensor closes the older one, so does `timeout_s`; where more than `max_bytes` or `max_open` tensors would be
    open, the one that was begun first is closed. A tensor takes its own bytes and `BLOCK_BYTES` a block from its first block on.
    """

    def __init__(self, *, max_bytes: int = 1 << 30, max_open: int = 64, timeout_s: float = 60.0) -> None:
        if max_bytes < 1 or max_open < 1 or not timeout_s > 0:
            raise ProblemError(must_be("max_bytes, max_open and timeout_s", "above 0", (max_bytes, max_open, timeout_s)))
        self.max_bytes, self.max_open, self.timeout_s = max_bytes, max_open, timeout_s
        self._open: dict[str, _Open] = {}
        self._done: dict[str, int] = {}  # the newest step that was closed, the tensor closed last at the end

    @property
    def held_bytes(self) -> int:
        """Bytes of all open tensors."""
        return sum(held.held_bytes for held in self._open.values())

    def add(self, part: Part, now_s: float, *, digest: str | None = None) -> Sequence[Whole | Incomplete]:
        """Take a block; what was finished or given up by it, in the order of its opening.

        Parameters
        ----------
        part
            A block that came before changes nothing, nor does one of a step that is closed, or older than the open one.
        now_s
            On any clock that does not go back.
        digest
            xxh3-64 of `part.data` as 16 hex digits, where it is known.

        Raises
        ------
        BlockError
            The block is damaged (`checksum`), does not fit its tensor (`shape`, `bad_frame`), or its tensor alone is larger
            than `max_bytes` (`limit`). Nothing has changed then: the block counts as one that did not come.
        """
        size = self._checked(part, digest)
        name, held = part.tensor_id, self._open.get(part.tensor_id)
        if held is None or part.step > held.part.step:
            _fit(_Open(part, np.empty(0, np.uint8), now_s), part, size)
        elif part.step == held.part.step:
            _fit(held, part, size)
        ended: list[Whole | Incomplete] = list(self.expire(now_s))
        held = self._open.get(name)
        if part.step <= self._done.get(name, -1) or (held is not None and part.step < held.part.step):
            return ended  # repeated, or late
        if held is not None and part.step > held.part.step:
            ended.append(self._give_up(name))
            held = None
        if held is None:
            ended += self._room(size + BLOCK_BYTES * part.blocks)
            held = self._open[name] = _Open(part, np.empty(size, np.uint8), now_s)
        _write(held, part)
        if len(held.spans) == part.blocks:
            ended.append(self._finish(name))
        elif len(held.spans) + len(held.skipped) == part.blocks:
            ended.append(self._give_up(name))
        return ended

    def expire(self, now_s: float) -> Sequence[Incomplete]:
        """Close what was begun `timeout_s` ago."""
        late = [name for name, held in self._open.items() if now_s - held.begun_s >= self.timeout_s]
        return [self._give_up(name) for name in late]

    def _checked(self, part: Part, digest: str | None) -> int:
        """Bytes of the tensor; `BlockError` for a block that is wrong whatever came before."""
        size, data = size_of(part.dtype, part.shape), part.data
        if not 0 <= part.block < part.blocks <= MAX_BLOCKS:
            raise BlockError(
                "bad_frame", must_be("block", f"from 0 to below blocks, at most {MAX_BLOCKS}", (part.block, part.blocks))
            )
        if (cost := size + BLOCK_BYTES * part.blocks) > self.max_bytes:
            allowed = f"at most {self.max_bytes} bytes with {BLOCK_BYTES} a block"
            raise BlockError("limit", must_be(f"tensor {part.tensor_id!r}", allowed, cost))
        if data is None:
            return size
        if data.dtype != np.uint8 or data.ndim != 1:
            raise BlockError("bad_frame", must_be("data of the block", "uint8 [bytes]", Shown(f"{data.dtype} {data.shape}")))
        width = DTYPES[part.dtype].itemsize
        if part.start < 0 or len(data) % width or part.start + len(data) // width > math.prod(part.shape):
            raise BlockError("shape", must_be("values of the block", f"within {part.shape}", (part.start, len(data) / width)))
        if digest is not None and (found := xxhash.xxh3_64_hexdigest(np.ascontiguousarray(data).data)) != digest:
            raise BlockError("checksum", must_be(f"block {part.block} of {part.tensor_id!r}", f"of digest {digest}", found))
        return size

    def _room(self, cost: int) -> list[Incomplete]:
        ended = []
        while self._open and (len(self._open) >= self.max_open or self.held_bytes + cost > self.max_bytes):
            ended.append(self._give_up(next(iter(self._open))))
        return ended

    def _finish(self, name: str) -> Whole:
        held = self._close(name)
        return Whole(name, held.part.step, held.raw.view(DTYPES[held.part.dtype]).reshape(held.part.shape))

    def _give_up(self, name: str) -> Incomplete:
        held = self._close(name)
        return Incomplete(name, held.part.step, tuple(n for n in range(held.part.blocks) if n not in held.spans))

    def _close(self, name: str) -> _Open:
        held = self._open.pop(name)
        self._done.pop(name, None)
        self._done[name] = held.part.step
        if len(self._done) > MAX_KNOWN:
            del self._done[next(iter(self._done))]
        return held


def _fit(held: _Open, part: Part, size: int) -> None:
    """`BlockError` unless the block goes with those that came before it."""
    first, name = held.part, f"block {part.block} of {part.tensor_id!r}"
    if (first.dtype, first.shape, first.blocks) != (part.dtype, part.shape, part.blocks):
        allowed = f"{first.dtype} {first.shape} in {first.blocks} blocks, as the ones before"
        raise BlockError("shape", must_be(name, allowed, Shown(f"{part.dtype} {part.shape} in {part.blocks} blocks")))
    if part.data is None:
        return
    span = _span(part, len(part.data))
    if part.block in held.spans:
        if held.spans[part.block] != span:
            raise BlockError("shape", must_be(name, f"bytes {held.spans[part.block]}, as before", span))
        return
    at = bisect(held.ordered, span)
    before, after = held.ordered[max(at - 1, 0) : at], held.ordered[at : at + 1]
    if any(span[0] < end and start < span[1] for start, end in (*before, *after)):
        raise BlockError("shape", must_be(name, "apart from the others", Shown(f"bytes {span}")))
    if len(held.spans) + 1 == part.blocks and held.covered + len(part.data) != size:
        got = Shown(f"{held.covered + len(part.data)} bytes with its last block")
        raise BlockError("shape", must_be(f"blocks of {part.tensor_id!r}", f"{size} bytes together", got))


def _write(held: _Open, part: Part) -> None:
    """Keep a block that fits; the first of several stands, for restored values may differ in the last bits."""
    if part.block in held.spans:
        return
    if part.data is None:
        held.skipped.add(part.block)
        return
    span = _span(part, len(part.data))
    held.skipped.discard(part.block)
    held.raw[span[0] : span[1]] = part.data
    held.spans[part.block] = span
    held.covered += len(part.data)
    if part.data.size:
        insort(held.ordered, span)


def _span(part: Part, nbytes: int) -> Span:
    begin = part.start * DTYPES[part.dtype].itemsize
    return begin, begin + nbytes
