"""What plans of fabrics say, as metrics; what all plans have in common is counted by the loop."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import Final, get_args

from prometheus_client import Counter, Gauge

from qstream.contract import Event
from qstream.metrics import begin_at_zero, begin_unknown, bounded_label
from qstream.nvlink.shares import Guard
from schemas.fabric import FabricPlan, RouteShares

FABRICS: Final = 20  # that have a value of their own; the others share one
JOBS: Final = 64

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
COST: Final = Gauge(
    "qstream_nvlink_cost_ratio",
    "Modelled bytes times distance of the newest plan of a job over those of the placement before",
    ["fabric", "job"],
)
CROSSING: Final = Gauge(
    "qstream_nvlink_cross_domain_bytes",
    "Bytes of a period between domains, with the newest plan of a job and with the placement before",
    ["fabric", "job", "placement"],
)
NIC: Final = Gauge(
    "qstream_nvlink_rail_ratio",
    "Modelled time of the fullest NIC over its bound, with the newest plan of a job and with the placement before by PXN",
    ["fabric", "job", "placement"],
)
SPAN: Final = Gauge(
    "qstream_nvlink_span_ratio",
    "Modelled end of the last transfer of the newest plan of a job over the bound, where transfers are ordered",
    ["fabric", "job"],
)


SLOW_LINKS: Final = Gauge(
    "qstream_nvlink_slow_links", "Links that telemetry found to carry less than .9 of their nominal speed", ["fabric"]
)
DROPPED: Final = Gauge(
    "qstream_nvlink_dropped_digests",
    "Telemetry records so far of a topology that is not in force, which change nothing",
    ["fabric"],
)
TELEMETRY_AGE: Final = Gauge(
    "qstream_nvlink_telemetry_age_seconds", "Since the end of the newest window of telemetry", ["fabric"]
)
PLAN_AGE: Final = Gauge("qstream_nvlink_plan_age_seconds", "Since the newest plan of a job, or the newest shares", ["fabric"])


def observe(event: Event) -> None:
    """Note a delivered plan or delivered shares."""
    frame = event.frame
    if isinstance(frame, FabricPlan):
        _observe_plan(frame)
    elif isinstance(frame, RouteShares):
        _observe_shares(frame)


@cache
def _begin(fabric: str) -> None:
    """The lines of a fabric are there from its first plan, those without a value yet as not a number."""
    for gauge in (SLOW_LINKS, DROPPED, TELEMETRY_AGE, PLAN_AGE):
        begin_unknown(gauge, [fabric])


def _age_s(ts_ns: int) -> float:
    return max(0.0, time.time() - ts_ns / 1e9)


def _observe_plan(plan: FabricPlan) -> None:
    score, fabric = plan.score, bounded_label("fabric", plan.fabric, FABRICS)
    _begin(fabric)
    PLAN_AGE.labels(fabric).set_function(partial(_age_s, plan.ts_ns))
    if score is None:
        return
    job = bounded_label("job", plan.job, JOBS)
    if score.cost_before_us > 0:
        COST.labels(fabric, job).set(score.cost_us / score.cost_before_us)
    CROSSING.labels(fabric, job, "planned").set(score.cross_domain_bytes)
    CROSSING.labels(fabric, job, "before").set(score.cross_domain_bytes_before)
    if score.nic_us_bound:
        for placement, us in (("planned", score.nic_us), ("before", score.nic_us_before)):
            if us is not None:
                NIC.labels(fabric, job, placement).set(us / score.nic_us_bound)
    if score.span_us is not None and score.span_us_bound:
        SPAN.labels(fabric, job).set(score.span_us / score.span_us_bound)


def _observe_shares(found: RouteShares) -> None:
    fabric = bounded_label("fabric", found.fabric, FABRICS)
    _begin(fabric)
    GUARD.labels(found.guard).inc()
    SLOW_LINKS.labels(fabric).set(found.slow_links)
    DROPPED.labels(fabric).set(found.dropped)
    PLAN_AGE.labels(fabric).set_function(partial(_age_s, found.ts_ns))
    if found.heard_ns:
        TELEMETRY_AGE.labels(fabric).set_function(partial(_age_s, found.heard_ns))
    if found.score is not None:
        FULLEST.labels(fabric, "wcmp").set(found.score.wcmp)
        FULLEST.labels(fabric, "planned").set(found.score.planned)
        if found.score.last_served is not None:
            FULLEST.labels(fabric, "served").set(found.score.last_served)
