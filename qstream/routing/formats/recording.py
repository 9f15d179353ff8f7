"""Recording: what a tool has counted of a model's routing, as windows of counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.formats.files import MAX_COUNT, check_size
from schemas.wording import Shown, must_be

MAX_LAYERS: Final = 4096
MAX_EXPERTS: Final = 65536
TOKENS_KEPT: Final = 4096
PAIRED_TOKENS: Final = 16384
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
    """

    tool: str
    history: NDArray[np.int64]
    layer_ids: tuple[int, ...]
    coactivation: NDArray[np.int64] | None = None
    tokens: NDArray[np.int32] | None = None
    ordered: bool = True


def recording(
    tool: str,
    history: NDArray[np.int64],
    layer_ids: tuple[int, ...] | None = None,
    coactivation: NDArray[np.int64] | None = None,
    tokens: NDArray[np.int32] | None = None,
    ordered: bool = True,
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
    return Recording(tool, windows[windows.any((1, 2))], layer_ids or tuple(range(layers)), coactivation, tokens, ordered)


def unrolled(ring: NDArray[np.int64], start: int | None = None) -> tuple[NDArray[np.int64], bool]:
    """The steps [W, L, E] of a ring buffer, oldest first, and whether that order is known.

    The oldest is at `start`, where the tool has written that; else behind the steps not written yet, the longest run of those
    without tokens. A full ring does not show where it begins.
    """
    if start is not None:
        return np.roll(ring, -start, axis=0), True
    written = np.flatnonzero(ring.any((1, 2)))
    if len(written) == len(ring):
        return ring, len(ring) == 1
    if not len(written):
        return ring, True
    gaps = np.diff(written, append=written[0] + len(ring))
    oldest = written[(int(gaps.argmax()) + 1) % len(written)]
    return np.roll(ring, -oldest, axis=0), True


def fold(given: Recording, windows: int) -> Recording:
    """The same counts in at most that many windows of about as many tokens each, neighbours summed.

    A tool may write one window a forward pass, a large one for a prefill and a tiny one for a decoding step; a planner needs
    few windows of equal weight.
    """
    if windows < 1:
        raise ProblemError(must_be("windows", ">= 1", windows))
    if len(given.history) <= windows:
        return given
    tokens = given.history.sum((1, 2), dtype=np.float64)
    ends = np.cumsum(tokens)
    window = ((ends - tokens / 2) * (windows / ends[-1])).astype(np.int64)  # the one that the middle of a step falls into
    starts = np.flatnonzero(np.diff(window, prepend=-1))
    return replace(given, history=np.add.reduceat(given.history, starts, axis=0))


def count(choices: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """Tokens of each expert: int64 [L, E] from gate choices [L, T, K] with -1 for none."""
    layers = len(choices)
    flat = (choices + np.arange(layers)[:, None, None] * experts)[choices >= 0]
    return np.bincount(flat, minlength=layers * experts).reshape(layers, experts)


def count_pairs(choices: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    """How often two experts serve one token: int64 [L, E, E] from gate choices [L, T, K] with -1 for none.

    Of more than 16,384 tokens, every s-th is counted s times.
    """
    times = -(-choices.shape[1] // PAIRED_TOKENS)
    choices = choices[:, ::times]
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
    together *= times
    return together


def sample(choices: NDArray[np.int64]) -> NDArray[np.int32]:
    """At most 4,096 tokens of gate choices [L, T, K], evenly spread: int32 [T, L, K]."""
    step = -(-choices.shape[1] // TOKENS_KEPT)
    return np.ascontiguousarray(choices[:, ::step].transpose(1, 0, 2), np.int32)
