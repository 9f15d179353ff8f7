"""What plans of fabrics say, as metrics; what all plans have in common is counted by the loop."""

from __future__ import annotations

from typing import Final, get_args

from prometheus_client import Counter, Gauge

from qstream.contract import Event
from qstream.metrics import begin_at_zero, bounded_label
from qstream.nvlink.shares import Guard
from schemas.fabric import RouteShares

FABRICS: Final = 20  # that have a value of their own; the others share one

FULLEST: Final = Gauge(
    "qstream_nvlink_fullest_link_ratio",
    "Modelled load over speed of the fullest link in the last window: with wcmp, with planned shares, with those in force",
    ["fabric", "planner"],
)
GUARD: Final = Counter(
    "qstream_nvlink_guard_decisions_total",
    "Published shares by the guard's verdict: the mix answered, or why it did not",
    ["guard"],
)
begin_at_zero(GUARD, get_args(Guard))


def observe(event: Event) -> None:
    """Note delivered shares."""
    frame = event.frame
    if not isinstance(frame, RouteShares):
        return
    GUARD.labels(frame.guard).inc()
    if frame.score is not None:
        fabric = bounded_label("fabric", frame.fabric, FABRICS)
        FULLEST.labels(fabric, "wcmp").set(frame.score.wcmp)
        FULLEST.labels(fabric, "planned").set(frame.score.planned)
        if frame.score.last_served is not None:
            FULLEST.labels(fabric, "served").set(frame.score.last_served)
