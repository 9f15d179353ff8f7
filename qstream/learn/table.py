"""Table: logged decisions as columns, one row a decision, such as those of a CSV or Parquet file.

``arm`` (its name, or its index), ``reward`` (empty where none came), ``propensity_<arm>`` of every arm; and where known
``expected_<arm>``, ``context_<feature>``, ``decision_id`` and ``ts_ns``. Other columns are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from qstream.learn.logged import Logged
from schemas.wording import Shown, must_be

Column = Sequence[Any]
_NO_TIME: Final = -1


def to_table(log: Logged) -> dict[str, list[Any]]:
    """The columns of a log; `from_table` reads them back equal."""
    columns: dict[str, list[Any]] = {"decision_id": list(log.id), "ts_ns": log.ts_ns.tolist()}
    columns |= {"arm": [log.arm_names[arm] for arm in log.arm.tolist()], "reward": log.reward.tolist()}
    for name, of in (("propensity", log.arm_names), ("expected", log.arm_names), ("context", log.feature_names)):
        columns |= {f"{name}_{one}": getattr(log, name)[:, at].tolist() for at, one in enumerate(of)}
    return columns


def from_table(columns: Mapping[str, Column]) -> Logged:
    """The decisions of columns of one length; what a cell does not say stands there as NaN or -1, for `logged.sound` to find.

    Raises
    ------
    LearnError
        A column is missing, or no row has a reward.
    """
    arms, features = _names(columns, "propensity"), _names(columns, "context")
    if not arms:
        raise LearnError(must_be("table", "with a column propensity_<arm> for every arm", sorted(columns)))
    for name in ("arm", "reward", *(f"expected_{arm}" for arm in arms if _names(columns, "expected"))):
        if name not in columns:
            raise LearnError(must_be("table", f"with a column {name}", sorted(columns)))
    n = len(columns["arm"])
    came = np.array([cell not in (None, "") and cell == cell for cell in columns["reward"]], np.bool_)  # NaN is none either
    if "rewarded" in columns:
        came &= _numbers(columns["rewarded"]) != 0
    if not came.any():
        raise LearnError(must_be("log", "of one rewarded decision or more", Shown("none")))

    def matrix(name: str, of: tuple[str, ...]) -> NDArray[np.float64]:
        found = [_numbers(columns[f"{name}_{one}"]) for one in of if f"{name}_{one}" in columns]
        return np.stack(found, axis=1)[came] if found else np.zeros((int(came.sum()), len(of)))

    ids = [str(cell) for cell in columns.get("decision_id", range(1, n + 1))]
    return Logged(
        arms,
        features,
        tuple(name for name, kept in zip(ids, came.tolist(), strict=True) if kept),
        np.array([_arm(cell, arms) for cell in columns["arm"]], np.int64)[came],
        _numbers(columns["reward"])[came],
        matrix("propensity", arms),
        matrix("expected", arms),
        matrix("context", features),
        np.array([_whole(cell, _NO_TIME) for cell in columns.get("ts_ns", [0] * n)], np.int64)[came],
        unrewarded=int((~came).sum()),
    )


def _names(columns: Mapping[str, Column], kind: str) -> tuple[str, ...]:
    """What follows ``kind_`` in the names of columns, in their order."""
    return tuple(name.removeprefix(f"{kind}_") for name in columns if name.startswith(f"{kind}_"))


def _numbers(column: Column) -> NDArray[np.float64]:
    try:
        return np.array(column, np.float64)
    except (ValueError, TypeError, OverflowError):  # a cell is not a number
        return np.array([_number(cell) for cell in column])


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def _arm(cell: Any, arms: tuple[str, ...]) -> int:
    return arms.index(str(cell)) if str(cell) in arms else _whole(cell, -1)


def _whole(cell: Any, otherwise: int) -> int:
    """The cell as a whole number that 64 bits hold."""
    try:
        number = int(cell)
    except (ValueError, TypeError, OverflowError):
        return otherwise
    return number if -(2**63) <= number < 2**63 else otherwise
