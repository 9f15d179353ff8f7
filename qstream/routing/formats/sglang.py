"""SGLang: dumps of its expert distribution recorder, as counts (stat), by forward pass, or by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.formats.files import MAX_ENTRIES, Tree, check_size, numbers
from qstream.routing.formats.recording import Recording, count, count_pairs, recording, sample, unrolled
from qstream.routing.formats.slots import by_expert, refuse_shared, slots_of, to_experts, without_shared
from schemas.wording import Shown, must_be

TOOL: Final = "SGLang"
MAX_RECORDS: Final = 1 << 20
TOKENS: Final = "topk_ids_of_layer"
COUNTS: Final = "global_physical_count"
MAP: Final = "last_physical_to_logical_map"


def read_counts(tree: Tree) -> Recording:
    """Modes stat and stat_approx: ``logical_count`` [steps, L, E] or [L, E]; ``cooccurrence`` [L, E, E] if there is one.

    The steps are those of a ring in the order of memory; see `unrolled`.
    """
    pairs = tree.get("cooccurrence")
    together = None if pairs is None else numbers("cooccurrence", pairs, 3)
    counts = numbers("logical_count", tree["logical_count"], (2, 3))
    steps, ordered = unrolled(counts[None] if counts.ndim == 2 else counts)
    return recording(TOOL, steps, None, together, ordered=ordered)


def read_dumps(trees: Sequence[Tree]) -> Recording:
    """Several dumps of counts, oldest first, as one recording; a dump whose steps are in no known order is one window of it."""
    dumps = [read_counts(tree) for tree in trees]
    shapes = {dump.history.shape[1:] for dump in dumps}
    if len(shapes) > 1:
        found = Shown(f"layers and experts {sorted(shapes)[:4]}")
        raise ProblemError(must_be("logical_count", "of one shape in all dumps", found))
    if len(dumps) == 1:
        return dumps[0]
    windows = [dump.history if dump.ordered else dump.history.sum(0, keepdims=True) for dump in dumps]
    check_size("logical_count", (sum(map(len, windows)), *shapes.pop()))
    return recording(TOOL, np.concatenate(windows))


def read_records(trees: Sequence[Tree], experts: int | None, placement: NDArray[np.int64] | None = None) -> Recording:
    """Modes per_token and per_pass: the ``records`` of all ranks and dumps, one window a forward pass.

    Their ids are of physical slots, which each dump's own ``last_physical_to_logical_map`` [L, P] turns into experts: a
    rebalance between two dumps changes it. Without maps, choices are taken for experts, and counts are of the slots of
    `placement` or of `experts` (`slots_of`). Trees are in the order of time.
    """
    maps = _maps_of(trees)
    known = (
        experts if experts is not None or maps[0] is None else 1 + max(int(slots.max()) for slots in maps if slots is not None)
    )
    passes: dict[tuple[int, int], list[NDArray[np.int64]]] = defaultdict(list)
    ends: dict[int, tuple[int, int]] = {}
    total, kinds = 0, set()
    for tree, slots in zip(trees, maps, strict=True):
        records = [_record(name, record, len(passes) + at) for at, (name, record) in enumerate(_records(tree))]
        run = _run_of(records, ends)
        for record in records:
            if record.counts is None:
                continue
            total += record.counts.size
            if total > MAX_ENTRIES:
                raise ProblemError(must_be("records", f"at most {MAX_ENTRIES} entries in total", total))
            kinds.add(record.field)
            if len(kinds) > 1:
                raise ProblemError(must_be("records", f"all with {TOKENS} or all with {COUNTS}", Shown("both")))
            passes[run, record.order].append(_of_experts(record, slots, placement, known))
    if not passes:
        raise ProblemError(must_be("records", "at least one entry with tokens", Shown("none")))
    in_order = [passes[key] for key in sorted(passes)]
    if kinds == {TOKENS}:
        return tokens_of([_joined(group) for group in in_order], known)
    return _of_passes(in_order)


def tokens_of(passes: Sequence[NDArray[np.int64]], experts: int | None, tool: str = TOOL) -> Recording:
    """Gate choices [L, T, K] of each window as counts, pairs and a sample."""
    choices = _joined(passes)
    if experts is None:
        refuse_shared(TOKENS, choices)
    else:
        choices = without_shared(choices, experts)
    known = experts if experts is not None else 1 + int(choices.max())
    if choices.max() >= known:
        raise ProblemError(must_be(TOKENS, f"experts 0 to {known - 1}", Shown(f"{choices.max()}")))
    check_size("history", (len(passes), len(choices), known))
    ends = np.cumsum([part.shape[1] for part in passes])
    history = np.stack([count(part, known) for part in np.split(choices, ends[:-1], axis=1)])
    return recording(tool, history, None, count_pairs(choices, known), sample(choices))


def windows_of(choices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Gate choices [L, T, K] in one piece, tokens in their order, as windows of 1,024 tokens or more, at most 64."""
    return np.array_split(choices, min(64, max(1, choices.shape[1] // 1024)), axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """One forward pass of one rank; `counts` [L, T, K] or [L, P] as `field` says, None for a pass without tokens."""

    name: str
    rank: Any
    order: int
    field: str
    counts: NDArray[np.int64] | None


def _record(name: str, record: dict[str, Any], place: int) -> _Record:
    field = TOKENS if TOKENS in record else COUNTS
    if field not in record:
        raise ProblemError(must_be(name, f"an object with {TOKENS} or {COUNTS}", Shown("neither")))
    order = record.get("forward_pass_id", place)
    if not isinstance(order, int):
        raise ProblemError(must_be(f"{name}.forward_pass_id", "a whole number", Shown(type(order).__name__)))
    rank, value = record.get("rank"), record[field]
    if rank is not None and not isinstance(rank, int):
        raise ProblemError(must_be(f"{name}.rank", "a whole number", Shown(type(rank).__name__)))
    axes, least = (3, -1) if field == TOKENS else (2, 0)
    counts = None if _is_empty(value) else numbers(f"{name}.{field}", value, axes, least=least)
    return _Record(name, rank, order, field, counts)


def _maps_of(trees: Sequence[Tree]) -> list[NDArray[np.int64] | None]:
    """The map of each dump, or None for all."""
    maps = [None if tree.get(MAP) is None else numbers(MAP, tree[MAP], 2, least=-1) for tree in trees]
    missing = sum(slots is None for slots in maps)
    if 0 < missing < len(maps):
        raise ProblemError(must_be(MAP, "given in all dumps or in none", Shown(f"{missing} of {len(maps)} without")))
    return maps


def _run_of(records: Sequence[_Record], ends: dict[int, tuple[int, int]]) -> int:
    """Which run of the engine a dump is of. A rank counts its passes up through all dumps, and a new run from the start.

    `ends` is the run and the last pass of each rank so far, brought up to date here.
    """
    found = 0
    for rank in {record.rank for record in records if record.rank is not None}:
        orders = [record.order for record in records if record.rank == rank]
        run, last = ends.get(rank, (0, min(orders) - 1))
        run += min(orders) <= last
        ends[rank] = run, max(orders)
        found = max(found, run)
    return found


def _of_experts(
    record: _Record, slots: NDArray[np.int64] | None, placement: NDArray[np.int64] | None, experts: int | None
) -> NDArray[np.int64]:
    """A record's counts or choices by expert."""
    assert record.counts is not None, "the caller leaves out passes without tokens"
    if record.field == TOKENS:
        return record.counts if slots is None else to_experts(TOKENS, record.counts, slots)
    step = record.counts[None]
    held = slots_of(COUNTS, step.shape, placement, experts) if slots is None else slots
    counted: NDArray[np.int64] = step[0] if held is None else by_expert(COUNTS, step, held, experts)[0]
    return counted


def _records(tree: Tree) -> list[tuple[str, dict[str, Any]]]:
    """The records of a dump with their places."""
    records = tree["records"]
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        given = Shown(f"{len(records)} records" if isinstance(records, list) else type(records).__name__)
        raise ProblemError(must_be("records", f"a list of at most {MAX_RECORDS}", given))
    wrong = next((number for number, record in enumerate(records) if not isinstance(record, dict)), None)
    if wrong is not None:
        raise ProblemError(must_be(f"records[{wrong}]", "an object", Shown(type(records[wrong]).__name__)))
    return [(f"records[{number}]", record) for number, record in enumerate(records)]


def _is_empty(value: Any) -> bool:
    """A forward pass without tokens on this rank: [L, 0, K]."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return 0 in tuple(shape)
    return isinstance(value, list) and all(row == [] for row in value)


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Gate choices side by side, [L, T, K]."""
    shapes = {(part.shape[0], part.shape[2]) for part in parts}
    if len(shapes) > 1:
        found = Shown(f"layers and choices {sorted(shapes)[:4]}")
        raise ProblemError(must_be(TOKENS, "of one shape in all records", found))
    return np.concatenate(parts, axis=1)


def _of_passes(passes: Sequence[Sequence[NDArray[np.int64]]]) -> Recording:
    """Counts by expert [L, E] of each pass, summed over the ranks."""
    shapes = {part.shape for group in passes for part in group}
    if len(shapes) > 1:
        raise ProblemError(must_be(COUNTS, "of one shape in all records", sorted(shapes)[:4]))
    return recording(TOOL, np.stack([np.sum(group, axis=0) for group in passes]))
