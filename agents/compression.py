"""The compression agent: blocks of tensors in, coded blocks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from schemas.topics import TENSOR_BLOCK, TENSOR_CODEBOOK, TENSOR_COMPRESSED

if TYPE_CHECKING:
    from qstream.compression.processor import CompressionProcessor
    from qstream.config import Settings


def processor(settings: Settings) -> CompressionProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.ahead import Ahead
    from qstream.compression.processor import CompressionProcessor
    from qstream.compression.stream_options import EncodeOptions

    return CompressionProcessor(EncodeOptions().changed(settings.options), ahead=Ahead())


AGENT = Agent(
    name="compression",
    purpose="decides how tensors travel: what is kept of each block, exact bits, a bound or a rate, and which chain codes it",
    topics=(TENSOR_BLOCK, TENSOR_CODEBOOK, TENSOR_COMPRESSED),
    processor=processor,
    options="qstream.compression.stream_options:EncodeOptions",
    examples="qstream.compression.examples:records",
    example_options={"mode": "delta", "anchor_every": 4},
    commands="qstream.cli.compression.commands:app",
    scenes={"compression": "qstream.demo.compression.scene:CompressionScene"},
    lines="qstream.cli.compression.lines:line",
    observe="qstream.compression.metrics:observe",
    settings={"port": 6072, "max_key_bytes": 5 << 19},  # of one tensor at most 2.5 MiB are kept
)
