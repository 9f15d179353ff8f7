"""Local: blocks coded next to a trainer and restored next to an engine, which hold their tensors anyhow, by what agents do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import ArrayLike, NDArray

from qstream.compression.archive import compress_tensors, restore_tensors
from qstream.compression.coding import by_policy, coded_block
from qstream.compression.dtypes import Form, canonical, size_of
from qstream.compression.header import read
from qstream.compression.memory import Memory, hold, seeded
from qstream.compression.options import CompressionOptions, RestoreOptions
from qstream.compression.restoring import restored_block
from qstream.compression.stream_options import LocalDecodeOptions, LocalEncodeOptions
from qstream.errors import BlockError
from schemas.tensors import CompressedBlock, RestoredBlock, TensorBlock, TensorMode, TensorPolicy
from schemas.wording import must_be


class LocalEncoder:
    """The sender of tensors; it holds their newest values for deltas, and what gradients still owe."""

    def __init__(self, options: CompressionOptions | None = None) -> None:
        given = {} if options is None else options.model_dump(exclude={"state_bytes"})
        self.options = LocalEncodeOptions().changed(given)
        self._memory: dict[str, Memory] = {}
        self._anchors: dict[str, dict[int, int]] = {}  # step at which each block was last coded without an earlier one

    def mode(self, policy: TensorPolicy | None) -> TensorMode:
        """How a block of this policy is coded."""
        return by_policy(self.options, policy).mode

    def code(self, block: TensorBlock) -> CompressedBlock:
        """A coded block; errors as `coding.coded_block` raises them."""
        frame, self._memory[block.tensor_id] = coded_block(block, self.options, self._memory.get(block.tensor_id))
        if frame.anchor:
            self._anchored(block)
        return frame

    def hold(self, block: TensorBlock) -> None:
        """Take note of a block that reaches its readers another way."""
        if self.mode(block.policy) == "delta":
            self._memory[block.tensor_id] = hold(block, self._memory.get(block.tensor_id))
        self._anchored(block)

    def anchor_step(self, tensors: Iterable[str]) -> int | None:
        """The newest step from which a reader can restore all blocks of these tensors; None if there is none yet."""
        steps = [step for tensor_id in tensors for step in self._anchors.get(tensor_id, {-1: -1}).values()]
        return None if min(steps) < 0 else min(steps)

    def _anchored(self, block: TensorBlock) -> None:
        steps = self._anchors.setdefault(block.tensor_id, {})
        if block.block == 0 and len(steps) > block.blocks:  # it is cut into fewer now
            steps.clear()
        steps[block.block] = block.step


def archive(forms: Mapping[str, Form], options: CompressionOptions | None, policy: TensorPolicy | None, step: int) -> bytes:
    """One archive of a whole step, which needs no earlier one."""
    chosen = by_policy(LocalEncoder(options).options, policy)
    whole = chosen.changed({"mode": "lossless"}) if chosen.mode == "delta" else chosen
    return compress_tensors({name: form.array for name, form in forms.items()}, whole, step=step)


class LocalDecoder:
    """The reader of tensors; `bases` are those that it has from elsewhere, by the ids of the tensors."""

    def __init__(self, bases: Mapping[str, ArrayLike], max_tensor_bytes: int) -> None:
        self.options = LocalDecodeOptions(max_tensor_bytes=max_tensor_bytes)
        self._bases: dict[str, Form] = {}
        self._memory: dict[str, Memory] = {}
        for tensor_id, array in bases.items():
            self.rebase(tensor_id, array)

    def rebase(self, tensor_id: str, array: ArrayLike) -> None:
        """Take a tensor that came another way; it may be given as its bits."""
        self._bases[tensor_id] = canonical(array)
        self._memory.pop(tensor_id, None)

    def restore(self, block: CompressedBlock) -> RestoredBlock:
        """A restored block; errors as `restoring.restored_block` raises them."""
        memory, base = self._memory.get(block.tensor_id), self._bases.get(block.tensor_id)
        if block.base_digest is not None and base is not None and base.array.nbytes == block.tensor_nbytes:
            memory = seeded(block, base.raw, memory)
        frame, self._memory[block.tensor_id] = restored_block(block, self.options, memory)
        return frame


def opened(data: Any, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The tensors of an archive by name; `BlockError` with the code limit if they would take more than `max_bytes`."""
    size = sum(size_of(header.dtype, header.shape) for header in read(data, max_bytes).headers)
    if size > max_bytes:
        raise BlockError("limit", must_be("tensors of the archive", f"at most {max_bytes} bytes", size))
    return restore_tensors(data, RestoreOptions(max_tensor_bytes=max_bytes))
