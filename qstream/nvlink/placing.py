"""Placement of ranks: growth, annealing, METIS, enumeration and windows under one deadline; never above the linear order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number, whole_number
from qstream.nvlink import metis, windows
from qstream.nvlink.exhaustive import MOST_UNITS, enumerate_blocks
from qstream.nvlink.growing import grow
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.problem import RankProblem, in_order, rank_problem
from qstream.nvlink.swapping import anneal
from qstream.nvlink.units import Units, coarser, contracted, units_of
from qstream.quantum.portfolio import Arm, Clock, Step, race, race_record
from qstream.quantum.record import Remaining
from qstream.quantum.window import Circuits, Runtime
from schemas.solver import Reason, SolverName, SolverRecord

Blocks = NDArray[np.int32]
_LOYALTIES: Final = (0.001, 0.3)
_COMPARED: Final = 6e7  # units looked at by all growths of one level
_STARTS: Final = 16
_PICKS: Final = 6  # placements that are annealed
_TEMPERATURES: Final = (0.3, 1.0)  # at first, of the mean weight times the largest distance
_COLD: Final = 0.003
_WARM: Final = 0.05  # where a coarser level was annealed before
_MANY: Final = 2048  # units above which half as many are annealed
_BLOCK_STEPS: Final = 100_000
_UNIT_STEPS: Final = 1_000_000
_RANK_STEPS: Final = 300_000
_PAIR_STEPS: Final = 20  # of a pair of units: fewer units have fewer exchanges to try
_CELLS: Final = 20_000_000  # units x blocks that annealing keeps in memory
_WINDOWS: Final = 16
_TURNS: Final = 16
_WINDOW_LAYERS: Final = 4
_QAOA_SHARE: Final = 0.5  # of the time left, where turns follow
_AT_BOUND: Final = 1 + 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class RankPlacement:
    """The block of each rank, int32 [n], and what it costs, in bytes times distance.

    `cost` is that of the answer, moves included; `linear_cost` that of ranks in order, filled into the blocks in order; no
    placement falls below `bound`. `candidates` has one record for each way that was tried, with its own best `objective`;
    `solver` is of the answer. `fallback_reason` says why circuits or turns that were asked for did not answer.
    """

    block_of_rank: Blocks
    cost: float
    linear_cost: float
    bound: float
    candidates: tuple[SolverRecord, ...]
    solver: SolverRecord
    fallback_reason: Reason | None = None


def place_ranks(
    src: ArrayLike,
    dst: ArrayLike,
    nbytes: ArrayLike,
    capacity: ArrayLike,
    distance: ArrayLike,
    *,
    ranks: int | None = None,
    atomic: Iterable[Iterable[int]] = (),
    pins: Mapping[int, int] | None = None,
    current: ArrayLike | None = None,
    move_cost: float = 0.0,
    options: NvlinkOptions | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    clock: Clock = time.perf_counter,
) -> RankPlacement:
    """Find blocks for ranks so that bytes travel short distances.

    Minimises sum bytes x distance(block of src, block of dst) + move_cost x ranks that leave their current block. The linear
    order and the current placement, where they are allowed, are always candidates, so the answer is never above either. Up to
    8 units (ranks or atomic groups) are enumerated. Without a deadline equal arguments give equal bytes.

    Parameters
    ----------
    src, dst : int [entries]
        Ranks of each entry of traffic. Entries of the same pair add up; those of a rank to itself count nothing.
    nbytes : float [entries]
        Bytes of each, finite and >= 0.
    capacity : int [blocks]
        Ranks that each block takes, >= 0.
    distance : float [blocks, blocks]
        Price of a byte from block to block, finite and >= 0. Where it is not symmetric, the search takes the mean of both
        directions, and placements are compared by their own cost.
    ranks
        How many there are; by default up to the largest that is named, or as many as `current` has.
    atomic
        Groups of ranks that must share a block.
    pins
        The block of ranks that must have a certain one.
    current : int [ranks], optional
        The block of each rank now; -1 where it has none.
    move_cost
        Price of one moved rank, in bytes times distance.
    options
        By default `NvlinkOptions()`. ``placement="off"`` looks for nothing: the current placement, or linear; ``"fast"`` grows
        only.
    deadline_s
        From the call, by `clock`; what runs is not broken off, so that a call may end some tenths of a second later.
    seed
        Of everything that is drawn.
    runtime
        Where ``options.device`` is to be found.

    Raises
    ------
    ProblemError
        An argument has a wrong shape, type or range, there are more ranks than room, or groups and pins do not fit.
    """
    terms = options or NvlinkOptions()
    seed = whole_number("seed", seed, 0, 2**63 - 1)
    end_s = math.inf if deadline_s is None else real_number("deadline_s", deadline_s, 0)
    began = clock()
    problem = rank_problem(
        src, dst, nbytes, capacity, distance, ranks=ranks, atomic=atomic, pins=pins, current=current, move_cost=move_cost
    )
    search = _Search(problem, seed, lambda: end_s - (clock() - began))
    linear = in_order(problem)
    search.offer("linear", linear)
    if problem.current is not None and problem.holds(problem.current):
        search.offer("incumbent", problem.current)
    proven = terms.placement != "off" and _search(search, linear, thorough=terms.placement == "portfolio")
    if terms.placement == "off" and "incumbent" in search.found:
        search.best = "incumbent"
    return _answer(search, terms, proven, runtime, clock)


class _Search:
    """The best placement of each solver so far."""

    def __init__(self, problem: RankProblem, seed: int, remaining_s: Remaining) -> None:
        self.problem, self.seed, self.remaining_s = problem, seed, remaining_s
        self.units = units_of(problem.src, problem.dst, problem.nbytes, problem.pin, problem.group)
        self.levels: list[Units] = [self.units]
        self.bound = problem.bound()
        self.found: dict[SolverName, tuple[float, Blocks]] = {}
        self.best: SolverName = "linear"

    def offer(self, solver: SolverName, block: Blocks) -> float:
        """Keep a placement if it is the solver's best; its cost."""
        cost = self.problem.cost(block)
        if solver not in self.found or cost < self.found[solver][0]:
            self.found[solver] = cost, block
        if cost < self.found[self.best][0]:
            self.best = solver
        return cost

    @property
    def cost(self) -> float:
        """The lowest so far."""
        return self.found[self.best][0]

    def is_over(self) -> bool:
        """Whether the time ended or nothing better can come."""
        return self.cost <= self.bound * _AT_BOUND or self.remaining_s() <= 0


def _search(search: _Search, linear: Blocks, *, thorough: bool) -> bool:
    """Fill the search, and say whether its best is proven to be the optimum."""
    if search.units.count <= MOST_UNITS and _enumerated(search, linear):
        return True
    if search.is_over():
        return search.cost <= search.bound * _AT_BOUND
    room = search.problem.capacity
    search.levels = [*coarser(search.units, int(room.max())), search.units]
    chunks = _chunks(search.units, room)
    if chunks is not None:
        search.levels.insert(-1, chunks)
    grown = _grown(search)
    if thorough and metis.is_installed() and not search.is_over():
        grown += _by_metis(search)
    if thorough:
        _annealed(search, grown)
    return search.cost <= search.bound * _AT_BOUND


def _enumerated(search: _Search, linear: Blocks) -> bool:
    problem, units = search.problem, search.units
    flow = np.zeros((units.count, units.count))
    np.add.at(flow, (problem.group[problem.src], problem.group[problem.dst]), problem.nbytes)
    of_unit, price = windows.unit_blocks(units, linear), _price(problem, units)
    block, proven = enumerate_blocks(flow, units.size, units.pinned, problem.capacity, problem.distance, price, of_unit)
    search.offer("exact", block[units.of_rank])
    return proven


def _grown(search: _Search) -> list[tuple[float, int, Blocks]]:
    """Growths on every level: cost, the level whose units are whole, and blocks [n]."""
    room = search.problem.capacity
    orders = [np.arange(len(room))]
    if room.min() < room.max():
        orders += [np.argsort(-room, kind="stable"), np.argsort(room, kind="stable")]
    rng = np.random.default_rng([search.seed, 1])
    found: list[tuple[float, int, Blocks]] = []
    for level, units in enumerate(search.levels):
        runs = len(orders) * len(_LOYALTIES)
        starts = int(np.clip(_COMPARED / (runs * units.count**2), 1, _STARTS))
        for start in rng.permutation(units.count)[:starts].tolist():
            for order in orders:
                if search.is_over() and found:
                    return found
                for loyalty in _LOYALTIES:
                    block, whole = _grow(search, units, order, start, loyalty)
                    if block is not None:
                        found.append((search.offer("growth", block), level if whole else len(search.levels) - 1, block))
    return found


def _grow(search: _Search, units: Units, order: NDArray[np.int64], start: int, loyalty: float) -> tuple[Blocks | None, bool]:
    """Blocks [n] and whether every unit is whole: what finds no room as a whole is placed in its parts, if these do."""
    room, parts = search.problem.capacity, search.units
    block = units.pinned.copy()
    if not grow(units.first, units.neighbour, units.weight, units.size, room, order, start, loyalty, block):
        return block[units.of_rank], True
    of_part = windows.unit_blocks(parts, block[units.of_rank])
    left = grow(parts.first, parts.neighbour, parts.weight, parts.size, room, order, 0, loyalty, of_part)
    return (None if left else of_part[parts.of_rank]), False


def _by_metis(search: _Search) -> list[tuple[float, int, Blocks]]:
    units = search.units
    if (units.pinned >= 0).any():
        return []
    block = metis.partition(units, search.problem.capacity, search.seed % 2**31)
    return [] if block is None else [(search.offer("metis", at := block[units.of_rank]), len(search.levels) - 1, at)]


def _annealed(search: _Search, grown: Sequence[tuple[float, int, Blocks]]) -> None:
    """Anneal the cheapest that differ: whole blocks first, then units of their own level, of the last, and blocks again."""
    last, seen = len(search.levels) - 1, set()
    picks: list[tuple[int, Blocks]] = []
    most = _PICKS if search.units.count <= _MANY else _PICKS // 2
    for cost, level, block in sorted(grown, key=lambda each: each[0]):
        if (key := round(cost / max(search.cost, 1e-300), 6)) not in seen and len(picks) < most:
            seen.add(key)
            picks.append((level, block))
    took_s = 0.0
    for number, (level, block) in enumerate(picks):
        for temperature in _TEMPERATURES:
            now = block
            for at in (None, *sorted({level, last}), None):
                left_s = search.remaining_s()
                if search.is_over() or left_s < took_s:
                    return
                if at is None:
                    whole = contracted(search.units, np.unique(windows.unit_blocks(search.units, now), return_inverse=True)[1])
                    now = _anneal(search, whole, now, temperature, _BLOCK_STEPS, number)
                elif at == level < last:
                    now = _anneal(search, search.levels[at], now, temperature, _UNIT_STEPS, number)
                else:
                    now = _anneal(search, search.units, now, temperature if level == last else _WARM, _RANK_STEPS, number)
                search.offer("swap-annealing", now)
                took_s = max(took_s, left_s - search.remaining_s()) if left_s < math.inf else 0.0


def _anneal(search: _Search, units: Units, block: Blocks, temperature: float, steps: int, number: int) -> Blocks:
    problem = search.problem
    if units.count * len(problem.capacity) > _CELLS or not len(units.weight):
        return block
    apart = (problem.distance + problem.distance.T) / 2
    scale = float(units.weight.mean() * apart.max())
    if not scale > 0:
        return block
    of_unit = windows.unit_blocks(units, block)
    price = _price(problem, units) + units.inner[:, None] * np.diag(apart)
    anneal(
        units.first,
        units.neighbour,
        units.weight,
        units.size,
        units.pinned >= 0,
        problem.capacity,
        apart,
        price,
        of_unit,
        min(steps, _PAIR_STEPS * units.count**2),
        temperature * scale,
        min(_COLD, temperature) * scale,
        np.uint64(search.seed * 64 + number),
    )
    return of_unit[units.of_rank]


def _price(problem: RankProblem, units: Units) -> NDArray[np.float64]:
    """What a unit costs in a block by its moves alone, float64 [u, k]."""
    price = np.zeros((units.count, len(problem.capacity)))
    if problem.current is not None and problem.move_cost:
        price += (problem.move_cost * units.size)[:, None]
        placed = problem.current >= 0
        np.subtract.at(price, (units.of_rank[placed], problem.current[placed]), problem.move_cost)
    return price


def _chunks(units: Units, room: NDArray[np.int64]) -> Units | None:
    """Units of as many ranks as divide every block's room, grown one after the other, where blocks differ."""
    size = int(np.gcd.reduce(room[room > 0]))
    n = int(units.size.sum())
    if not 1 < size < room.max() or n % size or (units.pinned >= 0).any():
        return None
    label = np.full(units.count, -1, np.int32)
    capacity = np.full(n // size, size)
    if grow(units.first, units.neighbour, units.weight, units.size, capacity, np.arange(n // size), 0, _LOYALTIES[0], label):
        return None
    return contracted(units, label.astype(np.int64))


def _answer(search: _Search, terms: NvlinkOptions, proven: bool, runtime: Runtime | None, clock: Clock) -> RankPlacement:
    """Windows where they are asked for, from the best so far, and the records."""
    problem = search.problem
    records = [
        SolverRecord(solver=name, objective=cost, bound=search.bound, exact=search.cost if proven else None, seed=search.seed)
        for name, (cost, _) in search.found.items()
    ]
    given = next(record for record in records if record.solver == search.best)
    cost, block = search.found[search.best]
    linear_cost = search.found["linear"][0]
    if proven or not (terms.qaoa or terms.hqc):
        return RankPlacement(block, cost, linear_cost, search.bound, tuple(records), given)
    circuits = None
    if terms.qaoa:
        layers = terms.circuit_layers or _WINDOW_LAYERS
        circuits = Circuits(layers, terms.shots, device=terms.device, runtime=runtime)
    how = windows.Terms(terms.circuit_slots, _WINDOWS, circuits, search.seed)
    done: dict[SolverName, tuple[float, windows.Turned]] = {}
    arms = [Arm("qaoa", partial(_turn, search, how, done), _QAOA_SHARE if terms.hqc else 1.0)] if terms.qaoa else []
    if terms.hqc:
        arms.append(Arm("hqc", partial(_turns, search, how, done)))
    outcome = race(block, cost, arms, may_stand=terms.deterministic, deadline_s=search.remaining_s(), clock=clock)
    records += [windows.turn_record(name, before, turned, how) for name, (before, turned) in done.items()]
    record = race_record(outcome, given, seed=search.seed, twin=cost).model_copy(update={"bound": search.bound})
    kept = outcome.answer
    if not outcome.answered:
        name: SolverName = "incumbent" if "incumbent" in search.found else "linear"
        cost, kept = search.found[name]
        record = SolverRecord(solver="kept", asked=record.asked, objective=cost, bound=search.bound, seed=search.seed)
    return RankPlacement(kept, problem.cost(kept), linear_cost, search.bound, tuple(records), record, outcome.fallback_reason)


def _turn(
    search: _Search,
    terms: windows.Terms,
    done: dict[SolverName, tuple[float, windows.Turned]],
    block: Blocks,
    circuits: bool,
    remaining_s: Remaining,
) -> Step[Blocks]:
    """One turn of windows by circuits."""
    turned = windows.turn(search.problem, search.levels, block, terms, 0, remaining_s)
    done["qaoa"] = search.problem.cost(block), turned
    return windows.turn_step(search.problem, turned)


def _turns(
    search: _Search,
    terms: windows.Terms,
    done: dict[SolverName, tuple[float, windows.Turned]],
    block: Blocks,
    circuits: bool,
    remaining_s: Remaining,
) -> Step[Blocks]:
    """Turns from the second on: the windows of the first are those of circuits, and need not be tried again."""
    how = terms if circuits else windows.Terms(terms.slots, terms.count, None, terms.seed)
    turned = windows.turns(search.problem, search.levels, block, how, _TURNS, 1, remaining_s)
    done["hqc"] = search.problem.cost(block), turned
    return windows.turn_step(search.problem, turned)
