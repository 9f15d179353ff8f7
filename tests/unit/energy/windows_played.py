"""Windows as a domain would choose arms for them, with made-up gains: what is learnt without solving anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from qstream.energy import arms
from qstream.learn import decision
from qstream.learn.options import Learn
from qstream.learn.version import Used
from schemas.learning import Decisions
from schemas.tasks import EnergySchedule

CIRCUITS = {"list": 0, "qaoa": 1, "hqc": 4}


class Played(NamedTuple):
    state: arms.MetaState
    used: list[str]
    log: list[Decisions]

    def share(self, arm: str, after: int = 100) -> float:
        return Counter(self.used[after:])[arm] / len(self.used[after:])


def play(
    gaps: Iterable[float],
    gain: Callable[[str, str], float],
    *,
    seed: int = 0,
    learn: Learn = "on",
    explore: float = 0.02,
    state: arms.MetaState | None = None,
    used: Used = Used(None, False),  # noqa: B008 - it never changes
) -> Played:
    """Windows whose classical answer is `gaps` above the bound; `gain(category, arm)` is what an arm takes off that."""
    rng, now, taken, log = np.random.default_rng(seed), state or arms.start(), [], []
    for n, gap in enumerate(gaps):
        category = f"{rng.choice(['small', 'medium'])}/{rng.choice(['free', 'sparse'])}/{rng.choice(['train', 'infer'])}"
        name = f"graph/0/{n}/0"
        now, arm, early = arms.chosen(now, category, name, n, learn=learn, explore=explore, seed=seed)
        peak = 1 + max(0.0, gap - gain(category, arm))
        came = arms.Came(peak, 1.0, 1 + gap, CIRCUITS[arm] if gap > 0 else 0)
        now, lines = arms.learnt(now, arm, name, came, n, used, mode=lambda learner: learn)
        taken.append(arm)
        if early + lines:
            named = {"module": "energy", "key": "rack-1", "learner": arms.LEARNER, "reward_name": arms.REWARD}
            log.append(decision.log(now.choice, early + lines, learn=learn, **named))
    return Played(now, taken, log)


def schedules(gaps: Iterable[float]) -> list[EnergySchedule]:
    """What is recorded of such windows, in any order."""
    example = EnergySchedule.example()
    made = []
    for n, gap in enumerate(gaps):
        solver = example.solver.model_copy(update={"twin": 1000 * (1 + gap)} if n % 2 else {})
        peak = 1000.0 if n % 2 else 1000 * (1 + gap)
        fields = {"plan_id": f"g/0/{n}/0", "ts_ns": n, "solver": solver, "peak_w": peak, "bound_w": 1000.0}
        made.append(example.model_copy(update=fields))
    return made[::-1]


def gaps(count: int, seed: int, proven: float = 0.6) -> list[float]:
    """So many parts of the windows reach their bound."""
    rest = (1 - proven) / 4
    drawn = np.random.default_rng([seed, 1]).choice([0.0, 0.02, 0.05, 0.1], count, p=[proven, 2 * rest, rest, rest])
    return [float(gap) for gap in drawn]
