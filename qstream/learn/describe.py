"""Describe: what a learner knows, as plain numbers and names for people and machines."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from qstream.learn import bandit, calibration, conformal, decision, drift, forecast, gate, guard, hedge, rate, version, weights
from schemas.frame import Frame

Facts = dict[str, Any]
MOST_SHOWN = 64  # arms or paths of which numbers are shown; of series their mean


@singledispatch
def describe(state: Frame) -> Facts:
    """Facts of a learner by name. A module with a learner of its own registers its facts: ``@describe.register``."""
    return {"kind": type(state).__name__}


@describe.register
def _(state: hedge.HedgeState) -> Facts:
    share, regret, steps = hedge.mix(state).mean(axis=0), state.arm_regret.sum(axis=0), max(state.steps, 1)
    best = int(regret.argmax())
    rounds, lost = steps * len(state.arm_regret), float(state.loss_total.sum())
    return {
        "kind": "hedge",
        "steps": state.steps,
        "series": len(state.arm_regret),
        "loss": lost / rounds,
        "best_fixed_arm": state.arms[best],
        "regret": float(regret[best]) / rounds,
        "arms": {
            name: {"share": float(share[k]), "loss": (lost - float(regret[k])) / rounds}
            for k, name in enumerate(state.arms[:MOST_SHOWN])
        },
    }


@describe.register
def _(state: bandit.BanditState) -> Facts:
    rewards = max(state.rewards, 1)
    value = state.value / rewards
    best = int(value.argmax())
    return {
        "kind": "bandit",
        "rule": state.rule,
        "explore": state.floor,
        "decisions": state.decisions,
        "rewards": state.rewards,
        "pending": sum(name != "" for name in state.waiting_id),
        "expired": state.expired,
        "unmatched": state.unmatched,
        "reward": state.reward_sum / rewards,
        "best_fixed_arm": state.arm_names[best],
        "regret": float(value[best]) - state.reward_sum / rewards,
        "uniform": float(value.mean()),
        "arms": {
            name: {
                "chosen": int(state.chosen[k]),
                "share": int(state.chosen[k]) / max(state.decisions, 1),
                "reward": float(value[k]),
            }
            for k, name in enumerate(state.arm_names[:MOST_SHOWN])
        },
        "memories": state.memories.tolist(),
    }


@describe.register
def _(state: decision.DecisionState) -> Facts:
    return describe(state.bandit)


@describe.register
def _(state: forecast.ForecastState) -> Facts:
    return describe(state.hedge) | {"kind": "forecast", "steps": state.steps, "horizon": state.horizon}


@describe.register
def _(state: conformal.ConformalState) -> Facts:
    seen = state.steps * len(state.missed)
    covered = {"coverage": 1 - int(state.missed.sum()) / seen} if seen else {}  # of nothing seen, 1 would be a claim
    return {"kind": "conformal", "steps": state.steps, "series": len(state.missed), **covered, "target": state.coverage}


@describe.register
def _(state: calibration.CalibrationState) -> Facts:
    steps = max(state.miss.steps, 1)
    errors = {"bias": state.bias, "error": state.error / steps, "error_planned": state.error_planned / steps}
    return describe(state.miss) | {"kind": "calibration"} | errors


@describe.register
def _(state: drift.DriftState) -> Facts:
    return {"kind": "drift", "steps": state.steps, "series": len(state.mean), "changes": int(state.changes.sum())}


@describe.register
def _(state: gate.GateState) -> Facts:
    seen = np.minimum(state.recent, state.gain.shape[1])
    options = {
        name: {
            "on": bool(state.on[o]),
            "tries": int(state.tries[o]),
            "switched_off": int(state.switched_off[o]),
            **({"gain": float(state.gain[o, : seen[o]].mean())} if seen[o] else {}),
        }
        for o, name in enumerate(state.options[:MOST_SHOWN])
    }
    return {"kind": "gate", "steps": state.steps, "threshold": state.threshold, "options": options}


@describe.register
def _(state: rate.RateState) -> Facts:
    means = {"bits": state.bits / state.steps, "error": state.error / state.steps} if state.steps else {}
    return {"kind": "rate", "steps": state.steps, "offset": state.offset, **means}


@describe.register
def _(state: weights.WeightsState) -> Facts:
    share = weights.shares(state).mean(axis=0)
    arms = {str(path): {"share": float(part)} for path, part in enumerate(share[:MOST_SHOWN])}
    return {"kind": "weights", "steps": state.steps, "series": len(state.theta), "arms": arms}


@describe.register
def _(state: guard.GuardState) -> Facts:
    return {
        "kind": "guard",
        "candidate": state.candidate,
        "answers": state.answers,
        "retired": state.retired,
        "compared": state.compared,
        "wealth": float(np.mean(state.wealth)),
        "alarm_wealth": float(np.mean(state.alarm_wealth)),
        "promotions": state.promotions,
        "rollbacks": state.rollbacks,
        "trips": state.trips,
    }


@describe.register
def _(state: version.VersionState) -> Facts:
    known = {"kind": "version", "model": state.name, "version": state.version}
    return describe(state.guard) | known | {"rejected": [one for one in state.rejected.tolist() if one >= 0]}
