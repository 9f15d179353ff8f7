"""QAOA circuits of native gates as PennyLane scripts, and the samples that devices give of them.

Signs are those of `qstream.quantum`: a layer is ``exp(-i gamma E)`` and then ``exp(-i beta B)``. B is the sum of all X, or, on
blocks of one-hot qubits, the complete graph's ``11^T - I`` on the levels of each block, which keeps a state feasible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Problem, Refused
from schemas.solver import Reason
from schemas.wording import must_be

Edge = tuple[int, int]
Gate = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Circuit:
    """What a device is to run: plain data, which crosses the border of a process.

    Parameters
    ----------
    n
        Wires.
    edges, weights : E pairs (i < j), float64 [E]
        Couplings of the energy in the exponent.
    fielded, fields : F wires, float64 [F]
        Its fields.
    blocks
        Sizes of the one-hot blocks, in order of the wires; () for the X mixer.
    gammas, betas : float64 [p], float64 [p] or of blocks [p, m]
        Angles of the layers.
    shots, seed
        How often to measure, and the seed of simulators.
    noise
        Probability of depolarising after each gate on each of its wires.
    """

    n: int
    edges: tuple[Edge, ...]
    weights: NDArray[np.float64]
    fielded: tuple[int, ...]
    fields: NDArray[np.float64]
    blocks: tuple[int, ...]
    gammas: NDArray[np.float64]
    betas: NDArray[np.float64]
    shots: int
    seed: int
    noise: float | None = None

    @property
    def two_qubit_gates(self) -> int:
        """IsingZZ and IsingXY gates, of preparation and all layers."""
        chain = sum(k - 1 for k in self.blocks)
        return chain + len(self.gammas) * (len(self.edges) + 2 * chain)


@dataclass(frozen=True, eq=False)
class Rotations:
    """RY on each wire, then rings of CNOTs, measured in a basis of Z and X: plain data as well.

    Parameters
    ----------
    angles : float64 [n]
        Of RY, radians.
    rings
        How far the CNOTs of each ring reach, from wire i to ``(i + reach) mod n``.
    basis : bool [n]
        True where X is measured.
    shots, seed
        As of a `Circuit`.
    """

    angles: NDArray[np.float64]
    rings: tuple[int, ...]
    basis: NDArray[np.bool_]
    shots: int
    seed: int

    @property
    def n(self) -> int:
        """Wires."""
        return len(self.angles)


@dataclass(frozen=True, eq=False)
class Samples:
    """Distinct measured bits as spins, int8 [S, n], how often each was seen, int64 [S], and the CPU time that they took."""

    spins: NDArray[np.int8]
    counts: NDArray[np.int64]
    cpu_s: float = 0.0


# What a worker runs to warm up, and what a probe asks of a device: one edge, one layer.
PROBE = Circuit(2, ((0, 1),), np.ones(1), (), np.zeros(0), (), np.full(1, 0.4), np.full(1, 0.3), shots=8, seed=0)


def circuit_of(
    problem: Problem, gammas: NDArray[np.float64], betas: NDArray[np.float64], shots: int, seed: int, noise: float | None = None
) -> Circuit:
    """The circuit of a problem at given angles; a one-hot problem takes a qubit a level, which is 1 where it is chosen."""
    couplings, fields = (problem.J, problem.h) if isinstance(problem, IsingProblem) else _one_hot_terms(problem)
    rows, columns = np.nonzero(couplings)
    fielded = np.flatnonzero(fields)
    return Circuit(
        n=len(fields),
        edges=tuple(zip(rows.tolist(), columns.tolist(), strict=True)),
        weights=couplings[rows, columns],
        fielded=tuple(fielded.tolist()),
        fields=fields[fielded],
        blocks=problem.sizes if isinstance(problem, OneHotProblem) else (),
        gammas=gammas,
        betas=betas,
        shots=shots,
        seed=seed,
        noise=noise,
    )


def script_of(circuit: Circuit | Rotations) -> Any:
    """A ``QuantumScript`` that counts all wires. Built directly: neither PennyLane's queue nor its lock is taken."""
    import pennylane as qml  # noqa: PLC0415 slow to import, and not always installed

    if isinstance(circuit, Rotations):
        turns = [qml.RY(float(angle), wire) for wire, angle in enumerate(circuit.angles)]
        turns += [qml.CNOT((wire, (wire + reach) % circuit.n)) for reach in circuit.rings for wire in range(circuit.n)]
        turns += [qml.Hadamard(int(wire)) for wire in np.flatnonzero(circuit.basis)]
        return qml.tape.QuantumScript(turns, [qml.counts(wires=range(circuit.n))], shots=circuit.shots)
    operators = list(_preparation(circuit.n, circuit.blocks))
    gates = _layer(circuit.n, circuit.edges, circuit.fielded, circuit.blocks)
    kinds = {name: getattr(qml, name) for name in ("IsingZZ", "RZ", "RX", "IsingXY")}
    for gamma, beta in zip(circuit.gammas, circuit.betas, strict=True):
        angles = _layer_angles(circuit, gamma, beta)
        operators += [kinds[kind](angle, wires) for (kind, wires), angle in zip(gates, angles, strict=True)]
    if circuit.noise:
        operators = [
            step
            for gate in operators
            for step in (gate, *(qml.DepolarizingChannel(circuit.noise, wires=wire) for wire in gate.wires))
        ]
    return qml.tape.QuantumScript(operators, [qml.counts(wires=range(circuit.n))], shots=circuit.shots)


def samples_of(result: object, circuit: Circuit | Rotations) -> Samples:
    """Read a device's counts; `Refused` for anything but strings of n bits, each with a whole number of times."""
    if isinstance(result, (tuple, list)) and len(result) == 1:
        result = result[0]
    if not isinstance(result, dict) or not result:
        raise _invalid(f"counts are {str(result)[:80]}")
    for bits, count in result.items():
        if not isinstance(bits, str) or len(bits) != circuit.n or set(bits) - {"0", "1"}:
            raise _invalid(must_be("an outcome", f"{circuit.n} bits", bits))
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise _invalid(f"outcome {bits} was seen {count} times")
    if (total := sum(int(count) for count in result.values())) > circuit.shots:
        raise _invalid(f"{total} outcomes of {circuit.shots} shots")
    ordered = sorted(result)
    bits = np.frombuffer("".join(ordered).encode(), np.uint8).reshape(-1, circuit.n) - ord("0")
    return Samples((1 - 2 * bits.astype(np.int8)), np.array([result[key] for key in ordered], np.int64))


def feasible_levels(samples: Samples, sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Levels [S, m] and counts [S] of the samples with exactly one chosen level a block; noise makes others."""
    chosen = samples.spins < 0
    starts = np.cumsum((0, *sizes))
    blocks = [chosen[:, low:high] for low, high in pairwise(starts)]
    feasible = np.all([block.sum(1) == 1 for block in blocks], axis=0)
    levels = np.stack([block.argmax(1) for block in blocks], axis=1)
    return levels[feasible].astype(np.int64), samples.counts[feasible]


def _one_hot_terms(problem: OneHotProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Couplings [n, n] and fields [n] of the energy, by ``chosen = (1 - z) / 2``; the constant does not matter."""
    starts = np.cumsum((0, *problem.sizes))
    couplings, fields = np.zeros((starts[-1], starts[-1])), np.zeros(starts[-1])
    for i, costs in enumerate(problem.unary):
        fields[starts[i] : starts[i + 1]] -= costs / 2
    for (i, j), costs in problem.pair.items():
        at_i, at_j = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        couplings[at_i, at_j] = costs / 4
        fields[at_i] -= costs.sum(1) / 4
        fields[at_j] -= costs.sum(0) / 4
    return couplings, fields


@lru_cache(maxsize=256)
def _preparation(n: int, blocks: tuple[int, ...]) -> tuple[Any, ...]:
    """Operators from all zeros to the uniform superposition, of all states or of the feasible ones."""
    import pennylane as qml  # noqa: PLC0415 slow to import, and not always installed

    if not blocks:
        return tuple(qml.Hadamard(wire) for wire in range(n))
    operators: list[Any] = []
    for first, size in _runs(blocks):
        operators.append(qml.RX(math.pi, first))
        gates, angles = _spread(first, size), _spread_angles(size)
        operators += [getattr(qml, kind)(angle, wires) for (kind, wires), angle in zip(gates, angles, strict=True)]
    return tuple(operators)


@lru_cache(maxsize=256)
def _layer(n: int, edges: tuple[Edge, ...], fielded: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[Gate, ...]:
    """Gates of one layer, in the order of `_layer_angles`."""
    cost: list[Gate] = [("IsingZZ", edge) for edge in edges]
    cost += [("RZ", (wire,)) for wire in fielded]
    if not blocks:
        return (*cost, *(("RX", (wire,)) for wire in range(n)))
    for first, size in _runs(blocks):
        spread = _spread(first, size)
        cost += [*spread[::-1], ("RZ", (first,)), *spread]
    return tuple(cost)


def _layer_angles(circuit: Circuit, gamma: float, beta: float | NDArray[np.float64]) -> list[float]:
    """RZ(a) is ``exp(-i a Z / 2)``, and so are RX and IsingZZ; IsingXY(a) is ``exp(+i a (XX + YY) / 4)``."""
    cost: list[float] = (2 * gamma * np.concatenate((circuit.weights, circuit.fields))).tolist()
    if not circuit.blocks:
        return cost + [2 * float(beta)] * circuit.n
    for size, turn in zip(circuit.blocks, np.broadcast_to(beta, len(circuit.blocks)).tolist(), strict=True):
        # exp(-i b (11^T - I)) is a phase of the uniform state alone: rotate that state to the first level and back.
        spread = _spread_angles(size)
        cost += [*(-angle for angle in spread[::-1]), -turn * size, *spread]
    return cost


def _spread(first: int, size: int) -> list[Gate]:
    """From the block's first level to the uniform superposition of its levels, up to a global phase."""
    wires = range(first, first + size)
    return [*(("IsingXY", pair) for pair in pairwise(wires)), *(("RZ", (wire,)) for wire in wires[1:])]


@lru_cache(maxsize=256)
def _spread_angles(size: int) -> tuple[float, ...]:
    """Each IsingXY leaves 1/sqrt(k) behind and gives a factor i to what goes on; the RZ take those factors back."""
    moves = (2 * math.acos(1 / math.sqrt(size - level)) for level in range(size - 1))
    return (*moves, *(-level * math.pi / 2 for level in range(1, size)))


def _runs(blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """First wire and size of each block."""
    return list(zip(np.cumsum((0, *blocks[:-1])).tolist(), blocks, strict=True))


def _invalid(detail: str) -> Refused:
    return Refused(Reason.INVALID_OUTPUT, detail)
