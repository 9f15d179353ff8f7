"""Gaussian process on features of the unit cube: covariances, marginal likelihood, posterior, rows for pending trials.

Letters: n points, F features, B points that are asked about, T kernel parameters. ``theta`` float64 [T] holds logarithms: what
a covariance has of its own, then the signal's variance and the noise's. Values are standardised and minimised.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1 and section 5.4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.wording import must_be

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]
Pull = Callable[[Mat], Mat]  # weight [B, n] to the sum over n of weight[b, n] dk(x_b, y_n)/dx_b: [B, F]
Against = Callable[[Mat], tuple[Mat, Pull]]  # points x [B, F] to their covariances [B, n] with given points y, and a pull

FLOOR: Final = 1e-8  # added to the noise
EXACT: Final = float(np.log(1e-8))  # log noise of an objective without noise
JITTERS: Final = (0.0, 1e-6, 1e-4, 1e-2)
ITERATIONS: Final = 30  # of a fit
MANY: Final = 80  # values above which `SOME` of them are fitted first,
SOME: Final = 60  # evenly by their rank,
LAST_ITERATIONS: Final = 10  # and then all
NEAR: Final = 0.5  # deviation of a kernel parameter from that of a related process
_PART: Final = 4  # of the points, one in so many of the first ones bounds the variance
_CELLS = 1 << 15  # covariances at a time, so that the few arrays of them stay in a core's own cache


class NotPositive(ProblemError):
    """A covariance matrix has no Cholesky factor, even with jitter."""


class Covariance(Protocol):
    """A covariance function of the features of one space; pure. The noise in ``theta[-1]`` is not its business."""

    @property
    def layers(self) -> int:
        """Of the circuits that are simulated; 0 where there are none."""

    def start(self) -> Vec:
        """Where the fit of theta begins, float64 [T]."""

    def bounds(self) -> Mat:
        """Least and largest theta, float64 [T, 2]."""

    def log_prior(self, theta: Vec) -> tuple[float, Vec]:
        """Log density of theta up to a constant, and its gradient [T]."""

    def gram(self, theta: Vec, x: Mat) -> Mat:
        """Covariances of points [n, F] with each other, without noise: [n, n]."""

    def against(self, theta: Vec, y: Mat) -> Against:
        """Covariances with points [n, F]; what depends on these alone is computed once. Its pull needs a constant diagonal."""

    def diagonal(self, theta: Vec, x: Mat) -> Vec:
        """Variance of each of [B, F]: [B]."""

    def gram_with_slope(self, theta: Vec, x: Mat) -> tuple[Mat, Callable[[Mat], Vec]]:
        """`gram`, and a function of a symmetric weight [n, n] that gives the sum of weight[i, j] dk(x_i, x_j)/dtheta: [T]."""


def _stationary(name: str) -> Callable[[Index], Covariance]:
    def covariance(groups: Index) -> Covariance:
        from qstream.hpo import stationary  # noqa: PLC0415 compiled

        return stationary.covariance(name, groups)

    return covariance


def _quantum(name: str, entangled: bool = True) -> Callable[[Index], Covariance]:
    def covariance(groups: Index) -> Covariance:
        from qstream.hpo import kernels  # noqa: PLC0415 needed by those who ask for it

        return kernels.covariance(name, groups, entangled)

    return covariance


QUANTUM: Final = ("iqp", "reupload", "projected")
COVARIANCES: Final[Mapping[str, Callable[[Index], Covariance]]] = {
    "matern": _stationary("matern"),
    "rbf": _stationary("rbf"),
    **{name: _quantum(name) for name in QUANTUM},
}
CONTROLS: Final = {name: _quantum(name, entangled=False) for name in QUANTUM}  # the same without entangling gates


@dataclass(frozen=True, slots=True)
class Posterior:
    """A process that has seen points: all that a prediction needs."""

    covariance: Covariance
    theta: Vec
    x: Mat  # [n, F]
    inverse: Mat  # [n, n] inverse of the lower Cholesky factor of the covariance with noise
    weight: Vec  # [n] inverse covariance times values
    against: Against  # of these points
    jitter: float = 0.0

    @property
    def noise(self) -> float:
        """Variance that the values have on top of the function's."""
        return float(np.exp(self.theta[-1])) + FLOOR + self.jitter


def evidence(covariance: Covariance, theta: Vec, x: Mat, z: Vec) -> tuple[float, Vec]:
    """Log marginal likelihood of values float64 [n] at points float64 [n, F], and its gradient [T].

    Raises
    ------
    NotPositive
        The covariance matrix has no Cholesky factor.
    """
    gram, slope = covariance.gram_with_slope(theta, x)
    inverse, log_root = _inverse_factor(gram, float(np.exp(theta[-1])) + FLOOR)
    half = inverse @ z
    weight = half @ inverse
    value = -0.5 * float(half @ half) - log_root - 0.5 * len(z) * float(np.log(2.0 * np.pi))
    pull = np.outer(weight, weight)
    pull -= inverse.T @ inverse
    gradient = 0.5 * slope(pull)
    gradient[-1] += 0.5 * float(np.exp(theta[-1])) * float(np.trace(pull))
    return value, gradient


def fit(covariance: Covariance, x: Mat, z: Vec, *, exact: bool = False, near: Vec | None = None) -> Vec:
    """Kernel parameters of the largest posterior density, by L-BFGS from ``covariance.start()``; pure.

    Of many values, some are fitted first: most steps cost a fraction then.

    Parameters
    ----------
    x, z : float64 [n, F], float64 [n]
        Features, and standardised values.
    exact
        The values have no noise: it stays at 1e-8.
    near : float64 [T], optional
        Kernel parameters of a related process: all but the variances begin there, and are drawn there by a normal prior.
    """
    start, bounds = covariance.start(), covariance.bounds()
    if exact:
        start[-1], bounds[-1] = EXACT, EXACT
    if near is not None:
        start[:-2] = near[:-2]
    if len(z) <= MANY:
        return _ascend(covariance, x, z, start, bounds, near, ITERATIONS)
    some = np.sort(np.argsort(z, kind="stable")[np.linspace(0, len(z) - 1, SOME).astype(np.int64)])
    start = _ascend(covariance, x[some], z[some], start, bounds, near, ITERATIONS)
    return _ascend(covariance, x, z, start, bounds, near, LAST_ITERATIONS)


def _ascend(covariance: Covariance, x: Mat, z: Vec, start: Vec, bounds: Mat, near: Vec | None, iterations: int) -> Vec:
    """Steps of L-BFGS on the log of the posterior density of theta."""
    from scipy.optimize import fmin_l_bfgs_b  # noqa: PLC0415 slow to import, needed from the first fit on

    def loss(theta: Vec) -> tuple[float, Vec]:
        prior, prior_slope = covariance.log_prior(theta)
        try:
            value, slope = evidence(covariance, theta, x, z)
        except NotPositive:
            return 1e10, np.zeros_like(theta)  # the line search turns back
        if near is not None:
            away = (theta - near)[:-2] / NEAR
            prior -= 0.5 * float(away @ away)
            prior_slope[:-2] -= away / NEAR
        return -(value + prior), -(slope + prior_slope)

    found = fmin_l_bfgs_b(loss, start, bounds=bounds, maxiter=iterations, maxfun=2 * iterations)[0]
    return np.asarray(found, np.float64)


def posterior(covariance: Covariance, theta: Vec, x: Mat, z: Vec) -> Posterior:
    """The process after values float64 [n] at features float64 [n, F].

    Raises
    ------
    NotPositive
        No Cholesky factor, whatever of `JITTERS` is added.
    """
    gram = covariance.gram(theta, x)
    for jitter in JITTERS:
        try:
            inverse, _ = _inverse_factor(gram, float(np.exp(theta[-1])) + FLOOR + jitter)
        except NotPositive:
            continue
        return Posterior(covariance, theta, x, inverse, (inverse @ z) @ inverse, covariance.against(theta, x), jitter)
    raise NotPositive(must_be("a covariance matrix", "positive definite", float(np.abs(gram).max())))


def _inverse_factor(gram: Mat, noise: float) -> tuple[Mat, float]:
    """Inverse of the lower Cholesky factor of gram + noise I, and the sum of the factor's log diagonal."""
    from scipy.linalg import lapack  # noqa: PLC0415 slow to import

    matrix = gram.copy(order="F")
    np.einsum("ii->i", matrix)[:] += noise
    factor, failed = lapack.dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise NotPositive(must_be("a covariance matrix", "positive definite", float(noise)))
    log_root = float(np.log(np.diag(factor)).sum())
    inverse, failed = lapack.dtrtri(factor, lower=1, overwrite_c=1)
    if failed:
        raise NotPositive(must_be("a covariance matrix", "positive definite", float(noise)))
    return np.ascontiguousarray(inverse), log_root


def extend(known: Posterior, x: Mat, lift: Vec | None = None) -> Posterior:
    """The process after values at points [p, F] that are just what it predicts there (kriging believer), by rows of its factor.

    The mean stays as it is everywhere; the variance falls. Equal to `posterior` of all points with the believed values. With
    `lift` [p] the values lie so much above what is predicted, and the mean rises with them.
    """
    n, p = len(known.x), len(x)
    half = known.against(x)[0] @ known.inverse.T
    left = known.covariance.gram(known.theta, x) - half @ half.T  # covariance of the points given what was seen
    inverse = np.zeros((n + p, n + p))
    inverse[:n, :n] = known.inverse
    corner = inverse[n:, n:]
    for i in range(p):
        row = corner[:i, :i] @ left[i, :i]
        root = np.sqrt(max(left[i, i] + known.noise - float(row @ row), FLOOR))
        corner[i, :i] = -(row @ corner[:i, :i]) / root
        corner[i, i] = 1.0 / root
    inverse[n:, :n] = -(corner @ half) @ known.inverse
    weight = np.r_[known.weight, np.zeros(p)]
    if lift is not None:
        weight += (inverse @ np.r_[np.zeros(n), lift]) @ inverse
    points = np.concatenate([known.x, x])
    return replace(known, x=points, inverse=inverse, weight=weight, against=known.covariance.against(known.theta, points))


def predict(known: Posterior, x: Mat) -> tuple[Vec, Vec]:
    """Mean and variance of the function (without noise) at features float64 [B, F]: both float64 [B]."""
    from scipy.linalg.blas import dtrmm  # noqa: PLC0415 slow to import

    def spread(cross: Mat) -> Vec:
        half = dtrmm(1.0, known.inverse.T, cross.T, trans_a=1, overwrite_b=1)  # inverse @ cross.T, of which half is 0
        found: Vec = np.vecdot(half.T, half.T)
        return found

    return _predict(known, x, spread)


def predict_roughly(known: Posterior, x: Mat) -> tuple[Vec, Vec]:
    """As `predict` for a fraction of the time, with the variance after some of the points, which is never the smaller one."""
    some = -(-len(known.x) // _PART)
    corner = known.inverse[:some, :some].T

    def spread(cross: Mat) -> Vec:
        half = cross[:, :some] @ corner
        found: Vec = np.vecdot(half, half)
        return found

    return _predict(known, x, spread)


def _predict(known: Posterior, x: Mat, spread: Callable[[Mat], Vec]) -> tuple[Vec, Vec]:
    """Mean and variance, by what covariances [B, n] with the points take from it."""
    mean, variance = np.empty(len(x)), known.covariance.diagonal(known.theta, x)
    rows = max(_CELLS // len(known.x), 1)
    for at in range(0, len(x), rows):
        cross = known.against(x[at : at + rows])[0]
        mean[at : at + rows] = cross @ known.weight
        variance[at : at + rows] -= spread(cross)
    return mean, np.maximum(variance, FLOOR)


def fitted(known: Posterior, z: Vec) -> Vec:
    """Mean of the function at the points of the values float64 [n] that the process has seen: [n]."""
    return z - known.noise * known.weight[: len(z)]


def predict_with_slope(known: Posterior, x: Mat) -> tuple[Vec, Vec, Callable[[Vec, Vec], Mat]]:
    """As `predict`, and a function of (dl/dmean [B], dl/dvariance [B]) that gives dl/dx [B, F]."""
    cross, pull_cross = known.against(x)
    half = cross @ known.inverse.T
    spread = known.covariance.diagonal(known.theta, x) - np.vecdot(half, half)

    def pull(by_mean: Vec, by_variance: Vec) -> Mat:
        weight = half @ known.inverse
        weight *= (-2.0 * by_variance)[:, None]
        weight += by_mean[:, None] * known.weight
        return pull_cross(weight)

    return cross @ known.weight, np.maximum(spread, FLOOR), pull


def leave_one_out_density(known: Posterior, z: Vec) -> Vec:
    """Log density of each value float64 [n] under the process that has seen all others (equation 5.10 to 5.12): [n]."""
    precision = np.einsum("ij,ij->j", known.inverse, known.inverse)
    gap = known.weight / precision
    found: Vec = 0.5 * (np.log(precision) - precision * gap * gap - np.log(2.0 * np.pi))
    return found[: len(z)]
