"""Angles sought for one problem by L-BFGS on the exact gradient: offline, since fixed angles at more layers cost less."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.qaoa.gradient import expectation_gradient
from qstream.quantum.qaoa.schedule import Angles
from qstream.quantum.qaoa.statevector import Statevector, unlimited
from qstream.quantum.record import Remaining

MAX_EVALUATIONS: Final = 60


def optimised(
    circuit: Statevector,
    start: Angles,
    sigma: float,
    remaining_s: Remaining = unlimited,
    evaluations: int = MAX_EVALUATIONS,
) -> Angles:
    """The angles of least expectation that L-BFGS finds from `start`, or has found when no time remains.

    Parameters
    ----------
    circuit
        Of one problem without a warm start; it is reset by each evaluation.
    sigma
        The problem's: gammas are sought in units of 1 / sigma, so that all angles are of one size.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - only this schedule needs it

    p = len(start[0])
    units = np.concatenate([np.full(p, sigma if sigma > 0 else 1.0), np.ones(p)])
    best_value, best = np.inf, np.concatenate(start)

    def value_and_slope(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best_value, best
        angles = x / units
        value, *slopes = expectation_gradient(circuit, angles[:p], angles[p:])
        if value < best_value:
            best_value, best = value, angles
        return value, np.concatenate(slopes) / units

    def stop_in_time(_: NDArray[np.float64]) -> None:
        if remaining_s() <= 0:
            raise StopIteration

    options = {"maxfun": evaluations}
    minimize(value_and_slope, best * units, jac=True, method="L-BFGS-B", callback=stop_in_time, options=options)
    return best[:p], best[p:]
