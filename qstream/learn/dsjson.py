"""DSJSON: logged decisions as the JSON lines that Vowpal Wabbit reads with ``--dsjson``, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from qstream.errors import LearnError
from qstream.learn.logged import SECOND_NS, Logged
from schemas.wording import Shown, must_be


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

    A line that is none counts as damaged.

    Raises
    ------
    LearnError
        No line is a decision, or arms or features differ between lines.
    """
    rows: list[tuple[Any, ...]] = []
    arms: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    damaged, fault = 0, ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            names, shared, row = _decision(json.loads(line))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, StopIteration, RecursionError) as exc:
            damaged += 1
            fault = fault or f"line {number} must be a decision in DSJSON, got {type(exc).__name__}: {exc}"[:300]
            continue
        if not rows:
            arms, features = names, shared
        elif (names, shared) != (arms, features):
            raise LearnError(must_be(f"line {number}", "of the arms and features of the first decision", names))
        rows.append(row)
    if not rows:
        raise LearnError(fault or must_be("log", "of one decision or more", Shown("none")))
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
        damaged=damaged,
        fault=fault,
    )


def _decision(line: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Any, ...]]:
    """Names of arms, names of features, and the row; any fault of the line is one of the errors that `from_dsjson` expects."""
    names = tuple(str(next(iter(next(iter(action.values()))))) for action in line["c"]["_multi"])
    shared: Mapping[str, float] = line["c"].get("Shared", {})
    order = [arm - 1 for arm in line["a"]]
    if sorted(order) != list(range(len(names))):
        raise ValueError(must_be("a", f"actions 1 to {len(names)}", line["a"]))
    if len(line["p"]) != len(names):
        raise ValueError(must_be("p", f"{len(names)} chances", line["p"]))
    chances = np.zeros(len(names))
    chances[order] = line["p"]
    context = [float(value) for value in shared.values()]
    taken, earned = line["_label_Action"] - 1, -float(line["_label_cost"])
    if taken not in order:
        raise ValueError(must_be("_label_Action", f"1 to {len(names)}", taken + 1))
    return names, tuple(shared), (str(line["EventId"]), taken, earned, chances, context, _ns(line["Timestamp"]))


def _time(ts_ns: int) -> str:
    seconds, rest = divmod(ts_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO time in UTC, with any number of decimals."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    ns = int(moment.timestamp()) * SECOND_NS + int(rest.ljust(9, "0")[:9] or 0)
    if not 0 <= ns < 2**63:
        raise ValueError(must_be("Timestamp", "from 1970 to 2262", text))
    return ns
