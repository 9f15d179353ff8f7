"""The Prometheus metrics of all agents; a module's own are in its `metrics.py`. Labels are bounded: never an offset or a key."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter, Gauge, Histogram, Info

from qstream import __version__

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

MAX_LABEL_VALUES = 100  # of a label whose values producers choose: each is some ten lines on the page of metrics
OTHER = "other"

CONSUMED = Counter("qstream_records_consumed_total", "Records read from input topics", ["agent", "topic"])
PRODUCED = Counter("qstream_records_produced_total", "Events confirmed by the broker", ["agent", "topic"])
DEAD_LETTERS = Counter("qstream_dead_letters_total", "Records that could not be processed", ["agent", "stage", "error"])
RETRIES = Counter("qstream_batch_retries_total", "Batches that were retried", ["agent", "error"])
PROCESS_SECONDS = Histogram("qstream_process_seconds", "Time of a batch inside the module", ["agent"], buckets=SECONDS)
BATCH_SECONDS = Histogram("qstream_batch_seconds", "From the poll of a batch to its commit", ["agent"], buckets=SECONDS)
TICK_SECONDS = Histogram("qstream_tick_seconds", "From a round of ticks to the states that it saves", ["agent"], buckets=SECONDS)
END_TO_END_SECONDS = Histogram(
    "qstream_end_to_end_seconds", "From a batch's oldest record to its confirmed event", ["agent"], buckets=SECONDS
)
LAG = Gauge("qstream_consumer_lag_records", "Readable records that have not been processed yet", ["agent", "topic"])
REBALANCES = Counter("qstream_rebalances_total", "Partition assignments and revocations", ["agent", "kind"])
WRONG_CLOCKS = Counter(
    "qstream_wrong_clocks_total",
    "Records with a time before 2000 or more than an hour ahead; their time of arrival is used",
    ["agent", "topic"],
)
RESTARTED = Counter(
    "qstream_partitions_restarted_total",
    "Partitions read from their start: the topic was created again or restored",
    ["agent", "topic"],
)
CONFLICTS = Counter("qstream_state_conflicts_total", "State writes refused, states that cannot be read", ["agent", "kind"])
STATE_BYTES = Counter("qstream_state_written_bytes_total", "Bytes of state fields written", ["agent"])
CACHED_STATES = Gauge("qstream_cached_states", "States in memory", ["agent"])
CACHED_BYTES = Gauge("qstream_cached_bytes", "Bytes of the states in memory, as max_cached_bytes counts them", ["agent"])
EVICTED = Counter(
    "qstream_states_evicted_total", "States evicted from memory to make room; their next use loads them again", ["agent"]
)
DEGRADED = Gauge(
    "qstream_degraded", "1 while Redis does not do what the agent needs, so that it decides from memory, or waits", ["agent"]
)
READY = Gauge("qstream_ready", "1 while the agent serves", ["agent"])
PAUSED = Gauge("qstream_paused", "1 while an operator has paused the agent", ["agent"])
BUILD = Info("qstream_build", "Version of qstream and Python")
BUILD.info({"version": __version__, "python": platform.python_version()})

PLANS = Counter(
    "qstream_plans_total", "Plans by outcome: published, reset, or the reason why one is skipped", ["agent", "topic", "outcome"]
)
PLAN_AGE = Gauge("qstream_plan_age_seconds", "Since the newest plan of any key, published or skipped", ["agent", "topic"])
FALLBACKS = Counter("qstream_fallbacks_total", "Plans for which a requested solver did not answer", ["agent", "reason"])
SOLVER_SECONDS = Histogram(
    "qstream_solver_seconds", "Time of making a plan, by the solver that answered", ["agent", "solver"], buckets=SECONDS
)

QUANTUM_SOLVE_SECONDS = Histogram(
    "qstream_quantum_solve_seconds",
    "Time of a request to a solver of small problems or a device, by the one asked for",
    ["solver"],
    buckets=SECONDS,
)
QUANTUM_FALLBACKS = Counter(
    "qstream_quantum_fallbacks_total", "Requests answered by a solver other than the requested one", ["solver", "reason"]
)
QUANTUM_LATE = Counter("qstream_quantum_late_total", "Late answers, applied or dropped", ["solver", "outcome"])

LABELS_MERGED = Counter(
    "qstream_label_values_merged_total",
    "Samples counted under the label value 'other', because the label has too many values",
    ["kind"],
)
LABELS_MERGED.labels("model")  # others as well, once there is a value of theirs
_given: dict[str, set[str]] = {}


def begin_at_zero(metric: Counter | Histogram, *values: Iterable[str]) -> None:
    """Show all lines of these label values, one iterable a label, at 0 until something is counted.

    A line that comes with its first event looks like missing data before it and after each restart, and no rate sees that event.
    """
    for labels in product(*values):
        metric.labels(*labels)


def begin_unknown(gauge: Gauge, *values: Iterable[str]) -> None:
    """Set a gauge to NaN for all these labels: it has no value yet, and 0 would look like one."""
    for labels in product(*values):
        gauge.labels(*labels).set(math.nan)


def bounded_label(label: str, value: str, most: int | None = None) -> str:
    """The value for a label, or ``other`` beyond the first `most` ones, by default `MAX_LABEL_VALUES`: else any producer could
    exhaust the metrics."""
    values = _given.setdefault(label, set())
    LABELS_MERGED.labels(label)
    if value in values:
        return value
    if len(values) >= (MAX_LABEL_VALUES if most is None else most):
        LABELS_MERGED.labels(label).inc()
        return OTHER
    values.add(value)
    return value
