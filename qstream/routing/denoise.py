"""Denoise: which of the differences between windows are more than chance, so that no plan is fitted to the rest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.routing.forecast import Forecast

_PSEUDO_COUNT: Final = 1.0
_OLDER: Final = 3  # windows before the scenarios that help to tell chance from structure, for each scenario
_LEAST_ROWS: Final = 5  # below it, no row is spare to measure noise on
_MOST_NARROW: Final = 0.25  # rows for each cell, above which the law of the eigenvalues of noise is too broad to measure it
_QUARTILE: Final = 0.808  # of a semicircle of radius 2: a quarter of the noise's eigenvalues lie so far below their centre


def denoised(forecast: Forecast, older: NDArray[np.float64] | None = None) -> Forecast:
    """The forecast, its scenarios shrunk towards their mean by how much they really differ; the same weights.

    Counts that differ by chance alone have the variance of Poisson counts, and differ independently in each expert and layer.
    What several experts and layers share is structure: a task takes the tokens of another one. So deviations from the mean, in
    units of Poisson noise, are taken apart into singular components; those that noise alone would have are dropped, the others
    shrunk. The factor is the root of the one that is closest to the truth in mean square: that one makes scenarios less
    different than the windows to come. Where windows are noisier than Poisson counts but share no
    more, the noise is measured on the smaller components. One scenario is left if nothing else is.

    Parameters
    ----------
    forecast : Forecast
        W scenarios [W, L, E].
    older : float64 [V, L, E], optional
        Windows before those, newest last; they are no scenarios, but have the same mean if nothing differs.

    References
    ----------
    Gavish, Donoho: Optimal shrinkage of singular values (2017).
    """
    scenarios = forecast.scenarios
    count = len(scenarios)
    rows = scenarios if older is None else np.concatenate([older[-_OLDER * count :], scenarios])
    mean = rows.mean(0)
    scale = np.sqrt(mean + _PSEUDO_COUNT)
    noise = ((rows - mean) / scale).reshape(len(rows), -1)
    energy, axis = np.linalg.eigh(noise @ noise.T)
    kept = _kept(np.maximum(energy, 0.0), noise.shape[1])
    if not kept.any():
        return Forecast(mean[None], np.ones(1))
    signal = (axis[-count:] * kept) @ (axis.T @ noise)
    return Forecast(np.maximum(mean + signal.reshape(scenarios.shape) * scale, 0.0), forecast.weights)


def _kept(energy: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Which part of each component is kept, 0 to 1; `energy` are the squares of all singular values, rising, the first one 0."""
    rows = len(energy)
    ratio = (rows - 1) / cells
    variance = 1.0
    if rows >= _LEAST_ROWS and ratio <= _MOST_NARROW:
        variance = max(1.0, float(np.quantile(energy[1:], 0.25)) / cells / (1.0 - _QUARTILE * np.sqrt(ratio)))
    size = energy / (cells * variance)
    above = size > (1.0 + np.sqrt(ratio)) ** 2
    kept: NDArray[np.float64] = np.zeros(rows)
    kept[above] = np.sqrt(np.sqrt((size[above] - ratio - 1.0) ** 2 - 4.0 * ratio) / size[above])
    return kept
