"""The hpo agent: studies and reports of trials in, one configuration for each free worker out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.registry import Agent
from agents.runtime import quantum_runtime
from schemas.topics import HPO_BEST, HPO_HISTORY, HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL

if TYPE_CHECKING:
    from qstream.config import Settings
    from qstream.hpo.processor import HpoProcessor


def processor(settings: Settings) -> HpoProcessor:
    """The processor with the options that the worker starts with."""
    from qstream.ahead import Ahead
    from qstream.hpo.options import HpoOptions
    from qstream.hpo.processor import HpoProcessor

    return HpoProcessor(HpoOptions().changed(settings.options), quantum_runtime(settings), Ahead())


AGENT = Agent(
    name="hpo",
    purpose="decides which configuration a free worker tries, and which trials run again",
    topics=(HPO_STUDY, HPO_TRIAL, HPO_SUGGESTION, HPO_HISTORY, HPO_BEST),
    processor=processor,
    options="qstream.hpo.options:HpoOptions",
    examples="qstream.hpo.examples:records",
    example_options={"explore": 4, "initial": 3, "candidates": 64, "starts": 2},
    commands="qstream.cli.hpo.commands:app",
    lines="qstream.cli.hpo.lines:line",
    observe="qstream.hpo.metrics:observe",
    scenes={"hpo": "qstream.demo.hpo.scene:HpoScene"},
    # An answer goes out with its whole batch, and each takes 10 to 50 ms: small batches answer soon.
    settings={"port": 6074, "max_batch_records": 16},
)
