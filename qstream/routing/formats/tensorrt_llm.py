"""TensorRT-LLM: the folder of its expert statistics, one safetensors file a rank, tensors named ``iteration_layer``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import MAX_ENTRIES, Tree, check_size, numbers, read_tree
from qstream.errors import ProblemError
from qstream.routing.formats.recording import Recording, recording
from qstream.routing.formats.slots import by_expert, pairs_by_expert, slots_of
from schemas.wording import Shown, must_be

TOOL: Final = "TensorRT-LLM"
KEY: Final = re.compile(r"(\d{1,9})_(\d{1,4})")
Counts = dict[tuple[int, int], NDArray[np.int64]]


def is_statistic(tree: Tree) -> bool:
    """Whether all names are ``iteration_layer``."""
    return bool(tree) and all(KEY.fullmatch(name) for name in tree)


def read_folder(folder: Path, placement: NDArray[np.int64] | None, experts: int | None) -> Recording:
    """``rank*.safetensors`` added up over the ranks, and ``cooccurrence_rank*.safetensors`` where there are such.

    ``meta_info.json`` is not read: its ``num_experts`` is the number of slots.
    """
    ranks = [path for path in sorted(folder.glob("rank*.safetensors")) if not path.stem.endswith("_raw")]
    pairs = sorted(folder.glob("cooccurrence_rank*.safetensors"))
    return read_statistic([read_tree(path) for path in ranks], placement, experts, [read_tree(path) for path in pairs])


def read_statistic(
    trees: Sequence[Tree], placement: NDArray[np.int64] | None, experts: int | None, pairs: Sequence[Tree] = ()
) -> Recording:
    """Counts [P] of each iteration and layer, of all ranks, and co-occurrences [P, P] if given.

    TensorRT-LLM counts slots. While its balancer is off, or without replicas and in order, they are its `experts`; else the
    `placement` [L, P] in force says which expert each held. A file shows neither.

    Raises
    ------
    ProblemError
        A name or shape is wrong, an iteration lacks a layer, or it is not known which expert a slot held.
    """
    counted = _summed("statistics", trees, 1)
    iterations, layers = (sorted({key[axis] for key in counted}) for axis in (0, 1))
    missing = next(((i, layer) for i in iterations for layer in layers if (i, layer) not in counted), None)
    if missing is not None:
        found = Shown(f"none for {missing[0]}_{missing[1]}")
        raise ProblemError(must_be("statistics", "tensors of all layers in each iteration", found))
    history = np.stack([[counted[i, layer] for layer in layers] for i in iterations])
    together = _together(pairs, layers) if pairs else None
    slots = slots_of(TOOL, history.shape, placement, experts)
    if slots is not None:
        history = by_expert(TOOL, history, slots, experts)
        together = None if together is None else pairs_by_expert("cooccurrence", together, slots, experts)
    return recording(TOOL, history, tuple(layers), together)


def _together(pairs: Sequence[Tree], layers: Sequence[int]) -> NDArray[np.int64]:
    """Co-occurrences of all iterations by layer."""
    by_layer: dict[int, NDArray[np.int64]] = {}
    for (_, layer), found in _summed("cooccurrence", pairs, 2).items():
        by_layer[layer] = by_layer[layer] + found if layer in by_layer else found
    absent = [layer for layer in layers if layer not in by_layer]
    if absent:
        raise ProblemError(must_be("cooccurrence", "of the layers of the statistics", Shown(f"none for layer {absent[0]}")))
    return np.stack([by_layer[layer] for layer in layers])


def _summed(field: str, trees: Sequence[Tree], axes: int) -> Counts:
    """The tensors of all ranks by iteration and layer, all of one shape."""
    out: Counts = {}
    for tree in trees:
        for name, value in tree.items():
            key = KEY.fullmatch(name)
            if key is None:
                raise ProblemError(must_be(f"a name in {field}", "ITERATION_LAYER", Shown(ascii(name[:80]))))
            found, at = numbers(f"{field} {name}", value, axes), (int(key[1]), int(key[2]))
            shape = next(iter(out.values())).shape if out else found.shape
            if found.shape != shape:
                raise ProblemError(must_be(f"{field} {name}", f"{list(shape)}, as before", Shown(f"shape {list(found.shape)}")))
            out[at] = out[at] + found if at in out else found
            if len(out) * found.size > MAX_ENTRIES:
                check_size(field, (len(out), *shape))
    if not out:
        raise ProblemError(must_be(field, "at least one tensor named ITERATION_LAYER", Shown("none")))
    return out
