"""Placements as each tool writes them; what is none is named."""

from __future__ import annotations

import json

import pytest

from qstream.errors import ConfigError, ProblemError
from qstream.routing.formats.read import read_map


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"physical_to_logical_map": [[0, 1, 2]]}', r"must be a placement \[1, 4\], got shape \[1, 3\]"),
        ('{"physical_to_logical_map": [[0, 1, 2, 9]]}', "must be experts 0 to 2, got 9"),
        (
            '{"layer_list": [{"device_list": 3}]}',
            "layer_list must be objects with device_list of device_expert, got an entry of another form",
        ),
        ('{"other": 1}', "must be a file with physical_to_logical_map or layer_list, got the names"),
    ],
)
def test_a_wrong_placement_is_named(tmp_path, body, message):
    (tmp_path / "p.json").write_text(body)
    with pytest.raises(ProblemError, match=message):
        read_map(tmp_path / "p.json", 1, 4, 3)


@pytest.mark.parametrize("items", ["  - {}\n", "    - {}\n", "  - {}\r\n"])
def test_a_yaml_with_a_line_for_each_expert_is_read(tmp_path, items):
    rows = {layer: "".join(items.format(expert) for expert in row) for layer, row in {3: [0, 1, 2, 0], 10: [2, 1, 0, 1]}.items()}
    text = "num_slots: 4\ninitial_global_assignments:\n" + "".join(f"  {layer}:\n{lines}" for layer, lines in rows.items())
    (tmp_path / "p.yaml").write_bytes(f"{text}layer_updates_per_iter: 0\n".encode())
    assert read_map(tmp_path / "p.yaml", 2, 4, 3).tolist() == [[0, 1, 2, 0], [2, 1, 0, 1]]


def test_the_map_of_a_recorder_dump_is_a_placement(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps({"records": [], "last_physical_to_logical_map": [[0, 1, 2, 0]]}))
    assert read_map(tmp_path / "d.json", 1, 4, 3).tolist() == [[0, 1, 2, 0]]


def test_a_yaml_without_lists_is_told(tmp_path):
    (tmp_path / "p.yaml").write_text("num_slots: 4\n")
    with pytest.raises(ProblemError, match="below initial_global_assignments, got no list"):
        read_map(tmp_path / "p.yaml", 1, 4, 3)
    with pytest.raises(ConfigError, match="a placement must be an existing file"):
        read_map(tmp_path / "none.yaml", 1, 4, 3)


@pytest.mark.parametrize("cell", ["1 2", "9" * 5000, "x", "-1", "1.5", ""])
def test_a_yaml_list_of_anything_but_numbers_is_told(tmp_path, cell):
    (tmp_path / "p.yaml").write_text(f"initial_global_assignments:\n  3: [0, {cell}, 2, 1]\n")
    with pytest.raises(ProblemError, match="of layer 3 must be numbers of experts"):
        read_map(tmp_path / "p.yaml", 1, 4, 3)


def test_a_yaml_list_may_go_on_over_several_lines_of_any_system(tmp_path):
    body = "initial_global_assignments:\r\n  4: [2, 1,\r\n      0, 1,]\r\n  3: [0, 1, 2, 0]\r\nnum_slots: 4\r\n"
    (tmp_path / "p.yaml").write_bytes(body.encode())
    assert read_map(tmp_path / "p.yaml", 2, 4, 3).tolist() == [[0, 1, 2, 0], [2, 1, 0, 1]]
