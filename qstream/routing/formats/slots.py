"""Slots as experts: counts and gate choices that an engine keeps by physical slot, by the map of what each slot held; -1 none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import check_size
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

NONE: Final = np.iinfo(np.int64).max
_LEAST_CHOICES: Final = 16  # of fewer, that the last one is the largest may be chance


def by_expert(field: str, physical: NDArray[np.int64], slots: NDArray[np.int64], experts: int | None = None) -> NDArray[np.int64]:
    """Counts of slots [W, L, P] as counts of experts [W, L, E], by the map [L, P]."""
    if physical.shape[1:] != slots.shape:
        found = Shown(f"shape {list(physical.shape)}")
        raise ProblemError(must_be(field, f"[W, {slots.shape[0]}, {slots.shape[1]}]", found))
    known = _experts_of(field, slots, experts)
    windows, layers, _ = physical.shape
    check_size("history", (windows, layers, known))
    history = np.zeros((windows, layers, known), np.int64)
    for slot, expert in enumerate(slots.T):  # [L]: within one slot no expert repeats, so the sum needs no atomics
        held = np.flatnonzero(expert >= 0)
        history[:, held, expert[held]] += physical[:, held, slot]
    return history


def pairs_by_expert(field: str, pairs: NDArray[np.int64], slots: NDArray[np.int64], experts: int | None) -> NDArray[np.int64]:
    """Co-occurrences of slots [L, P, P] as those of experts [L, E, E], by the map [L, P]."""
    layers, width = slots.shape
    if pairs.shape != (layers, width, width):
        raise ProblemError(must_be(field, f"[{layers}, {width}, {width}]", Shown(f"shape {list(pairs.shape)}")))
    known = _experts_of(field, slots, experts)
    check_size(field, (layers, known, known))
    together = np.zeros((layers, known, known), np.int64)
    for layer, row in enumerate(slots):
        held = np.flatnonzero(row >= 0)
        np.add.at(together[layer], np.ix_(row[held], row[held]), pairs[layer][np.ix_(held, held)])
    return together


def slots_of(
    field: str, shape: tuple[int, ...], placement: NDArray[np.int64] | None, experts: int | None
) -> NDArray[np.int64] | None:
    """The map of counts [W, L, P] whose file has none: the placement in force, or None where each slot is its own expert.

    Engines count slots under the name of experts: with replicas, or experts in another order, such counts say nothing of an
    expert without the map.

    Raises
    ------
    ProblemError
        The counts are neither of the placement's slots nor of `experts`, or nothing is known of the slots.
    """
    width = shape[2]
    if placement is not None and placement.shape[1] == width:
        return placement
    known = 1 + int(placement.max()) if experts is None and placement is not None else experts
    if known == width:
        return None
    if placement is not None:
        allowed = f"of the {placement.shape[1]} slots of the placement in force, or of the {known} experts"
        raise ProblemError(must_be(field, allowed, Shown(f"shape {list(shape)}")))
    allowed = (
        f"{width} where slots of {field} are experts; with replicas the number of experts, and --previous with their placement"
    )
    raise ProblemError(must_be("experts", allowed, experts))


def to_experts(field: str, ids: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gate choices [L, T, K] of slots as those of experts, by the map [L, P]; -1 stays, fused shared experts become -1."""
    layers, width = slots.shape
    routed, shared = ids, shared_column(columns(ids), width)
    if shared is not None:
        routed = ids.copy()
        routed[:, :, shared] = -1
    if len(ids) != layers or routed.max() >= width:
        found = Shown(f"{len(ids)} layers and slot {routed.max()}")
        raise ProblemError(must_be(field, f"of {layers} layers and slots 0 to {width - 1}", found))
    mapped = slots[np.arange(layers)[:, None, None], np.maximum(routed, 0)]
    return np.where(routed >= 0, mapped, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What tells fused shared experts from routed ones in gate choices [L, T, K].

    Every token has one as its last choice, by an id behind those of the routed experts (SGLang).

    Attributes
    ----------
    least, most : int64 [K]
        Ids of each choice, without -1; of a choice that no token has `NONE` and -1.
    size : int
        Tokens in all layers.
    """

    least: NDArray[np.int64]
    most: NDArray[np.int64]
    size: int

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """That of all of them."""
        least, most = (np.stack([getattr(part, name) for part in parts]) for name in ("least", "most"))
        return cls(least.min(0), most.max(0), sum(part.size for part in parts))

    @property
    def last(self) -> int | None:
        """The last choice that some token has, if it is not the only one."""
        used = np.flatnonzero(self.most >= 0)
        return int(used[-1]) if len(used) > 1 else None


def columns(choices: NDArray[np.int64]) -> Columns:
    """Of gate choices [L, T, K]."""
    layers, tokens, _ = choices.shape
    return Columns(np.where(choices >= 0, choices, NONE).min((0, 1)), choices.max((0, 1)), layers * tokens)


def shared_column(given: Columns, experts: int) -> int | None:
    """Which choice is always of a shared expert that the engine has fused with the `experts` routed ones."""
    return None if given.last is None or given.least[given.last] < experts else given.last


def refuse_shared(field: str, given: Columns) -> None:
    """`ProblemError` where the last choices have ids of their own: then ids do not show how many experts are routed."""
    if given.last is None or given.size < _LEAST_CHOICES:
        return
    routed, least, most = (int(given.most[: given.last].max()), int(given.least[given.last]), int(given.most[given.last]))
    if least > routed:
        allowed = (
            f"given: {field} looks like fused shared experts, every last choice being {least} or more and every other at most"
            f" {routed}; {least} leaves them out, {most + 1} counts them"
        )
        raise ProblemError(must_be("experts", allowed, None))


def _experts_of(field: str, slots: NDArray[np.int64], experts: int | None) -> int:
    known = 1 + int(slots.max()) if experts is None else experts
    if slots.max() >= known:
        raise ProblemError(must_be(f"the map of {field}", f"experts 0 to {known - 1}", Shown(f"{slots.max()}")))
    return known
