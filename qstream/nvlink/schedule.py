"""Schedule: when transfers run where a port sends one and receives one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number
from qstream.errors import ProblemError
from qstream.nvlink.listing import list_schedule
from qstream.nvlink.matchings import Phases, matchings, packed, rotation
from qstream.nvlink.traffic import speed, traffic_of
from schemas.wording import Shown, must_be

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
Method = Literal["none", "port-bound", "list", "rotation", "matchings", "cut-matchings"]

AT_BOUND: Final = 1.0005  # times the bound: nothing better is looked for
_EVERY_ORDER: Final = 1.001
_FULLER: Final = 1.05
_DRAWS: Final = 60  # of factors on the work left
_DRAW_WORK: Final = 600_000  # of transfers times ports that draws may take
_SPREAD: Final = 0.1
_CUTS: Final = (0.9, 0.75)
_MOST_PHASES: Final = 150
_GROWTH: Final = 3  # cut matchings need more phases than whole ones by this at least, where ports have much to do
_MOST_PORTS: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Transfers, or parts of them, in order of their start, with what that is worth in the model.

    `phase` counts from 0: the phase, where barriers part them; else the place of a transfer in the order of its sender.
    """

    src: Ints
    dst: Ints
    nbytes: Floats
    start_us: Floats
    phase: Ints
    span_us: float  # end of the last one
    bound_us: float  # the fullest port, its bytes and start-ups: no order ends earlier
    method: Method


def schedule_transfers(nbytes: ArrayLike, gb_s: float, startup_us: float = 0.0, *, barriers: bool = False) -> Schedule:
    """Say when each transfer begins, so that the last one ends early. Modelled, not measured; deterministic.

    A transfer holds its sender's and its receiver's port for ``nbytes / gb_s + startup_us``. Without barriers: list schedules
    with the longest work left first, then with drawn factors on it; rotation; matchings. With barriers every phase waits for
    its longest transfer: rotation, matchings of most bytes (LAP), and these with long transfers cut, which then start up again.
    The best of them stands, and nothing more is tried where one is within .05 % of the bound.

    Parameters
    ----------
    nbytes
        Bytes from port to port, [n, n], finite, at least 0, the diagonal 0; n is at most 4,096.
    gb_s
        GB/s of a port, per direction.
    startup_us
        What every transfer costs beside its bytes.
    barriers
        Whether transfers go in phases.

    Returns
    -------
    Schedule
        `method` is `port-bound` where one port is fuller than all others, by 5 % at least, and the contrary of the rule ends
        within .1 % of the bound too: no order matters; and `none` where nothing is to be sent.

    Raises
    ------
    ProblemError
        An argument has another shape or range.
    """
    sent = _checked(nbytes, gb_s, startup_us)
    if not sent.any():
        nothing = np.zeros(0)
        ports = nothing.astype(np.int32)
        return Schedule(ports, ports, nothing, nothing, ports, 0.0, 0.0, "none")
    problem = _Problem(sent, float(gb_s), float(startup_us))
    best: Schedule | None = None
    for found in problem.in_phases() if barriers else problem.in_lists():
        if best is None or found.span_us < best.span_us:
            best = found
        if best.span_us <= AT_BOUND * best.bound_us:
            break
    assert best is not None  # both begin with one that always is
    return best


def rotation_us(nbytes: ArrayLike, gb_s: float, startup_us: float = 0.0) -> float:
    """The span of the rotation with barriers, which libraries use; the peer of `schedule_transfers`."""
    return float(rotation(_checked(nbytes, gb_s, startup_us)).lengths_us(gb_s, startup_us).sum())


def matchings_us(nbytes: ArrayLike, gb_s: float, startup_us: float = 0.0) -> float:
    """The span of matchings of most bytes with barriers (LAP), a second peer."""
    sent = _checked(nbytes, gb_s, startup_us)
    phases = matchings(sent) if sent.any() else None
    return 0.0 if phases is None else float(phases.lengths_us(gb_s, startup_us).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    sent: Floats
    gb_s: float
    startup_us: float

    def in_phases(self) -> Iterator[Schedule]:
        """Schedules with barriers, the cheapest to find first."""
        yield self._barred(rotation(self.sent), "rotation")
        whole = matchings(self.sent)
        assert whole is not None
        yield self._barred(whole, "matchings")
        for cut in _CUTS if _GROWTH * (int(whole.phase[-1]) + 1) <= _MOST_PHASES else ():
            phases = matchings(self.sent, cut=cut, least=2 * self.startup_us * self.gb_s * 1e3, most=_MOST_PHASES)
            if phases is not None:
                yield self._barred(phases, "cut-matchings")

    def in_lists(self) -> Iterator[Schedule]:
        """Schedules in which each port goes on as soon as it can, the cheapest to find first."""
        n, (src, dst) = len(self.sent), np.nonzero(self.sent)
        whole = Phases(src, dst, self.sent[src, dst], np.zeros(len(src), np.int64))
        took, bound = self._took(whole), self._bound()
        plain, start = np.ones(n), np.zeros(len(src))
        contrary = list_schedule(src, dst, took, n, -plain, -plain, start)
        end = list_schedule(src, dst, took, n, plain, plain, start)
        bound_by_one = max(contrary, end) <= _EVERY_ORDER * bound and self._loads()[-2] * _FULLER <= bound
        yield self._listed(whole, start, "port-bound" if bound_by_one else "list")
        turning = rotation(self.sent)
        yield self._listed(turning, packed(turning, n, self._took(turning)), "rotation")
        rng = np.random.default_rng(0)
        for _ in range(min(_DRAWS, _DRAW_WORK // (n * len(src)))):
            send, take = np.exp(rng.normal(0, _SPREAD, (2, n)))
            list_schedule(src, dst, took, n, send, take, start)
            yield self._listed(whole, start, "list")
        for cut in (1.0, *_CUTS):
            phases = matchings(self.sent, cut=cut, least=2 * self.startup_us * self.gb_s * 1e3, most=_MOST_PHASES)
            if phases is not None:
                yield self._listed(phases, packed(phases, n, self._took(phases)), "matchings" if cut == 1 else "cut-matchings")

    def _loads(self) -> Floats:
        """Time of all that each port has to do, sending and receiving apart, rising."""
        some = self.sent > 0
        return np.sort(np.concatenate([self.sent.sum(a) / self.gb_s / 1e3 + self.startup_us * some.sum(a) for a in (0, 1)]))

    def _bound(self) -> float:
        return float(self._loads()[-1])

    def _took(self, phases: Phases) -> Floats:
        """Time of each transfer; a trifle where it is so short that its end would be its begin in float64."""
        return np.maximum(phases.nbytes / self.gb_s / 1e3 + self.startup_us, 1e-12 * self._bound())

    def _barred(self, phases: Phases, method: Method) -> Schedule:
        lengths = phases.lengths_us(self.gb_s, self.startup_us)
        start = (np.cumsum(lengths) - lengths)[phases.phase]
        return self._schedule(phases, start, phases.phase, float(lengths.sum()), method)

    def _listed(self, phases: Phases, start: Floats, method: Method) -> Schedule:
        order = np.lexsort((start, phases.src))
        sender, place = phases.src[order], np.arange(len(order))
        first = np.append(True, sender[1:] != sender[:-1])
        number = np.empty(len(order), np.int64)
        number[order] = place - np.maximum.accumulate(np.where(first, place, 0))
        return self._schedule(phases, start, number, float((start + self._took(phases)).max()), method)

    def _schedule(self, phases: Phases, start: Floats, number: Any, span_us: float, method: Method) -> Schedule:
        order = np.lexsort((phases.src, start))
        src, dst, phase = (column[order].astype(np.int32) for column in (phases.src, phases.dst, number))
        bound_us = min(self._bound(), span_us)
        return Schedule(src, dst, phases.nbytes[order], start[order], phase, span_us, bound_us, method)


def _checked(nbytes: ArrayLike, gb_s: float, startup_us: float) -> Floats:
    sent = traffic_of(nbytes, "ports ports")
    if len(set(sent.shape)) != 1 or not 0 < len(sent) <= _MOST_PORTS:
        raise ProblemError(must_be("nbytes", f"of shape [ports, ports], 1 to {_MOST_PORTS}", Shown(f"shape {sent.shape}")))
    if sent.diagonal().any():
        port = int(sent.diagonal().argmax())
        raise ProblemError(must_be(f"nbytes[{port}, {port}]", "0, since a port sends itself nothing", float(sent[port, port])))
    speed("gb_s", gb_s)
    if real_number("startup_us", startup_us, 0.0) == np.inf:
        raise ProblemError(must_be("startup_us", "finite", startup_us))
    return sent
