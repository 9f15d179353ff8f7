"""SGLang: dumps of its expert distribution recorder, as counts (stat), by forward pass, or by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import Tree, check_size, numbers
from qstream.errors import ProblemError
from qstream.routing.formats.choices import ALL, UNSAID, Part, of_phase, recorded
from qstream.routing.formats.pieces import array_of
from qstream.routing.formats.recording import Recording, read_steps, recording, windows_for
from qstream.routing.formats.slots import by_expert, slots_of
from schemas.wording import Shown, must_be

TOOL: Final = "SGLang"
MAX_RECORDS: Final = 1 << 20
TOKENS: Final = "topk_ids_of_layer"
COUNTS: Final = "global_physical_count"
MAP: Final = "last_physical_to_logical_map"
MODES: Final = {1: "prefill", 2: "decode", 3: "mixed", 5: "decode"}  # of ``forward_mode``; 5 verifies what a draft model decoded


def read_counts(tree: Tree) -> Recording:
    """Modes stat and stat_approx: ``logical_count`` [steps, L, E] or [L, E]; ``cooccurrence`` [L, E, E] if there is one.

    The steps are those of a ring in the order of memory; see `oldest`.
    """
    pairs = tree.get("cooccurrence")
    together = None if pairs is None else numbers("cooccurrence", pairs, 3)
    steps, ordered = read_steps("logical_count", tree["logical_count"])
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


def read_records(
    dumps: Sequence[Dump], experts: int | None, placement: NDArray[np.int64] | None = None, phase: str = ALL
) -> Recording:
    """Modes per_token and per_pass: the ``records`` of all ranks and dumps (`dump_of`), one window a forward pass.

    Their ids are of physical slots, which each dump's own ``last_physical_to_logical_map`` [L, P] turns into experts: a
    rebalance between two dumps changes it. Without maps, choices are taken for experts, and counts are of the slots of
    `placement` or of `experts` (`slots_of`). Dumps are in the order of time.
    """
    missing = sum(dump.slots is None for dump in dumps)
    if 0 < missing < len(dumps):
        raise ProblemError(must_be(MAP, "given in all dumps or in none", Shown(f"{missing} of {len(dumps)} without")))
    passes: dict[tuple[int, int], list[tuple[_Record, Dump]]] = defaultdict(list)
    ends: dict[int, tuple[int, int]] = {}
    for dump in dumps:
        first = len(passes)
        records = [
            replace(record, order=first + at) if record.order is None else record for at, record in enumerate(dump.records)
        ]
        run = _run_of(records, ends)
        for record in records:
            if record.counts is not None:
                passes[run, record.order or 0].append((record, dump))
    found = [(number, record, dump) for number, key in enumerate(sorted(passes)) for record, dump in passes[key]]
    if not found:
        raise ProblemError(must_be("records", "at least one entry with tokens", Shown("none")))
    if len({record.field for _, record, _ in found}) > 1:
        raise ProblemError(must_be("records", f"all with {TOKENS} or all with {COUNTS}", Shown("both")))
    if found[0][1].field == TOKENS:
        parts = [
            Part(f"{record.name}.{TOKENS}", record.counts, number, record.phase, dump.slots) for number, record, dump in found
        ]
        return recorded(TOOL, TOKENS, parts, experts, phase)
    return _of_passes(found, experts, placement, phase)


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """One forward pass of one rank; `counts` [L, T, K] or [L, P] as `field` says, None for a pass without tokens."""

    name: str
    rank: int | None
    order: int | None
    field: str
    counts: Any
    phase: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Dump:
    """What one file of the modes per_token and per_pass says: the records, and the expert of each slot [L, P] if it is known."""

    records: Sequence[_Record]
    slots: NDArray[np.int64] | None


def dump_of(tree: Tree) -> Dump:
    """The ``records`` of a file and its ``last_physical_to_logical_map``; what else it holds, as ids of tokens, is left.

    Raises
    ------
    ProblemError
        A record is broken.
    """
    slots = None if tree.get(MAP) is None else numbers(MAP, tree[MAP], 2, least=-1)
    return Dump([_record(name, record) for name, record in _records(tree)], slots)


def _record(name: str, record: dict[str, Any]) -> _Record:
    field = TOKENS if TOKENS in record else COUNTS
    if field not in record:
        raise ProblemError(must_be(name, f"an object with {TOKENS} or {COUNTS}", Shown("neither")))
    order, rank, mode = (_whole(name, record, key) for key in ("forward_pass_id", "rank", "forward_mode"))
    value = record[field]
    axes, least = ((3,), -1) if field == TOKENS else ((2,), 0)
    counts = None if _is_empty(value) else array_of(f"{name}.{field}", value, axes, least=least)
    return _Record(name, rank, order, field, counts, None if mode is None else MODES.get(mode))


def _whole(name: str, record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    if value is not None and not isinstance(value, int):
        raise ProblemError(must_be(f"{name}.{key}", "a whole number", Shown(type(value).__name__)))
    return value


def _run_of(records: Sequence[_Record], ends: dict[int, tuple[int, int]]) -> int:
    """Which run of the engine a dump is of. A rank counts its passes up through all dumps, and a new run from the start.

    `ends` is the run and the last pass of each rank so far, brought up to date here.
    """
    found = 0
    for rank in {record.rank for record in records if record.rank is not None}:
        orders = [record.order or 0 for record in records if record.rank == rank]
        run, last = ends.get(rank, (0, min(orders) - 1))
        run += min(orders) <= last
        ends[rank] = run, max(orders)
        found = max(found, run)
    return found


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


def _of_passes(
    found: Sequence[tuple[int, _Record, Dump]], experts: int | None, placement: NDArray[np.int64] | None, phase: str
) -> Recording:
    """Counts by expert [L, E] of each pass, summed over the ranks."""
    of_phase([record for _, record, _ in found], phase)
    known = experts
    if known is None and found[0][2].slots is not None:
        known = 1 + max(int(dump.slots.max()) for _, _, dump in found if dump.slots is not None)
    phases: dict[str, int] = {}
    tokens = np.zeros(1 + found[-1][0])
    for number, record, _ in found:
        total = int(numbers(f"{record.name}.{COUNTS}", record.counts, 2).sum())
        said = UNSAID if record.phase is None else record.phase
        phases[said] = phases.get(said, 0) + total
        tokens[number] += total * (phase in (ALL, record.phase))
    history: NDArray[np.int64] | None = None
    for number, record, dump in found:
        if phase not in (ALL, record.phase):
            continue
        counted = _by_expert(record, dump, placement, known)
        if history is None:
            window = windows_for(tokens, counted.size)
            history = np.zeros((int(window.max()) + 1, *counted.shape), np.int64)
        if counted.shape != history.shape[1:]:
            raise ProblemError(must_be(COUNTS, "of one shape in all records", [counted.shape, history.shape[1:]]))
        history[window[number]] += counted
    assert history is not None, "of_phase keeps at least one"
    return recording(TOOL, history, phases=phases if set(phases) != {UNSAID} else {})


def _by_expert(record: _Record, dump: Dump, placement: NDArray[np.int64] | None, experts: int | None) -> NDArray[np.int64]:
    """A record's counts [L, E]."""
    step = numbers(f"{record.name}.{COUNTS}", record.counts, 2)[None]
    held = slots_of(COUNTS, step.shape, placement, experts) if dump.slots is None else dump.slots
    counted: NDArray[np.int64] = step[0] if held is None else by_expert(COUNTS, step, held, experts)[0]
    return counted
