"""Gate: which options are worth their time; what does not pay is switched off, and tried again now and then.

Axes: options O, tries W.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.learn import given
from qstream.learn.evolve import copies, evolve
from schemas.frame import Axes, Count, Frame, Names

MOST_OPTIONS: Final = 1000
GAIN_MAX: Final = 1e9  # a larger gain or loss counts as this one
_LEARNT: Final = ("gain", "tries", "recent", "lost", "waited", "on", "switched_off")


class GateState(Frame):
    """The gains of the last tries of each option, and whether it is on.

    `recent` are tries since the option was last switched, of which `gain` holds the newest; `lost` those in a row that gained
    no more than `threshold`, `waited` the records since it was last tried, that one included.
    """

    options: Names
    threshold: float
    losses: Count
    every: Count
    steps: Count = 0
    gain: Annotated[NDArray[np.float64], Axes("options", "window")]
    tries: Annotated[NDArray[np.int64], Axes("options")]
    recent: Annotated[NDArray[np.int64], Axes("options")]
    lost: Annotated[NDArray[np.int64], Axes("options")]
    waited: Annotated[NDArray[np.int64], Axes("options")]
    on: Annotated[NDArray[np.bool_], Axes("options")]
    switched_off: Annotated[NDArray[np.int64], Axes("options")]


def start(
    options: Iterable[str] | int = 1, *, threshold: float = 0.0, window: int = 8, losses: int = 3, every: int = 32
) -> GateState:
    """Return a state that has tried nothing: every option is off, and due.

    Parameters
    ----------
    options
        Their names, or how many they are.
    threshold
        What the mean gain of the last `window` tries must exceed, in the unit of the gains.
    losses
        Tries in a row that gain no more than `threshold`, after which an option is off whatever the mean says.
    every
        Records after which an option that is off is tried again.
    """
    names = given.labels("options", options, MOST_OPTIONS)
    zeros = np.zeros(len(names), np.int64)
    wait = given.whole("every", every, 1, 1_000_000)
    return GateState(
        options=names,
        threshold=given.real("threshold", threshold, -GAIN_MAX, GAIN_MAX),
        losses=given.whole("losses", losses, 1, 1000),
        every=wait,
        gain=np.zeros((len(names), given.whole("window", window, 1, 1000))),
        tries=zeros,
        recent=zeros.copy(),
        lost=zeros.copy(),
        waited=np.full(len(names), wait),
        on=np.zeros(len(names), np.bool_),
        switched_off=zeros.copy(),
    )


def due(state: GateState) -> NDArray[np.bool_]:
    """Which options the next record should try, bool [O]: those that are on, and those off for `every` records."""
    return state.on | (state.waited >= state.every)


def learn(state: GateState, gain: ArrayLike, tried: ArrayLike | None = None) -> tuple[GateState, NDArray[np.bool_]]:
    """Return the state after one record, and which options are on now, bool [O].

    Parameters
    ----------
    gain
        What each option gained, [O]: the part that it saved, or any number above `threshold` where it paid.
    tried
        Of which options `gain` holds, bool [O]; None: of all. A record that could have tried an option and did not counts
        as waiting.
    """
    count, window = state.gain.shape
    came = np.clip(given.numbers("gain", gain, (count,)), -GAIN_MAX, GAIN_MAX)
    new = copies(state, _LEARNT)
    new["waited"] += 1
    for o in np.flatnonzero(given.flags("tried", tried, (count,))):
        new["gain"][o, new["recent"][o] % window] = came[o]
        new["tries"][o] += 1
        new["recent"][o] += 1
        new["waited"][o] = 1
        if came[o] > state.threshold:
            new["lost"][o] = 0
        else:
            new["lost"][o] += 1
        mean = new["gain"][o, : min(new["recent"][o], window)].mean()
        pays = mean > state.threshold and new["lost"][o] < state.losses
        if not pays:  # what comes is judged by itself, not with what was seen before
            new["switched_off"][o] += new["on"][o]
            new["recent"][o] = new["lost"][o] = 0
        new["on"][o] = pays
    after = evolve(state, steps=state.steps + 1, **new)
    return after, after.on
