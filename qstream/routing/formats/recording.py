"""Recording: what a tool has counted of a model's routing, as windows of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import MAX_COUNT, MAX_ENTRIES, check_size, numbers
from qstream.errors import ProblemError
from qstream.routing.formats.pieces import array_of, is_small, pieces
from schemas.wording import Shown, must_be

MAX_LAYERS: Final = 4096
MAX_EXPERTS: Final = 65536
MOST_WINDOWS: Final = 1024
_CELLS_AT_ONCE: Final = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Counts of one model. W windows, L layers, E experts, T tokens, K choices.

    Attributes
    ----------
    tool : str
        Which tool's format it came in.
    history : int64 [W, L, E]
        Tokens of each expert by window, newest last.
    layer_ids : tuple of int
        The tool's name of each layer: its position, or where dense layers lie between, the model's number.
    coactivation : int64 [L, E, E] or None
        How often two experts served one token; the diagonal counts the tokens of each.
    tokens : int32 [T, L, K] or None
        Gate choices of a sample of the tokens; -1 for none.
    ordered : bool
        Whether the windows are in the order of time. Those of a full ring are in the order of memory.
    phases : mapping
        Gate choices in the file by what the engine did, ``prefill``, ``decode``, ``mixed`` or ``unsaid``; empty where it does not
        say that of any token. Those of one phase alone may be what the other fields have.
    """

    tool: str
    history: NDArray[np.int64]
    layer_ids: tuple[int, ...]
    coactivation: NDArray[np.int64] | None = None
    tokens: NDArray[np.int32] | None = None
    ordered: bool = True
    phases: Mapping[str, int] = field(default_factory=dict)


def recording(
    tool: str,
    history: NDArray[np.int64],
    layer_ids: tuple[int, ...] | None = None,
    coactivation: NDArray[np.int64] | None = None,
    tokens: NDArray[np.int32] | None = None,
    ordered: bool = True,
    phases: Mapping[str, int] | None = None,
) -> Recording:
    """A recording whose arrays agree; `history` [W, L, E] or, of one window, [L, E]. Windows without tokens are left out.

    Raises
    ------
    ProblemError
        Shapes disagree or are beyond what a model has, or there is no token at all.
    """
    windows = history[None] if history.ndim == 2 else history
    _, layers, experts = windows.shape
    if layers > MAX_LAYERS or experts > MAX_EXPERTS:
        allowed = f"at most {MAX_LAYERS} layers x {MAX_EXPERTS} experts"
        raise ProblemError(must_be(f"counts of {tool}", allowed, Shown(f"{layers} layers x {experts} experts")))
    total = windows.sum(dtype=np.float64)
    if not 0 < total <= MAX_COUNT:
        raise ProblemError(must_be(f"counts of {tool}", "1 to 2**53 tokens in total", Shown(f"{total:g} tokens")))
    if coactivation is not None:
        if coactivation.shape != (layers, experts, experts):
            found = Shown(f"shape {list(coactivation.shape)}")
            raise ProblemError(must_be(f"coactivation of {tool}", f"{[layers, experts, experts]}", found))
        if not np.array_equal(coactivation, coactivation.transpose(0, 2, 1)):
            raise ProblemError(must_be(f"coactivation of {tool}", "symmetric", Shown("an asymmetric array")))
    used = windows[windows.any((1, 2))]
    return Recording(tool, used, layer_ids or tuple(range(layers)), coactivation, tokens, ordered, phases or {})


def read_steps(name: str, value: Any, start: int | None = None) -> tuple[NDArray[np.int64], bool]:
    """The steps [W, L, E] of a ring buffer [W, L, E] or [L, E], oldest first, and whether that order is known (`oldest`).

    Of a ring that is too large for one array, it is read in pieces, and neighbours are one step.
    """
    given = array_of(name, value, (2, 3))
    if given.ndim == 2:
        return numbers(name, given, 2)[None], True
    if is_small(given.shape):
        ring = numbers(name, given, 3)
        first, ordered = oldest(np.asarray(ring.any((1, 2))), start)
        return np.roll(ring, -first, axis=0), ordered
    tokens = np.concatenate([part.sum((1, 2), dtype=np.float64) for part in pieces(name, given, 0)])
    first, ordered = oldest(np.asarray(tokens > 0), start)
    each = math.prod(given.shape[1:])
    window = np.roll(windows_for(np.roll(tokens, -first), each), first)  # of each step, in the order of memory
    out = np.zeros((int(window.max()) + 1, *given.shape[1:]), np.int64)
    done = 0
    for part in pieces(name, given, 0):
        of = window[done : done + len(part)]
        starts = np.flatnonzero(np.diff(of, prepend=-1))
        np.add.at(out, of[starts], np.add.reduceat(part, starts, axis=0))
        done += len(part)
    return out, ordered


def oldest(written: NDArray[np.bool_], start: int | None = None) -> tuple[int, bool]:
    """The oldest step of a ring buffer by which of its steps have tokens [W], and whether that is known.

    It is at `start`, where the tool has written that; else behind the steps not written yet, the longest run of those without
    tokens. A full ring does not show where it begins.
    """
    if start is not None:
        return start, True
    steps = np.flatnonzero(written)
    if len(steps) == len(written):
        return 0, len(written) == 1
    if not len(steps):
        return 0, True
    gaps = np.diff(steps, append=steps[0] + len(written))
    return int(steps[(int(gaps.argmax()) + 1) % len(steps)]), True


def fold(given: Recording, windows: int) -> Recording:
    """The same counts in at most that many windows of about as many tokens each, neighbours summed.

    A tool may write one window a forward pass, a large one for a prefill and a tiny one for a decoding step; a planner needs
    few windows of equal weight.
    """
    if windows < 1:
        raise ProblemError(must_be("windows", ">= 1", windows))
    if len(given.history) <= windows:
        return given
    window = _window_of(given.history.sum((1, 2), dtype=np.float64), windows)
    starts = np.flatnonzero(np.diff(window, prepend=-1))
    return replace(given, history=np.add.reduceat(given.history, starts, axis=0))


def windows_for(tokens: NDArray[np.float64], each: int) -> NDArray[np.int64]:
    """The window of each step [W] with that many tokens: its own, or if arrays of `each` entries are too many, one of fewer."""
    if is_small((len(tokens), each)) or not tokens.any():
        return np.arange(len(tokens))
    check_size("counts", (each,))
    return _window_of(tokens, min(MOST_WINDOWS, MAX_ENTRIES // each))


def _window_of(tokens: NDArray[np.float64], windows: int) -> NDArray[np.int64]:
    """The window that the middle of each step [W] falls into, of windows with about as many tokens each."""
    ends = np.cumsum(tokens)
    middle: NDArray[np.float64] = (ends - tokens / 2) * (windows / ends[-1])
    return np.minimum(middle, windows - 1).astype(np.int64)


def count(choices: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """Tokens of each expert: int64 [L, E] from gate choices [L, T, K] with -1 for none."""
    layers = len(choices)
    flat = (choices + np.arange(layers)[:, None, None] * experts)[choices >= 0]
    return np.bincount(flat, minlength=layers * experts).reshape(layers, experts)


def count_pairs(choices: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """How often two experts serve one token: int64 [L, E, E] from gate choices [L, T, K] with -1 for none."""
    layers, tokens, _ = choices.shape
    check_size("coactivation", (layers, experts, experts))
    together = np.zeros((layers, experts, experts), np.int64)
    step = max(1, _CELLS_AT_ONCE // (experts + 1))
    for layer in range(layers):
        for start in range(0, tokens, step):
            some = choices[layer, start : start + step]
            chosen = np.zeros((len(some), experts + 1), np.float32)
            np.put_along_axis(chosen, np.where(some >= 0, some, experts), 1.0, 1)
            together[layer] += (chosen[:, :-1].T @ chosen[:, :-1]).astype(np.int64)
    return together
