"""Replay: every suggestion of a study computed again from the reports, next to the one that was published."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from qstream.errors import ProblemError
from qstream.hpo import memory, trials
from qstream.hpo.memory import Memory
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Suggestion
from qstream.hpo.suggesting import basis, suggest
from schemas.control import Scalar
from schemas.hpo import MAX_RUNNING, MAX_TRIALS, StudySpec, TrialReport, TrialSuggestion

RELAXED: Final = {"status": "open", "max_trials": MAX_TRIALS, "max_running": MAX_RUNNING}


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


def replayed(specs: Sequence[tuple[int, StudySpec]], asked: Iterable[Asked], options: Sequence[HpoOptions]) -> Iterator[Checked]:
    """Compute again all suggestions of new trials, in their order.

    `specs` are the study's records that are kept, each with its time in ns, the oldest first; the topic keeps the newest for
    certain. `options` are those that the agent may have had, at least one: a suggestion's digest says which of them it was made
    under, and where it names none the first counts. What was published stands for the next ones, so that one that differs does
    not make all later ones differ. A trial that was handed out is handed out here too, whatever budget and status are known;
    where the answer is not kept any more, these decide.
    """
    later = deque(specs)
    draft = trials.create(later.popleft()[1])
    for one in asked:
        while later and later[0][0] <= one.time_ns:
            with suppress(ProblemError):  # it was a dead letter
                trials.change(draft, later.popleft()[1])
        yield from _checked(draft, one, options)


def _checked(draft: Memory, one: Asked, options: Sequence[HpoOptions]) -> list[Checked]:
    """Take a report, and compare its suggestion if it led to a new one."""
    published, spec = one.published, draft.now.spec
    checked: list[Checked] = []
    asks = one.report.ask and (published is None or published.status == "run")
    if published is not None:
        draft.set(spec=spec.model_copy(update=RELAXED))
    with suppress(ProblemError):  # it was a dead letter
        report = one.report.model_copy(update={"ask": asks})
        trials.report(draft, report, one.time_ns, partial(_again, published=published, options=options, checked=checked))
    draft.set(spec=spec)
    return checked


def _again(
    draft: Memory, trial: int, *, published: TrialSuggestion | None, options: Sequence[HpoOptions], checked: list[Checked]
) -> Suggestion:
    """Compute a suggestion, note how it compares, and go on with the one that was published."""
    wanted = None if published is None or published.model is None else published.model.digest
    named = (each for each in options if basis(draft, trial, options=each) == wanted)
    computed = suggest(draft, trial, options=next(named, options[0]))
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
