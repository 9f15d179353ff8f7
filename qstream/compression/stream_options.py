"""The toggles of blocks in a stream: those of the codec, and what is kept between blocks of one tensor."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from qstream.compression.options import CompressionOptions, RestoreOptions

STATE_BYTES: Final = 1 << 20
MAX_STATE_BYTES: Final = 2 << 20
LOCAL_BYTES: Final = 1 << 40
_KEPT: Final = "largest tensor, in bytes, of which the agent keeps the newest values for deltas"


class EncodeOptions(CompressionOptions):
    """How blocks are coded."""

    refine_ms: float = Field(
        default=40.0, ge=0, le=600_000, description="estimated work of a refiner above which it is left out; 0: no limit"
    )
    anchor_every: int = Field(
        default=64, ge=1, le=1_000_000, description="mode delta: of so many steps one needs no earlier one, for readers that join"
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


class LocalEncodeOptions(EncodeOptions):
    """The same next to a trainer, which holds its tensors anyhow."""

    state_bytes: int = Field(default=LOCAL_BYTES, ge=0, le=LOCAL_BYTES, description=f"{_KEPT}; 0: none")


class LocalDecodeOptions(DecodeOptions):
    """The same next to an engine, which holds its tensors anyhow."""

    state_bytes: int = Field(default=LOCAL_BYTES, ge=0, le=LOCAL_BYTES, description=f"{_KEPT}; 0: none")
