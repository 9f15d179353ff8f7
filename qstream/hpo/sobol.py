"""Scrambled Sobol points by index: those of SciPy's `qmc.Sobol`, without the second that importing `scipy.stats` takes.

Source: direction numbers new-joe-kuo-6 of S. Joe and F. Y. Kuo, "Constructing Sobol sequences with better two-dimensional
projections", SIAM J. Sci. Comput. 30 (2008), BSD licence; scrambling by a random lower triangular matrix and a shift, J. Matousek
(1998).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.axis import Array

BITS: Final = 30
# Of each dimension from the second on: the primitive polynomial as bits, and the first direction numbers.
_JOE_KUO: Final = (
    "3 1; 7 1 3; 11 1 3 1; 13 1 1 1; 19 1 1 3 3; 25 1 3 5 13; 37 1 1 5 5 17; 41 1 1 5 5 5; 47 1 1 7 11 19; 55 1 1 5 1 1; 59 "
    "1 1 1 3 11; 61 1 3 5 5 31; 67 1 3 3 9 7 49; 91 1 1 1 15 21 21; 97 1 3 1 13 27 49; 103 1 1 1 15 7 5; 109 1 3 1 15 13 "
    "25; 115 1 1 5 5 19 61; 131 1 3 7 11 23 15 103; 137 1 3 7 13 13 15 69; 143 1 1 3 13 7 35 63; 145 1 3 5 9 1 25 53; 157 1 "
    "3 1 13 9 35 107; 167 1 3 1 5 27 61 31; 171 1 1 5 11 19 41 61; 185 1 3 5 3 3 13 69; 191 1 1 7 13 1 19 1; 193 1 3 7 5 13 "
    "19 59; 203 1 1 3 9 25 29 41; 211 1 3 5 13 23 1 55; 213 1 3 7 3 13 59 17; 229 1 3 1 3 5 53 69; 239 1 1 5 5 23 33 13; "
    "241 1 1 7 7 1 61 123; 247 1 1 7 9 13 61 49; 253 1 3 3 5 3 55 33; 285 1 3 1 15 31 13 49 245; 299 1 3 5 15 31 59 63 97; "
    "301 1 3 1 11 11 11 77 249; 333 1 3 1 11 27 43 71 9; 351 1 1 7 15 21 11 81 45; 355 1 3 7 3 25 31 65 79; 357 1 3 1 1 19 "
    "11 3 205; 361 1 1 5 9 19 21 29 157; 369 1 3 7 11 1 33 89 185; 391 1 3 3 3 15 9 79 71; 397 1 3 7 11 15 39 119 27; 425 1 "
    "1 3 1 11 31 97 225; 451 1 1 1 3 23 43 57 177; 463 1 3 7 7 17 17 37 71; 487 1 3 1 5 27 63 123 213; 501 1 1 3 5 11 43 53 "
    "133; 529 1 3 5 5 29 17 47 173 479; 539 1 3 3 11 3 1 109 9 69; 545 1 1 1 5 17 39 23 5 343; 557 1 3 1 5 25 15 31 103 "
    "499; 563 1 1 1 11 11 17 63 105 183; 601 1 1 5 11 9 29 97 231 363; 607 1 1 5 15 19 45 41 7 383; 617 1 3 7 7 31 19 83 "
    "137 221; 623 1 1 1 3 23 15 111 223 83; 631 1 1 5 13 31 15 55 25 161; 637 1 1 3 13 25 47 39 87 257"
)


def sobol(d: int, seed: int, index: int) -> Array:
    """Point `index` of a scrambled Sobol sequence in the unit cube, float64 [d]; d is at most 64."""
    vectors, shift = _scrambled(d, seed)
    gray = index ^ (index >> 1)
    used = vectors[:, [bit for bit in range(BITS) if gray >> bit & 1]]
    return np.asarray(np.bitwise_xor.reduce(used, axis=1) ^ shift, np.float64) / 2.0**BITS


@lru_cache(maxsize=64)
def _scrambled(d: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Direction vectors, uint32 [d, BITS], and shift, uint32 [d], as SciPy draws them."""
    random = np.random.Generator(np.random.PCG64(seed)).spawn(1)[0]
    places = np.arange(BITS - 1, -1, -1, dtype=np.uint32)  # of the bits of a vector, highest first
    shift = random.integers(2, size=(d, BITS), dtype=np.uint32) @ (np.uint32(1) << places[::-1])
    matrix = np.tril(random.integers(2, size=(d, BITS, BITS), dtype=np.uint32))
    matrix[:, np.arange(BITS), np.arange(BITS)] = 1
    bits = _vectors(d)[:, :, None] >> places & 1  # [d, vector, bit]
    mixed = np.einsum("dpk,djk->djp", matrix, bits) & 1
    return mixed @ (np.uint32(1) << places), shift


@lru_cache(maxsize=1)
def _directions() -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, row.split())) for row in _JOE_KUO.split("; "))


def _vectors(d: int) -> NDArray[np.uint32]:
    """Direction vectors before scrambling, uint32 [d, BITS]."""
    found = [[1] * BITS]
    for polynomial, *row in _directions()[: d - 1]:
        degree = len(row)
        for _ in range(degree, BITS):
            new = row[-degree]
            for k in range(degree):
                if polynomial >> (degree - 1 - k) & 1:
                    new ^= row[-1 - k] << (k + 1)
            row.append(new)
        found.append(row)
    return np.array(found, np.uint32) << np.arange(BITS - 1, -1, -1, dtype=np.uint32)
