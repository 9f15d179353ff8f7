"""Bases: orthogonal transforms of rows, learnt from earlier rows, stored as whole numbers and named by their digest."""

from __future__ import annotations

from collections.abc import Callable
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
_TWIN: Final = 1.01  # a circuit answers up to so many times the bits of its twin
_TOO_WIDE: Final[dict[str, Any]] = {"fallback_reason": "deadline"}


@dataclass(frozen=True, eq=False)
class Basis:
    """An orthogonal basis of rows.

    Attributes
    ----------
    kind
        How it was found.
    values : int8 [columns, width]
        The vectors of each group of `width` neighbouring columns, which is turned by itself: column j of a group is its j-th one
        in units of its scale. One group holds all columns but for wide rows. Empty for cosines, which every reader knows.
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

    @property
    def width(self) -> int:
        """Columns that are turned together."""
        return self.columns if self.kind == "fourier" else self.values.shape[1]

    @cached_property
    def digest(self) -> str:
        """xxh3-64 of values, scale and mean: its name in coded data."""
        return digest(b"".join(part.tobytes() for part in (self.values, self.scale, self.mean)))

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """The stored vectors made orthonormal again, by QR with the signs kept: float32 [groups, width, width]."""
        if self.kind == "fourier":
            return _cosines(self.columns).astype(np.float32)[None]
        vectors = self.values.reshape(-1, self.width, self.width).astype(np.float64)
        q, r = np.linalg.qr(vectors * self.scale.reshape(-1, 1, self.width))
        signs = np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)
        return np.asarray(q * signs[:, None], np.float32)

    def forward(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Coefficients of rows [rows, columns]."""
        return np.ascontiguousarray(_turned(rows.astype(np.float32) - self.mean, self.matrix))

    def back(self, coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of coefficients."""
        return _turned(coefficients, self.matrix.mT) + self.mean


def learn_basis(
    rows: ArrayLike, *, kind: Kind = "klt", seed: int = 0, dropout: int | None = None, clock: Callable[[], float] | None = None
) -> Basis:
    """The basis in which the coefficients of rows like these have the smallest sizes.

    Parameters
    ----------
    rows : float [rows, columns]
        At most 2,048 columns, all finite.
    kind
        ``klt``: the eigenvectors of the covariance (Karhunen-Loeve, PCA); ``qae``: found by a simulated circuit, where that is
        as good as the KLT, its twin, and else the KLT, with `fallback_reason` in the record; ``fourier``: the discrete cosines.
    seed
        Of what is drawn at random.
    dropout
        Samples of Monte-Carlo dropout, by which a circuit does without wires that hardly matter; None: it has all of them.
    clock
        Seconds, for the record; without it the record holds no time, and equal rows give equal bytes.

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
    mean = given.mean(axis=0)
    record: dict[str, Any] = {"kind": kind, "rows": count, "seed": seed, "label": "classical"}
    if kind == "fourier":
        return cosine_basis(mean.astype(np.float32), record)
    centred = given - mean
    return basis_of((centred.T @ centred / count)[None], mean, record, dropout=dropout, clock=clock)


def basis_of(
    moment: NDArray[np.float64],
    mean: NDArray[np.float64],
    record: dict[str, Any],
    *,
    dropout: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Basis:
    """The basis of rows with this covariance of each group of columns [groups, width, width], and this mean; `kind` and `seed`
    are those of the record."""
    begun = 0.0 if clock is None else clock()
    vectors = eigenvectors(moment)
    found, more = _by_circuit(moment, vectors, record["seed"], dropout) if record["kind"] == "qae" else (None, {})
    taken = {} if clock is None else {"seconds": clock() - begun}
    return stored_basis("klt" if found is None else "qae", vectors if found is None else found, mean, record | more | taken)


def _turned(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [rows, columns] with each group of columns times its matrix."""
    groups, width = matrix.shape[:2]
    if groups == 1:
        return np.asarray(rows @ matrix[0])
    turned = rows.reshape(len(rows), groups, width).swapaxes(0, 1) @ matrix
    return np.asarray(turned.swapaxes(0, 1).reshape(len(rows), groups * width))


def _by_circuit(
    moments: NDArray[np.float64], klt: NDArray[np.float64], seed: int, dropout: int | None
) -> tuple[NDArray[np.float64] | None, dict[str, Any]]:
    """The basis of a trained circuit, or None where the KLT answers, and the record of both."""
    from qstream.compression import qae  # noqa: PLC0415 - the simulator, which nothing else here needs

    if len(moments) > 1:
        return None, _TOO_WIDE
    moment, vectors = moments[0], klt[0]
    columns, influence = len(moment), np.maximum(np.diag(moment), 0)  # sums of float32 may leave less than nothing
    if columns < 2 or not influence.any():
        return None, {"fallback_reason": "not_needed"}
    fewest = columns.bit_length() - 1
    order = np.argsort(-influence, kind="stable") if dropout or columns & (columns - 1) else np.arange(columns)
    qubits = min(fewest, qae.wires(influence[order], samples=dropout, seed=seed)) if dropout else fewest
    width = 1 << qubits
    if width > qae.WIDEST:
        return None, _TOO_WIDE
    # What the circuit has no wires for is turned among itself, by linear algebra.
    inner, outer, whole = order[:width], order[width:], np.zeros((columns, columns))
    kept = max(1, width // 4)
    part = moment[np.ix_(inner, inner)]
    trained = qae.train(part, kept, seed=seed)
    whole[np.ix_(inner, np.arange(width))] = qae.diagonal_within(trained.unitary, part, kept)
    if len(outer):
        whole[np.ix_(outer, np.arange(width, columns))] = np.linalg.eigh(moment[np.ix_(outer, outer)])[1][:, ::-1]
    bits, twin_bits = (ideal_bits(moment, basis) for basis in (whole, vectors))
    record = {
        "label": "simulated",
        "execution": qae.EXECUTION,
        "n": qubits,
        "wires_left_out": (columns - 1).bit_length() - qubits,
        "layers": trained.layers,
        "parameters": trained.parameters,
        "shots": 0,
        "relative_loss": trained.relative,
        "random_angles": trained.control,
        "bits": bits,
        "twin_bits": twin_bits,
        "twin": "klt",
    }
    return (whole[None], record) if bits <= _TWIN * twin_bits else (None, record | {"fallback_reason": "twin_smaller"})


def ideal_bits(moment: NDArray[np.float64], basis: NDArray[np.float64]) -> float:
    """Bits a value of normal coefficients with errors of a twentieth of the rows' rms, by the rate-distortion function."""
    variance = np.einsum("ij,ik,kj->j", basis, moment, basis)
    noise = 0.05**2 / 3 * float(np.trace(moment)) / len(moment)
    return float(np.mean(0.5 * np.log2(np.maximum(variance / noise, 1.0)))) if noise > 0 else 0.0


def cosine_basis(mean: NDArray[np.float32], record: dict[str, Any] | None = None) -> Basis:
    """The cosines of rows of this mean."""
    return Basis("fourier", np.zeros((0, 0), np.int8), np.zeros(0, np.float32), mean, record or {})


def stored_basis(kind: Kind, vectors: NDArray[np.float64], mean: NDArray[np.float64], record: dict[str, Any]) -> Basis:
    """Vectors [groups, width, width] as whole numbers of a scale each."""
    scale = (np.abs(vectors).max(axis=1, keepdims=True) / _LEVELS).astype(np.float32)
    values = np.clip(np.rint(vectors / scale), -_LEVELS, _LEVELS).astype(np.int8)
    return Basis(kind, values.reshape(-1, vectors.shape[2]), scale.reshape(-1), mean.astype(np.float32), record)


def eigenvectors(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of each group by falling variance; the largest entry of each is positive, so that equal rows give equal bytes."""
    _, vectors = np.linalg.eigh(moment)
    vectors = vectors[..., ::-1]
    at = np.abs(vectors).argmax(axis=1)[:, None]
    return np.asarray(vectors * np.sign(np.take_along_axis(vectors, at, axis=1)))


def _cosines(columns: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II."""
    k, i = np.arange(columns)[None], np.arange(columns)[:, None]
    found = np.cos(np.pi * (2 * i + 1) * k / (2 * columns)) * np.sqrt(2 / columns)
    found[:, 0] /= np.sqrt(2)
    return np.asarray(found)
