"""Recordings too large for one array are read in pieces, from disk, and say what those that fit say; phases are kept apart."""

from __future__ import annotations

import base64
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from qstream import array_files
from qstream.errors import ProblemError
from qstream.routing.formats import pieces, recording
from qstream.routing.formats.read import from_tree, read_recording

LAYERS, EXPERTS, K = 2, 6, 2
SLOTS = np.array([[0, 1, 2, 3, 4, 5, 0, -1], [5, 4, 3, 2, 1, 0, -1, 5]])


@pytest.fixture
def large(monkeypatch):
    """Whatever has more than 100 entries is large, and a piece has at most 10."""

    def make() -> None:
        for module in (array_files, pieces, recording):
            monkeypatch.setattr(module, "MAX_ENTRIES", 100)
        monkeypatch.setattr(pieces, "PIECE_ENTRIES", 10)

    return make


def choices(tokens: int, seed: int = 0) -> np.ndarray:
    """Distinct experts of each token, int32 [L, T, K]."""
    every = np.broadcast_to(np.arange(EXPERTS, dtype=np.int32), (LAYERS, tokens, EXPERTS))
    return np.random.default_rng(seed).permuted(every, axis=2)[:, :, :K].copy()


def token_dump(path, name, modes) -> None:
    """A dump of SGLang's recorder in the mode per_token: passes of 7, 8, ... tokens in these modes, by slot."""
    torch = pytest.importorskip("torch")
    records = []
    for number, mode in enumerate(modes):
        ids = np.where(choices(7 + number, number) == 0, -1, choices(7 + number, number))
        slots = np.array(
            [[np.flatnonzero(SLOTS[layer] == e)[0] if e >= 0 else -1 for e in row.ravel()] for layer, row in enumerate(ids)]
        )
        said = {} if mode is None else {"forward_mode": mode}
        body = torch.from_numpy(slots.reshape(ids.shape).astype(np.int32))
        records.append({"forward_pass_id": number, "rank": 0, "input_ids": [1] * ids.shape[1], "topk_ids_of_layer": body, **said})
    torch.save({"records": records, "last_physical_to_logical_map": torch.from_numpy(SLOTS)}, path / name)


def test_a_large_dump_of_tokens_says_what_a_small_one_says(tmp_path, large):
    token_dump(tmp_path, "a.pt", [1, 2, 2, 1])
    small = read_recording(tmp_path / "a.pt")
    large()
    found = read_recording(tmp_path / "a.pt")
    assert found.history.tolist() == small.history.tolist()
    assert found.coactivation is not None
    assert small.coactivation is not None
    assert found.coactivation.tolist() == small.coactivation.tolist()
    assert found.tokens is not None
    assert small.tokens is not None
    assert found.tokens.tolist() == small.tokens.tolist()
    chosen = [int((choices(7 + number, number) > 0).sum()) for number in range(4)]
    assert found.phases == small.phases == {"prefill": chosen[0] + chosen[3], "decode": chosen[1] + chosen[2]}


def test_more_passes_than_fit_are_fewer_windows_of_the_same_tokens(tmp_path, large):
    token_dump(tmp_path, "a.pt", [2] * 9)
    small = read_recording(tmp_path / "a.pt")
    large()
    found = read_recording(tmp_path / "a.pt")
    assert (len(small.history), len(found.history)) == (9, 100 // (LAYERS * EXPERTS))
    assert found.history.sum(0).tolist() == small.history.sum(0).tolist()


@pytest.mark.parametrize("start", [0, 5, 11])
@pytest.mark.parametrize("kind", ["sglang", "vllm"])
def test_a_large_ring_is_folded_in_the_order_of_its_steps(tmp_path, large, kind, start):
    steps = np.random.default_rng(2).integers(1, 9, (12, LAYERS, EXPERTS))
    ring = np.concatenate([steps, np.zeros((4, LAYERS, EXPERTS), int)])
    ring = np.roll(ring, start, axis=0)
    name = tmp_path / "a.safetensors"
    if kind == "sglang":
        save_file({"logical_count": ring}, name)
    else:
        maps = {"physical_to_logical_map": np.arange(EXPERTS)[None].repeat(LAYERS, 0)}
        save_file({"expert_load_window": ring, "expert_load_window_step": np.array((start + 12) % 16), **maps}, name)
    assert read_recording(name).history.tolist() == steps.tolist()
    large()
    found = read_recording(name)
    assert found.ordered
    assert len(found.history) == 100 // (LAYERS * EXPERTS)
    ends = np.cumsum(found.history.sum((1, 2)))
    assert found.history.sum(0).tolist() == steps.sum(0).tolist()
    assert set(ends.tolist()) <= set(np.cumsum(steps.sum((1, 2))).tolist())


def test_files_beyond_a_gibibyte_are_mapped_not_read(tmp_path, large, monkeypatch):
    torch = pytest.importorskip("torch")
    counts = np.random.default_rng(3).integers(1, 9, (20, LAYERS, EXPERTS))
    np.save(tmp_path / "a.npy", counts)
    np.save(tmp_path / "b.npy", np.asfortranarray(counts))
    save_file({"logical_count": counts, "unused": np.arange(3.0)}, tmp_path / "c.safetensors")
    torch.save({"logical_count": torch.from_numpy(counts)}, tmp_path / "d.pt")
    monkeypatch.setattr(array_files, "MAX_FILE_BYTES", 100)
    for name in ("a.npy", "b.npy", "c.safetensors", "d.pt"):
        assert read_recording(tmp_path / name).history.tolist() == counts.tolist()
    assert isinstance(array_files.read_tree(tmp_path / "a.npy")["array"], np.memmap)
    large()
    for name in ("c.safetensors", "d.pt"):
        assert read_recording(tmp_path / name).history.sum(0).tolist() == counts.sum(0).tolist()
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(ProblemError, match=r"a\.npy must be 1920 bytes of data, as in its header, got 1912"):
        read_recording(tmp_path / "a.npy")


def test_a_pt_file_whose_members_are_compressed_is_not_mapped(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.save({"logical_count": torch.ones(3, 2, 4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as given, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in given.infolist():
            packed.writestr(member.filename, given.read(member))
    assert read_recording(tmp_path / "b.pt").history.tolist() == np.ones((3, 2, 4)).tolist()
    monkeypatch.setattr(array_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(ProblemError, match=r"at most .* members of 100 bytes in total"):
        read_recording(tmp_path / "b.pt")


def test_a_small_file_that_describes_a_huge_view_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"logical_count": torch.ones(1).expand(1 << 20, 64, 64)}, tmp_path / "a.pt")
    with pytest.raises(ProblemError, match=r"logical_count must be at most \d+ entries, got shape \[1048576, 64, 64\]"):
        read_recording(tmp_path / "a.pt")


def test_a_wrong_number_in_a_late_piece_is_told_with_its_record(large):
    ids = choices(40)
    ids[1, 39, 1] = -2
    large()
    with pytest.raises(ProblemError, match=r"records\[0\]\.topk_ids_of_layer must be -1 to 2\*\*53, got values from -2"):
        from_tree({"records": [{"topk_ids_of_layer": ids}]}, experts=EXPERTS)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_passes_of_one_phase_alone_are_read_where_the_engine_says_it(tmp_path, phase):
    token_dump(tmp_path, "a.pt", [1, 2, 3, None, 1, 5])
    every = read_recording(tmp_path / "a.pt")
    found = read_recording(tmp_path / "a.pt", phase=phase)
    rows = [0, 4] if phase == "prefill" else [1, 5]  # 5 verifies what a draft model has decoded
    assert found.history.tolist() == every.history[rows].tolist()
    assert found.phases == every.phases
    assert sum(every.phases.values()) == every.history.sum()
    assert set(every.phases) == {"prefill", "decode", "mixed", "unsaid"}
    assert found.coactivation is not None
    assert np.einsum("lee->le", found.coactivation).tolist() == found.history.sum(0).tolist()


def test_counts_by_pass_are_kept_apart_too(large):
    counts = np.random.default_rng(5).integers(1, 9, (9, LAYERS, 8))
    modes = [1, 1, 2, 2, 2, 4, 4, 4, 4]
    records = [
        {"forward_pass_id": n, "rank": 0, "forward_mode": mode, "global_physical_count": counts[n].tolist()}
        for n, mode in enumerate(modes)
    ]
    tree = {"records": records, "last_physical_to_logical_map": SLOTS.tolist()}
    every, decoded = from_tree(tree), from_tree(tree, phase="decode")
    assert decoded.history.tolist() == every.history[2:5].tolist()
    assert every.phases == {"prefill": counts[:2].sum(), "decode": counts[2:5].sum(), "unsaid": counts[5:].sum()}
    large()
    assert from_tree(tree).history.sum(0).tolist() == every.history.sum(0).tolist()


def test_prompts_and_what_follows_are_kept_apart_in_answers():
    ids = choices(10).transpose(1, 0, 2)
    flat = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    sglang = {"meta_info": {"routed_experts": flat, "prompt_tokens": 7, "completion_tokens": 4}}
    vllm = {"prompt_routed_experts": ids[:7].tolist(), "choices": [{"routed_experts": ids[7:].tolist()}]}
    for answer in (sglang, vllm):
        tree = {"array": [answer]}
        for phase, some in (("prefill", ids[:7]), ("decode", ids[7:])):
            found = from_tree(tree, EXPERTS, top_k=K, phase=phase)
            assert found.tokens is not None
            assert found.tokens.tolist() == some.tolist()
            assert found.phases == {"prefill": 28, "decode": 12}
    with pytest.raises(ProblemError, match="phase must be all: the recording tells no phases apart, got 'decode'"):
        from_tree({"choices": [{"routed_experts": ids.tolist()}]}, EXPERTS, phase="decode")


@pytest.mark.parametrize(
    "tree",
    [
        {"logical_count": np.ones((3, 2, 4))},
        {"expert_load_window": np.ones((3, 2, 4)), "physical_to_logical_map": [[0, 1, 2, 3]] * 2},
        {"records": [{"forward_pass_id": 1, "topk_ids_of_layer": [[[0, 1]]]}]},
        {"records": [{"forward_pass_id": 1, "forward_mode": 4, "global_physical_count": [[1, 2]]}]},
    ],
)
def test_a_phase_that_a_recording_does_not_tell_is_refused(tree):
    with pytest.raises(ProblemError, match="phase must be all: the recording tells no phases apart, got 'prefill'"):
        from_tree(tree, 4, phase="prefill")


def test_a_dump_of_more_entries_than_an_array_may_have_is_planned_from_disk(tmp_path):
    torch = pytest.importorskip("torch")
    body = torch.zeros((1, (1 << 27) + 8, 1), dtype=torch.uint8)
    body[0, -8:, 0] = 1
    torch.save({"records": [{"forward_pass_id": 0, "rank": 0, "forward_mode": 2, "topk_ids_of_layer": body}]}, tmp_path / "a.pt")
    found = read_recording(tmp_path / "a.pt", 2)
    assert found.history.tolist() == [[[1 << 27, 8]]]


def test_a_phase_of_which_there_is_nothing_is_told_with_those_that_there_are(tmp_path):
    token_dump(tmp_path, "a.pt", [2, 3])
    with pytest.raises(ProblemError, match="phase must be all or decode or mixed, which the recording has, got 'prefill'"):
        read_recording(tmp_path / "a.pt", phase="prefill")
