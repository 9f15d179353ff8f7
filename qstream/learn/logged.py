"""Logged: rewarded decisions of one learner as arrays, what is wrong with them, and policies to judge by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from qstream.learn import policy
from qstream.learn.evaluate import SUM
from qstream.learn.model import Model
from schemas.learning import Decisions
from schemas.wording import Shown, must_be

SECOND_NS: Final = 1_000_000_000


class Logged(NamedTuple):
    """Rewarded decisions: ids [n], arm int64 [n], reward float64 [n], propensity and expected float64 [n, arms], context float64
    [n, features], ts_ns int64 [n]. `expected` is 0 where the log does not have it: doubly robust estimates are IPS then.

    `unrewarded` counts decisions that were left out because no reward came, `damaged` rows that could not be read or make no
    sense; `fault` says what is wrong with the first of these.
    """

    arm_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    id: tuple[str, ...]
    arm: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    expected: NDArray[np.float64]
    context: NDArray[np.float64]
    ts_ns: NDArray[np.int64]
    unrewarded: int = 0
    damaged: int = 0
    fault: str = ""


_ROWS: Final = ("arm", "reward", "propensity", "expected", "context", "ts_ns")


def join(frames: Sequence[Decisions]) -> Logged:
    """The rewarded decisions of frames of one learner; `LearnError` if there is none, or if arms or features differ."""
    if not frames:
        raise LearnError(must_be("log", "of one decision or more", Shown("none")))
    first = frames[0]
    for frame in frames:
        if (frame.arm_names, frame.feature_names) != (first.arm_names, first.feature_names):
            raise LearnError(must_be("log", "of the same arms and features throughout", frame.arm_names))
    kept = [frame.rewarded.astype(np.bool_) for frame in frames]
    ids = [name for frame, keep in zip(frames, kept, strict=True) for name in np.array(frame.decision_id)[keep].tolist()]
    if not ids:
        raise LearnError(must_be("log", "of one rewarded decision or more", Shown("none")))

    def whole(name: str, dtype: Any) -> Any:
        return np.concatenate([getattr(frame, name)[keep] for frame, keep in zip(frames, kept, strict=True)]).astype(dtype)

    return Logged(
        first.arm_names,
        first.feature_names,
        tuple(ids),
        whole("arm", np.int64),
        whole("reward", np.float64),
        whole("propensity", np.float64),
        whole("expected", np.float64),
        whole("context", np.float64),
        whole("ts_ns", np.int64),
        unrewarded=sum(int((~keep).sum()) for keep in kept),
    )


def sound(log: Logged) -> Logged:
    """The decisions that can be judged; the others count as damaged. `LearnError` if there is none."""
    keep, faults = np.ones(len(log.id), np.bool_), list[tuple[int, str]]()
    for name, allowed, fits, values in _rules(log):
        wrong = np.flatnonzero(keep & ~fits)
        if len(wrong):
            row = int(wrong[0])
            shown = must_be(name, allowed, values[row].tolist())
            faults.append((row, f"decision {log.id[row][:80]!r}: {shown}"))
            keep &= fits
    if not faults:
        return log
    found = _where(log, keep)
    found = found._replace(damaged=log.damaged + int((~keep).sum()), fault=log.fault or min(faults)[1])
    if not found.id:
        raise LearnError(must_be("log", "of one sound decision or more", Shown(f"{found.damaged} damaged ones: {found.fault}")))
    return found


def _rules(log: Logged) -> Iterator[tuple[str, str, NDArray[np.bool_], NDArray[Any]]]:
    """Field, what it must be, the rows that are so, and its values."""
    arms = len(log.arm_names)
    known = (log.arm >= 0) & (log.arm < arms)
    yield "arm", f"one of {', '.join(log.arm_names)}", known, log.arm
    yield "reward", "a finite number", np.isfinite(log.reward), log.reward
    yield "ts_ns", "0 or more", log.ts_ns >= 0, log.ts_ns
    for name in ("propensity", "expected", "context"):
        values = getattr(log, name)
        yield name, "finite numbers", np.isfinite(values).all(axis=1), values
    chances = log.propensity
    with np.errstate(invalid="ignore"):
        yield "propensity", "chances that sum to 1", (chances >= 0).all(1) & (abs(chances.sum(1) - 1) <= SUM), chances
    taken = chances[np.arange(len(chances)), np.where(known, log.arm, 0)]
    yield "propensity", "above 0 for the arm that was taken", taken > 0, chances


def warnings(log: Logged) -> tuple[str, ...]:
    """What the log cannot answer, whatever the policy."""
    found = []
    if log.damaged:
        found.append(f"left out as damaged: {log.damaged}, the first: {log.fault}")
    if log.unrewarded:
        found.append(f"left out without a reward: {log.unrewarded}, next to {len(log.id)} with one")
    if not log.expected.any():
        found.append("the log has no expected rewards: the direct estimate is 0, and the doubly robust one is IPS")
    return tuple(found)


def policy_of(log: Logged, name: str) -> NDArray[np.float64]:
    """The chances [n, arms] of a policy: ``arm:NAME`` (always that one), ``uniform``, or ``logged`` (what was done)."""
    shape = log.propensity.shape
    if name == "logged":
        return log.propensity
    if name == "uniform":
        return np.full(shape, 1 / shape[1])
    kind, _, arm = name.partition(":")
    if kind != "arm" or arm not in log.arm_names:
        arms = ", ".join(f"arm:{one}" for one in log.arm_names)
        raise LearnError(must_be("policy", f"one of {arms}, uniform, logged, model:NAME@VERSION", name))
    chances = np.zeros(shape)
    chances[:, log.arm_names.index(arm)] = 1.0
    return chances


def policy_of_model(log: Logged, model: Model) -> NDArray[np.float64]:
    """The chances [n, arms] by which a model of kind mlp or ridge chooses: the softmax of its outputs, as `train.policy` has it.

    Features are found by their names, and so are arms where ``config["arms"]`` names them; else outputs are in the log's order.

    Raises
    ------
    LearnError
        The model is of another kind, or needs features that the log does not have, or has other arms.
    """
    if model.kind not in ("mlp", "ridge"):
        raise LearnError(must_be("model", "of kind mlp or ridge, to be a policy", model.kind))
    if missing := [name for name in model.feature_names if name not in log.feature_names]:
        raise LearnError(must_be("log", f"with the model's feature {missing[0]}", log.feature_names))
    named = model.config.get("arms")
    arms = tuple(str(named).split(",")) if named is not None else log.arm_names
    if sorted(arms) != sorted(log.arm_names):
        raise LearnError(must_be("model", f"of the arms {', '.join(log.arm_names)}", arms))
    x = log.context[:, [log.feature_names.index(name) for name in model.feature_names]]
    score = policy.mlp(model, x) if model.kind == "mlp" else policy.ridge(model, x)
    if score.shape[1] != len(arms):
        raise LearnError(must_be("model", f"of {len(arms)} outputs, one an arm", score.shape[1]))
    share = np.exp(score - score.max(axis=1, keepdims=True))
    chances: NDArray[np.float64] = np.empty_like(share)
    chances[:, [log.arm_names.index(arm) for arm in arms]] = share / share.sum(axis=1, keepdims=True)
    return chances


def since(log: Logged, ts_ns: int) -> Logged:
    """The decisions made at a time or later; `LearnError` if there is none."""
    found = _where(log, log.ts_ns >= ts_ns)
    if not found.id:
        moment = datetime.fromtimestamp(ts_ns // SECOND_NS, UTC)
        raise LearnError(must_be("log", f"of a decision since {moment:%Y-%m-%dT%H:%M:%SZ}", Shown("none")))
    return found


def _where(log: Logged, keep: NDArray[np.bool_]) -> Logged:
    ids = tuple(name for name, kept in zip(log.id, keep.tolist(), strict=True) if kept)
    return log._replace(id=ids, **{name: getattr(log, name)[keep] for name in _ROWS})
