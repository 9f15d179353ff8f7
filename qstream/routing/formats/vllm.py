"""vLLM: saved windows of its EPLB, by expert or by physical slot."""

from __future__ import annotations

from typing import Final

from qstream.routing.formats.files import Tree, numbers
from qstream.routing.formats.recording import Recording, recording
from qstream.routing.formats.sglang import by_expert

TOOL: Final = "vLLM"
LOGICAL: Final = ("global_expert_load_window", "global_expert_load", "logical_expert_load")
PHYSICAL: Final = "expert_load_window"
SLOTS: Final = "physical_to_logical_map"


def is_window(tree: Tree) -> bool:
    """Whether it holds a load window."""
    return PHYSICAL in tree or any(name in tree for name in LOGICAL)


def read_window(tree: Tree) -> Recording:
    """Loads by expert [W, L, E] or [L, E]; or ``expert_load_window`` [W, L, P] by slot with ``physical_to_logical_map`` [L, P].

    Without the map a slot is taken for an expert, which is so where there are no replicas.
    """
    name = next((name for name in LOGICAL if name in tree), None)
    if name is not None:
        return recording(TOOL, numbers(name, tree[name], (2, 3)))
    window = numbers(PHYSICAL, tree[PHYSICAL], (2, 3))
    if SLOTS not in tree:
        return recording(TOOL, window)
    steps = window[None] if window.ndim == 2 else window
    return recording(TOOL, by_expert(PHYSICAL, steps, numbers(SLOTS, tree[SLOTS], 2)))
