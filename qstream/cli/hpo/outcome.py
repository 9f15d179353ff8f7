"""Outcome: what a trial's command printed, and how it ended, as the state, metrics and reason of a report."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from schemas.hpo import FailReason

State = Literal["complete", "failed", "infeasible", "pruned"]
STATES: Final = ("complete", "failed", "infeasible", "pruned")
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|OutOfMemory|\bMemoryError\b|RESOURCE_EXHAUSTED|std::bad_alloc|oom-?kill|Cannot allocate memory", re.IGNORECASE
)
_MOST_CHARACTERS: Final = 300  # of a line that is repeated to a person


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), the ends of what it wrote, and whether it was stopped here."""

    code: int
    output: str
    errors: str
    stopped: Literal["TIMEOUT", "PREEMPTED"] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is reported of a trial; `says` tells a person why it is not complete."""

    state: State
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: FailReason | None = None
    says: str = ""


def verdict_of(ended: Ended, objective: str) -> Verdict:
    """Judge a command that has ended.

    The metrics are the numbers of the last line of output that is a JSON object; a last line that is a bare number is the
    objective. The object may say ``state`` (failed, infeasible, pruned) and ``reason`` itself. What is not a finite number
    makes the trial failed for the reason NAN.
    """
    if ended.stopped == "TIMEOUT":
        return Verdict("failed", reason=FailReason.TIMEOUT, says="stopped at its --timeout")
    if ended.stopped == "PREEMPTED":
        return Verdict("failed", reason=FailReason.PREEMPTED, says="stopped with the worker")
    said = last_object(ended.output, objective)
    state, reason = said.get("state"), said.get("reason")
    if state in STATES[1:]:
        return Verdict(state, _finite(said), FailReason(reason) if reason in tuple(FailReason) else None, f"it says {state}")
    if ended.code != 0:
        return Verdict("failed", reason=_reason(ended), says=joined_end(_exit(ended.code), ended.errors or ended.output))
    if not said:
        return Verdict(
            "failed", reason=FailReason.USER, says=joined_end("its output has no line of JSON with metrics", ended.output)
        )
    value = _number(said.get(objective))
    if value is None:
        got = f"{said[objective]!r:.80}" if objective in said else f"{sorted(said)}"
        says = f"its last line of JSON must have a number {objective!r}, got {got}"
        return Verdict("failed", reason=FailReason.USER, says=says)
    if not math.isfinite(value):
        return Verdict("failed", reason=FailReason.NAN, says=f"{objective} is {value}")
    return Verdict("complete", _finite(said))


def last_object(output: str, objective: str) -> dict[str, Any]:
    """The last line that is a JSON object; else a bare number in the last line, as the objective; else nothing."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    try:
        return {objective: float(lines[-1])} if lines else {}
    except ValueError:
        return {}


def joined_end(what: str, output: str) -> str:
    """What happened, and the last line that was written."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"{what}: {lines[-1][:_MOST_CHARACTERS]}" if lines else what


def _finite(said: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    numbers = {name: _number(value) for name, value in said.items()}
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}


def _number(value: object) -> float | None:
    """The number, an integer beyond the range of floats as infinity; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _reason(ended: Ended) -> FailReason:
    """Why a command failed: the worker did not kill it, so a SIGKILL came from the kernel, which kills for lack of memory."""
    killed = ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return FailReason.OOM if killed or _OUT_OF_MEMORY.search(ended.errors) else FailReason.USER


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
