"""Guard: a candidate answers only once it has proven itself against the incumbent, and no longer once it has become worse.

Promotion by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024), which
may be looked at after every comparison; rollback by an e-CUSUM (Shin, Ramdas and Rinaldo, "E-detectors", NEJSDS 2, 2024).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.kernels import compiled
from qstream.learn import given
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Count, Frame
from schemas.wording import Shown, must_be

Verdict = Literal["wait", "promote", "rollback", "trip"]
Answers = Literal["incumbent", "candidate"]
BETS: Final = np.array([0.0125 * 2**k for k in range(7)])  # .0125 to .8
MOST_WEALTH: Final = 1e100  # a wealth beyond counts as this
LEAST_WEALTH: Final = 1e-100  # a bet that has lost more may come back from here: nothing underflows, and the others decide


class GuardState(Frame):
    """What a guard knows of a candidate; `answers` says who answers now.

    `wealth` of each bet [bets] is for promotion, `alarm_wealth` for rollback. `block_sum` and `block_count` are the differences
    of the open block; `recent` is a ring of the newest of them, of which `compared` were seen; `held` comparisons are left in
    which the incumbent answers for a promoted candidate.
    """

    candidate: str = Field(max_length=given.MAX_NAME)
    bound: float = Field(gt=0)
    alpha: float = Field(gt=0, lt=1)
    alarm: float = Field(gt=1)
    block: int = Field(ge=1)
    window: int = Field(ge=0)
    hold: int = Field(ge=0)
    promoted: bool = False
    retired: bool = False
    held: int = Field(default=0, ge=0)
    compared: Count = 0
    promotions: Count = 0
    rollbacks: Count = 0
    trips: Count = 0
    block_sum: float = 0.0
    block_count: Count = 0
    wealth: Annotated[NDArray[np.float64], Axes("bets")]
    alarm_wealth: Annotated[NDArray[np.float64], Axes("bets")]
    recent: Annotated[NDArray[np.float64], Axes("window")]

    @property
    def answers(self) -> Answers:
        """``candidate`` once it is promoted and not held back, else ``incumbent``."""
        return "candidate" if self.promoted and not self.held else "incumbent"

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start("model@1", bound=1.0)))


def start(
    candidate: str, *, bound: float, alpha: float = 0.05, alarm: float = 200.0, block: int = 4, window: int = 0, hold: int = 5
) -> GuardState:
    """Return a guard behind which the incumbent answers and a candidate is watched.

    Parameters
    ----------
    candidate
        Its name, such as a model and its version; "" for none yet.
    bound
        The difference of two losses that counts as 1; a larger one counts as 1 too.
    alpha
        Upper bound on the chance of ever promoting a candidate that does not beat the incumbent.
    alarm
        After about so many blocks, at least, a promoted candidate that is as good as the incumbent is rolled back.
    block
        Comparisons that count as one. They must outlast the memory of the losses: 4 at autocorrelation .5, 8 at .8.
    window, hold
        When the last `window` differences are against a promoted candidate, the incumbent answers for `hold` comparisons;
        never if `window` is 0.
    """
    return GuardState(
        candidate=_name(candidate),
        bound=given.real("bound", bound, 1e-100, 1e100),
        alpha=given.real("alpha", alpha, 1e-9, 0.999),
        alarm=given.real("alarm", alarm, 1.001, 1e9),
        block=given.whole("block", block, 1, 10_000),
        window=given.whole("window", window, 0, 10_000),
        hold=given.whole("hold", hold, 0, 10_000),
        wealth=np.ones(len(BETS)),
        alarm_wealth=np.ones(len(BETS)),
        recent=np.zeros(window),
    )


def compare(state: GuardState, incumbent_loss: float, candidate_loss: float) -> tuple[GuardState, Verdict]:
    """Learn the losses of both on one outcome, and say what follows.

    ``promote``: the candidate answers from now on. ``rollback``: it was promoted, has become worse, and is retired until `offer`
    brings the next. ``trip``: its loss is not finite, which retires it at once. ``wait``: nothing of these.

    Raises
    ------
    LearnError
        The incumbent's loss is not finite, or a loss is not a number.
    """
    if not isinstance(candidate_loss, int | float | np.integer | np.floating) or isinstance(candidate_loss, bool):
        raise LearnError(must_be("candidate_loss", "a number", candidate_loss))
    incumbent = given.real("incumbent_loss", incumbent_loss, -1.7976931348623157e308, 1.7976931348623157e308)
    if state.retired or not state.candidate:
        return state, "wait"
    candidate_loss = given.plain(candidate_loss)
    if not math.isfinite(candidate_loss):
        return trip(state), "trip"
    gain = min(max(incumbent / state.bound - candidate_loss / state.bound, -1.0), 1.0)
    gain = 0.0 if math.isnan(gain) else gain  # both beyond all bounds
    state = _held(state, gain)
    if state.block_count + 1 < state.block:
        return evolve(state, block_sum=state.block_sum + gain, block_count=state.block_count + 1), "wait"
    mean = (state.block_sum + gain) / state.block
    step = min(max(mean * math.sqrt(state.block), -1.0), 1.0)
    state = evolve(state, block_sum=0.0, block_count=0)
    return _watch(state, step) if state.promoted else _bet(state, step)


def _bet(state: GuardState, step: float) -> tuple[GuardState, Verdict]:
    wealth = state.wealth.copy()
    if bet(wealth, step) < 1 / state.alpha:
        return evolve(state, wealth=wealth), "wait"
    fresh = np.ones(len(BETS))
    return evolve(state, wealth=wealth, alarm_wealth=fresh, promoted=True, promotions=state.promotions + 1), "promote"


def _watch(state: GuardState, step: float) -> tuple[GuardState, Verdict]:
    wealth = np.maximum(state.alarm_wealth, 1.0)
    if bet(wealth, -step) < state.alarm:
        return evolve(state, alarm_wealth=wealth), "wait"
    return _retire(evolve(state, alarm_wealth=wealth, rollbacks=state.rollbacks + 1)), "rollback"


def _held(state: GuardState, gain: float) -> GuardState:
    """The cheap rule for what is scored every window: let the incumbent answer for some comparisons after bad ones."""
    if not state.window:
        return evolve(state, compared=state.compared + 1)
    recent = state.recent.copy()
    recent[state.compared % state.window] = gain
    full = state.compared + 1 >= state.window
    held = state.hold if state.promoted and full and sum(recent.tolist()) < 0 else max(0, state.held - 1)
    return evolve(state, compared=state.compared + 1, recent=recent, held=held)


def offer(state: GuardState, candidate: str) -> GuardState:
    """Watch another candidate from the beginning; the incumbent answers meanwhile. The same one again changes nothing."""
    if _name(candidate) == state.candidate:
        return state
    return evolve(_fresh(state), candidate=candidate, retired=False)


def trip(state: GuardState) -> GuardState:
    """Retire the candidate at once: its answer was not finite, came too late, or broke a hard limit."""
    return state if state.retired else _retire(evolve(state, trips=state.trips + 1))


def _retire(state: GuardState) -> GuardState:
    return evolve(state, promoted=False, retired=True, held=0)


def _fresh(state: GuardState) -> GuardState:
    ones, none = np.ones(len(BETS)), np.zeros(len(state.recent))
    changes = {"wealth": ones, "alarm_wealth": ones.copy(), "recent": none}
    return evolve(state, promoted=False, held=0, compared=0, block_sum=0.0, block_count=0, **changes)


def _name(candidate: object) -> str:
    if not isinstance(candidate, str) or len(candidate) > given.MAX_NAME:
        raise LearnError(must_be("candidate", f"a name of at most {given.MAX_NAME} characters", Shown(repr(candidate))))
    return candidate


@compiled
def bet(wealth: Any, gain: Any) -> Any:
    """Play each bet [bets] on a gain of -1 to 1, in place: wealth times 1 + bet times gain. Returns the mean wealth."""
    total = 0.0
    for k in range(len(wealth)):
        wealth[k] = min(max(wealth[k] * (1.0 + BETS[k] * gain), LEAST_WEALTH), MOST_WEALTH)
        total += wealth[k]
    return total / len(wealth)
