"""What vLLM and SGLang call in each of their processes, by entry points: nothing, unless QSTREAM_EPLB says who plans."""

from __future__ import annotations

import importlib
import os
from typing import Final

EPLB: Final = "QSTREAM_EPLB"


def vllm() -> None:
    """Entry point of the group ``vllm.general_plugins``: our policy takes the place of vLLM's default one."""
    if plans := os.environ.get(EPLB):
        importlib.import_module("qstream.engines.vllm").register(plans)


def sglang() -> None:
    """Entry point of the group ``sglang.srt.plugins``: our planner takes the place of SGLang's `rebalance_experts`."""
    if plans := os.environ.get(EPLB):
        importlib.import_module("qstream.engines.sglang").register(plans)
