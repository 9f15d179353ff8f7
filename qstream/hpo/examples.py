"""Example records for the conformance checks: a study whose workers do all that workers do, in time and too late."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from qstream.contract import Record
from schemas.frame import Frame
from schemas.hpo import MetricLimit, StudySpec, TrialReport
from schemas.space import Parameter
from schemas.topics import HPO_STUDY, HPO_TRIAL, Topic

STUDY: Final = "lm-small"
LEASE_S: Final = 60.0


def spec(**changes: Any) -> StudySpec:
    """A study of a learning rate, a batch size and an optimizer, with a limit on the time of a step."""
    fields: dict[str, Any] = {
        "study": STUDY,
        "ts_ns": 0,
        "parameters": (
            Parameter(name="lr", type="float", low=1e-5, high=0.1, scale="log"),
            Parameter(name="batch", type="ordinal", choices=(16, 32, 64, 128)),
            Parameter(name="optimizer", type="categorical", choices=("adam", "sgd", "lion")),
        ),
        "limits": (MetricLimit(metric="step_ms", value=40.0, unit="ms"),),
        "max_trials": 24,
        "lease_s": LEASE_S,
        "retries": 1,
    }
    return StudySpec(**(fields | changes))


@dataclass
class _Log:
    """Records of one study, one second after the other."""

    records: list[Record] = field(default_factory=list)
    at_s: float = 1_700_000_000.0

    def add(self, topic: Topic, frame: Frame, later_s: float = 1.0) -> None:
        self.at_s += later_s
        offset = sum(record.topic == topic.name for record in self.records)
        self.records.append(Record(topic.name, 0, offset, STUDY, frame, int(self.at_s * 1000)))

    def report(self, worker: str, later_s: float = 1.0, **fields: Any) -> None:
        frame = TrialReport(study=STUDY, worker=worker, ts_ns=int(self.at_s), **fields)
        self.add(HPO_TRIAL, frame, later_s)


def records() -> list[Record]:
    """Asks before and after the study is there, results, some twice, failures, a heartbeat, a worker that is lost and comes back,
    results without an ask, reports that cannot be, and changes of the study."""
    log = _Log()
    log.report("early")
    log.add(HPO_STUDY, spec())
    for worker in ("a", "b", "lost"):
        log.report(worker)
    log.report("a")  # a restart: the same trial again
    for trial in range(0, 14, 2):
        log.report("a", trial=_held("a", trial), state="complete", metrics=_metrics(trial))
        log.report("b", trial=_held("b", trial), state="complete", metrics=_metrics(trial + 1))
    log.report("a", trial=0, state="complete", metrics=_metrics(0))  # sent twice
    log.report("b", ask=False, trial=2, state="running")
    log.report("a", trial=999, state="complete", metrics=_metrics(1))
    log.report("a", trial=15, state="complete", metrics={"accuracy": 1.0})
    log.report("user", ask=False, state="complete", params={"lr": 0.01, "batch": 32, "optimizer": "adam"}, metrics=_metrics(3))
    log.report("user", ask=False, state="complete", params={"lr": 2.0, "batch": 32, "optimizer": "adam"}, metrics=_metrics(3))
    log.report("c", later_s=2 * LEASE_S)  # takes over from the lost worker
    log.report("lost", trial=2, state="complete", metrics=_metrics(2))  # too late, and it counts
    log.report("c", trial=2, attempt=1, state="complete", metrics=_metrics(9))  # superseded
    log.add(HPO_STUDY, spec(max_trials=20, limits=(MetricLimit(metric="step_ms", value=30.0),)))
    log.add(HPO_STUDY, spec(direction="maximize"))
    for number in range(8):
        log.report(f"w{number % 3}", later_s=LEASE_S / 4)
    log.report("w0", trial=18, state="failed", reason="OOM")
    log.report("w1", ask=False, trial=19, state="failed", reason="PREEMPTED")
    for number in range(8):
        log.report(f"z{number}", later_s=LEASE_S)
    log.add(HPO_STUDY, spec(status="closed"))
    log.report("late")
    return log.records


def _held(worker: str, turn: int) -> int:
    """The trial that a worker holds in a turn: a begins with 0 and b with 1, 2 is with the lost worker, then they take turns."""
    first = {"a": 0, "b": 1}[worker]
    return first if turn == 0 else turn + 1 + first


def _metrics(seed: int) -> dict[str, float]:
    return {"loss": 2.0 + 0.1 * ((seed * 7) % 10), "step_ms": 20.0 + (seed * 5) % 30}
