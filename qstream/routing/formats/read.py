"""Which tool a recording comes from, by the contents of the file; and placements of the same tools, to plan from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import FORMATS, MAX_ENTRIES, Tree, bounded, numbers, read_tree
from qstream.errors import ConfigError, ProblemError
from qstream.routing.formats import sglang, tensorrt_llm, vllm
from qstream.routing.formats.choices import ALL, Part, in_windows, recorded, refuse_phase
from qstream.routing.formats.pieces import array_of
from qstream.routing.formats.recording import Recording, recording
from qstream.routing.formats.routed import answers_of, read_answers, refuse_choices
from schemas.parse import as_utf8
from schemas.wording import Shown, must_be

KNOWN: Final = (
    "logical_count, records or topk_ids_of_layer (SGLang), load_history, expert_load_window or global_expert_load_window (vLLM),"
    " routed_experts,"
    " names ITERATION_LAYER (TensorRT-LLM), history with coactivation, or one array [W, L, E] or [L, E]"
)
DUMP: Final = "records and the map of their slots"
MAX_YAML_BYTES: Final = 64 << 20


def read_recording(
    path: Path,
    experts: int | None = None,
    placement: NDArray[np.int64] | None = None,
    top_k: int | None = None,
    phase: str = ALL,
) -> Recording:
    """The counts in a file, or in a folder of one file a rank (TensorRT-LLM statistics, SGLang recorder) or a dump (SGLang).

    Dumps are in the order of their names, which SGLang takes from the clock.

    Parameters
    ----------
    path : Path
    experts : int, optional
        Logical experts, where gate choices do not say it and the last expert may have had no token, or where counts are of
        slots and the file does not say what they held.
    placement : int64 [L, P], optional
        The expert of each slot while it was recorded, where counts are of slots and the file does not say it.
    top_k : int, optional
        Gate choices of a token in a layer, where an array of them is flat.
    phase : str
        ``prefill`` or ``decode`` for those tokens alone, where the engine says which they are: SGLang's recorder in the modes
        per_token and per_pass by ``forward_mode``, and answers with ``routed_experts``; ``all`` for all.

    Raises
    ------
    ConfigError
        The file is missing or of an unknown kind.
    ProblemError
        What it holds is too large, broken, or not a recording.
    """
    if path.is_dir():
        if any(path.glob("rank*.safetensors")):
            refuse_phase(phase, set())
            return tensorrt_llm.read_folder(path, placement, experts)
        files = sorted(file for file in path.iterdir() if file.suffix in (".pt", ".json"))
        trees = [_recorded(read_tree(file)) for file in files]
        if trees and all("logical_count" in tree for tree in trees):
            refuse_phase(phase, set())
            return sglang.read_dumps(trees)
        if trees and all(map(answers_of, trees)):
            return read_answers([answer for tree in trees for answer in answers_of(tree)], experts, top_k, phase)
        if trees and all(DUMP in tree for tree in trees):
            return sglang.read_records([tree[DUMP] for tree in trees], experts, placement, phase)
        allowed = (
            "a folder with rank*.safetensors (TensorRT-LLM), or of files with records or logical_count (SGLang) or routed_experts"
        )
        raise ConfigError(must_be("FILE", allowed, str(path)))
    return from_tree(read_tree(path), experts, placement, top_k, phase)


def from_tree(
    tree: Tree,
    experts: int | None = None,
    placement: NDArray[np.int64] | None = None,
    top_k: int | None = None,
    phase: str = ALL,
) -> Recording:
    """As `read_recording`, from named values."""
    if "records" in tree:
        return sglang.read_records([sglang.dump_of(tree)], experts, placement, phase)
    if answers := answers_of(tree):
        return read_answers(answers, experts, top_k, phase)
    refuse_phase(phase, set())
    if "load_history" in tree:
        return _load_history(tree["load_history"])
    if "logical_count" in tree:
        return sglang.read_counts(tree)
    if "topk_ids_of_layer" in tree:
        return _choices(tree, experts)
    if vllm.is_window(tree):
        return vllm.read_window(tree, placement, experts)
    if tensorrt_llm.is_statistic(tree):
        return tensorrt_llm.read_statistic([tree], placement, experts)
    return _plain(tree)


def _recorded(tree: Tree) -> Tree:
    """A file of a folder; of records what counts alone, since their lists of ids of tokens fill the memory."""
    return {DUMP: sglang.dump_of(tree)} if "records" in tree else tree


def read_placement(path: Path) -> NDArray[np.int64]:
    """A placement int64 [L, P] from a file: any that `export` writes except ExFlow's, an array ``physical_to_logical_map``, or
    a dump of SGLang's recorder with ``last_physical_to_logical_map``. -1 is an empty slot, as of vLLM while GPUs come or go.

    Raises
    ------
    ConfigError, ProblemError
        As `read_recording`; or no slot has an expert.
    """
    plan = _map_of_yaml(path) if path.suffix in (".yaml", ".yml") else _map_of_tree(path.name, read_tree(path))
    if plan.max() < 0:
        raise ProblemError(must_be(path.name, "a placement with an expert in some slot", Shown("-1 alone")))
    return plan


def read_map(path: Path, layers: int, slots: int, experts: int) -> NDArray[np.int32]:
    """`read_placement` as int32 [L, P] of these sizes; `ProblemError` if it has another shape or an expert out of range."""
    return fitting(path.name, read_placement(path), layers, slots, experts)


def fitting(name: str, plan: NDArray[np.int64], layers: int, slots: int, experts: int) -> NDArray[np.int32]:
    """A placement as int32 [L, P]; `ProblemError` if it has another shape or an expert out of range."""
    if plan.shape != (layers, slots):
        raise ProblemError(must_be(name, f"a placement [{layers}, {slots}]", Shown(f"shape {list(plan.shape)}")))
    if plan.max() >= experts:
        raise ProblemError(must_be(name, f"experts 0 to {experts - 1}", Shown(f"{plan.max()}")))
    return plan.astype(np.int32)


def _map_of_tree(name: str, tree: Tree) -> NDArray[np.int64]:
    if "layer_list" in tree:
        return numbers("device_expert", _ascend_lists(tree["layer_list"]), 2, least=-1)
    field = next((name for name in ("physical_to_logical_map", sglang.MAP) if name in tree), "array")
    if tree.get(field) is None:
        found = Shown(f"the names {sorted(tree)[:8]}")
        raise ProblemError(must_be(name, "a file with physical_to_logical_map or layer_list", found))
    return numbers(field, tree[field], 2, least=-1)


def _ascend_lists(layers: Any) -> list[list[Any]]:
    try:
        return [[expert for device in layer["device_list"] for expert in device["device_expert"]] for layer in layers]
    except (TypeError, KeyError) as exc:
        found = Shown("an entry of another form")
        raise ProblemError(must_be("layer_list", "objects with device_list of device_expert", found)) from exc


def _map_of_yaml(path: Path) -> NDArray[np.int64]:
    """The lists of ``initial_global_assignments``, in brackets or with a line for each expert."""
    if not path.is_file():
        raise ConfigError(must_be("a placement", "an existing file", str(path)))
    text = as_utf8(bounded(path, MAX_YAML_BYTES)).decode(errors="replace")
    rows = {int(layer): cells for layer, cells in re.findall(r"^ +(\d{1,4}): *\[([^]]*)\]", text, re.MULTILINE)}
    blocks = re.findall(r"^ +(\d{1,4}): *\r?\n((?: *- [^\n]*(?:\n|\Z))+)", text, re.MULTILINE)
    rows |= {int(layer): re.sub(r"^ *- ", ",", lines, flags=re.MULTILINE)[1:] for layer, lines in blocks}
    if not rows:
        allowed = "a file with a list for each layer below initial_global_assignments"
        raise ProblemError(must_be(path.name, allowed, Shown("no list")))
    return numbers("initial_global_assignments", [_yaml_experts(layer, rows[layer]) for layer in sorted(rows)], 2)


def _yaml_experts(layer: int, text: str) -> list[int]:
    """The numbers of a list, which may go on over several lines."""
    cells = [cell.strip() for cell in text.split(",")]
    if not cells[-1]:
        cells.pop()
    wrong = next((cell for cell in cells if not re.fullmatch(r"\d{1,9}", cell)), None)
    if wrong is not None:
        raise ProblemError(must_be(f"initial_global_assignments of layer {layer}", "numbers of experts", wrong[:80]))
    return [int(cell) for cell in cells]


def _load_history(entries: Any) -> Recording:
    """``[{"logical_expert_load": [L][E]}]``, one window an entry."""
    if not isinstance(entries, list) or not entries:
        found = Shown("none" if isinstance(entries, list) else type(entries).__name__)
        raise ProblemError(must_be("load_history", "a list of at least one window", found))
    windows: list[NDArray[np.int64]] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "logical_expert_load" not in entry:
            found = Shown(f"{type(entry).__name__} without")
            raise ProblemError(must_be(f"load_history[{number}]", "an object with logical_expert_load", found))
        windows.append(numbers(f"load_history[{number}].logical_expert_load", entry["logical_expert_load"], 2))
        if windows[-1].shape != windows[0].shape:
            shapes = [list(windows[-1].shape), list(windows[0].shape)]
            found = Shown(f"shape {shapes[0]}")
            raise ProblemError(must_be(f"load_history[{number}]", f"{shapes[1]}, as in the first", found))
        if len(windows) * windows[0].size > MAX_ENTRIES:
            raise ProblemError(must_be("load_history", f"at most {MAX_ENTRIES} entries", Shown("more")))
    return recording("load history", np.stack(windows))


def _choices(tree: Tree, experts: int | None) -> Recording:
    """``topk_ids_of_layer`` [L, T, K] in one piece."""
    choices = array_of(sglang.TOKENS, tree[sglang.TOKENS], (3,), least=-1)
    slots = None if tree.get(sglang.MAP) is None else numbers(sglang.MAP, tree[sglang.MAP], 2, least=-1)
    return recorded(sglang.TOOL, sglang.TOKENS, in_windows([Part(sglang.TOKENS, choices, slots=slots)], ALL), experts)


def _plain(tree: Tree) -> Recording:
    """``history`` with an optional ``coactivation``, or one array under any name."""
    names = [name for name in tree if name != "coactivation"]
    name = "history" if "history" in tree else names[0] if len(names) == 1 else None
    if name is None:
        found = Shown(f"the names {sorted(tree)[:8]}")
        raise ProblemError(must_be("the file", f"one with {KNOWN}; in {FORMATS}", found))
    pairs = tree.get("coactivation")
    together = None if pairs is None else numbers("coactivation", pairs, 3)
    counts = numbers(name, tree[name], (2, 3))
    if name != "history":
        refuse_choices(name, counts)
    return recording("arrays", counts, None, together)
