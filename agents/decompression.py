"""The decompression agent: coded blocks of tensors in, restored blocks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from schemas.topics import TENSOR_CODEBOOK, TENSOR_COMPRESSED, TENSOR_RESTORED

if TYPE_CHECKING:
    from qstream.compression.processor import DecompressionProcessor
    from qstream.config import Settings


def processor(settings: Settings) -> DecompressionProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.compression.processor import DecompressionProcessor
    from qstream.compression.stream_options import DecodeOptions

    return DecompressionProcessor(DecodeOptions().changed(settings.options))


AGENT = Agent(
    name="decompression",
    purpose="decides what of a coded block of a tensor can be restored, checks its promise, and applies what corrects it",
    topics=(TENSOR_COMPRESSED, TENSOR_CODEBOOK, TENSOR_RESTORED),
    processor=processor,
    options="qstream.compression.stream_options:DecodeOptions",
    examples="qstream.compression.examples:coded_records",
    lines="qstream.cli.compression.lines:line",
    observe="qstream.compression.metrics:observe",
    settings={"port": 6073, "max_key_bytes": 5 << 19},  # of one tensor at most 2.5 MiB are kept
)
