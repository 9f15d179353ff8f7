"""The frames of tensors as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from qstream.cli.output import counted, joined
from schemas.frame import Frame
from schemas.tensors import (
    ITEM_BYTES,
    CompressedBlock,
    RestoredBlock,
    TensorBlock,
    TensorCodebook,
    TensorManifest,
    TensorPart,
    TensorQuality,
)


def line(frame: Frame) -> str | None:
    """What matters of the frame, None for one that is not about tensors."""
    text = LINES.get(type(frame))
    return None if text is None else text(frame)


def _part(part: TensorPart) -> str:
    shape = " x ".join(map(str, part.shape)) or "one value"
    return joined(
        part.tensor_id, f"step {part.step}", part.role, f"{part.dtype} {shape}", f"block {part.block + 1} of {part.blocks}"
    )


def _block(block: TensorBlock) -> str:
    policy = block.policy
    return joined(_part(block), f"{len(block.data)} bytes", None if policy is None else policy.mode)


def _compressed(block: CompressedBlock) -> str:
    bits = block.quality.bits_per_value
    ratio = f"{8 * ITEM_BYTES[block.dtype] / bits:.4g} times smaller" if bits else None
    return joined(
        _part(block),
        "anchor" if block.anchor else f"on step {block.base_step}" if block.base_step is not None else None,
        f"{bits:.3g} bits",
        ratio,
        _quality(block.promise, block.quality),
        block.fallback_reason,
        f"without {', '.join(block.switched_off)}" if block.switched_off else None,
    )


def _restored(block: RestoredBlock) -> str:
    if block.skip_reason is not None:
        return joined(_part(block), f"not restored: {block.skip_reason}")
    return joined(
        _part(block),
        _quality(block.promise, block.quality),
        "verified" if block.verified else None,
        *(refined.name for refined in block.refined if refined.reason is None),
    )


def _quality(promise: str, quality: TensorQuality) -> str:
    return "exact" if promise == "exact" else f"rel L2 {quality.rel_l2:.3g} ({promise})"


def _codebook(book: TensorCodebook) -> str:
    return joined(book.tensor_id, book.kind, book.digest, f"{len(book.data)} bytes")


def _manifest(manifest: TensorManifest) -> str:
    claim = manifest.claim
    where = manifest.format if claim is None else f"{claim.uri} ({claim.nbytes} bytes)"
    return joined(manifest.series, f"step {manifest.step}", counted(len(manifest.tensors), "tensor"), where)


LINES: Final[Mapping[type[Frame], Callable[[Any], str]]] = {
    TensorBlock: _block,
    CompressedBlock: _compressed,
    RestoredBlock: _restored,
    TensorCodebook: _codebook,
    TensorManifest: _manifest,
}
