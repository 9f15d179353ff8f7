"""Bandits, guards and evaluation of logs next to their peers, on the measuring stick where it is installed. CPU of one thread."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qstream.learn import bandit, guard
from qstream.learn.evaluate import evaluate
from qstream.state.fields import pack
from tests.benchmarks.bench_learn import Row, cpu_us, load_stick

_SEEDS = 5
_PEER_SEEDS = 2
_PEERS = ("vowpalwabbit --squarecb", "vowpalwabbit --epsilon 0.05 --power_t 0", "mabwiser LinTS", "river LinUCBDisjoint")
_CHANGES = (0, 500, 150)
_TARGETS = {"linucb": ("<= 0.019", "<= 0.075", "<= 0.150")}


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_stick()
    return [*(regrets(stick) if stick else []), *times(stick), *([*guards(stick), *evaluations(stick)] if stick else [])]


class Agent:
    """A bandit in the stick's form."""

    def __init__(self, rule: Any, seed: int, arms: int = 5, features: int = 6, **options: Any) -> None:
        self.state, self.seed, self.now = bandit.start(arms, features, rule=rule, **options), seed, 0
        self.log: list[bandit.Outcome] = []

    def choose(self, x: np.ndarray, name: str) -> tuple[int, np.ndarray]:
        self.now += 1
        self.state, choice = bandit.choose(self.state, x, name, self.now, seed=self.seed)
        return choice.arm, choice.propensity

    def reward(self, name: str, value: float) -> None:
        self.state, outcome = bandit.reward(self.state, name, value, self.now)
        self.log += [outcome] if outcome else []


def regrets(stick: ModuleType) -> list[Row]:
    """Regret a round to the best arm; of the best fixed arm and of any arm as well."""
    makers: dict[str, Callable[[int], Any]] = {rule: lambda seed, rule=rule: Agent(rule, seed) for rule in bandit.WIDTH}
    makers["LinUCB, forgetting .98"] = lambda seed: stick.RidgeUcb(5, 6, 0.98, seed=seed)
    found: list[Row] = []
    for column, every in enumerate(_CHANGES):
        problems = [stick.drifting_rewards(seed, every=every) for seed in range(_SEEDS)]
        when = f"weights change every {every} rounds" if every else "weights never change"
        for name, make in makers.items():
            for faults in (False, True) if name in _TARGETS else (False,):
                scores = [stick.bandit_score(make(s), p, faults=s if faults else None) for s, p in enumerate(problems)]
                regret = float(np.mean([score["regret"] for score in scores]))
                what = f"{name}, regret a round, {when}" + (", rewards out of order, twice or never" if faults else "")
                found.append((what, regret, "", _TARGETS[name][column] if name in _TARGETS else "-"))
        for name, peer in peers(stick).items():
            scores = [stick.bandit_score(peer(s, 6), problem)["regret"] for s, problem in enumerate(problems[:_PEER_SEEDS])]
            found.append((f"{name}, {when}", float(np.mean(scores)), "", "-"))
        best = [float((mean.max(1) - mean[:, mean.mean(0).argmax()]).mean()) for _, mean, _ in problems]
        even = [float((mean.max(1) - mean.mean(1)).mean()) for _, mean, _ in problems]
        found += [(f"  {what}", float(np.mean(each)), "", "-") for what, each in (("best fixed arm", best), ("any arm", even))]
    return found


def times(stick: ModuleType | None) -> list[Row]:
    """CPU of a decision and its reward, and bytes of the state."""
    found: list[Row] = []
    for rule in bandit.WIDTH:
        own, agent = step_us(lambda rule=rule: Agent(rule, 0, 5, 8))
        found.append((f"{rule}, choose and reward, 5 arms, 8 features", own, "us", "<= 100" if rule == "linucb" else "-"))
        found.append(("  state", sum(map(len, pack(agent.state).values())) / 1000, "KB", "<= 22"))
        for name, peer in peers(stick).items() if rule == "linucb" else ():
            theirs, _ = step_us(lambda peer=peer: peer(0, 8))
            found.append((f"  {name}", theirs, "us", "-"))
            if name == _PEERS[0]:
                found.append((f"  over that of {name}", own / theirs, "", "<= 0.6"))
    return found


def peers(stick: ModuleType | None) -> dict[str, Callable[[int, int], Any]]:
    """Those of the stick that are installed, by a seed and a number of features."""
    made: dict[str, Callable[[int, int], Any]] = {}
    for name in _PEERS if stick else ():
        library, _, what = name.partition(" ")
        if importlib.util.find_spec(library):
            made[name] = lambda seed, features, library=library, what=what: stick.Peer(library, 5, features, what, seed)
    return made


def step_us(make: Callable[[], Any]) -> tuple[float, Any]:
    """CPU of a decision and its reward, and the agent."""
    agent, x, made = make(), np.random.default_rng(0).normal(size=(64, 8)), iter(range(10**9))

    def step() -> None:
        number = next(made)
        agent.choose(x[number % 64], f"decision-{number}")
        agent.reward(f"decision-{number}", float(x[number % 64, 0]))

    return cpu_us(step, 400), agent


def guards(stick: ModuleType) -> list[Row]:
    """Candidates that are no better, better, and worse later."""

    def make() -> Callable[[float, float], str]:
        state = guard.start("candidate", bound=1.0)

        def compare(incumbent: float, candidate: float) -> str:
            nonlocal state
            state, verdict = guard.compare(state, incumbent, candidate)
            return verdict

        return compare

    score, test = stick.guard_score(make), stick.guard_score(stick.peeking, range(10))
    what = {
        "null": ("no better, promoted", "<= 0.05"),
        "null_memory": ("no better, autocorrelation .5, promoted", "<= 0.08"),
        "promote_012": ("better by .12, promoted after", "<= 130"),
        "rollback_02": ("worse by .2, rolled back after", "<= 115"),
        "false_rollback": ("better by .05, rolled back", "<= 0"),
    }
    found = [(f"guard: {words}", score[name], "", target) for name, (words, target) in what.items()]
    return [*found, *((f"  t-test after each round: {words}", test[name], "", "-") for name, (words, _) in what.items())]


def evaluations(stick: ModuleType) -> list[Row]:
    """Intervals of three policies from the logs of a drifting `thompson` with floor .05, 20 seeds."""
    scores: dict[str, list[Any]] = {"doubly_robust": [], "snips": [], "ips": [], "direct": []}
    for seed in range(20):
        context, mean, reward = stick.drifting_rewards(seed, every=500)
        agent = Agent("thompson", seed, floor=0.05)
        stick.bandit_score(agent, (context, mean, reward))
        at = [int(outcome.id.removeprefix("decision-")) for outcome in agent.log]
        _, arm, earned, propensity, expected, _, _ = zip(*agent.log, strict=True)
        for policy in stick.policies(context, 5, seed).values():
            found = evaluate(arm, earned, propensity, expected, policy[at])
            for kind, each in scores.items():
                each.append(stick.policy_score(lambda _, kind=kind, found=found: getattr(found, kind), policy[at], mean[at]))
    rows: list[Row] = []
    for kind, each in scores.items():
        own = kind == "doubly_robust"
        what = f"{kind}, thompson, floor .05, weights change every 500 rounds"
        rows.append((f"{what}: interval holds", float(np.mean([s["covers"] for s in each])), "", ">= 0.93" if own else "-"))
        rows.append(("  half width", float(np.mean([s["half"] for s in each])), "", "<= 0.10" if own else "-"))
    return rows
