"""Restores a coded block; one that waits for an anchor or a codebook says so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.compression.basis import Basis
from qstream.compression.codebook import Codebook
from qstream.compression.decode import Restored, basis_within, restore
from qstream.compression.dtypes import DTYPES
from qstream.compression.header import Header, digest, read
from qstream.compression.learned import MAX_LEARNT, basis_of, is_other
from qstream.compression.learned import held as held_basis
from qstream.compression.memory import Memory, TensorMemory, bare, fits, fresh, is_of, last_step, note, place
from qstream.compression.stream_options import DecodeOptions
from qstream.errors import BlockError
from qstream.module.draft import Draft
from schemas.tensors import ITEM_BYTES, MAX_BLOCK_BYTES, CompressedBlock, RestoredBlock, TensorRefined, TensorSkip
from schemas.wording import Shown, must_be

Bytes = NDArray[np.uint8]


def restored_block(
    block: CompressedBlock, options: DecodeOptions, memory: Memory, codebook: Codebook | None = None
) -> tuple[RestoredBlock, Memory]:
    """A restored block, and what is kept after it; `BlockError` leaves what is kept as it was."""
    header = _header(block, options)
    fitting = fits(block, block.tensor_nbytes, options.state_bytes)
    known = memory if memory is not None and fitting and is_of(memory.now, block, base=True) else None
    held = None if known is None else _held(known, block)
    basis = None
    if header.basis_digest is not None:
        basis = _basis(header.basis_digest, memory, codebook)
        if basis is None:
            return _skipped(block, TensorSkip.NO_BASIS), memory
    if header.base_digest is not None:
        if held is not None and header.digest == digest(held):  # sent twice
            return _frame(block, held, verified=True), memory
        if held is None or digest(held) != header.base_digest:
            return _skipped(block, TensorSkip.NO_BASE if fitting else TensorSkip.STATE_LIMIT), memory
    base = None if held is None else held.view(DTYPES[block.dtype]).reshape(block.block_shape)
    found = restore(
        block.data,
        _sampled(block, options),
        base=base if header.base_digest is not None else None,
        basis=basis,
        codebook=codebook,
    )
    data = np.ascontiguousarray(found.array).reshape(-1).view(np.uint8)
    data.flags.writeable = False  # so that the frame shares it
    if block.kept and fitting and found.promise == "exact":
        memory = known or fresh(block, memory, base=True)
        memory.edit("base")[place(block, ITEM_BYTES[block.dtype])] = data
        note(memory, block, anchor=block.anchor)
    travelled = basis_within(header, block.data)
    if (
        travelled is not None
        and travelled.values.size <= MAX_LEARNT
        and (memory is None or is_other(memory.now.basis, travelled))
    ):
        memory = memory or bare(block)
        memory.set(basis=held_basis(travelled))
    return _frame(block, data, verified=found.verified, refined=_refined(found)), memory


def _sampled(block: CompressedBlock, options: DecodeOptions) -> DecodeOptions:
    """Leave the checks by circuits to one block in so many, the same one on each delivery."""
    asked = options.hhl or options.qsvt or options.qft
    if not asked or (block.step * block.blocks + block.block) % options.sample_every == 0:
        return options
    return options.changed({"hhl": False, "qsvt": False, "qft": False})


def _basis(digest_: str, memory: Memory, codebook: Codebook | None) -> Basis | None:
    """The basis of this digest, of the codebook or of the newest block that one travelled with."""
    found = None if codebook is None else codebook.by_digest(digest_)
    if found is None and memory is not None and memory.now.basis is not None:
        held = basis_of(memory.now.basis)
        found = held if held.digest == digest_ else None
    return found


def _header(block: CompressedBlock, options: DecodeOptions) -> Header:
    """The header of the coded block, which must be about what the frame says."""
    if block.nbytes > MAX_BLOCK_BYTES:
        raise BlockError("limit", must_be("bytes of a block that travels restored", f"at most {MAX_BLOCK_BYTES}", block.nbytes))
    headers = read(block.data, options.max_tensor_bytes).headers
    if len(headers) != 1:
        raise BlockError("bad_frame", must_be("data", "a block of one tensor", Shown(f"{len(headers)} tensors")))
    header = headers[0]
    if header.big_endian:
        raise BlockError("bad_frame", must_be("big_endian of a block", "false", True))
    pairs: dict[str, tuple[Any, Any]] = {
        "dtype": (block.dtype, header.dtype),
        "shape": (block.block_shape, header.shape),
        "promise": (block.promise, header.promise),
        "base_digest": (block.base_digest, header.base_digest),
        "basis_digest": (block.basis_digest, header.basis_digest),
    }
    for name, (outer, inner) in pairs.items():
        if outer != inner:
            code = name if name in ("dtype", "shape") else "bad_frame"
            raise BlockError(code, must_be(f"{name} of the coded data", f"the block's, {outer}", Shown(str(inner))))
    return header


def _held(memory: Draft[TensorMemory], block: CompressedBlock) -> Bytes | None:
    if last_step(memory.now, block) is None or memory.now.base is None:
        return None
    return memory.now.base[place(block, ITEM_BYTES[block.dtype])].copy()


def _refined(found: Restored) -> tuple[TensorRefined, ...]:
    return tuple(
        TensorRefined(
            name=r.name,
            left=r.left,
            execution=r.execution,
            reason=r.reason,
            difference=r.difference,
            twin_difference=r.twin_difference,
            **{key: int(r.detail[key]) for key in ("n", "depth", "shots") if key in r.detail},
        )
        for r in found.refined
    )


def _skipped(block: CompressedBlock, reason: TensorSkip) -> RestoredBlock:
    return RestoredBlock(**block.part, promise=block.promise, quality=block.quality, skip_reason=reason)


def _frame(block: CompressedBlock, data: Bytes, *, verified: bool, refined: tuple[TensorRefined, ...] = ()) -> RestoredBlock:
    return RestoredBlock(
        **block.part, promise=block.promise, verified=verified, quality=block.quality, refined=refined, data=data
    )
