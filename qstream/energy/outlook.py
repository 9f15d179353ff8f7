"""Outlook: the forecasts of a domain's watts, second by second, and how good those of the last minutes were.

Axes: horizons H, the last forecasts M (number i stands at ``i % M``), scores N (the same).
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.energy.forecasting import ANALOGS, BOUND_LENGTH, BOUND_NEAREST, BOUND_QUANTILE, LEAST_W, PAST_S, SCORES
from qstream.energy.maxima import analog_maxima
from qstream.learn import forecast
from qstream.learn.conformal import bound_rows
from qstream.learn.evolve import evolve
from qstream.learn.forecast import ForecastState
from schemas.frame import Axes, Frame, TimeNs

HORIZONS_S: Final = (1, 5, 10, 30)
GAP_S: Final = 60  # without readings for longer, what came before says nothing
KEEP: Final = 0.5 ** (1 / 600)  # of an error one second later: errors are those of some ten minutes
SECOND_NS: Final = 1_000_000_000
Floats = NDArray[np.float64]
Each = Annotated[NDArray[np.float64], Axes("horizons")]
Made = Annotated[NDArray[np.float32], Axes("horizons", "made")]


class Outlook(Frame):
    """The forecasts after the newest second. `mean_w` is of the next seconds up to each horizon, `upper_w` a bound of their
    maximum, of which `high_w` is the part that follows from similar moments; `made_` are the same of past seconds, which are
    compared with what came. `error_w`, `naive_w` (of the last value), `kept` (the bound held) and `met` are sums that fade."""

    second: TimeNs = 0
    forecasts: tuple[ForecastState, ...] = ()
    score: Annotated[NDArray[np.float32], Axes("horizons", "scores")]
    made_mean_w: Made
    made_upper_w: Made
    made_high_w: Made
    made_last_w: Made
    mean_w: Each
    upper_w: Each
    error_w: Each
    naive_w: Each
    kept: Each
    met: Each

    @property
    def steps(self) -> int:
        """How many seconds were seen."""
        return self.forecasts[0].steps if self.forecasts else 0

    @property
    def error_ratio(self) -> Floats:
        """Error of the mean over that of the last value: float64 [H], -1 before any was met."""
        return np.where(self.naive_w > 0, self.error_w / np.maximum(self.naive_w, LEAST_W), np.where(self.met > 0, 1.0, -1.0))

    @property
    def coverage(self) -> Floats:
        """Part of the maxima that were not above their bound: float64 [H], -1 before any was met."""
        return np.where(self.met > 0, self.kept / np.maximum(self.met, LEAST_W), -1.0)


def fresh_outlook() -> Outlook:
    """Nothing was seen."""
    horizons, none = len(HORIZONS_S), np.zeros(len(HORIZONS_S))
    made = np.zeros((horizons, max(HORIZONS_S)), np.float32)
    return Outlook(
        score=np.zeros((horizons, SCORES), np.float32),
        made_mean_w=made, made_upper_w=made, made_high_w=made, made_last_w=made,
        mean_w=none, upper_w=none, error_w=none, naive_w=none, kept=none, met=none,
    )  # fmt: skip


def advanced(outlook: Outlook, watermark_ns: int, watts: float, coverage: float) -> Outlook:
    """The outlook after the domain's time has reached another second; seconds that were skipped count as this one.

    Parameters
    ----------
    watts
        What the domain draws.
    coverage
        Part of the maxima that are not to be above their bound.
    """
    second = watermark_ns // SECOND_NS
    passed = second - outlook.second
    if passed <= 0:
        return outlook
    if outlook.second == 0 or passed > GAP_S:
        outlook, passed = fresh_outlook(), 1
    for _ in range(passed):
        outlook = _stepped(outlook, watts, coverage)
    return evolve(outlook, second=second)


def _stepped(outlook: Outlook, watts: float, coverage: float) -> Outlook:
    """One second later."""
    before = outlook.forecasts or tuple(forecast.start(horizon=h, analogs=ANALOGS, past=PAST_S) for h in HORIZONS_S)
    stepped = [forecast.step(state, [watts]) for state in before]
    count = stepped[0][0].steps
    past = stepped[0][0].past[0]
    series = read_only(past[np.arange(max(0, count - len(past)), count) % len(past)].astype(np.float64))
    new = {name: getattr(outlook, name).copy() for name in Outlook.arrays}
    for row, horizon in enumerate(HORIZONS_S):
        _meet(new, row, horizon, series, count)
        high = np.empty(len(series))
        analog_maxima(series, len(series) - 1, horizon, BOUND_LENGTH, PAST_S, BOUND_NEAREST, BOUND_QUANTILE, high)
        new["mean_w"][row] = max(0.0, stepped[row][1].mean[0])
        high_w = max(float(high[-1]), LEAST_W)
        new["upper_w"][row] = high_w * max(_times(new["score"][row], count - horizon, coverage), 0.0)
        made = count % new["made_mean_w"].shape[1]
        for name, value in (("mean", new["mean_w"][row]), ("upper", new["upper_w"][row]), ("high", high_w), ("last", watts)):
            new[f"made_{name}_w"][row, made] = value
    return evolve(outlook, forecasts=tuple(state for state, _ in stepped), **new)


def _meet(new: dict[str, NDArray[np.float64]], row: int, horizon: int, series: Floats, count: int) -> None:
    """Compare what was forecast `horizon` seconds ago with what came."""
    if count <= horizon:
        return
    made = (count - horizon) % new["made_mean_w"].shape[1]
    came = series[-horizon:]
    for name in ("error_w", "naive_w", "kept", "met"):
        new[name][row] *= KEEP
    new["error_w"][row] += abs(came.mean() - float(new["made_mean_w"][row, made]))
    new["naive_w"][row] += abs(came.mean() - float(new["made_last_w"][row, made]))
    new["kept"][row] += came.max() <= float(new["made_upper_w"][row, made])
    new["met"][row] += 1
    new["score"][row, (count - horizon - 1) % SCORES] = came.max() / float(new["made_high_w"][row, made])


def _times(score: NDArray[np.float64], count: int, coverage: float) -> float:
    """By how much the maxima of similar moments are multiplied: the quantile of what came over what they said."""
    if count <= 0:
        return 1.0
    found = np.empty(1)
    bound_rows(np.sort(score[: min(count, SCORES)].astype(np.float64))[None], read_only(np.array([1 - coverage])), found)
    return float(found[0])
