"""What is written for other tools is read back by their rules, and says where each rank is."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.nvlink import EXPORTERS, generate, read_topology
from qstream.nvlink.formats.hostlist import compress, expand
from qstream.nvlink.formats.placed import placed
from qstream.nvlink.formats.schedulers import directives, kueue_annotations, slurm_topology
from schemas.fabric import FabricPlan
from schemas.plan import SkipReason
from schemas.solver import SolverRecord

RACKS = generate("gb200-nvl72", racks=4)
BOX = generate("hgx-h100")
BOXES = generate("hgx-h100", racks=2, hosts=2)


def plan_of(topology, gpus, **more) -> FabricPlan:
    fields = {"plan_id": "p", "ts_ns": 0, "solver": SolverRecord(solver="contiguous"), "version": 1, "base_version": 0}
    placement = None if gpus is None else np.asarray(gpus, np.int32)
    return FabricPlan.build(
        **(fields | more), fabric=topology.fabric, job="moe", topology_digest=topology.digest(), gpu_of_rank=placement
    )


def two_slices():
    """36 ranks in each of two racks, the second rack first, and hosts in falling order."""
    return [*range(144 - 36, 144)][::-1] + list(range(36))


def test_slurm_gets_blocks_segments_and_hosts_in_order_of_ranks():
    files = EXPORTERS["slurm"](plan_of(RACKS, two_slices()), RACKS)
    (topology,) = yaml.safe_load(files["topology.yaml"])
    assert list(topology) == ["topology", "cluster_default", "block"]
    assert (topology["topology"], topology["cluster_default"]) == (RACKS.fabric, True)
    assert topology["block"]["block_sizes"] == [18, 36, 72]
    blocks = {block["block"]: expand(block["nodes"]) for block in topology["block"]["blocks"]}
    assert {name: len(hosts) for name, hosts in blocks.items()} == {f"rack{rack}": 18 for rack in range(4)}
    hosts = files["hostfile"].split()
    assert len(hosts) == 72
    assert hosts[:4] == ["r1h17"] * 4
    assert hosts[36:40] == ["r0h0"] * 4
    arguments = dict(line.split("=") for line in files["sbatch.args"].split())
    assert expand(arguments["--nodelist"]) == list(dict.fromkeys(hosts))
    assert (arguments["--segment"], arguments["--nodes"], arguments["--distribution"]) == ("9", "18", "arbitrary")
    again = read_topology(files["topology.yaml"], gpus_per_host=4)
    assert again.domain_name == RACKS.domain_name


def test_block_sizes_are_powers_of_two_times_the_smallest_domain_and_tiny_ones_are_left_out():
    text = "".join(f"BlockName=b{at} Nodes=n{at}[1-{hosts}]\n" for at, hosts in enumerate([16, 18, 18, 2]))
    found = slurm_topology(read_topology(text, gpus_per_host=4))
    assert found.startswith("# left out, with 2 of 18 hosts: b3\n")
    (topology,) = yaml.safe_load(found)
    assert topology["block"]["block_sizes"] == [16, 32]
    assert [block["block"] for block in topology["block"]["blocks"]] == ["b0", "b1", "b2"]


def test_slices_that_differ_have_no_segment():
    found = directives(np.array([0, 1, 2, 3, 4, 72, 73], np.int32), RACKS)
    assert found == {"slurm.nodes": "r0h[0-1],r1h0", "kueue.x-k8s.io/podset-preferred-topology": "nvidia.com/gpu.clique"}
    assert directives(np.arange(8, dtype=np.int32), read_topology(
        {"nodes": [{"id": at, "type": "gpu"} for at in range(8)], "edges": [{"source": 0, "target": 1}]})) == {}  # fmt: skip


def annotations(files, name):
    return yaml.safe_load(files[name])["metadata"]["annotations"]


def test_kueue_asks_for_one_domain_or_for_slices_of_equal_size():
    one = annotations(EXPORTERS["kueue"](plan_of(BOX, range(8)), BOX), "kueue.yaml")
    assert one == {"kueue.x-k8s.io/podset-required-topology": "nvidia.com/gpu.clique"}
    two = annotations(EXPORTERS["kueue"](plan_of(RACKS, two_slices()), RACKS), "kueue.yaml")
    assert two == {
        "kueue.x-k8s.io/podset-slice-required-topology": "nvidia.com/gpu.clique",
        "kueue.x-k8s.io/podset-slice-size": "9",
    }
    assert all(isinstance(value, str) for value in two.values())


def test_kueue_gets_several_levels_as_one_array_outer_first_and_never_with_the_single_form():
    where = placed(np.array(two_slices(), np.int32), RACKS)
    found = kueue_annotations(where, domain_label="accelerator.topograph.run/domain", pod_is_rank=True)
    assert list(found) == ["kueue.x-k8s.io/podset-slice-required-topology-constraints"]
    levels = json.loads(found["kueue.x-k8s.io/podset-slice-required-topology-constraints"])
    assert levels == [
        {"topology": "accelerator.topograph.run/domain", "size": 36},
        {"topology": "kubernetes.io/hostname", "size": 4},
    ]
    assert len(levels) <= 3
    assert all(outer["size"] % inner["size"] == 0 for outer, inner in itertools.pairwise(levels))
    uneven = placed(np.array([0, 1, 4, 72, 73, 76], np.int32), RACKS)  # hosts with two ranks and with one
    assert kueue_annotations(uneven, pod_is_rank=True)["kueue.x-k8s.io/podset-slice-size"] == "3"


def test_kai_requires_a_domain_where_one_is_enough():
    one = annotations(EXPORTERS["kai"](plan_of(BOX, range(4)), BOX), "kai.yaml")
    assert one == {"kai.scheduler/topology": "hgx-h100", "kai.scheduler/topology-required-placement": "nvidia.com/gpu.clique"}
    two = annotations(EXPORTERS["kai"](plan_of(BOXES, range(16)), BOXES), "kai.yaml")
    assert "kai.scheduler/topology-preferred-placement" in two


def test_the_tuner_gets_rows_of_its_columns_and_none_within_a_domain():
    text = EXPORTERS["nccl-tuner"](plan_of(BOXES, range(16)), BOXES)["nccl_tuner.csv"]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["collective_type"] for row in rows] == ["broadcast", "reduce", "allgather", "reducescatter", "allreduce"]
    for row in rows:
        assert row["algorithm"] in ("tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat")
        assert row["protocol"] in ("ll", "ll128", "simple")
        assert int(row["min_bytes"]) < int(row["max_bytes"]) < 2**63
        assert [int(row[name]) for name in ("channels", "nNodes", "nRanks", "numPipeOps", "regBuff")] == [-1, 2, 16, -1, -1]
    alone = EXPORTERS["nccl-tuner"](plan_of(BOX, range(8)), BOX)["nccl_tuner.csv"]
    assert len(alone.splitlines()) == 1


def test_a_rank_file_and_a_table_name_the_gpu_of_each_rank():
    gpus = [9, 0, 31, 8]
    text = EXPORTERS["rankfile"](plan_of(BOXES, gpus), BOXES)["rankfile"]
    found = [re.fullmatch(r"rank (\d+)=(\S+) slot=(\d+)", line).groups() for line in text.splitlines()]
    assert found == [("0", "r0h1", "1"), ("1", "r0h0", "0"), ("2", "r1h1", "7"), ("3", "r0h1", "0")]
    rows = list(csv.DictReader(io.StringIO(EXPORTERS["csv"](plan_of(BOXES, gpus), BOXES)["placement.csv"])))
    assert [row["gpu"] for row in rows] == [BOXES.node_name[gpu] for gpu in gpus]
    assert [row["domain"] for row in rows] == ["r0h1", "r0h0", "r1h1", "r0h1"]


def test_costs_of_ranks_are_those_of_their_blocks():
    cost = np.array(json.loads(EXPORTERS["rank-cost"](plan_of(BOXES, [0, 1, 8, 16]), BOXES)["rank_cost.json"]))
    near, leaf, far = 1 / 450, 1 / 50, 1.5 / 50
    want = [[0, near, leaf, far], [near, 0, leaf, far], [leaf, leaf, 0, far], [far, far, far, 0]]
    np.testing.assert_allclose(cost, want, rtol=1e-5)
    big = generate("gb200-nvl72", racks=32)
    with pytest.raises(ProblemError, match="ranks of a matrix of costs must be at most 2048, got 2304"):
        EXPORTERS["rank-cost"](plan_of(big, range(2304)), big)


def test_a_graph_comes_back_as_the_fabric_and_the_plan_as_itself():
    plan = plan_of(BOXES, [9, 0, 31, 8])
    text = EXPORTERS["networkx"](plan, BOXES)["fabric.json"]
    assert read_topology(text) == BOXES
    ranks = {node["id"]: node["rank"] for node in json.loads(text)["nodes"] if "rank" in node}
    assert ranks == {BOXES.node_name[gpu]: rank for rank, gpu in enumerate([9, 0, 31, 8])}
    assert FabricPlan.decode(EXPORTERS["json"](plan, BOXES)["plan.json"].encode(), "application/json") == plan


def test_every_format_of_the_contract_is_there_and_refuses_what_it_cannot_write():
    names = ["slurm", "kueue", "kai", "nccl-tuner", "rankfile", "rank-cost", "networkx", "csv", "json"]
    assert list(EXPORTERS) == names
    skipped = plan_of(BOX, None, skip_reason=SkipReason.TOO_FEW_GPUS, base_version=1)
    nameless = read_topology(
        {"nodes": [{"id": 0, "type": "gpu"}, {"id": 1, "type": "gpu"}], "edges": [{"source": 0, "target": 1}]}
    )
    for name in names[:-1]:
        with pytest.raises(ProblemError, match="a plan to export must be one with a placement, got none: too_few_gpus"):
            EXPORTERS[name](skipped, BOX)
        with pytest.raises(ProblemError, match="topology must be that of the plan"):
            EXPORTERS[name](plan_of(BOX, range(8)), BOXES)
        with pytest.raises(ProblemError, match="gpu_of_rank must be GPUs of the topology"):
            EXPORTERS[name](plan_of(BOX, [8]), BOX)
    with pytest.raises(ProblemError, match="host must be known of each GPU, got none of 0"):
        EXPORTERS["slurm"](plan_of(nameless, [0, 1]), nameless)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,5}[0-9]{0,4}", fullmatch=True), max_size=30))
def test_lists_of_hosts_come_back_from_their_short_form(names):
    assert expand(compress(names)) == names
