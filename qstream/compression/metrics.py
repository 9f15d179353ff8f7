"""What coded and restored blocks say, as metrics."""

from __future__ import annotations

from functools import cache
from typing import Final, get_args

from prometheus_client import Counter, Gauge

from qstream.compression.header import Reason
from qstream.compression.learned import OPTIONS
from qstream.contract import Event
from qstream.metrics import begin_at_zero, begin_unknown
from schemas.tensors import CompressedBlock, RestoredBlock, TensorPromise, TensorSkip

CORRECTIONS: Final = ("table", "spectral", "denoiser")
NOT_APPLIED: Final = ("not_needed", "library_missing")
ROUNDING: Final = 2e-5  # of a bound: errors are given in six digits, rounded up

RAW_BYTES: Final = Counter("qstream_compression_raw_bytes_total", "Bytes of the blocks that were coded", ["role"])
CODED_BYTES: Final = Counter("qstream_compression_coded_bytes_total", "Bytes of coded blocks", ["role"])
VALUES: Final = Counter("qstream_compression_values_total", "Values of the blocks that were coded", ["role"])
BLOCKS: Final = Counter("qstream_compression_blocks_total", "Coded blocks by their promise", ["role", "promise"])
REL_L2: Final = Gauge("qstream_compression_rel_l2", "Norm of the newest block's error to the norm of its values", ["role"])
VIOLATIONS: Final = Counter(
    "qstream_compression_bound_violations_total", "Coded blocks whose measured error is above what they promise", ["role"]
)
OPERATIONS: Final = Counter("qstream_compression_operations_total", "Coded blocks whose chain has an operation", ["operation"])
FALLBACKS: Final = Counter("qstream_compression_fallbacks_total", "Blocks that were not coded as requested", ["reason"])
SWITCHED_OFF: Final = Counter(
    "qstream_compression_switched_off_blocks_total",
    "Blocks for which an option was not tried, because it did not pay for earlier ones",
    ["role", "option"],
)
RESTORED_BYTES: Final = Counter("qstream_decompression_restored_bytes_total", "Bytes of restored blocks", ["role"])
WAITING: Final = Counter(
    "qstream_decompression_waiting_blocks_total",
    "Blocks not restored yet, because they wait for an anchor or a basis",
    ["reason"],
)
REFINED: Final = Counter("qstream_decompression_refined_blocks_total", "Restored blocks that were corrected", ["correction"])
NOT_REFINED: Final = Counter(
    "qstream_decompression_not_refined_blocks_total",
    "Restored blocks whose approved correction was not applied",
    ["correction", "reason"],
)
REFINER_LEFT: Final = Gauge(
    "qstream_decompression_refiner_left_ratio", "Part of the squared error that the newest correction left", ["correction"]
)
begin_at_zero(FALLBACKS, get_args(Reason))
begin_at_zero(WAITING, TensorSkip)
begin_at_zero(REFINED, CORRECTIONS)
begin_at_zero(NOT_REFINED, CORRECTIONS, NOT_APPLIED)
begin_unknown(REFINER_LEFT, CORRECTIONS)


def observe(event: Event) -> None:
    """Note a delivered block."""
    if isinstance(event.frame, CompressedBlock):
        _coded(event.frame)
    elif isinstance(event.frame, RestoredBlock):
        _restored(event.frame)


def _coded(block: CompressedBlock) -> None:
    quality = block.quality
    _begin(block.role)
    RAW_BYTES.labels(block.role).inc(block.nbytes)
    CODED_BYTES.labels(block.role).inc(len(block.data))
    VALUES.labels(block.role).inc(block.count)
    BLOCKS.labels(block.role, block.promise).inc()
    REL_L2.labels(block.role).set(quality.rel_l2)
    for operation in block.ops:
        OPERATIONS.labels(operation).inc()
    if block.fallback_reason is not None:
        FALLBACKS.labels(block.fallback_reason).inc()
    for option in block.switched_off:
        SWITCHED_OFF.labels(block.role, option).inc()
    VIOLATIONS.labels(block.role).inc(is_above_bound(block))


@cache
def _begin(role: str) -> None:
    """The lines of a role are there from its first block."""
    begin_at_zero(BLOCKS, [role], get_args(TensorPromise))
    begin_at_zero(VIOLATIONS, [role])
    begin_at_zero(SWITCHED_OFF, [role], OPTIONS)


def is_above_bound(block: CompressedBlock) -> bool:
    """Whether the measured error is above what is promised."""
    quality = block.quality
    if quality.bound is None:
        return False
    error = quality.rel_l2 if block.promise == "l2" else quality.max_relative_error
    if error is None:
        error = quality.max_abs_error
    return error > quality.bound * (1 + ROUNDING)


def _restored(block: RestoredBlock) -> None:
    if block.skip_reason is not None:
        WAITING.labels(block.skip_reason).inc()
        return
    RESTORED_BYTES.labels(block.role).inc(block.nbytes)
    for refined in block.refined:
        if refined.reason is not None:
            NOT_REFINED.labels(refined.name, refined.reason).inc()
            continue
        REFINED.labels(refined.name).inc()
        if refined.left is not None:
            REFINER_LEFT.labels(refined.name).set(refined.left)
