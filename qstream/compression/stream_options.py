"""The toggles of blocks in a stream: those of the codec, and what is kept between blocks of one tensor."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from qstream.compression.options import CompressionOptions, RestoreOptions
from qstream.module.options import MOST_WORK_MS

STATE_BYTES: Final = 1 << 20
MAX_STATE_BYTES: Final = 2 << 20
LOCAL_BYTES: Final = 1 << 40
_KEPT: Final = "largest tensor, in bytes, of which the agent keeps the newest values for deltas"


class EncodeOptions(CompressionOptions):
    """How blocks are coded."""

    refine_ms: float = Field(
        default=40.0, gt=0, le=MOST_WORK_MS, description="estimated work of a refiner above which it is left out"
    )
    plan_ms: float = Field(
        default=500.0,
        ge=0,
        le=600_000,
        description="ms by records' time from having enough rows until their basis is in force",
    )
    qae_ms: float = Field(default=20_000.0, ge=0, le=3_600_000, description="the same for a basis found by a circuit")
    anchor_every: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="one in this many deltas, or blocks that share a basis, needs no earlier block, so that new readers can join",
    )
    state_bytes: int = Field(
        default=STATE_BYTES,
        ge=0,
        le=MAX_STATE_BYTES,
        description=f"{_KEPT} and what gradients still owe; larger ones are coded without; 0: none",
    )


class DecodeOptions(RestoreOptions):
    """How blocks are restored."""

    state_bytes: int = Field(default=STATE_BYTES, ge=0, le=MAX_STATE_BYTES, description=f"{_KEPT}; 0: none")
    sample_every: int = Field(default=100, ge=1, le=1_000_000, description="hhl, qsvt and qft check one block in this many")


class LocalEncodeOptions(EncodeOptions):
    """The same next to a trainer, which holds its tensors anyhow."""

    refine_ms: float = Field(
        default=40.0, ge=0, le=600_000, description="estimated work of a refiner above which it is left out; 0: no limit"
    )
    state_bytes: int = Field(default=LOCAL_BYTES, ge=0, le=LOCAL_BYTES, description=f"{_KEPT}; 0: none")


class LocalDecodeOptions(DecodeOptions):
    """The same next to an engine, which holds its tensors anyhow."""

    state_bytes: int = Field(default=LOCAL_BYTES, ge=0, le=LOCAL_BYTES, description=f"{_KEPT}; 0: none")
