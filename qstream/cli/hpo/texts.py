"""Texts: trials, parameters and studies as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qstream.cli.hpo.outcome import Verdict
from qstream.cli.hpo.slots import Answer
from qstream.cli.output import joined
from schemas.control import Scalar
from schemas.hpo import StudySpec


def params_text(params: Mapping[str, Scalar]) -> str:
    """``lr=0.001 batch=32``, numbers with five digits.

    >>> params_text({"lr": 0.0010000001, "batch": 32, "adam": True})
    'lr=0.001 batch=32 adam=true'
    """
    return " ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Scalar) -> str:
    """One value, a number with five digits."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.5g}" if isinstance(value, float) else str(value)


def trial_text(answer: Answer, verdict: Verdict, objective: str, took_s: float, *, best: bool) -> str:
    """A trial that has ended, as a line; `best` says that it is better than those of this worker before it."""
    again = f" (attempt {answer.attempt + 1})" if answer.attempt else ""
    found = verdict.metrics.get(objective)
    if verdict.state == "complete" and found is not None:
        what = f"{objective} {found:.6g}{' (best)' if best else ''}"
    else:
        what = joined(f"{verdict.state}{f' {verdict.reason}' if verdict.reason else ''}", verdict.says or None)
    return joined(f"trial {answer.trial}{again}", what, params_text(answer.params), f"{took_s:.1f} s", answer.source or None)


def keeps(metrics: Mapping[str, float], spec: StudySpec) -> bool:
    """Whether metrics keep all limits of a study; one that was not reported keeps none."""
    values = [(limit, metrics.get(limit.metric, math.nan)) for limit in spec.limits]
    return all(value <= limit.value if limit.op == "<=" else value >= limit.value for limit, value in values)
