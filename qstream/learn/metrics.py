"""What learners have done and how they stand, as metrics of all agents that learn. Labels are bounded: never a key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from prometheus_client import Counter, Gauge

from qstream.learn.registry import Models
from qstream.learn.tally import Tally
from qstream.metrics import bounded_label

UPDATES = Counter("qstream_learn_updates_total", "Learning steps over all keys", ["agent", "learner"])
DECISIONS = Counter("qstream_learn_decisions_total", "Decisions of a bandit, by the arm chosen", ["agent", "learner", "arm"])
REWARDS = Counter(
    "qstream_learn_rewards_total",
    "Rewards: matched with their decision, or unmatched: of no decision that waits, repeated, not finite; expired: decisions "
    "that none came for in time",
    ["agent", "learner", "outcome"],
)
VERDICTS = Counter(
    "qstream_learn_guard_total",
    "Verdicts of guards: promote, rollback or trip; and change, if drift was detected",
    ["agent", "learner", "verdict"],
)
SHARE = Gauge("qstream_learn_arm_share", "Share of an arm in answers, mean over keys", ["agent", "learner", "arm"])
REGRET = Gauge(
    "qstream_learn_regret_ratio",
    "Loss above that of the best fixed arm, relative to it; 0 or less is as good as knowing that arm beforehand",
    ["agent", "learner"],
)
COVERAGE = Gauge(
    "qstream_learn_coverage_ratio", "Fraction of the outcomes within their bound, mean over keys", ["agent", "learner"]
)
TARGET = Gauge("qstream_learn_coverage_target_ratio", "Fraction of the outcomes that a bound should cover", ["agent", "learner"])
PROMOTED = Gauge(
    "qstream_learn_promoted_ratio", "Fraction of the keys for which a guard lets its candidate answer", ["agent", "learner"]
)
VERSION = Gauge(
    "qstream_learn_model_version",
    "Newest version of a model that a key uses: watched by its guard, or answers",
    ["agent", "learner", "use"],
)
MISSING = Gauge(
    "qstream_learn_model_missing_ratio",
    "Fraction of the keys whose pinned model version is missing, though not retired; the incumbent answers",
    ["agent", "learner"],
)
FROZEN = Gauge(
    "qstream_learn_frozen_ratio", "Fraction of the keys for which a command has frozen the learner", ["agent", "learner"]
)
MODELS = Gauge(
    "qstream_learn_models",
    "Versions of models on the model topic that the agent uses, or refuses: parts missing, other features, too many",
    ["agent", "use"],
)
LEAST_LOSS: Final = 1e-12  # of the best fixed arm: a part of less than this says nothing
Facts = dict[str, Any]


def count(agent: str, learner: str, new: Tally) -> None:
    """Count what a learner of a key has done since it was last counted; what it has not done yet stands at 0."""
    UPDATES.labels(agent, learner).inc(new.updates)
    for arm, many in new.decisions.items():
        DECISIONS.labels(agent, learner, bounded_label("arm", arm)).inc(many)
    for outcome, many in new.rewards.items():
        REWARDS.labels(agent, learner, outcome).inc(many)
    for verdict, many in new.verdicts.items():
        VERDICTS.labels(agent, learner, verdict).inc(many)


def show(agent: str, learner: str, keys: Sequence[Facts], models: Models | None = None) -> None:
    """Show how a learner stands, by what `describe` says of it in one or more keys, and whether it is ``frozen``."""
    FROZEN.labels(agent, learner).set(_mean([facts["frozen"] for facts in keys]))
    _show_arms(agent, learner, [facts for facts in keys if "arms" in facts])
    if covered := [facts for facts in keys if "coverage" in facts]:
        COVERAGE.labels(agent, learner).set(_mean([facts["coverage"] for facts in covered]))
        TARGET.labels(agent, learner).set(_mean([facts["target"] for facts in covered]))
    if guarded := [facts for facts in keys if "answers" in facts]:
        PROMOTED.labels(agent, learner).set(_mean([facts["answers"] == "candidate" for facts in guarded]))
    if versioned := [facts for facts in keys if facts["kind"] == "version"]:
        _show_versions(agent, learner, versioned, models)


def show_models(agent: str, models: Models) -> None:
    """Show how many versions of models there are."""
    MODELS.labels(agent, "used").set(sum(map(len, models.by_name.values())))
    MODELS.labels(agent, "refused").set(len(models.refused))


def _show_arms(agent: str, learner: str, keys: Sequence[Facts]) -> None:
    shares: dict[str, float] = defaultdict(float)
    for facts in keys:
        for arm, of in facts["arms"].items():
            shares[bounded_label("arm", arm)] += of["share"] / len(keys)
    for arm, share in shares.items():
        SHARE.labels(agent, learner, arm).set(share)
    regrets = [(facts["regret"], facts["loss"] - facts["regret"]) for facts in keys if "loss" in facts]
    regrets += [(facts["regret"], abs(facts["reward"] + facts["regret"])) for facts in keys if "reward" in facts]
    if (least := sum(best for _, best in regrets if best > LEAST_LOSS)) > LEAST_LOSS:
        REGRET.labels(agent, learner).set(sum(regret for regret, best in regrets if best > LEAST_LOSS) / least)


def _show_versions(agent: str, learner: str, keys: Sequence[Facts], models: Models | None) -> None:
    pinned = [facts for facts in keys if facts["version"] is not None]
    if models is not None:
        known = [(facts, models.get(facts["model"], facts["version"])) for facts in pinned]
        gone = [(facts["model"], facts["version"]) for facts, model in known if model is None and not facts["retired"]]
        MISSING.labels(agent, learner).set(sum(version not in models.retired for version in gone) / len(keys))
        pinned = [facts for facts, model in known if model is not None]
    answering = [facts["version"] for facts in pinned if facts["answers"] == "candidate"]
    watched = [facts["version"] for facts in pinned if facts["answers"] != "candidate" and not facts["retired"]]
    VERSION.labels(agent, learner, "answers").set(max(answering, default=0))
    VERSION.labels(agent, learner, "watched").set(max(watched, default=0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
