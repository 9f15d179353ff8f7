"""The nvlink agent: topologies of fabrics and what their links carried in, shares of traffic over spines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from schemas.topics import FABRIC_ROUTES, FABRIC_TELEMETRY, FABRIC_TOPOLOGY, LEARN_COMMAND

if TYPE_CHECKING:
    from qstream.config import Settings
    from qstream.nvlink.processor import NvlinkProcessor


def processor(settings: Settings) -> NvlinkProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.nvlink.options import NvlinkOptions
    from qstream.nvlink.processor import NvlinkProcessor

    return NvlinkProcessor(NvlinkOptions().changed(settings.options))


AGENT = Agent(
    name="nvlink",
    purpose="decides how traffic between leaves spreads over spines, window by window",
    topics=(FABRIC_TOPOLOGY, FABRIC_TELEMETRY, FABRIC_ROUTES, LEARN_COMMAND),
    processor=processor,
    options="qstream.nvlink.options:NvlinkOptions",
    examples="qstream.nvlink.examples:records",
    lines="qstream.cli.nvlink.lines:line",
    observe="qstream.nvlink.metrics:observe",
    settings={"port": 6075},
)
