"""The nvlink agent: fabrics, their jobs and what links carried in; placements of ranks and shares over spines out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from schemas.topics import (
    FABRIC_JOB,
    FABRIC_PLAN,
    FABRIC_REPORT,
    FABRIC_ROUTES,
    FABRIC_TELEMETRY,
    FABRIC_TOPOLOGY,
    LEARN_COMMAND,
    MODELS,
)

if TYPE_CHECKING:
    from qstream.config import Settings
    from qstream.nvlink.processor import NvlinkProcessor


def processor(settings: Settings) -> NvlinkProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.ahead import Ahead
    from qstream.nvlink.options import NvlinkOptions
    from qstream.nvlink.processor import NvlinkProcessor

    return NvlinkProcessor(NvlinkOptions().changed(settings.options), Ahead())


AGENT = Agent(
    name="nvlink",
    purpose="decides which GPU holds which rank of a job, and how traffic spreads over spines",
    topics=(FABRIC_TOPOLOGY, FABRIC_JOB, FABRIC_TELEMETRY, FABRIC_REPORT, FABRIC_PLAN, FABRIC_ROUTES, LEARN_COMMAND, MODELS),
    processor=processor,
    options="qstream.nvlink.options:NvlinkOptions",
    examples="qstream.nvlink.examples:records",
    commands="qstream.cli.nvlink.commands:app",
    lines="qstream.cli.nvlink.lines:line",
    observe="qstream.nvlink.metrics:observe",
    example_options={"classifier": True, "rl": True},
    trainers={
        "contention": "qstream.nvlink.train_contention:train_contention",
        "splits": "qstream.nvlink.train_splits:train_splits",
    },
    logs={".npz": "qstream.nvlink.outcomes:read_log"},
    scenes={"nvlink": "qstream.demo.nvlink.scene:NvlinkScene"},
    settings={"port": 6075},
)
