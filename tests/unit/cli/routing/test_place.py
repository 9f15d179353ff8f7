"""`qstream routing place`: a recording in, a table, an export and a page out; the scores are those of the exported plan."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.cli.routing.placements import nodes_touched
from qstream.routing.score import pairs_together
from schemas.experts import ExpertTopology

LAYERS, EXPERTS, GPUS, SLOTS = 3, 16, 4, 24


def invoke(*words: object):
    return CliRunner().invoke(app, ["routing", "place", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def printed(*words: object) -> dict:
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def history() -> np.ndarray:
    rng = np.random.default_rng(0)
    base = rng.lognormal(4, 1, (LAYERS, EXPERTS))
    return rng.poisson(base * rng.lognormal(0, 0.2, (20, LAYERS, EXPERTS)))


@pytest.fixture
def recording(tmp_path, history):
    np.save(tmp_path / "counts.npy", history)
    return tmp_path / "counts.npy"


@pytest.fixture
def tokens(tmp_path):
    """Tokens whose experts come in four families that no contiguous placement keeps together."""
    rng = np.random.default_rng(1)
    family = np.broadcast_to(np.arange(400)[:, None] % 4, (2, 400, 1))  # as many tokens each: a node may have a whole family
    member = rng.permuted(np.broadcast_to(np.arange(4), (2, 400, 4)), axis=2)[:, :, :2]
    np.savez(tmp_path / "tokens.npz", topk_ids_of_layer=family + 4 * member)
    return tmp_path / "tokens.npz"


def test_a_full_ring_is_scored_on_no_unseen_window_and_that_is_said(tmp_path, history):
    (tmp_path / "dump.json").write_text(json.dumps({"logical_count": history.tolist()}))
    data = printed(tmp_path / "dump.json", "--gpus", GPUS, "--steps", 200)
    assert not data["ordered"]
    assert all(row["unseen"] is None for row in data["placements"])
    turned = {"logical_count": np.roll(history, 16, axis=0).tolist()}
    (tmp_path / "turned.json").write_text(json.dumps(turned))
    shown = invoke(tmp_path / "turned.json", "--gpus", GPUS, "--steps", 200, "--html", tmp_path / "p.html").stdout
    assert "does not say which is the oldest" in shown
    assert "unseen  " not in shown
    assert "windows in no known order" in (tmp_path / "p.html").read_text()


def score(plan: np.ndarray, loads: np.ndarray) -> float:
    """Balancedness from its definition: mean over maximum GPU load, layers summed first, mean over the windows."""
    found = []
    for window in loads:
        mean = fullest = 0.0
        for row, load in zip(plan, window, strict=True):
            gpus = [sum(load[e] / (row == e).sum() for e in part) for part in row.reshape(GPUS, -1)]
            mean, fullest = mean + np.mean(gpus), fullest + max(gpus)
        found.append(mean / fullest)
    return float(np.mean(found))


def test_the_scores_are_those_of_the_exported_plan_and_better_than_before(recording, history, tmp_path):
    out = tmp_path / "plan.json"
    data = printed(recording, "--gpus", GPUS, "--slots", SLOTS, "--windows", 20, "--export", "sglang", "--out", out)
    before, eplb, ours = data["placements"]
    assert [before["name"], eplb["name"], ours["name"]] == ["contiguous", "EPLB", "qstream"]
    plan = np.array(json.loads(out.read_text())["physical_to_logical_map"])
    contiguous = np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1))
    assert ours["balancedness"] == pytest.approx(score(plan, history), rel=1e-12)
    assert before["balancedness"] == pytest.approx(score(contiguous, history), rel=1e-12)
    assert before["balancedness"] < eplb["balancedness"] < ours["balancedness"]
    assert before["moved"] == 0 < ours["moved"]
    assert data["written"] == [str(out)]


def test_the_unseen_column_knows_nothing_of_the_last_window(tmp_path, history):
    scores = []
    for swap in (False, True):
        changed = history.copy()
        if swap:
            changed[-1] = changed[-1, :, ::-1]
        np.save(tmp_path / "a.npy", changed)
        scores.append(printed(tmp_path / "a.npy", "--gpus", GPUS, "--slots", SLOTS, "--windows", 20)["placements"])
    last = history[-1:]
    assert scores[0][2]["unseen"] > 0.8 > scores[1][2]["unseen"]
    contiguous = np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1))
    assert scores[0][0]["unseen"] == pytest.approx(score(contiguous, last), rel=1e-12)


def test_families_of_experts_come_to_one_node_and_the_table_says_how_many_nodes_a_token_touches(tokens):
    data = printed(tokens, "--gpus", 4, "--nodes", 4, "--experts", EXPERTS)
    before, eplb, ours = data["placements"]
    assert ours["nodes"] == 1.0
    assert before["nodes"] == 2.0  # a family lies across all nodes: two experts are on two of them
    assert eplb["nodes"] > 1.2
    shown = invoke(tokens, "--gpus", 4, "--nodes", 4, "--experts", EXPERTS).stdout
    assert "nodes a token" in shown
    assert "colocation" in shown


def test_balance_alone_may_be_asked_for_where_tokens_are_known(tokens):
    words = (tokens, "--gpus", 4, "--nodes", 4, "--experts", EXPERTS)
    together, alone = (printed(*words, *more) for more in ((), ("--no-colocate",)))
    assert together["placements"][2]["nodes"] == 1.0 < alone["placements"][2]["nodes"]
    assert together["solver"]["variant"] == "colocation"
    assert alone["solver"].get("variant") is None


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sglang", "placement.json"),
        ("tensorrt-llm", "moe_load_balancer.yaml"),
        ("ascend", "expert_map.json"),
        ("plan", "plan.json"),
    ],
)
def test_an_export_without_a_name_gets_that_of_its_format(recording, tmp_path, monkeypatch, name, file):
    monkeypatch.chdir(tmp_path)
    assert printed(recording, "--gpus", GPUS, "--export", name)["written"] == [file]
    named = tmp_path / "named"
    printed(recording, "--gpus", GPUS, "--export", name, "--out", named)
    if name != "plan":  # which has the time in it
        assert (tmp_path / file).read_bytes() == named.read_bytes()


def test_an_input_is_written_over_only_when_named(recording, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed(recording, "--gpus", GPUS, "--export", "sglang")
    again = (recording, "--gpus", GPUS, "--export", "sglang", "--previous", "placement.json")
    result = invoke(*again)
    assert (result.exit_code, "placement.json is an input" in result.stderr) == (2, True)
    assert printed(*again, "--out", "placement.json")["written"] == ["placement.json"]


def test_where_only_pairs_are_known_the_table_says_how_many_are_on_a_node(tmp_path, history):
    pairs = np.zeros((LAYERS, EXPERTS, EXPERTS), int)
    for e in range(EXPERTS):
        pairs[:, e, (e + 8) % EXPERTS] = 10
    np.savez(tmp_path / "a.npz", history=history, coactivation=pairs)
    before, _, ours = printed(tmp_path / "a.npz", "--gpus", GPUS, "--nodes", 2)["placements"]
    assert (before["together"], ours["together"]) == (0.0, 1.0)


def test_nodes_and_pairs_of_a_small_placement_by_hand():
    topology = ExpertTopology(num_layers=1, num_logical_experts=3, num_gpus=2, num_nodes=2, slots_per_gpu=2)
    plan = np.array([[0, 1, 2, 0]], np.int32)  # expert 0 on both nodes
    tokens = np.array([[[1, 2]], [[1, -1]], [[2, -1]], [[-1, -1]]], np.int32)
    assert nodes_touched(plan, tokens, topology) == pytest.approx((2 + 1 + 1) / 3)
    pairs = 50 * np.eye(3, dtype=np.int64)[None]  # an expert with itself is not a pair
    pairs[0, 0, 1] = pairs[0, 1, 0] = 6  # on one node half of the time
    pairs[0, 1, 2] = pairs[0, 2, 1] = 2  # never
    assert pairs_together(plan, pairs, topology) == pytest.approx(3 / 8)


def test_from_the_placement_in_force_few_experts_move_at_a_price(recording, tmp_path):
    out = tmp_path / "plan.yaml"
    base = (recording, "--gpus", GPUS, "--slots", SLOTS)
    printed(*base, "--export", "tensorrt-llm", "--out", out)
    assert yaml.safe_load(out.read_text())["num_slots"] == SLOTS
    data = printed(*base, "--previous", out, "--move-cost", 0.05, "--seed", 5)
    assert data["placements"][0]["name"] == "in force"
    assert data["placements"][2]["moved"] <= 3


def test_empty_slots_of_the_placement_in_force_are_filled_and_count_as_moves(recording, tmp_path):
    before = np.full((LAYERS, SLOTS), -1)
    before[:, :EXPERTS] = np.arange(EXPERTS)  # a server has come: its slots are empty yet
    (tmp_path / "before.json").write_text(json.dumps({"physical_to_logical_map": before.tolist()}))
    base = (recording, "--gpus", GPUS, "--slots", SLOTS, "--previous", tmp_path / "before.json")
    data = printed(*base, "--move-cost", 10.0, "--export", "numpy", "--out", tmp_path / "plan.npz")
    whole = np.load(tmp_path / "plan.npz")["physical_to_logical_map"]
    np.testing.assert_array_equal(whole[:, :EXPERTS], before[:, :EXPERTS])
    assert whole.min() >= 0
    in_force, _, ours = data["placements"]
    assert (in_force["moved"], ours["moved"]) == (0, LAYERS * (SLOTS - EXPERTS))
    printed(*base, "--nodes", 2, "--dispatch", "nearest")


def test_a_placement_of_empty_slots_alone_is_refused(recording, tmp_path):
    (tmp_path / "before.json").write_text(json.dumps({"physical_to_logical_map": [[-1] * SLOTS] * LAYERS}))
    result = invoke(recording, "--gpus", GPUS, "--slots", SLOTS, "--previous", tmp_path / "before.json")
    assert (result.exit_code, "before.json must be a placement with an expert in some slot" in result.stderr) == (1, True)


def test_mixed_passes_are_told_and_count_for_neither_phase(tmp_path):
    counts = np.random.default_rng(5).integers(1, 9, (3, 2, 8))
    records = [
        {"forward_pass_id": n, "rank": 0, "forward_mode": 1 + n, "global_physical_count": row.tolist()}
        for n, row in enumerate(counts)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"records": records}))
    base = (tmp_path / "a.json", "--gpus", 4, "--experts", 8, "--steps", 100)
    told = [f"{name} {rows.sum()}" for name, rows in zip(("prefill", "decode", "mixed"), counts, strict=True)]
    whole, prompts = invoke(*base).stdout, invoke(*base, "--phase", "prefill").stdout
    assert all(text in out for text in told for out in (whole, prompts))
    assert "planned for prefill; mixed passes hold both and count for neither" in prompts
    assert "neither" not in whole


def test_the_heaviest_experts_are_on_two_gpus_when_asked(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[[1000, 900, 800, 10, 9, 8]]]))
    spread = []
    for hot in (0, 5):
        printed(
            tmp_path / "a.npy", "--gpus", 4, "--slots", 12, "--hot-experts", hot, "--export", "numpy", "--out", tmp_path / "p.npz"
        )
        spread.append(np.load(tmp_path / "p.npz")["logical_replica_count"][0].tolist())
    assert spread[0] == [3, 3, 3, 1, 1, 1]
    assert min(spread[1][:5]) == 2
    result = invoke(tmp_path / "a.npy", "--gpus", 4, "--slots", 12, "--hot-experts", 7)
    assert (result.exit_code, "hot_experts" in result.stderr) == (1, True)


def test_statistics_of_slots_are_planned_by_the_placement_in_force_and_refused_without(tmp_path):
    counts = np.random.default_rng(0).integers(1, 99, (3, 8)).astype(np.int32)
    save_file({f"{step}_0": row for step, row in enumerate(counts)}, tmp_path / "rank0.safetensors")
    before = tmp_path / "before.json"
    before.write_text(json.dumps({"physical_to_logical_map": [[0, 1, 2, 3, 4, 5, 0, 1]]}))
    shape = ("--gpus", 4, "--slots", 8, "--steps", 100)
    data = printed(tmp_path / "rank0.safetensors", *shape, "--previous", before)
    assert (data["experts"], data["slots"], data["placements"][0]["name"]) == (6, 8, "in force")
    result = invoke(tmp_path / "rank0.safetensors", *shape)
    assert result.exit_code == 1
    assert "experts must be 8 where slots of TensorRT-LLM are experts; with replicas" in result.stderr


def test_layers_keep_the_numbers_that_the_engine_gave_them(tmp_path, history):
    folder = tmp_path / "expert_statistic"
    folder.mkdir()
    for rank in range(2):
        tensors = {f"{100 + i}_{3 + n}": history[i, n].astype(np.int32) for i in range(8) for n in range(LAYERS)}
        save_file(tensors, folder / f"rank{rank}.safetensors")
    out = tmp_path / "plan.yaml"
    data = printed(folder, "--gpus", GPUS, "--experts", EXPERTS, "--export", "tensorrt-llm", "--out", out)
    assert (data["tool"], data["layer_ids"]) == ("TensorRT-LLM", [3, 4, 5])
    assert list(yaml.safe_load(out.read_text())["initial_global_assignments"]) == [3, 4, 5]


def test_dense_layers_stand_in_a_file_for_sglang_and_not_in_one_for_vllm_ascend(tmp_path, history):
    dense = np.zeros((len(history), 2, EXPERTS), int)
    np.savez(tmp_path / "a.npz", logical_count=np.concatenate([dense, history], axis=1))
    words = (tmp_path / "a.npz", "--gpus", GPUS, "--slots", SLOTS)
    printed(*words, "--export", "sglang", "--out", tmp_path / "s.json")
    printed(*words, "--export", "ascend", "--out", tmp_path / "a.json")
    rows = json.loads((tmp_path / "s.json").read_text())["physical_to_logical_map"]
    found = json.loads((tmp_path / "a.json").read_text())
    assert (len(rows), found["moe_layer_count"]) == (2 + LAYERS, LAYERS)
    by_layer = [[e for device in layer["device_list"] for e in device["device_expert"]] for layer in found["layer_list"]]
    assert by_layer == rows[2:]
    assert [layer["layer_id"] for layer in found["layer_list"]] == list(range(LAYERS))


def test_equal_calls_give_equal_placements(recording, tmp_path):
    plans = []
    for name in ("a.npz", "b.npz"):
        printed(recording, "--gpus", GPUS, "--slots", SLOTS, "--seed", 3, "--export", "numpy", "--out", tmp_path / name)
        plans.append((tmp_path / name).read_bytes())
    assert plans[0] == plans[1]


class Page(HTMLParser):
    """Which tags stand in the page, and what they name outside of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_shows_each_placement(recording, tmp_path):
    html = tmp_path / "report.html"
    shown = invoke(recording, "--gpus", GPUS, "--slots", SLOTS, "--html", html)
    assert shown.exit_code == 0, shown.output
    assert f"written: {html}" in shown.stdout
    text = html.read_text()
    found = Page(text)
    assert (found.outside, found.open) == ([], [])
    assert found.tags.count("svg") == 1 + 3
    assert "script" not in found.tags
    assert "http" not in text
    assert "url(" not in text
    for part in ("contiguous", "EPLB", "qstream", "counts.npy"):
        assert part in text


def test_a_name_of_a_file_cannot_put_tags_into_the_page(tmp_path, history):
    np.save(tmp_path / "<script>x.npy", history)
    html = tmp_path / "report.html"
    assert invoke(tmp_path / "<script>x.npy", "--gpus", GPUS, "--html", html).exit_code == 0
    assert "script" not in Page(html.read_text()).tags


def test_one_window_alone_has_no_unseen_column(tmp_path, history):
    np.save(tmp_path / "a.npy", history[0])
    assert all(row["unseen"] is None for row in printed(tmp_path / "a.npy", "--gpus", GPUS)["placements"])
    assert "unseen" not in invoke(tmp_path / "a.npy", "--gpus", GPUS).stdout


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("--gpus", 4, "--slots", 18), 2, "--slots must be a multiple of the 4 GPUs, got 18"),
        (("--gpus", 4, "--slots", 12), 2, "--slots must be 16 to 64 (each expert once, none twice on a GPU), got 12"),
        (("--gpus", 4, "--slots", 68), 2, "--slots must be 16 to 64 (each expert once, none twice on a GPU), got 68"),
        (("--gpus", 4, "--nodes", 8), 2, "--nodes must be at most the 4 GPUs, got 8"),
        (("--gpus", 4, "--out", "x"), 2, "--export must be given with --out"),
        (("--gpus", 4, "--seed", 2**32), 2, "--seed"),
        (("--gpus", 4, "--export", "megatron", "--out", "x"), 2, "--export must be one of sglang"),
        (("--gpus", 4, "--slots", 24, "--export", "exflow", "--out", "x"), 1, "each expert once, for exflow, got 24 slots"),
        (("--gpus", 4, "--previous", "none.json"), 2, "none.json"),
        (("--gpus", 0), 2, "--gpus"),
    ],
)
def test_wrong_words_are_named_in_one_line(recording, words, code, part):
    result = invoke(recording, *words)
    assert result.exit_code == code, result.output
    assert part in result.stderr


def test_a_missing_file_and_a_broken_one_are_told(tmp_path):
    assert "FILE must be an existing file" in invoke(tmp_path / "none.npy", "--gpus", 4).stderr
    (tmp_path / "a.json").write_text('{"load_history": 3}')
    result = invoke(tmp_path / "a.json", "--gpus", 4)
    assert (result.exit_code, result.stderr) == (1, "Error: load_history must be a list of at least one window, got int\n")


def test_the_shipped_recording_is_planned_from_without_a_file():
    found = printed("--example", "--gpus", 8, "--slots", 72, "--steps", 500)
    scores = {row["name"]: row["unseen"] for row in found["placements"]}
    assert scores["qstream"] > scores["EPLB"] > scores["contiguous"]


@pytest.mark.parametrize("words", [(), ("recording.npz", "--example")])
def test_either_a_file_or_the_example_is_planned_from(words):
    result = invoke(*words, "--gpus", 8)
    assert result.exit_code == 2
    assert "FILE must be a recording, or absent with --example" in result.output


def test_both_ways_of_dispatch_are_scored_and_the_flags_of_the_engine_are_said(recording, tmp_path):
    words = (recording, "--gpus", 8, "--nodes", 2, "--slots", 32, "--no-colocate", "--steps", 500, "--export", "sglang")
    even = printed(*words, "--out", tmp_path / "even.json")
    near = printed(*words, "--out", tmp_path / "near.json", "--dispatch", "nearest")
    mine, other = even["placements"][2], near["placements"][2]
    assert mine["balancedness"] == mine["even"] > mine["nearest"]
    assert other["balancedness"] == other["nearest"] > mine["nearest"]
    assert [even["dispatch"], near["dispatch"]] == ["even", "nearest"]
    assert "--ep-num-redundant-experts 16 --ep-dispatch-algorithm dynamic" in even["flags"][0]
    assert "--moe-a2a-backend" in even["flags"][1], "a backend would serve it otherwise than planned"
    assert "--ep-dispatch-algorithm static" in near["flags"][0]
    shown = invoke(*words, "--out", tmp_path / "even.json", "--html", tmp_path / "p.html").stdout
    assert "nearest" in shown
    assert "the engine needs: --init-expert-location" in shown
    assert "nearest" in (tmp_path / "p.html").read_text()
    assert invoke(*words, "--dispatch", "random").exit_code != 0


@pytest.mark.parametrize(
    ("form", "needed"),
    [("vllm", '{"num_redundant_experts": 8}'), ("tensorrt-llm", "load_balancer: "), ("ascend", '"expert_map_path": ')],
)
def test_the_flags_of_each_engine_name_what_the_plan_needs(recording, tmp_path, form, needed):
    data = printed(recording, "--gpus", GPUS, "--slots", SLOTS, "--steps", 50, "--export", form, "--out", tmp_path / "plan")
    assert needed in data["flags"][0]
