"""The QAOA state of Ising problems of equal size, evolved exactly on the diagonal of their energies.

Conventions: the phase is ``exp(-i gamma E)`` with E without its offset, the mixer ``exp(-i beta X)`` on every qubit. Energies
are minimised, so useful angles have gamma > 0 and beta < 0; the pair (-gamma, -beta) gives the same probabilities.

The state is kept in the frame that S gates turn, where X becomes Y and the mixer is a real rotation ``[[c, -s], [s, c]]``:
real and imaginary part are two rows of floats, and each group of about four qubits is one real matrix product. The frame
multiplies amplitudes by powers of i, which no probability sees.

Without fields, E(s) = E(-s): spin 0 is then held at +1 and half of the state kept, where X on qubit 0 turns all other spins.
Source of the diagonal and the group-wise mixer: Lykov et al., QOKit (arXiv:2309.04841); the real frame is our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.diagonals import checked_size, diagonals, integer_levels
from qstream.quantum.record import Refused, Remaining
from schemas.solver import Reason
from schemas.wording import must_be

WARM_EPSILON: Final = 0.25
_BLOCK: Final = 1 << 15  # states whose phases stay in a core's cache

Floats = NDArray[np.floating[Any]]


def unlimited() -> float:
    """Seconds left where there is no deadline."""
    return math.inf


class Statevector:
    """The state of B problems of n spins each, and the buffers in which it evolves.

    Parameters
    ----------
    problems
        B problems of equal n, 1 to 22.
    dtype
        float32 to be fast (probabilities to 1e-6 at depth 32), float64 to check (1e-14).
    start : int [n]
        Warm start: a solution of all these problems' size, from whose neighbourhood the state begins, with the mixer that
        keeps that beginning (Egger, Marecek, Woerner, arXiv:2009.10095). By default all states are equally likely.
    epsilon
        Probability that a qubit of the warm start is measured other than in `start`; 0.5 is the same as no warm start.

    Attributes
    ----------
    energies : float64 [B, N]
        Without offset; N is 2^n, or 2^(n-1) where `mirrored`.
    offsets : float64 [B]
    state : float [2, B, N]
        Real and imaginary part in the turned frame, normalised to 1 over these N entries.
    mirrored
        Whether spin 0 is held at +1.
    warm
        Whether there is a warm start.

    Raises
    ------
    ProblemError
        The problems differ in n, are too large, or epsilon is not in (0, 0.5].
    """

    def __init__(
        self,
        problems: Sequence[IsingProblem],
        dtype: type[np.float32] | type[np.float64] = np.float32,
        start: NDArray[np.integer[Any]] | None = None,
        epsilon: float = WARM_EPSILON,
    ) -> None:
        self.n = checked_size(problems)
        self.mirrored = self.n > 1 and start is None and not any(np.any(problem.h) for problem in problems)
        self.qubits = self.n - self.mirrored
        self.offsets = np.array([problem.offset for problem in problems])
        self.energies = diagonals(problems, self.mirrored)
        shape = (2, *self.energies.shape)
        self.state, self._spare = np.empty(shape, dtype), np.empty(shape, dtype)
        self._trig = np.empty((2, len(problems), min(shape[-1], _BLOCK)), dtype)
        # Scaled, so that no energy overflows or vanishes in single precision.
        self._unit = np.abs(self.energies).max(axis=1)
        self._unit[self._unit == 0] = 1
        self._angles = (self.energies / self._unit[:, np.newaxis]).astype(dtype, copy=False)
        self._levels = integer_levels(problems[0], self.energies[0]) if len(problems) == 1 and start is None else None
        self.groups = groups(self.qubits)
        self._mirror = mirror(self.qubits, dtype) if self.mirrored else None
        self.warm = start is not None
        self._epsilon = 0.5 if start is None else checked_epsilon(epsilon)
        self._start: list[int] | None = None if start is None else start.tolist()
        self._agreement = None if self._start is None else agreement(self._start, dtype)
        self.reset()

    def reset(self) -> None:
        """Start over: all states equally likely, or the warm start."""
        self._turn = 0.0
        ratio = math.sqrt(self._epsilon / (1 - self._epsilon))
        ratios = [ratio if spin > 0 else 1 / ratio for spin in self._start or [1] * self.qubits]
        (real, imag), size = self.state, 1
        real[:, 0] = math.prod(1 / math.hypot(1, of_one) for of_one in ratios)
        imag[:, 0] = 0
        for of_one in reversed(ratios):
            # In the turned frame a one has the factor i.
            np.multiply(imag[:, :size], -of_one, out=real[:, size : 2 * size])
            np.multiply(real[:, :size], of_one, out=imag[:, size : 2 * size])
            size *= 2

    def evolve(self, gammas: ArrayLike, betas: ArrayLike, remaining_s: Remaining = unlimited) -> None:
        """Apply p layers of phase and mixer, asking before each whether there is time.

        Parameters
        ----------
        gammas : float [p] or [B, p]
        betas : float [p]

        Raises
        ------
        Refused
            ``timeout``: `remaining_s` is not above 0; the state is then of no use until `reset`.
        """
        phases = np.asarray(gammas, np.float64)
        for layer, beta in enumerate(np.asarray(betas, np.float64).tolist()):
            if remaining_s() <= 0:
                raise Refused(Reason.TIMEOUT, f"the time ended before layer {layer + 1}")
            cosine, sine, turn = self.rotation(beta)
            self.phase(phases[..., layer], self._turn + turn)
            self.mix(cosine, sine)
            self._turn = turn  # the mixer's second phase waits for the next layer; after the last, no probability sees it

    def rotation(self, beta: float) -> tuple[float, float, float]:
        """Cosine and sine of the real rotation that the mixer is, and the warm start's phase before and after it.

        With cos(theta) = 1 - 2 epsilon, ``exp(-i beta (sin(theta) Y + cos(theta) Z))`` is a rotation between two equal phases.
        """
        cosine, sine = math.cos(beta), math.sin(beta)
        along = 1 - 2 * self._epsilon
        across = sine * math.sqrt(1 - along * along)
        turn = math.atan2(math.copysign(sine, sine * cosine) * along, abs(cosine)) / 2
        return math.copysign(math.hypot(cosine, sine * along), cosine), across, turn

    def phase(self, gamma: ArrayLike, turn: float = 0.0) -> None:
        """Multiply the state by ``exp(-i (gamma E + turn M))``, gamma being one or [B], M the agreement with the warm start."""
        size = self.state.shape[-1]
        for first in range(0, size, _BLOCK):
            part = slice(first, first + _BLOCK)
            (real, imag), (to_real, to_imag) = self.state[..., part], self._spare[..., part]
            cosine, sine = self.wave(np.asarray(gamma, np.float64), turn, part)
            np.multiply(cosine, real, out=to_real)
            np.multiply(cosine, imag, out=to_imag)
            np.multiply(sine, imag, out=cosine)
            to_real += cosine
            sine *= real
            to_imag -= sine
        self.state, self._spare = self._spare, self.state

    def wave(self, gamma: NDArray[np.float64], turn: float, part: slice) -> Floats:
        """Cosine and sine [2, B, block] of the phases of some states; the next call overwrites them."""
        angles = self._angles[:, part]
        trig = self._trig[..., : angles.shape[-1]]
        cosine, sine = trig
        if self._levels is not None:
            level, energies = self._levels
            table = np.stack([np.cos(energies * gamma), np.sin(energies * gamma)]).astype(trig.dtype)
            np.take(table, level[np.newaxis, part], axis=1, out=trig, mode="clip")
            return trig
        np.multiply(angles, (gamma * self._unit).astype(sine.dtype)[:, np.newaxis], out=sine)
        if self._agreement is not None:
            sine += self._agreement[part] * sine.dtype.type(turn)
        np.cos(sine, out=cosine)
        np.sin(sine, out=sine)
        return trig

    def mix(self, cosine: float, sine: float) -> None:
        """Rotate every qubit of the state by ``[[cosine, -sine], [sine, cosine]]``."""
        blocks = {qubits: rotations(cosine, sine, qubits).astype(self.state.dtype) for qubits, _ in self.groups}
        for qubits, right in self.groups:
            multiply_group(blocks[qubits], right, self.state, self._spare)
            self.state, self._spare = self._spare, self.state
        if self._mirror is not None:
            self.turn_all(self.state, self._spare)
            self._spare *= self._spare.dtype.type(sine)
            self.state *= self.state.dtype.type(cosine)
            self.state += self._spare

    def turn_all(self, state: Floats, out: Floats) -> None:
        """``out = -i X_0 state`` of a mirrored state: (-i)^(m+1), with the sign of the parity, on the mirrored entries."""
        assert self._mirror is not None
        order, signs = self._mirror
        np.multiply(state[order, :, ::-1], signs, out=out)

    def probabilities(self) -> NDArray[np.float64]:
        """Probabilities [B, N] of the kept states, each row with sum 1."""
        return probabilities(self.state)


def probabilities(state: Floats) -> NDArray[np.float64]:
    """Squares [B, N] of a state's [2, B, N] amplitudes, each row scaled to the sum 1."""
    square: NDArray[np.float64] = np.einsum("cbn,cbn->bn", state, state).astype(np.float64)
    square /= square.sum(axis=1, keepdims=True)
    return square


def checked_epsilon(epsilon: float) -> float:
    """`epsilon` if a warm start can have it, else `ProblemError`."""
    if not 0 < epsilon <= 0.5:
        raise ProblemError(must_be("epsilon", "above 0 and at most 0.5", epsilon))
    return epsilon


def groups(qubits: int) -> list[tuple[int, int]]:
    """Qubits in groups of about four, whose 16 x 16 blocks fill a matrix product best, and the states right of each group."""
    count = max(1, (qubits + 1) // 4)
    sizes = [qubits // count + (k < qubits % count) for k in range(count)]
    return [(size, 1 << (qubits - sum(sizes[: k + 1]))) for k, size in enumerate(sizes)]


def rotations(cosine: float, sine: float, qubits: int) -> NDArray[np.float64]:
    """The Kronecker power [K, K] of ``[[cosine, -sine], [sine, cosine]]``."""
    powers = np.array([cosine ** (qubits - k) * sine**k for k in range(qubits + 1)])
    distance, sign = kron_pattern(qubits)
    block: NDArray[np.float64] = powers[distance] * sign
    return block


@cache
def kron_pattern(qubits: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Hamming distance [K, K] between row and column, and the sign of its entry in a Kronecker power of rotations."""
    distance, sign = np.zeros((1, 1), np.intp), np.ones((1, 1))
    for _ in range(qubits):
        distance = np.block([[distance, distance + 1], [distance + 1, distance]])
        sign = np.block([[sign, -sign], [sign, sign]])
    return distance, sign


def multiply_group(block: Floats, right: int, state: Floats, out: Floats) -> None:
    """Multiply a group of qubits, `right` states to the right of it, by a real matrix [K, K]."""
    size = len(block)
    if right == 1:
        np.matmul(state.reshape(-1, size), block.T, out=out.reshape(-1, size))
    else:
        np.matmul(block, state.reshape(-1, size, right), out=out.reshape(-1, size, right))


def mirror(qubits: int, dtype: type[np.floating[Any]]) -> tuple[slice, Floats]:
    """``(-i)^(m+1) (-1)^|x|`` of m qubits: the order in which it takes real and imaginary part, and their signs [2, 1, 2^m]."""
    factor = (1, -1j, -1, 1j)[(qubits + 1) & 3]
    signs: Floats = np.array([-factor.imag, factor.imag] if factor.imag else [factor.real] * 2, dtype)
    parity: Floats = np.ones(1, dtype)
    for _ in range(qubits):
        parity = np.concatenate([parity, -parity])
    return slice(None, None, -1 if factor.imag else 1), signs[:, np.newaxis, np.newaxis] * parity


def agreement(start: list[int], dtype: type[np.floating[Any]]) -> Floats:
    """``sum_i start_i s_i`` [2^n] of each basis state s."""
    total: Floats = np.zeros(1, dtype)
    for spin in reversed(start):
        total = np.concatenate([total + spin, total - spin])
    return total
