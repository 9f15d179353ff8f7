"""Metrics of studies: what an operator sees of answers, outcomes and best sets."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from qstream.contract import Event
from qstream.hpo import metrics
from qstream.hpo.examples import records
from qstream.hpo.options import HpoOptions
from qstream.hpo.processor import HpoProcessor
from qstream.testing.feed import Feed
from schemas.hpo import StudyBest, TrialSuggestion
from schemas.solver import Reason
from schemas.topics import HPO_SUGGESTION


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"qstream_hpo_{name}", labels) or 0.0


def seen() -> dict[str, float]:
    return {
        "run": value("asks_total", status="run"),
        "done": value("asks_total", status="done"),
        "complete": value("trials_total", outcome="complete"),
        "lost": value("trials_total", outcome="lost"),
        "late": value("late_results_total"),
        "expired": value("expired_leases_total"),
        "sobol": value("ask_seconds_count", source="sobol"),
        "matern": value("kernel_suggestions_total", kernel="matern"),
        "dropped": value("warm_starts_dropped_total"),
    }


def test_what_happened_is_counted():
    feed = Feed(HpoProcessor(HpoOptions(initial=3, explore=0, candidates=64, starts=2)))
    feed.send_batch(records())
    before = seen()
    for event in feed.events:
        metrics.observe(event)
    counted = {name: after - before[name] for name, after in seen().items()}

    answers = feed.frames(TrialSuggestion)
    assert counted["run"] == sum(answer.status == "run" for answer in answers)
    assert counted["expired"] == sum(answer.source == "retry" and not answer.repeated for answer in answers) > 0
    assert counted["sobol"] == sum(answer.source == "sobol" and answer.model is not None for answer in answers) > 0
    assert counted["matern"] == sum(answer.source == "gp" and answer.model is not None for answer in answers) > 0
    assert min(counted["done"], counted["complete"], counted["lost"], counted["late"]) > 0
    assert counted["dropped"] == 0
    assert value("best_value", study="lm-small") == feed.frames(StudyBest)[-1].points[0].value
    assert value("running_trials") == 0  # the study has ended


def test_a_warm_start_that_the_guard_drops_is_counted():
    before = value("warm_starts_dropped_total")
    frame = TrialSuggestion.example().model_copy(update={"fallback_reason": Reason.PRIOR_MISLEADS})
    metrics.observe(Event(HPO_SUGGESTION, frame.study, "a", frame, None, 0.01))
    assert value("warm_starts_dropped_total") == before + 1


def test_of_many_studies_twenty_have_a_line_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qstream.metrics._given", {})
    best = StudyBest.example()
    for n in range(30):
        metrics.observe(Event(HPO_SUGGESTION, "s", "a", best.model_copy(update={"study": f"crowd-{n}"}), None))
    shown = {s.labels["study"] for family in metrics.BEST.collect() for s in family.samples if s.labels["study"] != "lm-small"}
    assert shown == {*(f"crowd-{n}" for n in range(20)), "other"}
    for study in shown:
        metrics.BEST.remove(study)
