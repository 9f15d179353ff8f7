"""Bases: orthogonal transforms of rows, learnt from earlier rows, stored as whole numbers and named by their digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, whole_number
from qstream.compression.header import digest
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

Kind = Literal["klt", "qae", "fourier"]
KINDS: Final = ("klt", "qae", "fourier")
MAX_COLUMNS: Final = 2048
_LEVELS: Final = 127


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthogonal basis of rows.

    Attributes
    ----------
    kind
        How it was found.
    values : int8 [columns, columns]
        Column j is the j-th basis vector in units of `scale[j]`.
    scale : float32 [columns]
    mean : float32 [columns]
        What is taken off each row first.
    record
        How it was found and how it compares with its twin; not part of the digest.
    """

    kind: Kind
    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    mean: NDArray[np.float32]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        """Values of a row."""
        return len(self.mean)

    @cached_property
    def digest(self) -> str:
        """xxh3-64 of values, scale and mean: its name in coded data."""
        return digest(b"".join(part.tobytes() for part in (self.values, self.scale, self.mean)))

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """The stored vectors made orthonormal again, by QR with the signs kept: float32 [columns, columns]."""
        q, r = np.linalg.qr(self.values.astype(np.float64) * self.scale)
        return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).astype(np.float32)

    def forward(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Coefficients of rows [rows, columns]."""
        return np.ascontiguousarray((rows.astype(np.float32) - self.mean) @ self.matrix)

    def back(self, coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of coefficients."""
        return coefficients @ self.matrix.T + self.mean


def learn_basis(rows: ArrayLike, *, kind: Kind = "klt", seed: int = 0) -> Basis:
    """The basis in which the coefficients of rows like these have the smallest sizes.

    Parameters
    ----------
    rows : float [rows, columns]
        At most 2,048 columns, all finite.
    kind
        ``klt``: the eigenvectors of the covariance (Karhunen-Loeve, PCA); ``fourier``: the discrete cosines, learnt from nothing
        but the mean.
    seed
        Of what is drawn at random.

    Raises
    ------
    ProblemError
        Rows that are not finite, too few, or too wide.
    """
    given = array("rows", np.asarray(rows, np.float64), np.float64, "rows columns")
    whole_number("seed", seed, 0, 2**32 - 1)
    count, columns = given.shape
    if count < 2 or not 1 <= columns <= MAX_COLUMNS:
        raise ProblemError(must_be("rows", f"2 rows or more of 1 to {MAX_COLUMNS} columns", Shown(f"shape {given.shape}")))
    if not np.isfinite(given).all():
        raise ProblemError(must_be("rows", "finite", Shown("NaN or infinity")))
    if kind not in KINDS:
        raise ProblemError(must_be("kind", f"one of {', '.join(KINDS)}", kind))
    if kind == "qae":
        raise ProblemError(must_be("kind", "klt or fourier: circuits are not part of this version", kind))
    mean = given.mean(axis=0)
    vectors = _eigenvectors(given - mean) if kind == "klt" else _cosines(columns)
    return stored_basis(kind, vectors, mean, {"kind": kind, "rows": count, "seed": seed, "label": "classical"})


def stored_basis(kind: Kind, vectors: NDArray[np.float64], mean: NDArray[np.float64], record: dict[str, Any]) -> Basis:
    """Vectors as whole numbers of a scale each."""
    scale = (np.abs(vectors).max(axis=0) / _LEVELS).astype(np.float32)
    values = np.clip(np.rint(vectors / scale), -_LEVELS, _LEVELS).astype(np.int8)
    return Basis(kind, values, scale, mean.astype(np.float32), record)


def _eigenvectors(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns by falling variance; each vector's largest entry is positive, so that equal rows give equal bytes."""
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    vectors = vectors[:, ::-1]
    at = np.abs(vectors).argmax(axis=0)
    return np.asarray(vectors * np.sign(vectors[at, np.arange(vectors.shape[1])]))


def _cosines(columns: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II."""
    k, i = np.arange(columns)[None], np.arange(columns)[:, None]
    found = np.cos(np.pi * (2 * i + 1) * k / (2 * columns)) * np.sqrt(2 / columns)
    found[:, 0] /= np.sqrt(2)
    return np.asarray(found)
