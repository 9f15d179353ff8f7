"""`qstream solve`: a file in, an answer with its record out; wrong words and wrong files are named in one line."""

from __future__ import annotations

import json

import networkx as nx
import pytest
from typer.testing import CliRunner

from qstream.cli import solve as command
from qstream.cli.main import app
from qstream.cli.options import seconds
from qstream.errors import ConfigError


def invoke(*words: str):
    return CliRunner().invoke(app, ["solve", *words])


@pytest.fixture
def petersen(tmp_path):
    path = tmp_path / "petersen.json"
    path.write_text(json.dumps(nx.node_link_data(nx.petersen_graph(), edges="links")))
    return str(path)


@pytest.mark.parametrize(("solver", "label"), [("auto", "classical"), ("sa", "classical"), ("qaoa", "simulated")])
def test_the_maximal_cut_of_petersen_s_graph_is_12(petersen, solver, label):
    result = invoke(petersen, "--solver", solver, "--seed", "7", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["energy"] == -12
    assert printed["labels"] == list(range(10))
    side = {node for node, spin in zip(printed["labels"], printed["solution"], strict=True) if spin < 0}
    assert nx.cut_size(nx.petersen_graph(), side) == 12
    assert (printed["meta"]["label"], printed["meta"]["seed"], printed["meta"]["optimum"]) == (label, 7, -12)


def test_three_colors_are_enough_for_it(petersen):
    printed = json.loads(invoke(petersen, "--kind", "coloring", "--colors", "3", "--json").stdout)
    assert printed["energy"] == 0
    assert all(printed["solution"][u] != printed["solution"][v] for u, v in nx.petersen_graph().edges)


def test_colors_are_of_the_graph_s_own_nodes(tmp_path):
    path = tmp_path / "path.json"
    links = [{"source": 2, "target": 0}, {"source": 0, "target": 1}]
    path.write_text(json.dumps({"nodes": [{"id": 2}, {"id": 0}, {"id": 1}], "links": links}))
    printed = json.loads(invoke(str(path), "--kind", "coloring", "--colors", "2", "--json").stdout)
    color = dict(zip(printed["labels"], printed["solution"], strict=True))
    assert color[2] == color[1] != color[0]


def test_a_qubo_is_answered_in_bits(tmp_path):
    path = tmp_path / "qubo.json"
    path.write_text(json.dumps({"Q": [[-1, 0, 3], [0, 2, 0], [0, 0, -2]]}))
    assert json.loads(invoke(str(path), "--json").stdout)["bits"] == [0, 0, 1]
    assert "001" in next(line for line in invoke(str(path)).stdout.splitlines() if "bits" in line)


def test_a_deadline_does_not_pay_for_loading_a_device(petersen):
    printed = json.loads(invoke(petersen, "--solver", "device:default.qubit", "--deadline", "30s", "--json").stdout)
    assert (printed["meta"]["fallback"], printed["meta"]["label"]) == (None, "simulated")


def test_the_table_for_people_says_first_what_gave_the_answer(petersen):
    shown = invoke(petersen, "--solver", "qaoa", "--deadline", "10s", "--p", "3", "--shots", "64").stdout
    first = next(line for line in shown.splitlines() if "asked for" in line)
    assert first.split()[0] == "simulated"
    for part in ("optimum", "-12", "p=3", "64, mean", "random", "of 10000 ms", "sa", "exact"):
        assert part in shown
    shown = invoke(petersen, "--solver", "rqaoa", "--p", "3").stdout
    assert "fallback" in shown
    assert "unsupported" in shown
    assert next(line for line in shown.splitlines() if "asked for" in line).split()[0] == "classical"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FILE must be a problem file"),
        (["FILE", "--bench"], "--bench"),
        (["FILE", "--solver", "nonesuch"], "solver must be auto, exact"),
        (["FILE", "--deadline", "50"], "50ms or 2s"),
        (["FILE", "--deadline", "0ms"], "0ms"),
        (["FILE", "--kind", "nonesuch"], "maxcut, ising, coloring"),
        (["FILE", "--kind", "coloring"], "colors"),
        (["FILE", "--shots", "0"], "--shots"),
        (["FILE", "--p", "0"], "--p"),
    ],
)
def test_wrong_words_are_named(petersen, words, message):
    result = invoke(*[petersen if word == "FILE" else word for word in words])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b'{"n": 1000000}', b'{"n": 2, "J": [[0, 1, "x"]]}'])
def test_a_wrong_file_ends_in_one_line(tmp_path, body):
    path = tmp_path / "p.json"
    path.write_bytes(body)
    result = invoke(str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert invoke(str(tmp_path / "none.json")).exit_code == 1


@pytest.mark.parametrize(("text", "value"), [("50ms", 0.05), ("2s", 2.0), ("1.5s", 1.5), ("0.5ms", 0.0005), ("45m", 2700.0)])
def test_times_have_a_unit(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1e3s", "1 s", "5d", "99999999999s", "1.s"])
def test_other_times_are_refused(text):
    with pytest.raises(ConfigError, match="deadline"):
        seconds(text)


def test_the_comparison_holds_every_method_and_a_verdict_of_its_own_figures(monkeypatch):
    monkeypatch.setattr(command, "BENCH_SIZES", (8,))
    monkeypatch.setattr(command, "BENCH_INSTANCES", 2)
    printed = json.loads(invoke("--bench", "--shots", "64", "--json").stdout)
    rows = printed["rows"]
    assert {row["family"] for row in rows} == {"spin glass", "3-regular MaxCut", "number partition"}
    exact = [row for row in rows if row["method"] == "exact"]
    assert all((row["hit"], row["ratio"]) == (1, pytest.approx(1)) for row in exact)
    quantum = [row for row in rows if row["quantum"]]
    assert all(0 < row["ratio"] <= 1 and row["ms"] > 0 for row in quantum)
    assert f"Of {len(quantum)} rows" in printed["verdict"]
    assert "never worth it for speed" in printed["verdict"]
    shown = invoke("--bench", "--shots", "64").stdout
    assert "qaoa p=3 tree" in shown
