"""Pruned channels: columns that are left out, and predicted by the reader from those that it gets, in groups of 64.

Which ones stay is chosen by Monte-Carlo dropout or by pivoted Cholesky, whichever leaves less that cannot be predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[Any]

GROUP: Final = 64
DAMPING: Final = (
    0.01  # of a channel's variance: a rounded correlation of like channels stays solvable, at a condition up to 6,500
)


class System(NamedTuple):
    """What predicts the pruned channels of a group: ``solve(kept, cross)`` are weights [kept, pruned]."""

    kept: NDArray[np.float64]
    cross: NDArray[np.float64]

    def weights(self) -> NDArray[np.float64]:
        """By Cholesky's factors."""
        return np.asarray(cho_solve(cho_factor(self.kept), self.cross))


@dataclass(frozen=True, eq=False)
class Pruned:
    """What travels for the prediction.

    Attributes
    ----------
    kept : bool [columns]
    moment : float16 [values]
        Correlations, the upper triangle of each group's matrix without its diagonal.
    mean, spread : float32 [columns]
        Of each channel.
    """

    kept: NDArray[np.bool_]
    moment: NDArray[np.float16]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    def systems(self) -> list[tuple[slice, System]]:
        """Of each group that has both kept and pruned channels."""
        found, at = [], 0
        for group in groups(len(self.kept)):
            size = group.stop - group.start
            upper = np.triu_indices(size, 1)
            count = len(upper[0])
            matrix = np.eye(size)
            matrix[upper] = matrix.T[upper] = self.moment[at : at + count]
            at += count
            stay = self.kept[group]
            if stay.any() and not stay.all():
                own = matrix[np.ix_(stay, stay)] + DAMPING * np.eye(int(stay.sum()))
                found.append((group, System(own, matrix[np.ix_(stay, ~stay)])))
        return found

    def forward(self, rows: Floats) -> Floats:
        """The kept columns without their mean."""
        return np.ascontiguousarray(rows[:, self.kept] - self.mean[self.kept])

    def back(self, y: Floats) -> Floats:
        """All columns of the kept ones [rows, kept]."""
        out = np.zeros((len(y), len(self.kept)), y.dtype)
        out[:, self.kept] = y
        scale = np.where(self.spread > 0, self.spread, 1)
        for group, system in self.systems():
            stay = self.kept[group]
            part = out[:, group]
            guess = (part[:, stay] / scale[group][stay]) @ system.weights()
            part[:, ~stay] = (guess * self.spread[group][~stay]).astype(y.dtype)
        return np.asarray(out + self.mean)


def groups(columns: int) -> list[slice]:
    """Columns that are predicted from each other."""
    return [slice(begin, min(begin + GROUP, columns)) for begin in range(0, columns, GROUP)]


def moment_size(columns: int) -> int:
    """Correlations that travel for so many columns."""
    return sum((g.stop - g.start) * (g.stop - g.start - 1) // 2 for g in groups(columns))


def pruned(x: Floats, keep: float, *, samples: int, seed: int) -> Pruned:
    """Choose `keep` of the columns of finite rows [rows, columns], at least one of each group."""
    wide = x.astype(np.float64)
    mean, spread = wide.mean(axis=0), wide.std(axis=0)
    scaled = (wide - mean) / np.where(spread > 0, spread, 1)
    rng = np.random.default_rng(seed)
    kept, moments = np.zeros(x.shape[1], np.bool_), []
    for group in groups(x.shape[1]):
        part = scaled[:, group]
        correlation = part.T @ part / len(part)
        moments.append(correlation[np.triu_indices(len(correlation), 1)])
        count = max(1, round(keep * len(correlation)))
        covariance = correlation * np.outer(spread[group], spread[group])
        by_dropout = np.argsort(-influence(covariance, samples, rng), kind="stable")[:count]
        greedy = _pivots(covariance, count)
        best = min((by_dropout, greedy), key=lambda chosen: _left(covariance, chosen))
        kept[group.start + best] = True
    moment = np.concatenate(moments) if moments else np.zeros(0)
    return Pruned(kept, moment.astype(np.float16), mean.astype(np.float32), spread.astype(np.float32))


def influence(covariance: NDArray[np.float64], samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How much less can be predicted without a channel than with it, over random halves of the channels: [channels]."""
    size = len(covariance)
    drawn = rng.random((samples, size)) < 0.5
    lost = np.array([_left(covariance, np.flatnonzero(each)) for each in drawn])
    inside = drawn.sum(axis=0)
    without, within = (lost @ ~drawn) / np.maximum(samples - inside, 1), (lost @ drawn) / np.maximum(inside, 1)
    return np.asarray(without - within)


def _left(covariance: NDArray[np.float64], chosen: NDArray[np.int64]) -> float:
    """Energy that the chosen channels do not predict."""
    if not len(chosen):
        return float(np.trace(covariance))
    own = covariance[np.ix_(chosen, chosen)]
    cross = covariance[chosen]
    damped = own + np.diag(DAMPING * np.diag(own) + 1e-12 * np.trace(covariance) + 1e-300)
    return float(np.trace(covariance) - np.vdot(cross, np.linalg.solve(damped, cross)))


def _pivots(covariance: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Channels in the order of a pivoted Cholesky factorisation: each time the one of which least is predicted."""
    rest, found = covariance.copy(), []
    for _ in range(count):
        pivot = int(np.argmax(np.diag(rest)))
        found.append(pivot)
        top = rest[pivot, pivot]
        if top > 0:
            rest -= np.outer(rest[pivot], rest[pivot]) / top
        rest[pivot, pivot] = -1.0
    return np.array(found)
