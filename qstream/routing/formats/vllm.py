"""vLLM: saved windows of its EPLB, by expert or by physical slot."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import whole_number
from qstream.array_files import Tree, numbers
from qstream.routing.formats.pieces import array_of
from qstream.routing.formats.recording import Recording, read_steps, recording
from qstream.routing.formats.slots import by_expert, slots_of

TOOL: Final = "vLLM"
LOGICAL: Final = ("global_expert_load_window", "global_expert_load", "logical_expert_load")
PHYSICAL: Final = "expert_load_window"
STEP: Final = "expert_load_window_step"
SLOTS: Final = "physical_to_logical_map"


def is_window(tree: Tree) -> bool:
    """Whether it holds a load window."""
    return PHYSICAL in tree or any(name in tree for name in LOGICAL)


def read_window(tree: Tree, placement: NDArray[np.int64] | None, experts: int | None) -> Recording:
    """Loads by expert [W, L, E] or [L, E]; or ``expert_load_window`` [W, L, P] by slot with ``physical_to_logical_map`` [L, P].

    Without the map the slots are those of `placement`, or each is one of `experts` (`slots_of`). The window is a ring, whose next
    step is at ``expert_load_window_step``; see `oldest`.
    """
    name = next((name for name in LOGICAL if name in tree), None)
    if name is not None:
        return recording(TOOL, read_steps(name, tree[name], 0)[0])
    window = array_of(PHYSICAL, tree[PHYSICAL], (2, 3))
    steps, ordered = read_steps(PHYSICAL, window, _step(tree, len(window)))
    own = numbers(SLOTS, tree[SLOTS], 2, least=-1) if SLOTS in tree else None
    slots = slots_of(PHYSICAL, steps.shape, placement, experts) if own is None else own
    return recording(TOOL, steps if slots is None else by_expert(PHYSICAL, steps, slots, experts), ordered=ordered)


def _step(tree: Tree, size: int) -> int | None:
    """Where the ring goes on, which is where its oldest step is."""
    given = tree.get(STEP)
    if given is None:
        return None
    step = given.item() if hasattr(given, "item") and getattr(given, "ndim", 1) == 0 else given
    return whole_number(STEP, step, 0, size - 1)
