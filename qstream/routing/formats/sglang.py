"""SGLang: dumps of its expert distribution recorder, as counts (stat), by forward pass, or by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.formats.files import MAX_ENTRIES, Tree, check_size, numbers
from qstream.routing.formats.recording import Recording, count, count_pairs, recording, sample
from schemas.wording import Shown, must_be

TOOL: Final = "SGLang"
MAX_RECORDS: Final = 1 << 20


def read_counts(tree: Tree) -> Recording:
    """Modes stat and stat_approx: ``logical_count`` [steps, L, E] or [L, E]; ``cooccurrence`` [L, E, E] if there is one."""
    pairs = tree.get("cooccurrence")
    together = None if pairs is None else numbers("cooccurrence", pairs, 3)
    return recording(TOOL, numbers("logical_count", tree["logical_count"], (2, 3)), None, together)


def read_dumps(trees: Sequence[Tree]) -> Recording:
    """Several dumps of counts, oldest first, as one recording."""
    dumps = [read_counts(tree).history for tree in trees]
    shapes = {dump.shape[1:] for dump in dumps}
    if len(shapes) > 1:
        found = Shown(f"layers and experts {sorted(shapes)[:4]}")
        raise ProblemError(must_be("logical_count", "of one shape in all dumps", found))
    check_size("logical_count", (sum(map(len, dumps)), *shapes.pop()))
    return recording(TOOL, np.concatenate(dumps))


def read_records(trees: Sequence[Tree], experts: int | None) -> Recording:
    """Modes per_token and per_pass: the ``records`` of all ranks, one window a forward pass.

    Their ids are of physical slots, which ``last_physical_to_logical_map`` [L, P] turns into experts. Without the map they
    are taken for experts.
    """
    maps = [tree["last_physical_to_logical_map"] for tree in trees if tree.get("last_physical_to_logical_map") is not None]
    slots = numbers("last_physical_to_logical_map", maps[0], 2) if maps else None
    passes: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    total, by_token = 0, True
    for name, record in _records(trees):
        field = "topk_ids_of_layer" if "topk_ids_of_layer" in record else "global_physical_count"
        if field not in record:
            raise ProblemError(must_be(name, "an object with topk_ids_of_layer or global_physical_count", Shown("neither")))
        if _is_empty(record[field]):
            continue
        by_token = by_token and field == "topk_ids_of_layer"
        found = numbers(f"{name}.{field}", record[field], 3 if field == "topk_ids_of_layer" else 2, least=-1)
        total += found.size
        if total > MAX_ENTRIES:
            raise ProblemError(must_be("records", f"at most {MAX_ENTRIES} entries in total", total))
        order = record.get("forward_pass_id", len(passes))
        if not isinstance(order, int):
            raise ProblemError(must_be(f"{name}.forward_pass_id", "a whole number", Shown(type(order).__name__)))
        passes[order].append(found)
    if not passes:
        raise ProblemError(must_be("records", "at least one entry with tokens", Shown("none")))
    in_order = [passes[key] for key in sorted(passes)]
    if by_token:
        return tokens_of([_joined(group) for group in in_order], slots, experts)
    return _of_passes(in_order, slots, experts)


def tokens_of(
    passes: Sequence[NDArray[np.int64]], slots: NDArray[np.int64] | None, experts: int | None, tool: str = TOOL
) -> Recording:
    """Gate choices [L, T, K] of each window as counts, pairs and a sample; `slots` [L, P] says which expert an id means."""
    choices = _joined(passes)
    if slots is not None:
        choices = _to_experts("topk_ids_of_layer", choices, slots)
    known = experts if experts is not None else 1 + int(choices.max() if slots is None else slots.max())
    if choices.max() >= known:
        raise ProblemError(must_be("topk_ids_of_layer", f"experts 0 to {known - 1}", Shown(f"{choices.max()}")))
    check_size("history", (len(passes), len(choices), known))
    ends = np.cumsum([part.shape[1] for part in passes])
    history = np.stack([count(part, known) for part in np.split(choices, ends[:-1], axis=1)])
    return recording(tool, history, None, count_pairs(choices, known), sample(choices))


def _records(trees: Sequence[Tree]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for tree in trees:
        records = tree["records"]
        if not isinstance(records, list) or len(records) > MAX_RECORDS:
            given = Shown(f"{len(records)} records" if isinstance(records, list) else type(records).__name__)
            raise ProblemError(must_be("records", f"a list of at most {MAX_RECORDS}", given))
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                raise ProblemError(must_be(f"records[{number}]", "an object", Shown(type(record).__name__)))
            found.append((f"records[{number}]", record))
    return found


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
        raise ProblemError(must_be("topk_ids_of_layer", "of one shape in all records", found))
    return np.concatenate(parts, axis=1)


def _to_experts(field: str, ids: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    layers, width = slots.shape
    if len(ids) != layers or ids.max() >= width:
        found = Shown(f"{len(ids)} layers and slot {ids.max()}")
        raise ProblemError(must_be(field, f"of {layers} layers and slots 0 to {width - 1}", found))
    mapped = slots[np.arange(layers)[:, None, None], np.maximum(ids, 0)]
    return np.where(ids >= 0, mapped, -1)


def _of_passes(passes: Sequence[Sequence[NDArray[np.int64]]], slots: NDArray[np.int64] | None, experts: int | None) -> Recording:
    """Counts by slot [L, P] of each pass, summed over the ranks, as counts by expert."""
    shapes = {part.shape for group in passes for part in group}
    if len(shapes) > 1:
        raise ProblemError(must_be("global_physical_count", "of one shape in all records", sorted(shapes)[:4]))
    physical = np.stack([np.sum(group, axis=0) for group in passes])
    if physical.min() < 0:
        raise ProblemError(must_be("global_physical_count", ">= 0", int(physical.min())))
    return recording(TOOL, physical if slots is None else by_expert("global_physical_count", physical, slots, experts))


def by_expert(field: str, physical: NDArray[np.int64], slots: NDArray[np.int64], experts: int | None = None) -> NDArray[np.int64]:
    """Counts of slots [W, L, P] as counts of experts [W, L, E], by the map [L, P]."""
    if physical.shape[1:] != slots.shape:
        found = Shown(f"shape {list(physical.shape)}")
        raise ProblemError(must_be(field, f"[W, {slots.shape[0]}, {slots.shape[1]}]", found))
    known = 1 + int(slots.max()) if experts is None else experts
    if slots.max() >= known:
        raise ProblemError(must_be(f"the map of {field}", f"experts 0 to {known - 1}", Shown(f"{slots.max()}")))
    windows, layers, _ = physical.shape
    check_size("history", (windows, layers, known))
    history = np.zeros((windows, layers, known), np.int64)
    for slot, expert in enumerate(slots.T):  # [L]: within one slot no expert repeats, so the sum needs no atomics
        history[:, np.arange(layers), expert] += physical[:, :, slot]
    return history
