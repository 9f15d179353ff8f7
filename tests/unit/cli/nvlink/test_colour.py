"""`qstream nvlink colour`: graphs of every form, the peer and the bound beside the answer, circuits, and wrong lines."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest

PETERSEN = nx.petersen_graph()


def dimacs(graph):
    edges = "".join(f"e {u + 1} {v + 1}\n" for u, v in graph.edges)
    return f"c a graph\np edge {len(graph)} {graph.number_of_edges()}\n{edges}"


def proper(graph, colour):
    return all(colour[str(u)] != colour[str(v)] for u, v in graph.edges)


def test_graphs_come_as_dimacs_matrices_and_pairs(printed, tmp_path):
    (tmp_path / "g.col").write_text(dimacs(PETERSEN))
    np.save(tmp_path / "g.npy", nx.to_numpy_array(PETERSEN))
    (tmp_path / "g.csv").write_text("src,dst,bytes\n" + "".join(f"{u},{v},1\n" for u, v in PETERSEN.edges))
    for name in ("g.col", "g.npy", "g.csv"):
        data = printed("colour", tmp_path / name)
        assert (data["vertices"], data["edges"], data["colours"], data["bound"]) == (10, 15, 3, 3)
        assert data["proven"]
        assert proper(PETERSEN, data["colour"])
        assert data["methods"][0]["name"] == "networkx DSATUR"


def test_gpus_of_a_box_in_four_colours_with_circuits_beside(printed, invoke):
    data = printed("colour", "--topology", "dgx-1v", "--colours", 4, "--set", "qaoa=true")
    assert (data["weight"], data["bound"], data["bound_of"]) == (0, 0, "weight")
    circuit = next(each for each in data["candidates"] if "depth" in each)
    assert circuit["execution"] == "simulated-subspace"
    assert {"exact", "control", "twin", "shots", "seed"} <= circuit.keys()
    result = invoke("colour", "--topology", "dgx-1v", "--colours", 4, "--set", "qaoa=true")
    assert "circuit (simulated-subspace): n 8, p 4, 256 shots" in result.stdout


def test_fewer_colours_than_needed_leave_weight_and_directions_add_up(printed, tmp_path):
    matrix = np.triu(np.arange(25.0).reshape(5, 5), 1)
    np.save(tmp_path / "m.npy", matrix)
    data = printed("colour", tmp_path / "m.npy", "--colours", 2)
    least = min(
        sum(matrix[i, j] for i, j in itertools.combinations(range(5), 2) if word[i] == word[j])
        for word in itertools.product(range(2), repeat=5)
    )
    assert data["weight"] == pytest.approx(least)
    assert data["proven"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("e 1 2\n", "line 1 must be one that begins with c or p"),
        ("p edge 3 1\ne 1 4\n", "edge, line 2 must be between two different vertices from 1 to 3, got 1 and 4"),
        ("p edge 3 1\ne 1\n", "line 2 must be of the form e U V"),
        ("p edge 9999 1\n", "vertices, line 1 must be 1 to 2048, got 9999"),
        ("hello\n", "line 1 must be one that begins with c or p, got 'hello'"),
        ("", "p edge VERTICES EDGES"),
    ],
)
def test_a_wrong_line_is_named(invoke, tmp_path, text, wanted):
    (tmp_path / "g.col").write_text(text)
    result = invoke("colour", tmp_path / "g.col")
    assert result.exit_code != 0
    assert wanted in result.stderr


def test_a_graph_or_a_fabric_is_needed_and_not_both(invoke, tmp_path):
    assert "got neither" in invoke("colour").stderr
    (tmp_path / "g.col").write_text(dimacs(PETERSEN))
    assert "got both" in invoke("colour", tmp_path / "g.col", "--topology", "dgx-1v").stderr
    assert "a time above 0" in invoke("colour", tmp_path / "g.col", "--deadline", "soon").stderr
