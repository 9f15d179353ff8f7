"""Processors of blocks: one codes, one restores; both take the records of a tensor in order and keep what deltas need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, Self, TypeVar

from qstream.compression.books import NO_BOOKS, Books, codebook_of, read_books
from qstream.compression.codebook import Codebook
from qstream.compression.coding import coded_block
from qstream.compression.learning import AheadOfBlocks
from qstream.compression.memory import Memory, TensorMemory, is_same
from qstream.compression.restoring import restored_block
from qstream.compression.stream_options import DecodeOptions, EncodeOptions
from qstream.contract import Batch, Event, Processor, Result
from qstream.errors import Poison, ProblemError
from qstream.module.draft import Draft
from qstream.module.options import ModuleOptions
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.tensors import CompressedBlock, RestoredBlock
from schemas.topics import TENSOR_BLOCK, TENSOR_CODEBOOK, TENSOR_COMPRESSED, TENSOR_RESTORED

TTL_S: Final = 86_400.0
Chosen = TypeVar("Chosen", bound=ModuleOptions)


class BlockProcessor(Processor[TensorMemory], Generic[Chosen]):
    """One block out for each block in.

    Deterministic for (batch, state): the same records give the same bytes, however they are split into batches. A block that
    cannot be answered is a dead letter, whose reason begins with the code of its `BlockError`.
    """

    tables = (TENSOR_CODEBOOK,)
    state = TensorMemory
    state_ttl_s = TTL_S

    def __init__(self, options: Chosen, books: Books = NO_BOOKS, ahead: AheadOfBlocks | None = None) -> None:
        self.options = options
        self.books = books
        self.ahead = ahead

    def answer(self, block: Any, memory: Memory, codebook: Codebook | None) -> tuple[Frame, Memory]:
        """The block's answer, and what is kept after it; a `ProblemError` leaves what is kept as it was."""
        raise NotImplementedError

    def configure(self, options: Mapping[str, Scalar]) -> Self:
        return type(self)(self.options.changed(options), self.books, self.ahead)

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        return type(self)(self.options, read_books(rows.get(TENSOR_CODEBOOK.name, {}), self.books), self.ahead)

    def warm(self) -> None:
        from qstream.compression.warm import warm  # noqa: PLC0415 - codes tensors

        warm()

    def process(self, batch: Batch, state: TensorMemory | None, now_ns: int) -> Result[TensorMemory]:
        memory: Memory = None if state is None else Draft(state)
        codebook = codebook_of(self.books, batch.key)
        events: list[Event] = []
        dead: list[Poison] = []
        for record in batch.records:
            try:
                frame, memory = self.answer(record.frame, memory, codebook)
            except ProblemError as exc:
                dead.append(Poison(record, str(exc)))
            else:
                events.append(Event(self.outputs[0], record.key, record.event_id(0), frame, record))
        return Result(events, dead, None if memory is None or is_same(memory, state) else memory.state())


class CompressionProcessor(BlockProcessor[EncodeOptions]):
    """Codes each block by itself; mode delta steps on the block that came before, mode gradient adds what that one lost.

    With `ahead`, bases are computed while records go on, and a record that needs one which is late waits (`NotYet`); without,
    they are computed with that record. Both give the same bytes.
    """

    name = "compression"
    inputs = (TENSOR_BLOCK,)
    outputs = (TENSOR_COMPRESSED,)

    def __init__(self, options: EncodeOptions | None = None, books: Books = NO_BOOKS, ahead: AheadOfBlocks | None = None) -> None:
        super().__init__(options or EncodeOptions(), books, ahead)

    def answer(self, block: Any, memory: Memory, codebook: Codebook | None) -> tuple[CompressedBlock, Memory]:
        return coded_block(block, self.options, memory, codebook, self.ahead)


class DecompressionProcessor(BlockProcessor[DecodeOptions]):
    """Restores each block by itself; a delta from the newest values of its block, which exact blocks leave.

    A block whose base or basis is missing is not a dead letter: it gives a `RestoredBlock` with a `skip_reason`, and the next
    anchor puts that right.
    """

    name = "decompression"
    inputs = (TENSOR_COMPRESSED,)
    outputs = (TENSOR_RESTORED,)

    def __init__(self, options: DecodeOptions | None = None, books: Books = NO_BOOKS, ahead: AheadOfBlocks | None = None) -> None:
        super().__init__(options or DecodeOptions(), books, ahead)

    def answer(self, block: Any, memory: Memory, codebook: Codebook | None) -> tuple[RestoredBlock, Memory]:
        return restored_block(block, self.options, memory, codebook)
