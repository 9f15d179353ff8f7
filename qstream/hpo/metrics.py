"""What suggestions and outcomes say about studies, as metrics."""

from __future__ import annotations

from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from qstream.contract import Event
from qstream.hpo.options import Kernel
from qstream.metrics import begin_at_zero, bounded_label
from schemas.hpo import Outcome, StudyBest, SuggestionStatus, TrialRecord, TrialSuggestion
from schemas.solver import Reason

STUDIES: Final = 20  # that have a best value of their own; the others share one
SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

BEST: Final = Gauge("qstream_hpo_best_value", "Objective of the best configuration that keeps all limits", ["study"])
TRIALS: Final = Counter("qstream_hpo_trials_total", "Outcomes of trials", ["outcome"])
LATE: Final = Counter("qstream_hpo_late_results_total", "Results that counted although their worker no longer held the trial")
ASKS: Final = Counter("qstream_hpo_asks_total", "Asks by their answer: run, wait or done", ["status"])
RUNNING: Final = Gauge("qstream_hpo_running_trials", "Trials that workers hold, of the studies that this worker answers")
EXPIRED: Final = Counter("qstream_hpo_expired_leases_total", "Trials handed out again because their worker went silent")
ASK_SECONDS: Final = Histogram(
    "qstream_hpo_ask_seconds", "Time to compute a new configuration, by what proposed it", ["source"], buckets=SECONDS
)
KERNELS: Final = Counter("qstream_hpo_kernel_suggestions_total", "Configurations by the kernel of their model", ["kernel"])
FITS: Final = Counter(
    "qstream_hpo_fits_total",
    "Fits of kernel parameters that an ask needed: ready in time, or late",
    ["outcome"],
)
WARM_STARTS_DROPPED: Final = Counter(
    "qstream_hpo_warm_starts_dropped_total", "Configurations for which the guard dropped the results of the older study"
)
begin_at_zero(TRIALS, get_args(Outcome))
begin_at_zero(ASKS, get_args(SuggestionStatus))
begin_at_zero(FITS, ["ready", "late"])
begin_at_zero(KERNELS, [kernel for kernel in get_args(Kernel) if kernel != "auto"])
_running: Final[dict[str, int]] = {}


def observe(event: Event) -> None:
    """Note a delivered answer, outcome or best set."""
    frame = event.frame
    if isinstance(frame, TrialSuggestion):
        _suggestion(frame, event.solver_s)
    elif isinstance(frame, TrialRecord):
        _outcome(frame)
    elif isinstance(frame, StudyBest) and frame.points:
        BEST.labels(bounded_label("study", frame.study, STUDIES)).set(frame.points[0].value)


def _suggestion(found: TrialSuggestion, solver_s: float | None) -> None:
    ASKS.labels(found.status).inc()
    if found.source == "retry" and not found.repeated:
        EXPIRED.inc()
    if found.model is None:
        return  # nothing new was computed
    _note_running(found.study, len(found.model.pending) + 1)
    if solver_s is not None and found.source is not None:
        ASK_SECONDS.labels(found.source).observe(solver_s)
    if found.solver.solver == "gp" and found.solver.variant is not None:
        KERNELS.labels(found.solver.variant).inc()
    if found.fallback_reason is Reason.PRIOR_MISLEADS:
        WARM_STARTS_DROPPED.inc()


def _outcome(record: TrialRecord) -> None:
    TRIALS.labels(record.outcome).inc()
    if record.outcome not in ("duplicate", "superseded"):
        LATE.inc(record.late)
        _note_running(record.study, _running.get(record.study, 0) - 1)


def _note_running(study: str, count: int) -> None:
    """Each new trial says how many run; outcomes in between take away one each."""
    _running[study] = count
    if count <= 0:
        del _running[study]
    RUNNING.set(sum(_running.values()))
