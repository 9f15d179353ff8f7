"""Problem files mean what they say; what is wrong with one is named by its field, and nothing crashes or grows."""

from __future__ import annotations

import itertools
import json
import resource

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ConfigError, ProblemError
from qstream.quantum import files
from qstream.quantum.files import names_of, parse_problem, problem_of, read_problem
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem


def parsed(value: object, **kind: object):
    return parse_problem(json.dumps(value).encode(), **kind)


def test_spins_with_couplings_in_any_order_that_add_up():
    problem = parsed({"n": 3, "h": [1, 0, -0.5], "J": [[0, 2, 1.5], [2, 0, 1], [1, 2, -1]], "offset": 4})
    assert isinstance(problem, IsingProblem)
    for s in itertools.product((1, -1), repeat=3):
        assert problem.energy(s) == 4 + s[0] - 0.5 * s[2] + 2.5 * s[0] * s[2] - s[1] * s[2]


def test_bits_as_a_matrix_and_as_triples():
    rows = [[1, 2, 0], [0, -3, 1], [4, 0, 2]]
    triples = [[i, j, value] for i, row in enumerate(rows) for j, value in enumerate(row)]
    dense, sparse = parsed({"Q": rows, "offset": 1}), parsed({"n": 3, "Q": triples, "offset": 1})
    assert dense.digest() == sparse.digest()
    for x in itertools.product((0, 1), repeat=3):
        assert dense.energy([1 - 2 * bit for bit in x]) == 1 + np.array(x) @ np.array(rows) @ np.array(x)


def test_three_rows_of_three_are_a_matrix_unless_n_is_given():
    rows = [[0, 1, 2], [0, 1, 0], [0, 2, 1]]
    assert parsed({"Q": rows}).n == 3
    assert parsed({"n": 5, "Q": rows}).n == 5


def test_levels():
    problem = parsed({"sizes": [2, 3], "unary": [[0, 1], [0, 0, 5]], "pair": [[0, 1, [[1, 2, 3], [4, 5, 6]]]], "offset": 0.5})
    assert isinstance(problem, OneHotProblem)
    assert [problem.energy([a, b]) for a in (0, 1) for b in (0, 1, 2)] == [1.5, 2.5, 8.5, 5.5, 6.5, 12.5]
    assert parsed({"sizes": [2, 3]}).energy([0, 0]) == 0


@pytest.mark.parametrize("edges", ["links", "edges"])
def test_what_networkx_writes(edges):
    graph = nx.relabel_nodes(nx.petersen_graph(), {0: "zero"})
    graph.edges["zero", 1]["weight"] = 2
    value = nx.node_link_data(graph, edges=edges)
    problem = parsed(value)
    assert problem.labels[0] == "zero"
    assert -problem.diagonal().min() == 13  # the maximal cut of Petersen's graph is 12 of 15 edges
    colored = parsed(value, kind="coloring", colors=3)
    assert colored.diagonal().min() == 0
    assert parsed(value, kind="coloring", colors=2).diagonal().min() > 0


def test_nodes_of_a_grid_are_tuples_again_as_in_networkx_own_reader():
    grid = nx.grid_2d_graph(2, 3)
    value = json.loads(json.dumps(nx.node_link_data(grid)))
    problem = problem_of(value)
    assert set(problem.labels) == set(grid) == set(nx.node_link_graph(value))
    assert problem.diagonal().min() == -7  # bipartite: all edges are cut
    colored = problem_of(value, kind="coloring", colors=2)
    assert colored.diagonal().min() == 0
    assert names_of(value, colored) == problem.labels
    nested = {"nodes": [{"id": [0, ["a", 1]]}, {"id": []}], "links": [{"source": [], "target": [0, ["a", 1]]}]}
    assert problem_of(nested).labels == ((0, ("a", 1)), ())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_problem_with_a_byte_order_mark_is_read(encoding):
    assert parse_problem('\n{"Q": [[-1, 2], [0, -1]]}'.encode(encoding)).n == 2


def test_a_graph_of_couplings_and_fields():
    value = {"nodes": [{"id": "a", "h": 0.5}, {"id": "b"}], "links": [{"source": "b", "target": "a", "weight": -2}]}
    problem = parsed(value, kind="ising")
    assert (problem.J[0, 1], *problem.h, problem.labels) == (-2, 0.5, 0, ("a", "b"))


TWO = [{"id": 0}, {"id": 1}]
BAD = [
    ({"nodes": [{"id": [1, None]}], "links": []}, r"nodes\[0\] must be an object with an id of its own"),
    ({"nodes": [{"id": [1, {}]}], "links": []}, r"nodes\[0\] must be an object with an id of its own"),
    ({"nodes": [{"id": [0, 1]}, {"id": [0, 1]}], "links": []}, r"nodes\[1\] must be an object with an id of its own"),
    ({"nodes": [{"id": [0, 1]}, *TWO], "links": [{"source": [0, 2], "target": 0}]}, r"links\[0\] must be an object whose source"),
    ("[1, 2]", "must be an object"),
    ("{", "must be JSON|must be an object"),
    ("", "must be JSON|must be an object"),
    ("\xff\xfe", "must be JSON|must be an object"),
    ("[" * 100_000, "must be JSON|must be an object"),
    ('{"n": ' + "9" * 5000 + "}", "must be JSON|must be an object"),
    ('{"n": 2, "h": [NaN, 0]}', "must be JSON, got expected value at line 1 column 16"),
    ('{"n": 2, "h": [1e999, 0]}', r"h\[0\] must be .*got inf"),
    ('{"n": 2, "h": [1e300, 0]}', r"h\[0\] must be .*got 1e\+300"),
    ("{}", "the fields"),
    ({"n": 2, "fields": [1, 2]}, 'one of n, h, J, offset, got "fields"'),
    ({"n": 2, "H": [1, 2], "J": [[0, 1, 1]]}, 'got "H"'),
    ({"n": 1, "Q": [[0, 0, 1]], "h": [3]}, 'one of n, Q, offset, got "h"'),
    ({"sizes": [2], "Q": [[1]]}, 'one of sizes, unary, pair, offset, got "Q"'),
    ({"n": 0}, "n must be a whole number from 1 to 4096, got 0"),
    ({"n": 10**9}, "n must be .*got 1000000000"),
    ({"n": True}, "n must be .*got true"),
    ({"n": 2.0}, "n must be .*got 2.0"),
    ({"n": "2"}, 'n must be .*got "2"'),
    ({"n": None}, "n must be .*got null"),
    ({"n": 2, "h": 3}, "h must be .*got 3"),
    ({"n": 2, "h": [1]}, "h must be .*got shape"),
    ({"n": 2, "h": [1, 2, 3]}, "h must be .*got 3 entries"),
    ({"n": 2, "h": ["1", 2]}, "h must be an array of numbers"),
    ({"n": 2, "h": [None, 2]}, "h"),
    ({"n": 2, "h": [[1], [2, 3]]}, "h must be an array of numbers"),
    ({"n": 2, "h": [10**400, 0]}, "h must be an array of numbers"),
    ({"n": 2, "J": {"0": 1}}, "J must be"),
    ({"n": 2, "J": [[0, 1]]}, r"J\[0\] must be .*got \[0, 1\]"),
    ({"n": 2, "J": [[0, 1, 1], 7]}, r"J\[1\] must be .*got 7"),
    ({"n": 2, "J": [[0, 2, 1]]}, r"J\[0\] must be two different whole numbers from 0 to 1 and a value, got \[0, 2, 1\]"),
    ({"n": 2, "J": [[-1, 0, 1]]}, "from 0 to 1"),
    ({"n": 2, "J": [[0, 0, 1]]}, "two different"),
    ({"n": 2, "J": [[0.5, 1, 1]]}, "whole numbers"),
    ({"n": 2, "J": [[0, 1, [1]]]}, "J must be an array of numbers"),
    ({"n": 2, "J": [[0, 1, 9e99], [0, 1, 9e99]]}, "J"),
    ({"n": 2, "offset": "x"}, "offset"),
    ({"n": 2, "offset": [1]}, "offset"),
    ({"Q": 3}, "Q must be .*got 3"),
    ({"Q": []}, r"Q must be .*got \[\]"),
    ({"Q": [[1, 2], [3]]}, "square"),
    ({"Q": [[1, 2], ["x", 3]]}, "Q must be an array of numbers"),
    ({"n": 2, "Q": [[0, 5, 1]]}, "from 0 to 1"),
    ({"sizes": []}, "sizes"),
    ({"sizes": [0]}, r"sizes\[0\] must be .*got 0"),
    ({"sizes": [10**9]}, r"sizes\[0\] must be .*got 1000000000"),
    ({"sizes": [2] * 2000}, "sizes must be .*got 2000 entries"),
    ({"sizes": [2], "unary": []}, "unary must be .*got 0 lists"),
    ({"sizes": [2], "unary": [[1, 2, 3]]}, r"unary\[0\] must be .*got shape"),
    ({"sizes": [2, 2], "pair": [[0, 1]]}, r"pair\[0\]"),
    ({"sizes": [2, 2], "pair": [[1, 0, [[1, 2], [3, 4]]]]}, "i < j"),
    ({"sizes": [2, 2], "pair": [[0, 1, [[1, 2], [3, 4]]], [0, 1, [[1, 2], [3, 4]]]]}, "once"),
    ({"sizes": [2, 2], "pair": [[0, 1, [[1, 2]]]]}, "shape"),
    ({"sizes": [2, 2], "pair": [[0, 7, [[1]]]]}, r"pair\[0\]\[1\] must be .*got 7"),
    ({"nodes": []}, "edges must be .*got no such field"),
    ({"nodes": [], "links": []}, "variables|nodes|n must be"),
    ({"nodes": [1], "links": []}, r"nodes\[0\] must be .*got 1"),
    ({"nodes": [{"id": [{}]}], "links": []}, r"nodes\[0\]"),
    ('{"nodes": [{"id": 1e999}], "links": []}', r"nodes\[0\]"),  # which JSON for machines could not repeat
    ({"nodes": [{"id": 0}, {"id": 0}], "links": []}, r"nodes\[1\]"),
    ({"nodes": [{"id": i} for i in range(5000)], "links": []}, "nodes must be .*got 5000 entries"),
    ({"nodes": TWO, "links": [{"source": 0, "target": 2}]}, r"links\[0\]"),
    ({"nodes": TWO, "links": [{"source": 0, "target": 0}]}, r"links\[0\]"),
    ({"nodes": TWO, "links": [{"source": 0, "target": {}}]}, r"links\[0\]"),
    ({"nodes": TWO, "links": [{"source": 0, "target": 1, "weight": "1"}]}, r"edge \(0, 1\) must be a number"),
    ({"nodes": TWO, "links": [{"source": 0, "target": 1, "weight": None}]}, r"edge \(0, 1\) must be"),
    ({"nodes": TWO, "links": [], "directed": True}, "directed"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[str(value)[:40] for value, _ in BAD])
def test_a_fault_of_a_file_is_named_by_its_field(value, message):
    body = value.encode("latin-1") if isinstance(value, str) else json.dumps(value).encode()
    with pytest.raises(ProblemError, match=message):
        parse_problem(body)


@pytest.mark.parametrize("opened", ['{"n":2,"J":', '{"n":', '{"Q":'])
def test_any_depth_of_nesting_is_told(opened):
    for depth in range(900, 1000, 3):  # near the interpreter's own limit, where reading a value may succeed and telling it not
        with pytest.raises(ProblemError):
            parse_problem((opened + "[" * depth + "]" * depth + "}").encode())


def test_names_are_those_of_the_graph_in_the_order_of_the_solution():
    value = {"nodes": [{"id": 2}, {"id": "b"}, {"id": 0}], "links": [{"source": 0, "target": 2}]}
    for kind in ({"kind": "coloring", "colors": 2}, {"kind": "ising"}, {}):
        assert names_of(value, problem_of(value, **kind)) == (2, "b", 0)
    assert names_of({}, OneHotProblem((2, 3))) == (0, 1)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"n": 1}, {"kind": "nonesuch"}, "maxcut, ising, coloring"),
        ({"n": 1}, {"kind": "coloring"}, "colors must be .*got None"),
        ({"n": 1}, {"colors": 3}, "colors must be .*got 3"),
        ({"n": 1}, {"kind": "coloring", "colors": 3}, "kind must be maxcut for a file without"),
        ({"n": 1}, {"kind": "ising"}, "kind must be maxcut for a file without"),
    ],
)
def test_a_kind_that_does_not_fit_is_a_wrong_setting(value, kind, message):
    with pytest.raises(ConfigError, match=message):
        parsed(value, **kind)


@pytest.mark.parametrize("colors", [0, 2000])
def test_a_wrong_number_of_colors_is_told(colors):
    with pytest.raises(ProblemError, match=f"colors must be .*got {colors}"):
        parsed({"nodes": TWO, "links": []}, kind="coloring", colors=colors)


def test_a_graph_whose_coloring_would_fill_the_memory_is_refused_before():
    nodes = [{"id": i} for i in range(1000)]
    links = [{"source": i, "target": (i + 1) % 1000} for i in range(1000)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProblemError, match="so few that edges have at most"):
        parsed({"nodes": nodes, "links": links}, kind="coloring", colors=1024)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; it would take 8 GiB


def test_a_file_is_read_up_to_its_bound(tmp_path, monkeypatch):
    path = tmp_path / "p.json"
    path.write_text('{"n": 2, "J": [[0, 1, 1]]}')
    assert read_problem(path).n == 2
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    with pytest.raises(ProblemError, match=r"p\.json must be at most 10 bytes"):
        read_problem(path)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_problem(tmp_path / "none.json")


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
)
fields = st.sampled_from(["n", "h", "J", "Q", "offset", "sizes", "unary", "pair", "nodes", "links", "edges", "directed"])


@given(st.dictionaries(fields, values, max_size=5), st.sampled_from([("maxcut", None), ("coloring", 2), ("ising", None)]))
def test_no_object_does_worse_than_a_named_error(value, kind):
    try:
        problem = parsed(value, kind=kind[0], colors=kind[1])
    except (ProblemError, ConfigError):
        return
    assert isinstance(problem, (IsingProblem, OneHotProblem))
