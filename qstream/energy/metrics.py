"""What energy plans say about a domain, as metrics; what all plans have in common is counted by the loop."""

from __future__ import annotations

import math
import time
from functools import cache, partial
from typing import Final, get_args

import numpy as np
from prometheus_client import Counter, Gauge

from qstream.contract import Event
from qstream.metrics import begin_at_zero, begin_unknown, bounded_label
from schemas.energy import AckResult, EnergyPlan, Status, TargetReason
from schemas.tasks import EnergySchedule

BUDGET: Final = Gauge("qstream_energy_budget_watts", "Watts that the domain may draw", ["domain"])
CHARGED: Final = Gauge("qstream_energy_charged_watts", "Watts that the domain cannot exceed under the newest plan", ["domain"])
DRAWN: Final = Gauge("qstream_energy_drawn_watts", "Watts that the domain's GPUs drew at the newest plan", ["domain"])
PREDICTED: Final = Gauge("qstream_energy_predicted_watts", "Watts that the plan's targets are expected to draw", ["domain"])
MISSING: Final = Gauge("qstream_energy_missing_watts", "Watts by which the lowest possible settings exceed a budget", ["domain"])
SAVED: Final = Gauge("qstream_energy_saved_watts", "Watts that the newest plan saves at equal work", ["domain"])
SIMPLE_SAVED: Final = Gauge(
    "qstream_energy_simple_saved_watts", "Watts that each node alone would save at equal work", ["domain"]
)
SLOWDOWN: Final = Gauge("qstream_energy_slowdown_worst_ratio", "Expected slowdown of the GPU that is slowed most", ["domain"])
TARGETS: Final = Gauge("qstream_energy_targets", "Targets of the newest plan by their reason", ["domain", "reason"])
STATES: Final = Gauge("qstream_energy_states", "Targets of the newest plan by their state", ["domain", "state"])
STALE: Final = Gauge("qstream_energy_stale_gpus", "GPUs without recent readings", ["domain"])
ACKS: Final = Counter(
    "qstream_energy_acknowledgements_total", "Targets that actuators acknowledged, by what became of them", ["domain", "result"]
)
FORECAST: Final = Gauge(
    "qstream_energy_forecast_watts", "Watts of the domain forecast for the next seconds", ["domain", "horizon"]
)
FORECAST_UPPER: Final = Gauge(
    "qstream_energy_forecast_upper_watts", "Watts that their maximum should not exceed", ["domain", "horizon"]
)
FORECAST_ERROR: Final = Gauge(
    "qstream_energy_forecast_error_ratio",
    "Error of forecasts of the last minutes over that of the last value",
    ["domain", "horizon"],
)
FORECAST_COVERAGE: Final = Gauge(
    "qstream_energy_forecast_coverage_ratio", "Part of the maxima of the last minutes below their bound", ["domain", "horizon"]
)
PLAN_AGE: Final = Gauge("qstream_energy_plan_age_seconds", "Since the newest plan", ["domain"])
SCHEDULES: Final = Counter(
    "qstream_energy_schedules_total",
    "Schedules of tasks by the solver that answered and their status, or why the one before stays",
    ["domain", "solver", "outcome"],
)
SCHEDULE_GAP: Final = Gauge(
    "qstream_energy_schedule_gap_ratio",
    "Peak of the newest schedule above its bound: planned, soonest, without circuits, of random choices in their place",
    ["domain", "kind"],
)
REPLICAS: Final = Gauge("qstream_energy_active_replicas", "Replicas of a served model to keep active", ["domain", "model"])
ALL_REPLICAS: Final = Gauge("qstream_energy_replicas", "Replicas of all served models to keep active", ["domain"])
GAPS: Final = ("planned", "soonest", "without_circuits", "random")  # kinds of `SCHEDULE_GAP`


def observe(event: Event) -> None:
    """Note a delivered plan in the metrics."""
    plan = event.frame
    if isinstance(plan, EnergySchedule):
        _schedule(plan)
        return
    if not isinstance(plan, EnergyPlan) or plan.skip_reason is not None:
        return
    domain = bounded_label("domain", plan.domain)
    _begin(domain)
    PLAN_AGE.labels(domain).set_function(partial(_age_s, plan.ts_ns))
    counted = np.zeros(0, int) if plan.reason_of is None else np.bincount(plan.reason_of, minlength=len(plan.reason))
    by_reason = dict(zip(plan.reason, counted.tolist(), strict=False))
    for reason in TargetReason:
        TARGETS.labels(domain, str(reason)).set(by_reason.get(reason, 0))
    state = np.zeros(len(plan.uuid), int) if plan.state is None else plan.state
    for name, count in zip(("active", "parked", "released"), np.bincount(state, minlength=3).tolist(), strict=True):
        STATES.labels(domain, name).set(count)
    for result, count in plan.acks.items():
        ACKS.labels(domain, result).inc(count)
    MISSING.labels(domain).set(plan.missing_w)
    if plan.uuid:  # a domain that divides its budget among others has no GPUs
        DRAWN.labels(domain).set(plan.drawn_w)
    STALE.labels(domain).set(plan.stale_gpus)
    if plan.budget_w is not None and plan.planned_w is not None and plan.domain in plan.budget_of:
        at = plan.budget_of.index(plan.domain)
        BUDGET.labels(domain).set(float(plan.budget_w[at]))
        CHARGED.labels(domain).set(float(plan.planned_w[at]))
    ALL_REPLICAS.labels(domain).set(0 if plan.active_replicas is None else plan.active_replicas.sum())
    if plan.active_replicas is not None:
        for name, count in zip(plan.served, plan.active_replicas.tolist(), strict=True):
            REPLICAS.labels(domain, bounded_label("model", name)).set(count)
    if plan.predicted_w is not None:
        PREDICTED.labels(domain).set(float(plan.predicted_w.sum()))
    _forecast(plan, domain)
    if plan.expected is not None:
        SAVED.labels(domain).set(plan.expected.saved_w)
        SIMPLE_SAVED.labels(domain).set(plan.expected.simple_saved_w)
        SLOWDOWN.labels(domain).set(plan.expected.slowdown_worst)


@cache
def _begin(domain: str) -> None:
    """The lines of a domain are there from its first plan of any kind, those without a value yet as not a number."""
    begin_at_zero(ACKS, [domain], get_args(AckResult))
    begin_at_zero(SCHEDULES, [domain], ["soonest"], get_args(Status))
    begin_unknown(SCHEDULE_GAP, [domain], GAPS)
    for gauge in (BUDGET, CHARGED, DRAWN, PREDICTED, MISSING, SAVED, SIMPLE_SAVED, SLOWDOWN, STALE, PLAN_AGE):
        begin_unknown(gauge, [domain])


def _schedule(plan: EnergySchedule) -> None:
    """Count a schedule, and note how far its peak is above its bound, next to what others would have reached."""
    domain = bounded_label("domain", plan.domain)
    _begin(domain)
    SCHEDULES.labels(domain, plan.solver.solver, str(plan.skip_reason or plan.status)).inc()
    if plan.skip_reason is not None or plan.status == "infeasible" or plan.bound_w <= 0:
        return
    peaks = (plan.peak_w, plan.simple_peak_w, plan.solver.twin, plan.solver.control)
    for name, peak in zip(GAPS, peaks, strict=True):
        SCHEDULE_GAP.labels(domain, name).set(math.nan if peak is None else peak / plan.bound_w - 1)


def _forecast(plan: EnergyPlan, domain: str) -> None:
    """Forecasts by horizon; an error or coverage is not a number until there is one."""
    if plan.horizon_s is None:
        return
    for gauge, values in (
        (FORECAST, plan.forecast_w),
        (FORECAST_UPPER, plan.forecast_upper_w),
        (FORECAST_ERROR, plan.forecast_error),
        (FORECAST_COVERAGE, plan.forecast_coverage),
    ):
        unknown = [-1.0] * len(plan.horizon_s)
        for horizon, value in zip(plan.horizon_s.tolist(), unknown if values is None else values.tolist(), strict=True):
            gauge.labels(domain, f"{horizon}s").set(value if value >= 0 else math.nan)


def _age_s(ts_ns: int) -> float:
    """Seconds since the readings that a plan was made at."""
    return max(0.0, time.time() - ts_ns / 1e9)
