"""Gate choices of many tokens as counts by window, pairs and a sample: read in pieces, and by phase where that is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import check_size
from qstream.errors import ProblemError
from qstream.routing.formats.pieces import pieces
from qstream.routing.formats.recording import Recording, count, count_pairs, recording, windows_for
from qstream.routing.formats.slots import Columns, columns, refuse_shared, shared_column, to_experts
from schemas.wording import Shown, must_be

TOKENS_KEPT: Final = 4096
PAIRED_TOKENS: Final = 16384
ALL: Final = "all"
PHASES: Final[Mapping[str, str]] = {name: name for name in (ALL, "prefill", "decode")}
UNSAID: Final = "unsaid"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Gate choices of tokens that follow each other, in one window.

    Attributes
    ----------
    field : str
        Their name in errors.
    ids : array or tensor [L, T, K]
        Experts, or slots where there is a map; -1 for none. Of `pieces.array_of`.
    window : int
        Parts are in its order.
    phase : str or None
        What the engine did, where it says that.
    slots : int64 [L, P] or None
        The expert of each slot.
    """

    field: str
    ids: Any
    window: int = 0
    phase: str | None = None
    slots: NDArray[np.int64] | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.ids.shape[1])


def recorded(tool: str, field: str, parts: Sequence[Part], experts: int | None, phase: str = ALL) -> Recording:
    """The parts of one phase, or all, as a recording of `experts`; without that number of those that were chosen.

    `field` is the name of all of them in errors.

    Raises
    ------
    ProblemError
        Parts disagree, an expert is beyond those given, or no part is of that phase.
    """
    shapes = {(part.ids.shape[0], part.ids.shape[2]) for part in parts}
    if len(shapes) > 1:
        found = Shown(f"layers and choices {sorted(shapes)[:4]}")
        raise ProblemError(must_be(field, "of one shape in all records", found))
    (layers, _), *_ = shapes
    known, shared = _experts_of(field, parts, experts)
    kept = of_phase(parts, phase)
    tokens = np.bincount([part.window for part in kept], [part.tokens for part in kept]).astype(np.float64)
    window = windows_for(tokens, layers * known)
    check_size("history", (int(window[-1]) + 1, layers, known))
    history = np.zeros((int(window[-1]) + 1, layers, known), np.int64)
    total = sum(part.tokens for part in kept)
    every, times = -(-total // TOKENS_KEPT), -(-total // PAIRED_TOKENS)
    together = np.zeros((layers, known, known), np.int64)
    sample, done, phases = [], 0, dict.fromkeys((_said(part) for part in parts), 0)
    for part in parts:
        for ids in _experts(part, shared):
            counted = count(ids, known)
            phases[_said(part)] += int(counted.sum())
            if phase not in (ALL, part.phase):
                continue
            history[window[part.window]] += counted
            together += count_pairs(ids[:, -done % times :: times], known) * times
            sample.append(ids[:, -done % every :: every].transpose(1, 0, 2).astype(np.int32))
            done += ids.shape[1]
    said = phases if set(phases) != {UNSAID} else {}
    return recording(tool, history, None, together, np.ascontiguousarray(np.concatenate(sample)), phases=said)


def of_phase(parts: Sequence[Any], phase: str) -> list[Any]:
    """Those with that `phase`, or all of them; `ProblemError` if there are none."""
    kept = [part for part in parts if phase in (ALL, part.phase)]
    if not kept:
        refuse_phase(phase, {_said(part) for part in parts})
    return kept


def refuse_phase(phase: str, said: set[str]) -> None:
    """`ProblemError` if a recording has nothing of that phase."""
    if phase != ALL and phase not in said:
        known = sorted(said - {UNSAID})
        allowed = (
            f"{ALL} or {' or '.join(known)}, which the recording has" if known else f"{ALL}: the recording tells no phases apart"
        )
        raise ProblemError(must_be("phase", allowed, phase))


def in_windows(parts: Sequence[Part], phase: str) -> list[Part]:
    """Tokens in their order, in at most 64 windows of 1,024 or more of one phase; what is of other phases is in the first."""
    total = sum(part.tokens for part in of_phase(parts, phase))
    windows = min(64, max(1, total // 1024))
    size, more = divmod(total, windows)
    ends = np.cumsum([size + (number < more) for number in range(windows)])
    out, done = [], 0
    for part in parts:
        if phase not in (ALL, part.phase):
            out.append(replace(part, window=0))
            continue
        first = done
        while done < first + part.tokens:
            window = int(np.searchsorted(ends, done, side="right"))
            until = min(int(ends[window]), first + part.tokens)
            out.append(replace(part, ids=part.ids[:, done - first : until - first], window=window))
            done = until
    return out


def _said(part: Any) -> str:
    return UNSAID if part.phase is None else str(part.phase)


def _experts_of(field: str, parts: Sequence[Part], experts: int | None) -> tuple[int, int | None]:
    """How many experts there are, and which choice is always of a fused shared one."""
    maps = [part.slots for part in parts if part.slots is not None]
    shared = None
    if maps:
        most = max(int(slots.max()) for slots in maps)
    else:
        found = Columns.joined([columns(ids) for part in parts for ids in pieces(part.field, part.ids, 1, least=-1)])
        if experts is None:
            refuse_shared(field, found)
        else:
            shared = shared_column(found, experts)
        most = int(np.delete(found.most, [] if shared is None else shared).max())
    known = most + 1 if experts is None else experts
    if most >= known:
        raise ProblemError(must_be(field, f"experts 0 to {known - 1}", Shown(f"{most}")))
    return known, shared


def _experts(part: Part, shared: int | None) -> Iterator[NDArray[np.int64]]:
    """Choices of experts [L, T, K], a piece at a time."""
    for ids in pieces(part.field, part.ids, 1, least=-1):
        if part.slots is not None:
            yield to_experts(part.field, ids, part.slots)
        else:
            if shared is not None:
                ids[:, :, shared] = -1
            yield ids
