"""What the next window may bring: weighted scenarios from the past windows, and from the labels of queued requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.routing.problem import check_load
from schemas.wording import Shown, must_be

DECAY = 0.85
_SPREAD = 0.3  # standard deviations above the mean, in the one load that stands for all scenarios
_PRIOR_TOKENS = 32.0  # of the mean of all labels, in what is known of one label
_PSEUDO_COUNT = 1.0
_UNEXPLAINED = 0.4  # of what good labels do not explain, the part that is more than noise
_TRUST = 0.5  # in what a queue asks for; the rest is in the past windows, whatever waits
_MIX_SWEEPS = 30
_MAX_LABELS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Loads that the next window may bring, and what each counts.

    Attributes
    ----------
    scenarios : float64 [W, L, E]
        Tokens of each expert.
    weights : float64 [W]
        Sum 1.
    """

    scenarios: NDArray[np.float64]
    weights: NDArray[np.float64]

    def load(self) -> NDArray[np.float64]:
        """One load for all: mean + 0.3 standard deviations of the scenarios, float64 [L, E]."""
        mean = np.tensordot(self.weights, self.scenarios, 1)
        variance = np.tensordot(self.weights, (self.scenarios - mean) ** 2, 1)
        load: NDArray[np.float64] = mean + _SPREAD * np.sqrt(variance)
        return load


def forecast(
    history: NDArray[np.int64],
    *,
    labels: NDArray[np.int64] | None = None,
    queued: NDArray[np.int64] | None = None,
    top_k: int = 1,
    decay: float = DECAY,
) -> Forecast:
    """Scenarios of the window that follows `history`.

    Without labels they are the past windows, newer ones counting more. With labels they are, once for each past window, what
    the labels of the queue ask for, times what that window had more or less of each expert than its own labels predict: known
    demand, and an example of what labels do not explain. Of that example the better labels explain the windows the less is
    kept, at least four tenths; the rest is noise. Where the queue is less than a window, each scenario fills it up with the
    labels of its past window. These are inferred (`label_mix`). Labels beyond the 63 most frequent count as one.

    A queue may be stale or wrong, so where one is known the past windows come first as scenarios and count half of all.

    Parameters
    ----------
    history : int [W, L, E]
        Tokens of each expert in past windows, newest last, finite and >= 0, W >= 1.
    labels : int [K, L, E], optional
        Tokens of each expert that requests of each label had so far.
    queued : int [K], optional
        Tokens by label that the next window will process; with `labels` only. All 0: nothing waits that is known.
    top_k : int
        Gate choices of a token in a layer.
    decay : float
        What a window counts for each 1 of the next newer one; 1 where the order of the windows is not known.

    Raises
    ------
    ProblemError
        An argument breaks a rule above.

    References
    ----------
    Sample average approximation: Kleywegt, Shapiro, Homem-de-Mello (2002).
    """
    past = array("history", history, np.float64, "W L E")
    check_load("history", past)
    if not len(past):
        raise ProblemError(must_be("history", "at least one window", Shown("none")))
    weights: NDArray[np.float64] = np.power(decay, np.arange(len(past), dtype=np.float64)[::-1])
    weights /= weights.sum()
    if (labels is None) != (queued is None):
        raise ProblemError(must_be("labels and queued", "given together", Shown("one of them")))
    if labels is None or queued is None:
        return Forecast(past, weights)
    seen, waiting = array("labels", labels, np.float64, "K L E"), array("queued", queued, np.float64, "K")
    check_load("labels", seen)
    check_load("queued", waiting)
    if seen.shape[1:] != past.shape[1:] or len(seen) != len(waiting):
        raise ProblemError(must_be("labels", f"{(len(waiting), *past.shape[1:])}", Shown(f"shape {seen.shape}")))
    if seen.sum() == 0.0 or past.sum() == 0.0:
        return Forecast(past, weights)
    seen, waiting = _merge_rare(seen, waiting)
    rates = label_rates(seen, past.sum(0))
    mix = label_mix(past, rates)
    predicted = np.tensordot(mix, rates, 1)
    ratio = (past + _PSEUDO_COUNT) / (predicted + _PSEUDO_COUNT)
    mean = np.tensordot(weights, ratio, 1)
    demand = np.tensordot(_next_mix(mix, top_k * waiting), rates, 1)
    kept = max(_UNEXPLAINED, 1.0 - _explained(past, predicted * mean, weights))
    asked = demand * (mean + kept * (ratio - mean))
    if waiting.sum() == 0.0:
        return Forecast(asked, weights)
    return Forecast(np.concatenate([past, asked]), np.concatenate([(1.0 - _TRUST) * weights, _TRUST * weights]))


def _merge_rare(labels: NDArray[np.float64], queued: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels beyond the most frequent ones as one, so that many tenants cost no more than some."""
    if len(labels) <= _MAX_LABELS:
        return labels, queued
    order = np.argsort(-labels.sum((1, 2)), kind="stable")
    often, rare = order[: _MAX_LABELS - 1], order[_MAX_LABELS - 1 :]
    return np.concatenate([labels[often], labels[rare].sum(0)[None]]), np.append(queued[often], queued[rare].sum())


def _next_mix(mix: NDArray[np.float64], queued: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gate choices a layer of each label in the next window: what is queued, and the mix of each past window for the rest."""
    window = mix.sum() / len(mix)
    waits = queued.sum()
    known = min(1.0, waits / window)
    past = mix / np.maximum(mix.sum(1, keepdims=True), 1e-300)
    found: NDArray[np.float64] = window * (known * queued / max(waits, 1.0) + (1.0 - known) * past)
    return found


def _explained(past: NDArray[np.float64], predicted: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Part of the variance of the windows, in units of Poisson noise, that is explained: 0 to 1."""
    mean = np.tensordot(weights, past, 1)
    total, left = (float(weights @ ((past - x) ** 2 / (mean + _PSEUDO_COUNT)).sum((1, 2))) for x in (mean, predicted))
    return max(0.0, 1.0 - left / total) if total > 0.0 else 0.0


def label_rates(labels: NDArray[np.float64], every: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of each label's tokens that each expert gets: float64 [K, L, E], sum 1 over the experts.

    Shrunk to that of all tokens, `every` [L, E], which is also what a label without a token gets.
    """
    experts = every.shape[1]
    share = (every + 1.0 / experts) / (every.sum(1, keepdims=True) + 1.0)
    rates: NDArray[np.float64] = (labels + _PRIOR_TOKENS * share) / (labels.sum(2, keepdims=True) + _PRIOR_TOKENS)
    return rates


def label_mix(history: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gate choices a layer of each label in each window, float64 [W, K], as its counts [W, L, E] make most likely.

    Thirty sweeps of expectation-maximisation for Poisson counts (Richardson 1972, Lucy 1974).
    """
    counts = history.reshape(len(history), -1)
    profile = rates.reshape(len(rates), -1)
    layers = rates.shape[1]
    mix: NDArray[np.float64] = np.repeat(counts.sum(1, keepdims=True) / layers / len(rates), len(rates), axis=1)
    for _ in range(_MIX_SWEEPS):
        mix *= (counts / np.maximum(mix @ profile, 1e-300)) @ profile.T / layers
    return mix
