"""Recordings as each tool writes them: the counts that come back are those that went in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from qstream.errors import ConfigError, ProblemError
from qstream.routing.formats.read import from_tree, read_map, read_recording
from qstream.routing.formats.recording import Recording

RNG = np.random.default_rng(3)
FIELDS = (
    "logical_count",
    "records",
    "topk_ids_of_layer",
    "load_history",
    "logical_expert_load",
    "expert_load_window",
    "global_expert_load_window",
    "physical_to_logical_map",
    "last_physical_to_logical_map",
    "global_physical_count",
    "history",
    "coactivation",
    "cooccurrence",
    "forward_pass_id",
    "routed_experts",
    "choices",
    "meta_info",
    "0_1",
    "0_2",
)
NAMES = st.sampled_from(FIELDS) | st.text(max_size=3)
HISTORY = RNG.integers(0, 50, (5, 2, 6))
SLOTS = np.array([[0, 1, 2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0, 5, 5]])


def top_k(layers: int, tokens: int, k: int, experts: int) -> np.ndarray:
    return RNG.permuted(np.broadcast_to(np.arange(experts), (layers, tokens, experts)), axis=2)[:, :, :k].copy()


def counted(choices: np.ndarray, experts: int) -> list[list[int]]:
    """Tokens of each expert in each layer, one by one."""
    out = np.zeros((len(choices), experts), int)
    for layer, tokens in enumerate(choices):
        for token in tokens:
            for expert in token[token >= 0]:
                out[layer, expert] += 1
    return out.tolist()


def slots_of(choices: np.ndarray) -> np.ndarray:
    """Some slot of each chosen expert, by the map SLOTS."""
    out = np.empty_like(choices)
    for at in np.ndindex(choices.shape):
        out[at] = RNG.choice(np.flatnonzero(SLOTS[at[0]] == choices[at]))
    return out


@pytest.mark.parametrize("name", ["a.json", "a.npz"])
def test_sglang_counts_keep_their_steps(tmp_path, name):
    if name == "a.json":
        tree = {"rank": 0, "logical_count": HISTORY.tolist(), "average_utilization_rate_over_window": None}
        (tmp_path / name).write_text(json.dumps(tree))
    else:
        np.savez(tmp_path / name, rank=0, logical_count=HISTORY)
    found = read_recording(tmp_path / name)
    assert (found.tool, found.layer_ids) == ("SGLang", (0, 1))
    assert found.history.tolist() == HISTORY.tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_that_begin_with_a_byte_order_mark_are_read(tmp_path, encoding):
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": HISTORY.tolist(), "unused": float("nan")}), encoding)
    assert read_recording(tmp_path / "a.json").history.tolist() == HISTORY.tolist()
    (tmp_path / "p.yaml").write_text("initial_global_assignments:\n  3: [0, 1, 2, 0]\n", encoding)
    assert read_map(tmp_path / "p.yaml", 1, 4, 3).tolist() == [[0, 1, 2, 0]]


def test_counts_of_one_window_are_a_history_of_one():
    assert from_tree({"logical_count": HISTORY[0].tolist()}).history.tolist() == [HISTORY[0].tolist()]


def test_sglang_tokens_are_mapped_from_slots_to_experts_and_counted_by_pass():
    passes = [top_k(2, tokens, 2, 6) for tokens in (5, 7)]
    padded = [np.pad(slots_of(part), ((0, 0), (0, 0), (0, 1)), constant_values=-1) for part in passes]
    records = [
        {"forward_pass_id": 9 - n, "rank": 0, "topk_ids_of_layer": part.tolist(), "misc_objects": []}
        for n, part in enumerate(padded)
    ]
    found = from_tree({"records": records, "last_physical_to_logical_map": SLOTS.tolist()})
    # the second record has the lower id: it was the first pass
    assert found.history.tolist() == [counted(passes[1], 6), counted(passes[0], 6)]
    assert found.coactivation is not None
    assert np.einsum("lee->le", found.coactivation).tolist() == found.history.sum(0).tolist()
    assert found.coactivation.sum((1, 2)).tolist() == [12 * 4, 12 * 4]  # two experts a token: two on the diagonal, two off it
    assert found.tokens is not None
    assert found.tokens.shape == (12, 2, 3)


def test_a_layer_without_experts_has_no_tokens_and_no_pairs():
    choices = top_k(2, 4, 2, 6)
    choices[0] = -1
    found = from_tree({"topk_ids_of_layer": choices}, experts=6)
    assert found.history.shape == (1, 2, 6)
    assert found.history[0, 0].tolist() == [0] * 6
    assert found.history[0, 1].tolist() == counted(choices, 6)[1]


def test_many_tokens_in_one_piece_are_windows_in_their_order():
    choices = top_k(1, 5000, 2, 6)
    found = from_tree({"topk_ids_of_layer": choices}, experts=6)
    parts = np.array_split(choices, 4, axis=1)
    assert found.history.tolist() == [counted(part, 6) for part in parts]


def test_ranks_of_one_pass_are_one_window_over_a_folder(tmp_path):
    torch = pytest.importorskip("torch")
    parts = [top_k(2, 3, 2, 6) for _ in range(2)]
    empty = torch.full((2, 0, 2), -1)
    for rank, part in enumerate(parts):
        records = [
            {"forward_pass_id": 4, "rank": rank, "topk_ids_of_layer": torch.from_numpy(part)},
            {"forward_pass_id": 5, "rank": rank, "topk_ids_of_layer": empty},
        ]
        data = {"records": records, "last_physical_to_logical_map": torch.arange(6).repeat(2, 1)}
        torch.save(data, tmp_path / f"expert_distribution_recorder_1.5_{rank}.pt")
    found = read_recording(tmp_path)
    assert found.history.tolist() == [counted(np.concatenate(parts, axis=1), 6)]


def test_sglang_passes_are_summed_over_ranks_and_slots():
    counts = RNG.integers(0, 9, (2, 2, 8))  # two ranks
    records = [{"forward_pass_id": 1, "rank": rank, "global_physical_count": part.tolist()} for rank, part in enumerate(counts)]
    found = from_tree({"records": records, "last_physical_to_logical_map": SLOTS.tolist()})
    expected = [np.bincount(SLOTS[layer], counts.sum(0)[layer], minlength=6).tolist() for layer in range(2)]
    assert found.history.tolist() == [expected]


def test_load_history_is_one_window_an_entry():
    found = from_tree({"load_history": [{"logical_expert_load": window.tolist()} for window in HISTORY]})
    assert found.history.tolist() == HISTORY.tolist()


def test_tensorrt_llm_ranks_add_up_and_layers_keep_their_numbers(tmp_path):
    for rank in range(2):
        save_file(
            {f"{10 + i}_{3 + layer}": HISTORY[i, layer].astype(np.int32) for i in range(5) for layer in range(2)},
            tmp_path / f"rank{rank}.safetensors",
        )
        pairs = {f"{10 + i}_{3 + layer}": np.ones((6, 6), np.int32) for i in range(5) for layer in range(2)}
        save_file(pairs, tmp_path / f"cooccurrence_rank{rank}.safetensors")
    save_file({"10_3": np.zeros((4, 2), np.int32)}, tmp_path / "rank0_raw.safetensors")
    (tmp_path / "meta_info.json").write_text('{"num_experts": 6, "num_experts_per_token": 2}')
    found = read_recording(tmp_path, 6)
    assert (found.tool, found.layer_ids) == ("TensorRT-LLM", (3, 4))
    assert found.history.tolist() == (2 * HISTORY).tolist()
    assert found.coactivation is not None
    assert (found.coactivation == 10).all()
    single = read_recording(tmp_path / "rank0.safetensors", 6)
    assert single.history.tolist() == HISTORY.tolist()


def test_vllm_windows_by_expert_and_by_slot(tmp_path):
    save_file({"global_expert_load_window": HISTORY[0].astype(np.float32)}, tmp_path / "global_expert_load_window_i0.safetensors")
    found = read_recording(tmp_path / "global_expert_load_window_i0.safetensors")
    assert (found.tool, found.history.tolist()) == ("vLLM", [HISTORY[0].tolist()])
    window = RNG.integers(0, 9, (3, 2, 8))
    found = from_tree({"expert_load_window": window, "physical_to_logical_map": SLOTS})
    for w in range(3):
        expected = [np.bincount(SLOTS[layer], window[w, layer], minlength=6).tolist() for layer in range(2)]
        assert found.history[w].tolist() == expected


def test_plain_arrays_with_and_without_a_name(tmp_path):
    np.save(tmp_path / "a.npy", HISTORY)
    assert read_recording(tmp_path / "a.npy").history.tolist() == HISTORY.tolist()
    pairs = np.ones((2, 6, 6), int)
    np.savez(tmp_path / "a.npz", history=HISTORY, coactivation=pairs)
    found = read_recording(tmp_path / "a.npz")
    assert found.coactivation is not None
    assert (found.history.tolist(), found.coactivation.tolist()) == (HISTORY.tolist(), pairs.tolist())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [[1]], "b": [[1]]}, r"must be one with logical_count, .*, got the names \['a', 'b'\]"),
        ({}, "must be one with logical_count"),
        ({"records": 3}, "records must be a list of at most .*, got int"),
        ({"records": []}, "records must be at least one entry with tokens, got none"),
        ({"records": [3]}, r"records\[0\] must be an object, got int"),
        ({"records": [{}]}, r"records\[0\] must be an object with topk_ids_of_layer or global_physical_count, got neither"),
        (
            {"records": [{"forward_pass_id": "x", "topk_ids_of_layer": [[[0]]]}]},
            "forward_pass_id must be a whole number, got str",
        ),
        ({"records": [{"rank": "x", "topk_ids_of_layer": [[[0]]]}]}, r"records\[0\].rank must be a whole number, got str"),
        (
            {"records": [{"topk_ids_of_layer": [[[0]]]}, {"global_physical_count": [[1]]}]},
            "records must be all with topk_ids_of_layer or all with global_physical_count, got both",
        ),
        ({"records": [{"topk_ids_of_layer": [[[9]]]}], "last_physical_to_logical_map": [[0, 1]]}, "slot 9"),
        ({"records": [{"topk_ids_of_layer": [[[0]]]}, {"topk_ids_of_layer": [[[0, 1]]]}]}, "one shape in all records"),
        ({"load_history": []}, "load_history must be a list of at least one window"),
        ({"load_history": [{}]}, r"load_history\[0\] must be an object with logical_expert_load, got dict without"),
        (
            {"load_history": [{"logical_expert_load": [[1]]}, {"logical_expert_load": [[1, 2]]}]},
            r"load_history\[1\] must be \[1, 1\], as in the first, got shape \[1, 2\]",
        ),
        ({"0_1": [1, 2], "1_2": [1, 2]}, "got none for 0_2"),
        ({"0_1": [1, 2], "0_2": [1]}, r"0_2 must be \[2\], as before, got shape \[1\]"),
        (
            {"expert_load_window": [[1, 2]], "physical_to_logical_map": [[0, 1, 1]]},
            r"expert_load_window must be \[W, 1, 3\], got shape",
        ),
        ({"logical_count": [[0, 0]]}, "0 tokens"),
    ],
)
def test_a_broken_recording_is_named_by_field(tree, message):
    with pytest.raises(ProblemError, match=message):
        from_tree(tree)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
COUNTS = st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=200)
@given(st.dictionaries(NAMES, JSON | COUNTS | st.lists(COUNTS, max_size=3), max_size=3))
def test_whatever_a_file_holds_it_is_a_recording_or_a_problem(tree):
    found, fault = outcome(tree)
    if found is None:
        assert "must be" in fault
        return
    windows, layers, experts = found.history.shape
    assert min(windows, layers, experts) >= 1
    assert found.history.min() >= 0 < found.history.sum()
    assert len(found.layer_ids) == layers


def outcome(tree: dict) -> tuple[Recording | None, str]:
    try:
        return from_tree(tree), ""
    except ProblemError as exc:
        return None, str(exc)


def test_a_folder_of_dumps_between_which_the_engine_has_rebalanced_is_read_by_the_map_of_each(tmp_path):
    by_token = {"topk_ids_of_layer": [[[0], [0], [0]]]}
    for name, first, slots in (("1754000000.25_0", 10, [0, 1, 2, 3]), ("1754000900.75_0", 900, [3, 2, 1, 0])):
        counts = {"global_physical_count": [[3, 0, 0, 0]]}
        for kind, passed in (("passes", counts), ("tokens", by_token)):
            records = [{"forward_pass_id": first + n, "rank": 0, **passed} for n in range(2)]
            (tmp_path / kind).mkdir(exist_ok=True)
            tree = {"records": records, "last_physical_to_logical_map": [slots]}
            (tmp_path / kind / f"expert_distribution_recorder_{name}.json").write_text(json.dumps(tree))
    for kind in ("passes", "tokens"):
        history = read_recording(tmp_path / kind).history
        assert history[:, 0].tolist() == [[3, 0, 0, 0]] * 2 + [[0, 0, 0, 3]] * 2


def test_passes_of_an_engine_that_was_restarted_follow_those_of_its_last_run(tmp_path):
    for name, first, rank, expert in (("1.0_0", 5, 0, 0), ("1.1_1", 5, 1, 0), ("2.0_0", 1, 0, 1), ("2.1_1", 1, 1, 1)):
        records = [{"forward_pass_id": first, "rank": rank, "topk_ids_of_layer": [[[expert], [expert]]]}]
        (tmp_path / f"r_{name}.json").write_text(json.dumps({"records": records}))
    assert read_recording(tmp_path).history[:, 0].tolist() == [[4, 0], [0, 4]]


def test_a_ring_that_is_not_full_begins_behind_the_steps_that_are_not_written_yet():
    steps = np.arange(1, 6)[:, None, None] * np.ones((1, 2, 3), int)
    for start in range(8):  # SGLang goes on where it stood when the ring was emptied
        ring = np.zeros((8, 2, 3), int)
        ring[(start + np.arange(5)) % 8] = steps
        for tree in ({"logical_count": ring}, {"expert_load_window": ring, "physical_to_logical_map": [[0, 1, 2]] * 2}):
            found = from_tree(tree)
            assert found.ordered
            assert found.history[:, 0, 0].tolist() == [1, 2, 3, 4, 5]


def test_a_full_ring_is_in_no_order_unless_it_says_where_it_goes_on():
    ring = np.array([3, 4, 0, 1, 2])[:, None, None] + np.ones((1, 2, 3), int)
    assert not from_tree({"logical_count": ring}).ordered
    window = {"expert_load_window": ring, "physical_to_logical_map": [[0, 1, 2]] * 2}
    assert not from_tree(window).ordered
    found = from_tree(window | {"expert_load_window_step": 2})
    assert found.ordered
    assert found.history[:, 0, 0].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ProblemError, match="expert_load_window_step must be a whole number from 0 to 4, got 5"):
        from_tree(window | {"expert_load_window_step": 5})


def test_a_full_ring_among_several_dumps_is_one_window(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.json").write_text(json.dumps({"logical_count": [[[1, number]], [[2, number]]]}))
    found = read_recording(tmp_path)
    assert found.ordered
    assert found.history[:, 0].tolist() == [[3, 0], [3, 2]]


def test_dumps_of_counts_in_a_folder_are_one_history_in_the_order_of_their_names(tmp_path):
    counts = np.random.default_rng(2).integers(1, 9, (5, 3, 8))
    empty = np.zeros((1, 3, 8), int)
    for name, part in (
        ("expert_distribution_recorder_1732471235.5", [*counts[4:], *empty, *counts[3:4]]),
        ("expert_distribution_recorder_1732471234.9", [*counts[:3], *empty]),
    ):
        part = np.array(part)
        (tmp_path / f"{name}.json").write_text(json.dumps({"rank": 0, "logical_count": part.tolist()}))
    assert read_recording(tmp_path).history.tolist() == counts.tolist()
    (tmp_path / "expert_distribution_recorder_1732471236.0.json").write_text(json.dumps({"logical_count": [[1, 2]]}))
    with pytest.raises(ProblemError, match="must be of one shape in all dumps"):
        read_recording(tmp_path)


def test_a_folder_in_which_some_dumps_lack_the_map_is_refused(tmp_path):
    tree = {"records": [{"forward_pass_id": 1, "rank": 0, "topk_ids_of_layer": [[[0]]]}]}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    (tmp_path / "b.json").write_text(json.dumps(tree | {"last_physical_to_logical_map": [[0]]}))
    with pytest.raises(
        ProblemError, match="last_physical_to_logical_map must be given in all dumps or in none, got 1 of 2 without"
    ):
        read_recording(tmp_path)


def test_a_folder_of_something_else_is_told(tmp_path):
    with pytest.raises(ConfigError, match="FILE must be a folder with rank"):
        read_recording(tmp_path)


def test_experts_beyond_those_named_are_told():
    with pytest.raises(ProblemError, match="must be experts 0 to 3, got 5"):
        from_tree({"topk_ids_of_layer": [[[5, 1]]]}, experts=4)


def test_slots_that_hold_no_expert_while_the_cluster_grows_count_for_none():
    window, slots = [[[4, 2, 9, 3]], [[1, 1, 0, 5]]], [[0, 1, -1, 0]]
    found = from_tree({"expert_load_window": window, "physical_to_logical_map": slots})
    assert found.history.tolist() == [[[7, 2]], [[6, 1]]]
