"""Replay: what was published is computed again to the same, and what differs is named with the reason."""

from __future__ import annotations

import random

from qstream.hpo.examples import STUDY, spec
from qstream.hpo.options import HpoOptions
from qstream.hpo.processor import HpoProcessor
from qstream.hpo.replay import Asked, replayed
from qstream.testing.feed import Feed
from schemas.control import Scalar
from schemas.hpo import StudySpec, TrialReport, TrialSuggestion

SMALL = HpoOptions(initial=3, explore=4, candidates=64, starts=2)


def searched(count: int, control: dict[str, Scalar] | None = None) -> tuple[list[tuple[int, StudySpec]], list[Asked]]:
    """What the topics hold of a study in which workers come and go, fail and are late, and whose budget is changed once; with
    `control` an operator sets options of the agent later."""
    rng, feed, held, asked = random.Random(5), Feed(HpoProcessor(SMALL)), {}, []
    feed.send(spec(), at_ms=0)
    specs = [(0, spec())]
    for step in range(1, count):
        if step == count // 2:
            specs.append((step * 10**9 - 1, spec().model_copy(update={"max_trials": 150, "options": {"initial": 4}})))
            feed.send(specs[-1][1], at_ms=step * 1000 - 1)
        if control is not None and step == count * 2 // 3:
            feed.configure(**control)
        worker, fields = rng.choice("abc"), {}
        if worker in held and rng.random() < 0.8:
            state = rng.choice(["complete", "complete", "failed"])
            fields = {"trial": held.pop(worker), "state": state, "metrics": {"loss": rng.random(), "step_ms": 20.0}}
        report = TrialReport(study=STUDY, worker=worker, ts_ns=step * 10**9, **fields)
        record = feed.record(report, step * 1000)
        found = [event.frame for event in feed.send_batch([record]).events if isinstance(event.frame, TrialSuggestion)]
        if found and found[0].status == "run":
            held[worker] = found[0].trial
        asked.append(Asked(report, step * 10**9, found[0] if found else None))
    return specs, asked


def test_every_suggestion_is_computed_again_to_the_same():
    specs, asked = searched(40)
    found = list(replayed(specs, asked, [SMALL]))
    assert len(found) > 12
    assert [check.why for check in found] == [""] * len(found)


def test_options_that_an_operator_set_meanwhile_are_found_by_what_was_published():
    specs, asked = searched(40, {"optimizer": "gp"})
    changed = SMALL.changed({"optimizer": "gp"})
    found = list(replayed(specs, asked, [changed, SMALL]))
    assert [check.why for check in found] == [""] * len(found)
    for one in (changed, SMALL):  # both were in force
        assert any(check.why for check in replayed(specs, asked, [one]))


def test_a_suggestion_that_was_altered_is_named():
    specs, asked = searched(24)
    at = next(n for n, one in enumerate(asked) if one.published is not None and one.published.model is not None and n > 4)
    published = asked[at].published
    assert published is not None
    altered = published.model_copy(update={"params": {**published.params, "lr": 0.05}})
    found = list(replayed(specs, [*asked[:at], Asked(asked[at].report, asked[at].time_ns, altered), *asked[at + 1 :]], [SMALL]))
    assert {check.published.trial: check.why for check in found if check.why}[published.trial] == (
        "the same input gives another configuration"
    )


def test_other_options_and_missing_reports_are_told_apart():
    specs, asked = searched(12)
    assert {check.why for check in replayed(specs, asked, [HpoOptions(initial=5)])} == {
        "it was computed from something else: other results, options or versions"
    }
    cut = next(iter(replayed(specs, asked[3:], [SMALL])))
    assert cut.why == "it would be trial 0: reports before it are missing"
