"""Exported plans, read as the engines read them: the placement that comes back is the plan's."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import yaml

from qstream.errors import ConfigError, ProblemError
from qstream.routing.formats.export import EXPORTERS, export
from qstream.routing.formats.read import read_map
from qstream.routing.placement import place
from schemas.experts import ExpertTopology
from schemas.frame import JSON
from schemas.placement import PlacementPlan

LAYERS, EXPERTS, GPUS = 3, 8, 4


def planned(slots_per_gpu: int) -> PlacementPlan:
    topology = ExpertTopology(num_layers=LAYERS, num_logical_experts=EXPERTS, num_gpus=GPUS, slots_per_gpu=slots_per_gpu)
    return place(np.random.default_rng(5).integers(1, 99, (4, LAYERS, EXPERTS)), topology)


@pytest.fixture(scope="module")
def plan() -> PlacementPlan:
    return planned(3)


def slots(plan: PlacementPlan) -> list[list[int]]:
    assert plan.physical_to_logical_map is not None
    return plan.physical_to_logical_map.tolist()


def test_sglang_reads_a_row_of_experts_a_layer(plan):
    data = json.loads(export(plan, "sglang"))
    assert list(data) == ["physical_to_logical_map"]  # passed on as keyword arguments: no other key may stand there
    assert data["physical_to_logical_map"] == slots(plan)


def test_vllm_reads_bare_rows(plan):
    assert json.loads(export(plan, "vllm")) == slots(plan)


def test_tensorrt_llm_reads_the_assignments_by_the_model_s_layer_numbers(plan):
    data = yaml.safe_load(export(plan, "tensorrt-llm", [3, 4, 7]))
    assert data == {
        "num_slots": 12,
        "initial_global_assignments": dict(zip([3, 4, 7], slots(plan), strict=True)),
        "layer_updates_per_iter": 0,
    }


def test_vllm_ascend_reads_the_experts_of_each_device(plan):
    data = json.loads(export(plan, "ascend"))
    assert data["moe_layer_count"] == LAYERS == len(data["layer_list"])
    for number, (layer, row) in enumerate(zip(data["layer_list"], slots(plan), strict=True)):
        assert (layer["layer_id"], layer["device_count"]) == (number, GPUS)
        assert [device["device_id"] for device in layer["device_list"]] == list(range(GPUS))
        assert [device["device_expert"] for device in layer["device_list"]] == np.reshape(row, (GPUS, 3)).tolist()


def test_exflow_reads_the_gpu_of_each_expert_numbered_through_the_layers():
    plan = planned(2)
    rows = list(csv.DictReader(io.StringIO(export(plan, "exflow").decode())))
    assert [int(row["Expert"]) for row in rows] == list(range(LAYERS * EXPERTS))
    for row in rows:
        layer, expert = divmod(int(row["Expert"]), EXPERTS)
        gpu = int(row["Node"])
        assert expert in slots(plan)[layer][2 * gpu : 2 * gpu + 2]


def test_exflow_knows_no_replicas(plan):
    with pytest.raises(ProblemError, match="each expert once, for exflow, got 12 slots for 8 experts"):
        export(plan, "exflow")


def test_numpy_reads_all_maps(plan):
    with np.load(io.BytesIO(export(plan, "numpy", [3, 4, 7])), allow_pickle=False) as data:
        assert data["physical_to_logical_map"].tolist() == slots(plan)
        assert data["layer_ids"].tolist() == [3, 4, 7]
        counts = [np.bincount(row, minlength=EXPERTS).tolist() for row in slots(plan)]
        assert data["logical_replica_count"].tolist() == counts
        assert np.isclose(data["replica_shares"].sum(), LAYERS * EXPERTS)


def test_the_plan_itself_can_be_published(plan):
    assert PlacementPlan.decode(export(plan, "plan"), JSON) == plan


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (n, f"a.{e}")
        for n, e in (
            ("sglang", "json"),
            ("vllm", "json"),
            ("tensorrt-llm", "yaml"),
            ("ascend", "json"),
            ("numpy", "npz"),
            ("plan", "json"),
        )
    ],
)
def test_what_is_exported_can_be_planned_from(plan, tmp_path, name, file):
    (tmp_path / file).write_bytes(export(plan, name))
    assert read_map(tmp_path / file, LAYERS, 12, EXPERTS).tolist() == slots(plan)


@pytest.mark.parametrize("name", [name for name in EXPORTERS if name != "exflow"])
def test_the_same_plan_gives_the_same_bytes(plan, name):
    assert export(plan, name) == export(plan, name)


def test_what_cannot_be_exported_is_told(plan):
    with pytest.raises(ConfigError, match=r"export must be one of sglang, .*, got 'megatron'"):
        export(plan, "megatron")
    with pytest.raises(ProblemError, match="layer_ids must be 3 numbers, one for each layer of the plan, got 2"):
        export(plan, "sglang", [1, 2])
    kept = plan.model_copy(update={"physical_to_logical_map": None, "skip_reason": "gain_too_small"})
    with pytest.raises(ProblemError, match="the plan must be one with a map, got none with the skip_reason 'gain_too_small'"):
        export(kept, "sglang")
