"""The routing agent: token batches and expert loads in, placements, dispatch shares and routing plans out."""

from __future__ import annotations

import atexit
import functools

from agents.app import Agent
from qstream.ahead import Ahead
from qstream.config import Settings
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.observe import observe
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor


def processor(settings: Settings) -> RoutingProcessor:
    """The processor with the options that the worker starts with."""
    return RoutingProcessor(RoutingOptions().changed(settings.options), quantum_runtime, Ahead())


@functools.cache
def quantum_runtime() -> QuantumRuntime:
    """The runtime of this worker's devices, started when the option `device` names one."""
    runtime = QuantumRuntime()
    atexit.register(runtime.close)
    return runtime


AGENT = Agent(processor, observe)
