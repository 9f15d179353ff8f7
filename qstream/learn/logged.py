"""Logged: decisions of one learner joined to arrays, from frames, Vowpal Wabbit's DSJSON, or a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from schemas.learning import Decisions
from schemas.wording import Shown, must_be

_SECOND = 1_000_000_000


class Logged(NamedTuple):
    """Rewarded decisions: ids [n], arm int64 [n], reward float64 [n], propensity and expected float64 [n, arms], context float64
    [n, features], ts_ns int64 [n]. `expected` is 0 where the log does not have it: doubly robust estimates are IPS then."""

    arm_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    id: tuple[str, ...]
    arm: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    expected: NDArray[np.float64]
    context: NDArray[np.float64]
    ts_ns: NDArray[np.int64]


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
    )


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
        raise LearnError(must_be("policy", f"one of {arms}, uniform, logged", name))
    chances = np.zeros(shape)
    chances[:, log.arm_names.index(arm)] = 1.0
    return chances


def to_dsjson(log: Logged) -> Iterator[str]:
    """Each decision as a line that ``vw --dsjson`` reads: cost is minus the reward, actions from 1, the chosen one first."""
    arms = [{"Arm": {name: 1}} for name in log.arm_names]
    for row, name in enumerate(log.id):
        taken, chances = int(log.arm[row]), log.propensity[row].tolist()
        order = [taken, *(arm for arm in range(len(arms)) if arm != taken)]
        cost, event = -float(log.reward[row]), {"EventId": name, "ActionTaken": True}
        line = {
            "_label_cost": cost,
            "_label_probability": chances[taken],
            "_label_Action": taken + 1,
            "_labelIndex": taken,
            "o": [{"v": cost, **event}],
            "Timestamp": _time(int(log.ts_ns[row])),
            "Version": "1",
            "EventId": name,
            "a": [arm + 1 for arm in order],
            "c": {"Shared": dict(zip(log.feature_names, log.context[row].tolist(), strict=True)), "_multi": arms},
            "p": [chances[arm] for arm in order],
        }
        yield json.dumps(line, separators=(",", ":"))


def from_dsjson(lines: Iterable[str]) -> Logged:
    """The decisions of DSJSON lines that have numbers as shared features and one arm name an action, as `to_dsjson` writes them.

    Raises
    ------
    LearnError
        A line is not such; the message names it. Or there is none.
    """
    rows: list[tuple[Any, ...]] = []
    arms: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            names = tuple(next(iter(next(iter(action.values())))) for action in row["c"]["_multi"])
            shared: Mapping[str, float] = row["c"].get("Shared", {})
            chances = np.zeros(len(names))
            chances[[arm - 1 for arm in row["a"]]] = row["p"]
            arms, features = arms or names, features or tuple(shared)
            if names != arms or tuple(shared) != features:
                raise LearnError(must_be(f"line {number}", "of the arms and features of the first", names))
            numbers = [float(value) for value in shared.values()]
            taken, earned = row["_label_Action"] - 1, -row["_label_cost"]
            rows.append((row["EventId"], taken, earned, chances, numbers, _ns(row["Timestamp"])))
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as exc:
            if isinstance(exc, LearnError):
                raise
            raise LearnError(f"line {number} must be a decision in DSJSON, got {type(exc).__name__}: {exc}") from exc
    if not rows:
        raise LearnError(must_be("log", "of one decision or more", Shown("none")))
    ids, arm, reward, propensity, context, ts_ns = zip(*rows, strict=True)
    return Logged(
        arms,
        features,
        ids,
        np.array(arm, np.int64),
        np.array(reward, np.float64),
        np.array(propensity),
        np.zeros((len(rows), len(arms))),
        np.array(context, np.float64).reshape(len(rows), len(features)),
        np.array(ts_ns, np.int64),
    )


def since(log: Logged, ts_ns: int) -> Logged:
    """The decisions made at a time or later; `LearnError` if there is none."""
    keep = log.ts_ns >= ts_ns
    if not keep.any():
        raise LearnError(must_be("log", f"of a decision since {_time(ts_ns)}", Shown("none")))
    ids = tuple(name for name, kept in zip(log.id, keep.tolist(), strict=True) if kept)
    arrays = {name: getattr(log, name)[keep] for name in ("arm", "reward", "propensity", "expected", "context", "ts_ns")}
    return log._replace(id=ids, **arrays)


def _time(ts_ns: int) -> str:
    seconds, rest = divmod(ts_ns, _SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO time in UTC, with any number of decimals."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    return int(moment.timestamp()) * _SECOND + int(rest.ljust(9, "0")[:9] or 0)
