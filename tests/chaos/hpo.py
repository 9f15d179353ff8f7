"""Studies under faults: workers that ask, report twice, come too late and are lost, while agents, store and broker are killed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from agents.registry import find_agent
from qstream.config import Settings
from qstream.contract import Record
from qstream.hpo.examples import spec
from qstream.hpo.memory import HpoState
from qstream.testing.feed import Feed
from qstream.testing.verify import Run, fault_free
from schemas.hpo import StudySpec, TrialReport, TrialSuggestion
from schemas.topics import HPO_STUDY, HPO_TRIAL
from tests.chaos.cases import Case, Step, draw_fault

STUDIES: Final = tuple(f"study-{n}" for n in range(6))
WORKERS: Final = tuple(f"node-{n}" for n in range(5))
OPTIONS: Final = {"optimizer": "gp", "initial": 6, "candidates": 64, "starts": 2}
# No lease ends within a run, so that the script knows the numbers of trials; workers that are lost give their trials back.
LEASE_S: Final = 3600.0
STATES: Final = ("complete", "complete", "complete", "failed", "pruned")


def studies() -> Case:
    """Specs first, then reports. Suggestions say by their bytes which results and running trials were known."""
    agent = find_agent("hpo")
    processor = agent.processor(Settings(options=dict(OPTIONS)))

    def expected(records: Sequence[Record], poison: Collection[str], states: Mapping[str, bytes]) -> Run:
        first = [record for record in records if record.topic == HPO_STUDY.name]
        return fault_free(processor, [*first, *(record for record in records if record.topic != HPO_STUDY.name)], poison)

    return Case(agent.name, processor.inputs, processor.outputs, HpoState, STUDIES, script, expected, first=len(STUDIES))


def study(name: str) -> StudySpec:
    """Every other study by circuits."""
    options = {"optimizer": "vqc"} if STUDIES.index(name) % 2 else {}
    return spec(study=name, lease_s=LEASE_S, retries=10, max_trials=10_000, options=options)


def script(rng: random.Random, count: int) -> Iterator[Step]:
    """What workers of trials send: results, one in twenty of them twice, and one in twenty after it was taken for lost."""
    feed = Feed(find_agent("hpo").processor(Settings(options={"optimizer": "sobol"})))
    held: dict[tuple[str, str], TrialSuggestion] = {}
    lost: list[tuple[str, str, TrialSuggestion]] = []
    for name in STUDIES:
        feed.send(study(name), 0)
        yield Step(HPO_STUDY, name, study(name))
    for number in range(count):
        name, worker = rng.choice(STUDIES), rng.choice(WORKERS)
        trial = held.pop((name, worker), None)
        fields: dict[str, Any] = {}
        if trial is not None and rng.random() < 0.05:
            fields = {"trial": trial.trial, "attempt": trial.attempt, "state": "failed", "reason": "PREEMPTED"}
            lost.append((name, worker, trial))
        elif trial is not None:
            fields = {"trial": trial.trial, "attempt": trial.attempt, **_result(rng)}
        elif lost and rng.random() < 0.5:
            name, worker, late = lost.pop(0)
            fields = {"trial": late.trial, "attempt": late.attempt, **_result(rng)}
        fault = draw_fault(rng).replace("error", "poison")
        if fault == "poison":
            never = {"ask": False, "trial": 9999, "state": "complete", "metrics": {"loss": 1.0}}
            yield Step(HPO_TRIAL, name, TrialReport(study=name, worker=worker, ts_ns=number, **never), fault)
        frame = TrialReport(study=name, worker=worker, ts_ns=number, **fields)
        if fault == "bytes":
            yield Step(HPO_TRIAL, name, frame, fault)
        for _ in range(2 if rng.random() < 0.05 else 1):
            for event in feed.send(frame, 1000).events:
                answer = event.frame
                if isinstance(answer, TrialSuggestion) and answer.status == "run":
                    held[name, worker] = answer
            yield Step(HPO_TRIAL, name, frame)


def _result(rng: random.Random) -> dict[str, Any]:
    return {"state": rng.choice(STATES), "metrics": {"loss": rng.random(), "step_ms": 60 * rng.random()}}
