"""Version: which one of a model a key uses: the newest is offered to a guard, promoted, and rolled back; state in, state out."""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.learn import given, guard
from qstream.learn.evolve import evolve
from qstream.learn.guard import GuardState, Verdict
from qstream.learn.model import Model
from qstream.learn.registry import Models
from schemas.frame import Axes, Frame
from schemas.wording import must_be

MODEL_MISSING: Final = "model_missing"
MAX_REJECTED: Final = 16
Reason = Literal["", "model_missing"]


class VersionState(Frame):
    """What a key has pinned: the guard's candidate is ``<name>@<version>``; `rejected` are the versions that it
    has retired, the newest last, and -1 where there is none yet."""

    name: str = Field(min_length=1, max_length=100)
    guard: GuardState
    rejected: Annotated[NDArray[np.int64], Axes("rejected")]

    @property
    def version(self) -> int | None:
        """The pinned version, None before the first."""
        return int(self.guard.candidate.rpartition("@")[2]) if self.guard.candidate else None

    @classmethod
    def example(cls) -> Self:
        return cls(name="forecast", guard=guard.start("forecast@7", bound=1.0), rejected=_none_rejected())


class Used(NamedTuple):
    """What a decision uses: `model`, to be computed and compared, and whether it `answers`; if not, the incumbent does.

    `candidate` goes with the decision, for `compare`. It is empty where no guard watches: no model, or one that was set by hand.
    """

    model: Model | None
    answers: bool
    candidate: str = ""
    fallback_reason: Reason = ""


def start(
    name: str, *, bound: float, alpha: float = 0.05, alarm: float = 200.0, block: int = 4, window: int = 0, hold: int = 5
) -> VersionState:
    """Return the state of a key that has pinned no version of the model `name`; the rest as in `guard.start`."""
    given.labels("name", (name,), 1)
    watching = guard.start("", bound=bound, alpha=alpha, alarm=alarm, block=block, window=window, hold=hold)
    return VersionState(name=name, guard=watching, rejected=_none_rejected())


def choose(state: VersionState, models: Models, option: str | int = "auto") -> tuple[VersionState, Used]:
    """Say which version a decision uses, by the option ``model_<name>``. The same state and models give the same answer.

    ``auto``: a version newer than the pinned one is pinned and watched from the beginning, and the incumbent answers until the
    guard promotes it. A pinned version that is missing or retired: the incumbent answers, `fallback_reason` says so, and the
    newest one that this key has not rejected is pinned instead, be it an older one. A version number: that version, unguarded.
    ``none``: no model. The last two leave the state as it is.

    Raises
    ------
    LearnError
        The option is none of these.
    """
    wanted = _wanted(option)
    if wanted == "none":
        return state, Used(None, False)
    if wanted != "auto":
        model = models.get(state.name, int(wanted))
        return state, Used(model, model is not None, "", "" if model else MODEL_MISSING)
    pinned = state.version
    lost = pinned is not None and models.get(state.name, pinned) is None
    reason: Reason = MODEL_MISSING if lost and not state.guard.retired else ""
    newest = models.newest(state.name, state.rejected.tolist())
    if newest is not None and newest != pinned and (pinned is None or lost or newest > pinned):
        state, pinned, lost = _pin(state, newest), newest, False
    if pinned is None or lost or state.guard.retired:
        return state, Used(None, False, "", reason)
    answers = state.guard.answers == "candidate"
    return state, Used(models.get(state.name, pinned), answers, state.guard.candidate, reason)


def compare(state: VersionState, candidate: str, incumbent_loss: float, candidate_loss: float) -> tuple[VersionState, Verdict]:
    """Learn the losses of both on one outcome, as `guard.compare`.

    `candidate` is that of the decision (`Used`). Another version may be pinned by now: then the losses say nothing of it, and
    nothing changes.
    """
    if not candidate or candidate != state.guard.candidate:
        return state, "wait"
    watching, verdict = guard.compare(state.guard, incumbent_loss, candidate_loss)
    return evolve(state, guard=watching), verdict


def trip(state: VersionState) -> VersionState:
    """Retire the pinned version for this key at once: its answer was not finite, came too late, or broke a hard limit."""
    return evolve(state, guard=guard.trip(state.guard)) if state.guard.candidate else state


def _pin(state: VersionState, version: int) -> VersionState:
    rejected = state.rejected
    if state.guard.retired and state.version is not None:
        rejected = np.append(rejected[1:], np.int64(state.version))
    return evolve(state, guard=guard.offer(state.guard, f"{state.name}@{version}"), rejected=rejected)


def _none_rejected() -> NDArray[np.int64]:
    return np.full(MAX_REJECTED, -1, np.int64)


def _wanted(option: str | int) -> str:
    text = str(option)
    if text not in ("auto", "none") and not (text.isdecimal() and len(text) < 19):
        raise LearnError(must_be("option of a model", "auto, none or the number of a version", option))
    return text
