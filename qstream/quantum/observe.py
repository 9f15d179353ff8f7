"""Observe: requests to solvers and late answers, in the metrics."""

from __future__ import annotations

from functools import cache
from typing import Final

from qstream.metrics import QUANTUM_FALLBACKS, QUANTUM_LATE, QUANTUM_SOLVE_SECONDS, begin_at_zero
from qstream.quantum.record import SolveMeta
from schemas.solver import Reason

LATE: Final = ("applied", "worse", "stale", "failed")  # what becomes of late answers


def count_request(label: str, meta: SolveMeta) -> None:
    """Count an answered request to the solver of this label, of which there must be few."""
    begin(label)
    QUANTUM_SOLVE_SECONDS.labels(label).observe(meta.wall_ms / 1e3)
    if meta.fallback is not None:
        QUANTUM_FALLBACKS.labels(label, meta.fallback.reason).inc()


def count_late(label: str, outcome: str) -> None:
    """Count a late answer by what became of it, one of `LATE`."""
    begin(label)
    QUANTUM_LATE.labels(label, outcome).inc()


@cache
def begin(label: str) -> None:
    """Nothing fell back and nothing was late of a solver that is asked for the first time."""
    begin_at_zero(QUANTUM_FALLBACKS, [label], Reason)
    begin_at_zero(QUANTUM_LATE, [label], LATE)
