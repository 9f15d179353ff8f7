"""qstream: an event-streaming, real-time optimizer for the GPU clusters that train and serve large language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.quantum.solvers import solve as solve
    from qstream.stream.client import Exchange as Exchange
    from qstream.stream.client import PlanSubscriber as PlanSubscriber
    from qstream.stream.client import Publisher as Publisher

__version__ = "0.1.0"
__all__ = ["Exchange", "PlanSubscriber", "Publisher", "solve"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Exchange": ".stream.client",
        "PlanSubscriber": ".stream.client",
        "Publisher": ".stream.client",
        "solve": ".quantum.solvers",
    },
)
