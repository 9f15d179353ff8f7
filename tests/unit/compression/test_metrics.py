"""Metrics of blocks: bytes and values by role, errors above what is promised, and blocks that wait."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from qstream.compression.examples import coded_records, records
from qstream.compression.metrics import is_above_bound, observe
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.compression.stream_options import EncodeOptions
from qstream.contract import Batch, Event
from schemas.tensors import CompressedBlock, TensorQuality


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_blocks_are_counted_in_and_out_and_those_that_wait_by_their_reason() -> None:
    names = {
        "raw": ("qstream_compression_raw_bytes_total", {"role": "weight"}),
        "coded": ("qstream_compression_coded_bytes_total", {"role": "weight"}),
        "restored": ("qstream_decompression_restored_bytes_total", {"role": "weight"}),
        "waiting": ("qstream_decompression_waiting_blocks_total", {"reason": "no_base"}),
        "violations": ("qstream_compression_bound_violations_total", {"role": "weight"}),
    }
    before = {key: sample(name, **labels) for key, (name, labels) in names.items()}
    into, back = CompressionProcessor(EncodeOptions(mode="delta", anchor_every=4)), DecompressionProcessor()
    coded = into.process(Batch("t", records()), None, 0).events
    restored = back.process(Batch("t", coded_records()), None, 0).events
    for event in (*coded, *restored):
        observe(event)
    found = {key: sample(name, **labels) - before[key] for key, (name, labels) in names.items()}
    frames: list[Any] = [event.frame for event in restored]
    assert found == {
        "raw": sum(event.frame.nbytes for event in coded),  # type: ignore[attr-defined]
        "coded": sum(len(event.frame.data) for event in coded),  # type: ignore[attr-defined]
        "restored": sum(frame.nbytes for frame in frames if frame.skip_reason is None),
        "waiting": sum(frame.skip_reason == "no_base" for frame in frames),
        "violations": 0,
    }
    assert found["waiting"] > 0


@pytest.mark.parametrize(
    ("promise", "ops", "quality", "above"),
    [
        ("bound", ("quantise",), {"max_abs_error": 0.1, "bound": 0.1}, False),
        ("bound", ("quantise",), {"max_abs_error": 0.1001, "bound": 0.1}, True),
        ("bound", ("quantise",), {"max_abs_error": 0.0117188, "bound": 0.01171875}, False),  # six digits, rounded up
        ("bound", ("quantise_point",), {"max_abs_error": 5.0, "max_relative_error": 0.1, "bound": 0.1}, False),
        ("bound", ("quantise_point",), {"max_abs_error": 5.0, "max_relative_error": 0.1001, "bound": 0.1}, True),
        ("l2", ("quantise",), {"rel_l2": 0.02, "max_abs_error": 5.0, "bound": 0.03}, False),
        ("l2", ("quantise",), {"rel_l2": 0.04, "bound": 0.03}, True),
        ("none", ("quantise",), {"rel_l2": 0.9, "max_abs_error": 5.0}, False),
    ],
)
def test_a_measured_error_above_the_bound_is_a_violation(promise, ops, quality, above) -> None:
    change = {"promise": promise, "ops": ops, "quality": TensorQuality(bits_per_value=4.0, **quality)}
    block = CompressedBlock.example().model_copy(update=change)
    assert is_above_bound(block) is above
    before = sample("qstream_compression_bound_violations_total", role="weight")
    observe(Event(CompressionProcessor.outputs[0], block.tensor_id, "x/0", block, None))
    assert sample("qstream_compression_bound_violations_total", role="weight") - before == above
