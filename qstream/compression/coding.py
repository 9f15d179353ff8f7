"""Codes a block of a tensor: by its policy or the options, on what was kept of the tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.compression.codebook import Codebook
from qstream.compression.decode import restore
from qstream.compression.dtypes import DTYPES, LOSSY, as_floats, canonical, from_floats
from qstream.compression.encode import Compressed, compress
from qstream.compression.header import digest
from qstream.compression.learning import AheadOfBlocks, coded_by_series
from qstream.compression.memory import Memory, TensorMemory, bare, fits, fresh, is_of, last_step, note, place
from qstream.compression.stream_options import EncodeOptions
from qstream.errors import BlockError, OptionError
from qstream.module.draft import Draft
from schemas.bfloat16 import from_bfloat16, to_bfloat16
from schemas.solver import SolverRecord
from schemas.tensors import ITEM_BYTES, CompressedBlock, TensorBlock, TensorPolicy, TensorQuality
from schemas.wording import Shown, must_be


class Coded(NamedTuple):
    """A coded block, the step of its base, why it was not coded as asked for, and whether the next one may step on its values."""

    done: Compressed
    base_step: int | None = None
    reason: str | None = None
    kept: bool = False
    switched_off: tuple[str, ...] = ()
    solver: SolverRecord | None = None


def coded_block(
    block: TensorBlock,
    options: EncodeOptions,
    memory: Memory,
    codebook: Codebook | None = None,
    ahead: AheadOfBlocks | None = None,
) -> tuple[CompressedBlock, Memory]:
    """A coded block, and what is kept after it; `BlockError` and `NotYet` leave what is kept as it was."""
    coded, memory = _coded(block, options, memory, codebook, ahead)
    return _frame(block, coded), memory


def _coded(
    block: TensorBlock, options: EncodeOptions, memory: Memory, codebook: Codebook | None, ahead: AheadOfBlocks | None
) -> tuple[Coded, Memory]:
    if digest(block.data) != block.digest:
        raise BlockError("checksum", must_be("data", f"bytes of digest {block.digest}", Shown(digest(block.data))))
    chosen = by_policy(options, block.policy)
    values = block.data.view(DTYPES[block.dtype]).reshape(block.block_shape)
    if chosen.mode == "delta":
        return _delta(block, values, chosen, memory)
    if chosen.mode == "gradient" and block.dtype in LOSSY:
        return _gradient(block, values, chosen, memory, codebook, ahead)
    return _by_series(block, values, chosen, memory, codebook, ahead)


def by_policy(options: EncodeOptions, policy: TensorPolicy | None) -> EncodeOptions:
    """The agent's options, or those of its producer; the agent's corrections are for its own mode."""
    if policy is None:
        return options
    wanted = policy.model_dump(exclude_none=True)
    if policy.mode != options.mode:
        wanted |= {"denoiser": False, "qae": False, "dropout": False, "transform": "auto"}
        if options.mode in ("rate", "gradient"):  # its bits are those of its own mode
            wanted = {"target_bits": None} | wanted
    try:
        return options.changed(wanted)
    except OptionError as exc:
        raise BlockError("bad_frame", str(exc)) from exc


def _by_series(
    block: TensorBlock,
    values: NDArray[Any],
    options: EncodeOptions,
    memory: Memory,
    codebook: Codebook | None,
    ahead: AheadOfBlocks | None,
) -> tuple[Coded, Memory]:
    """By what earlier blocks taught; only a block that teaches something is kept in mind."""
    before = None if memory is None else memory.now.learned
    room = memory is None or (memory.now.base is None and memory.now.residual is None)
    answer = coded_by_series(block, values, options, before, codebook, ahead, room=room)
    if answer.learned is not before:
        memory = memory or bare(block)
        memory.set(learned=answer.learned)
    return Coded(answer.done, reason=answer.reason, switched_off=answer.switched_off, solver=answer.solver), memory


def _compress(block: TensorBlock, values: NDArray[Any], options: EncodeOptions, **more: Any) -> Compressed:
    return compress(values, options, name=block.tensor_id, step=block.step, **more)


def _delta(block: TensorBlock, values: NDArray[Any], options: EncodeOptions, memory: Memory) -> tuple[Coded, Memory]:
    plain = options.changed({"mode": "lossless"})
    if not fits(block, block.tensor_nbytes, options.state_bytes):
        return Coded(_compress(block, values, plain), None, "state_limit"), memory
    memory, changed = _memory(block, memory, base=True)
    last = _checked_step(block, memory)
    at = place(block, ITEM_BYTES[block.dtype])
    anchor = (
        last is None
        or last == block.step  # sent twice: nothing is lost if it stands for itself
        or block.base_step not in (None, last)
        or int(memory.now.since_anchor[block.block]) + 1 >= options.anchor_every
    )
    if anchor:
        coded = Coded(_compress(block, values, plain), None, "shape_changed" if changed else None, kept=True)
    else:
        assert memory.now.base is not None  # `is_of` has seen it
        base = memory.now.base[at].view(DTYPES[block.dtype]).reshape(block.block_shape)
        coded = Coded(_compress(block, values, options, base=base), last, kept=True)
    memory.edit("base")[at] = block.data
    note(memory, block, anchor=anchor)
    return coded, memory


@np.errstate(over="ignore", invalid="ignore")  # values may be NaN, infinite, or as large as their type allows
def _gradient(
    block: TensorBlock,
    values: NDArray[Any],
    options: EncodeOptions,
    memory: Memory,
    codebook: Codebook | None,
    ahead: AheadOfBlocks | None,
) -> tuple[Coded, Memory]:
    if not fits(block, 2 * (block.tensor_nbytes // ITEM_BYTES[block.dtype]), options.state_bytes):
        coded, memory = _by_series(block, values, options, memory, codebook, ahead)
        return coded._replace(reason="state_limit"), memory
    memory, changed = _memory(block, memory, base=False)
    last = _checked_step(block, memory)
    if last == block.step:  # sent twice: what was owed went with the first
        return _by_series(block, values, options, memory, codebook, ahead)
    at = place(block)
    assert memory.now.residual is not None  # `is_of` has seen it
    floats = as_floats(canonical(values).array, block.dtype)
    owed = from_bfloat16(memory.now.residual[at]).reshape(floats.shape)
    wanted = floats if last is None else (floats + owed).astype(floats.dtype)
    given = np.ascontiguousarray(from_floats(wanted, block.dtype)).reshape(floats.shape)
    coded, kept = _by_series(block, given, options, memory, codebook, ahead)
    assert kept is memory  # which it was given
    lost = (wanted - as_floats(restore(coded.done, codebook=codebook).array, block.dtype)).astype(np.float32)
    memory.edit("residual")[at] = to_bfloat16(np.where(np.isfinite(lost), lost, 0).astype(np.float32)).reshape(-1)
    note(memory, block, anchor=True)
    return coded._replace(reason="shape_changed") if changed else coded, memory


def _memory(block: TensorBlock, memory: Memory, *, base: bool) -> tuple[Draft[TensorMemory], bool]:
    """What is kept of this tensor, and whether something else was kept under its name."""
    if memory is not None and is_of(memory.now, block, base=base):
        return memory, False
    return fresh(block, memory, base=base), memory is not None and bool(len(memory.now.step))


def _checked_step(block: TensorBlock, memory: Draft[TensorMemory]) -> int | None:
    last = last_step(memory.now, block)
    if last is not None and block.step < last:
        raise BlockError("bad_frame", must_be(f"step of block {block.block}", f"{last} or more", block.step))
    return last


def _frame(block: TensorBlock, coded: Coded) -> CompressedBlock:
    done = coded.done
    found = done.quality
    quality = TensorQuality(
        bits_per_value=done.bits_per_value,
        max_abs_error=found.max_abs_error,
        rel_l2=found.rel_l2,
        escapes=found.escapes,
        bound=found.bound,
        max_relative_error=found.max_relative_error,
    )
    return CompressedBlock(
        **block.part,
        anchor=done.header.base_digest is None and done.header.basis_digest is None,
        kept=coded.kept,
        base_step=coded.base_step,
        base_digest=done.header.base_digest,
        basis_digest=done.header.basis_digest,
        promise=done.promise,
        quality=quality,
        ops=tuple(op.op for op in done.header.ops),
        fallback_reason=coded.reason or done.fallback_reason,
        switched_off=coded.switched_off,
        solver=coded.solver,
        data=np.frombuffer(done.data, np.uint8),
    )
