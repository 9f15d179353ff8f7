"""Calibrated rounding: the error of each column is taken up by those that follow, for the inputs that a layer sees.

Source: Frantar et al. 2022, GPTQ (arXiv 2210.17323), with one step for all columns and an entropy coder after it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DAMPING: Final = 0.01  # of the mean diagonal
_BLOCK: Final = 64


def factor(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """The upper Cholesky factor of the inverse of the damped second moment [columns, columns]; None is never returned.

    Raises `numpy.linalg.LinAlgError` for a matrix that is not positive definite even with the damping.
    """
    damped = moment + DAMPING * np.mean(np.diag(moment)) * np.eye(len(moment))
    return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)


def fed_forward(x: NDArray[Any], step: float, upper: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values to be rounded to multiples of `step`, each moved by the errors of the columns before it: float64 [rows, columns].

    The returned values are the multiples themselves, so that a quantiser with this step keeps them.
    """
    work, out = x.astype(np.float64), np.empty(x.shape)
    columns = x.shape[1]
    for begin in range(0, columns, _BLOCK):
        end = min(begin + _BLOCK, columns)
        errors = np.empty((len(x), end - begin))
        for j in range(begin, end):
            out[:, j] = np.rint(work[:, j] / step) * step
            error = errors[:, j - begin] = (work[:, j] - out[:, j]) / upper[j, j]
            work[:, j + 1 : end] -= np.outer(error, upper[j, j + 1 : end])
        work[:, end:] -= errors @ upper[begin:end, end:]
    return out
