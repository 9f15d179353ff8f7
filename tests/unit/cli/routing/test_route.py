"""`qstream routing route`: tokens and a model graph in; the assignment keeps the gate's choice, or the capacities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from typer.testing import CliRunner

from qstream.cli.main import app
from schemas.experts import ExpertTopology
from schemas.frame import JSON
from schemas.tokens import TokenBatch

EXPERTS = 8
TOPOLOGY = ExpertTopology(model="moe", num_layers=2, num_logical_experts=EXPERTS, num_gpus=4, num_nodes=2, slots_per_gpu=3)


def invoke(*words: object, stdin: str | None = None):
    return CliRunner().invoke(app, ["routing", "route", *map(str, words)], input=stdin, env={"COLUMNS": "200", "NO_COLOR": "1"})


def printed(*words: object, stdin: str | None = None) -> list[dict]:
    result = invoke(*words, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "topology.json"
    path.write_bytes(b"\n" + TOPOLOGY.encode(JSON))
    return path


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps([{"id": f"t{n}", "metadata": {"label": "chat"}, "complexity": 1} for n in range(64)]))
    return path


@pytest.fixture
def gated(tmp_path):
    """A table of tokens whose gate prefers the low experts."""
    rng = np.random.default_rng(0)
    lines = ["id,topk_id_0,topk_id_1,topk_weight_0,topk_weight_1"]
    for token in range(32):
        first, second = rng.choice(EXPERTS, 2, replace=False, p=np.arange(EXPERTS, 0, -1) / 36)
        lines.append(f"{token},{first},{second},0.75,0.25")
    path = tmp_path / "tokens.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def choices(gated) -> np.ndarray:
    return np.loadtxt(gated, delimiter=",", skiprows=1)[:, 1:3].astype(int)


def test_without_a_gate_each_token_has_one_expert_and_none_is_overfull(graph, names):
    (data,) = printed(names, "--model-graph", graph)
    assert (data["model"], data["slot_ids"], len(data["assignment"])) == ("moe", None, 64)
    load = np.bincount(data["assignment"], minlength=EXPERTS)
    assert load.max() <= np.ceil(1.05 * 64 / EXPERTS)
    assert data["metrics"]["max_over_mean"] == pytest.approx(load.max() / load.mean())
    assert printed(names, "--model-graph", graph)[0]["assignment"] == data["assignment"]
    assert printed(names, "--model-graph", graph, "--seed", 1)[0]["assignment"] != data["assignment"]


def test_the_adjacency_lists_each_token_once_by_its_name(graph, names):
    (data,) = printed(names, "--model-graph", graph, "--adjacency")
    assert list(data["adjacency"]) == [str(e) for e in range(EXPERTS)]
    for token, expert in enumerate(data["assignment"]):
        assert f"t{token}" in data["adjacency"][str(expert)]
    assert sum(map(len, data["adjacency"].values())) == 64
    assert "adjacency" not in printed(names, "--model-graph", graph)[0]
    shown = invoke(names, "--model-graph", graph, "--adjacency").stdout
    assert all(f"t{n}" in shown.split() for n in range(64))


def test_with_a_gate_every_choice_is_served_by_a_slot_of_its_expert(graph, gated, tmp_path):
    (data,) = printed(gated, "--model-graph", graph, "--layer", 1)
    assert data["assignment"] == choices(gated).tolist()
    assert (np.array(data["slot_ids"]) % EXPERTS).tolist() == choices(gated).tolist()  # contiguous: slot p holds p % E
    plan = np.stack([np.r_[np.arange(EXPERTS)[::-1], 0, 1, 2, 3], np.r_[np.arange(4, 8), np.arange(4), 4, 5, 6, 7]])
    np.save(tmp_path / "plan.npy", plan)
    (data,) = printed(gated, "--model-graph", graph, "--layer", 1, "--placement", tmp_path / "plan.npy")
    assert plan[1][np.array(data["slot_ids"])].tolist() == choices(gated).tolist()


def test_capacities_are_kept_with_nearly_all_of_the_best_gate_mass(graph, gated):
    """One choice a token, as an assignment problem: each expert as many times as it has room."""
    path = gated.with_name("one.csv")
    rng = np.random.default_rng(2)
    first = rng.choice(EXPERTS, 32, p=np.arange(EXPERTS, 0, -1) / 36)
    weight = rng.uniform(0.2, 1, 32).round(3)
    rows = [f"{t},{e},{w}" for t, (e, w) in enumerate(zip(first, weight, strict=True))]
    path.write_text("id,topk_id_0,topk_weight_0\n" + "\n".join(rows) + "\n")
    (data,) = printed(path, "--model-graph", graph, "--layer", 0, "--capacity", 1.25)
    assigned = np.array(data["assignment"])[:, 0]
    assert data["expert_ids"] == data["assignment"]
    assert (np.array(data["slot_ids"]) % EXPERTS).tolist() == data["assignment"]
    room = int(np.ceil(1.25 * 32 / EXPERTS))
    assert np.bincount(assigned).max() <= room
    gate = np.zeros((32, EXPERTS))
    gate[np.arange(32), first] = weight
    rows_, columns = linear_sum_assignment(-np.repeat(gate, room, axis=1))
    best = np.repeat(gate, room, axis=1)[rows_, columns].sum()
    kept = gate[np.arange(32), assigned].sum()
    assert kept >= 0.995 * best
    assert data["metrics"]["gate_kept"] == pytest.approx(kept / weight.sum(), rel=1e-6)


def test_frames_and_lines_on_stdin_are_routed_too(graph, tmp_path):
    batch = TokenBatch.example()
    (tmp_path / "a.safetensors").write_bytes(batch.encode())
    (data,) = printed(tmp_path / "a.safetensors", "--model-graph", graph)
    assert (data["batch_id"], data["assignment"]) == (batch.batch_id, batch.topk_ids.tolist())
    (data,) = printed("-", "--model-graph", graph, stdin='{"id": 1}\n{"id": 2}\n')
    assert len(data["assignment"]) == 2


def test_the_table_for_people_names_the_solver_and_the_figures(graph, gated):
    shown = invoke(gated, "--model-graph", graph, "--layer", 0).stdout
    for part in ("hash (replicas)", "balancedness", "cross node copies per token", "32"):
        assert part in shown


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("--layer", 7), 1, "layer must be 0 to 1"),
        ((), 1, "layer must be given with topk_ids, which are those of one layer, got None"),
        (("--layer", 0, "--capacity", 0.5), 2, "--capacity"),
        (("--layer", 0, "--placement", "none.npz"), 2, "none.npz"),
    ],
)
def test_wrong_words_are_named_in_one_line(graph, gated, words, code, part):
    result = invoke(gated, "--model-graph", graph, *words)
    assert result.exit_code == code, result.output
    assert part in result.stderr


def test_a_wrong_graph_and_wrong_tokens_are_told(graph, names, gated, tmp_path):
    assert "--model-graph must be a file with an ExpertTopology frame" in invoke(names, "--model-graph", tmp_path / "none").stderr
    (tmp_path / "small.json").write_bytes(TOPOLOGY.model_copy(update={"num_logical_experts": 4}).encode(JSON))
    assert "topk_ids must be experts 0 to" in invoke(gated, "--model-graph", tmp_path / "small.json", "--layer", 0).stderr
    (tmp_path / "bad.json").write_text('{"num_layers": 0}')
    assert "num_layers" in invoke(names, "--model-graph", tmp_path / "bad.json").stderr
    assert "present with --capacity: tokens with gate choices" in invoke(names, "--model-graph", graph, "--capacity", 2).stderr
