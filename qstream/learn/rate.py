"""Rate: an offset to a step, in powers of two, that brings what coding costs to a target, from what the last records cost."""

from __future__ import annotations

from typing import Final

from qstream.learn import given
from qstream.learn.evolve import evolve
from schemas.frame import Count, Frame

BITS_MAX: Final = 1024.0


class RateState(Frame):
    """The offset in force, log2 of what a step is multiplied by, and sums of bits and of errors, which inform people."""

    gain: float
    limit: float
    steps: Count = 0
    offset: float = 0.0
    bits: float = 0.0
    error: float = 0.0


def start(*, gain: float = 0.5, limit: float = 2.0) -> RateState:
    """Return a state that has seen nothing: the offset is 0.

    Parameters
    ----------
    gain
        The part of an error that is corrected at once. A step twice as large costs a bit less a value where values are many
        steps wide, so at 0.5 half of an error is left after each record.
    limit
        The offset stays from ``-limit`` to ``limit``.
    """
    return RateState(gain=given.real("gain", gain, 1e-6, 1.0), limit=given.real("limit", limit, 1e-6, 64.0))


def factor(state: RateState) -> float:
    """What to multiply the step by that is planned for the target."""
    return float(2.0**state.offset)


def learn(state: RateState, bits: float, target: float) -> RateState:
    """Return the state after a record cost `bits` a value where `target` was asked for: ``offset += gain (bits - target)``."""
    cost = given.real("bits", bits, 0.0, BITS_MAX)
    asked = given.real("target", target, 0.0, BITS_MAX)
    return evolve(
        state,
        steps=state.steps + 1,
        offset=min(max(state.offset + state.gain * (cost - asked), -state.limit), state.limit),
        bits=state.bits + cost,
        error=state.error + abs(cost - asked),
    )
