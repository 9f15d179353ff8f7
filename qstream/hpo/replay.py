"""Replay: every suggestion of a study computed again from the reports, next to the one that was published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from qstream.errors import ProblemError
from qstream.hpo import memory, trials
from qstream.hpo.memory import Memory
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Suggestion
from qstream.hpo.suggesting import suggest
from schemas.control import Scalar
from schemas.hpo import MAX_RUNNING, MAX_TRIALS, StudySpec, TrialReport, TrialSuggestion


@dataclass(frozen=True, slots=True)
class Asked:
    """A report in the order of its topic: the time of its record in ns, and the suggestion that was published for it, if any."""

    report: TrialReport
    time_ns: int
    published: TrialSuggestion | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A suggestion as published and as computed again; `why` says what differs, and is empty where nothing does."""

    published: TrialSuggestion
    params: Mapping[str, Scalar]
    why: str = ""


def replayed(spec: StudySpec, asked: Iterable[Asked], options: HpoOptions) -> Iterator[Checked]:
    """Compute again all suggestions of new trials, in their order.

    What was published stands for the next ones, so that one that differs does not make all later ones differ. Budget and status
    may have changed since: the topic of studies keeps the newest record alone. So a trial that was handed out is handed out here
    too; where the answer is not kept any more, budget and status are taken as they are now.
    """
    draft = trials.create(spec)
    now = draft.now.spec
    then = now.model_copy(update={"status": "open", "max_trials": MAX_TRIALS, "max_running": MAX_RUNNING})
    for one in asked:
        published = one.published
        checked: list[Checked] = []
        asks = one.report.ask and (published is None or published.status == "run")
        draft.set(spec=now if published is None else then)
        try:
            report = one.report.model_copy(update={"ask": asks})
            trials.report(draft, report, one.time_ns, partial(_again, published=published, options=options, checked=checked))
        except ProblemError:
            continue  # it was a dead letter
        yield from checked


def _again(
    draft: Memory, trial: int, *, published: TrialSuggestion | None, options: HpoOptions, checked: list[Checked]
) -> Suggestion:
    """Compute a suggestion, note how it compares, and go on with the one that was published."""
    computed = suggest(draft, trial, options=options)
    if published is None:
        return computed
    checked.append(Checked(published, computed.params, _difference(published, trial, computed)))
    return replace(computed, unit=memory.space(draft.now).encode(published.params), params=published.params)


def _difference(published: TrialSuggestion, trial: int, computed: Suggestion) -> str:
    """What differs, empty if nothing does."""
    if published.trial != trial:
        return f"it would be trial {trial}: reports before it are missing"
    if published.model is not None and published.model.digest != computed.digest:
        return "it was computed from something else: other results, options or versions"
    return "" if dict(published.params) == dict(computed.params) else "the same input gives another configuration"
