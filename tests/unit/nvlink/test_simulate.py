"""Ways of bytes over fabrics, and jobs that drain on them: hand cases, bounds, and what nothing joins."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink.collapse import collapse
from qstream.nvlink.graph import from_networkx
from qstream.nvlink.profile import job_profile, job_traffic
from qstream.nvlink.simulate import simulate_job
from qstream.nvlink.systems import generate
from qstream.nvlink.ways import flows_of
from schemas.fabric import GPU, FabricTopology, JobProfile


def gpus(topology):
    return np.flatnonzero(topology.node_type == GPU)


def all_pairs(nodes):
    a, b = (side.ravel() for side in np.meshgrid(nodes, nodes, indexing="ij"))
    return a[a != b], b[a != b]


@pytest.mark.parametrize(
    ("system", "terms"),
    [("dgx-1v", {}), ("dgx-1v", {"hosts": 2}), ("hgx-h100", {"hosts": 3}), ("hgx-a100", {"racks": 2}), ("gb200-nvl72", {})],
)
def test_ways_are_chains_of_links_from_one_gpu_to_the_other_and_carry_all_bytes(system, terms):
    topology = generate(system, **terms)
    src, dst = all_pairs(gpus(topology)[:40])
    flows = flows_of(topology, src, dst)
    merged, place = collapse(topology)
    assert not len(flows.lost)
    assert np.bincount(flows.pair, flows.part) == pytest.approx(np.ones(len(src)))
    for flow, (first, end) in enumerate(pairwise(flows.first_link.tolist())):
        links = flows.link[first:end]
        assert len(set(links.tolist())) == len(links)
        assert merged.link_src[links[0]] == place[src[flows.pair[flow]]]
        assert merged.link_dst[links[-1]] == place[dst[flows.pair[flow]]]
        assert (merged.link_dst[links[:-1]] == merged.link_src[links[1:]]).all()


def test_all_to_all_in_a_box_takes_what_a_port_takes():
    topology = generate("hgx-h100")
    job = job_profile({"dp": 8, "ep": 8}, volumes={"ep": 8e9})
    (part,) = simulate_job(job, topology, gpus(topology))
    assert part.kind == "alltoall"
    assert part.bound_us == pytest.approx(7e9 / 450 / 1e3)
    assert part.bound_us <= part.time_us <= 1.01 * part.bound_us


def test_a_pair_between_hosts_takes_its_nics_and_across_rails_an_nvlink_first():
    topology = generate("hgx-h100", hosts=2)
    nodes = gpus(topology)
    job = JobProfile(
        fabric="f",
        job="j",
        num_ranks=2,
        traffic_src=np.array([0], np.int32),
        traffic_dst=np.array([1], np.int32),
        traffic_bytes=np.array([10**9]),
    )
    for far in (8, 11):  # the same rail, and another one
        (part,) = simulate_job(job, topology, nodes[[0, far]])
        assert part.time_us == pytest.approx(1e9 / 50 / 1e3)
    flows = flows_of(topology, nodes[[0, 0]], nodes[[8, 11]])
    assert np.diff(flows.first_link).tolist() == [2, 4]


def test_traffic_is_added_up_and_no_part_takes_longer_than_all():
    topology = generate("gb200-nvl72", racks=2)
    job = job_profile({"tp": 4, "dp": 32, "ep": 16}, volumes={"tp": 4e9, "dp": 1e9, "ep": 2e9})
    *parts, whole = simulate_job(job, topology, gpus(topology)[:128])
    assert [part.kind for part in parts] == ["allreduce", "allreduce", "alltoall"]
    assert sum(part.nbytes for part in parts) == pytest.approx(whole.nbytes)
    assert whole.nbytes == pytest.approx(job_traffic(job)[2].sum())
    assert max(part.bound_us for part in parts) <= whole.bound_us <= sum(part.bound_us for part in parts) * 1.0001
    assert all(part.time_us >= part.bound_us for part in (*parts, whole))


def test_a_slow_link_is_felt_and_one_that_is_down_is_gone_round():
    topology = generate("hgx-h100", hosts=2)
    nodes = gpus(topology)
    pair = [nodes[0], nodes[8]]
    job = job_profile({"dp": 2}, volumes={"dp": 1e9})
    uplink = (topology.link_src == nodes[0]) & (topology.node_type[topology.link_dst] == 5)
    speed = topology.link_gb_s.copy()
    speed[uplink] = 5
    (healthy,), (slow,) = (simulate_job(job, each, pair) for each in (topology, topology.model_copy(update={"link_gb_s": speed})))
    assert slow.time_us == pytest.approx(10 * healthy.time_us)
    cut = topology.model_copy(update={"link_up": ~uplink})
    (round_about,) = simulate_job(job, cut, pair)
    assert round_about.time_us is not None
    assert round_about.pairs == 2


def test_parts_without_connection_have_no_time():
    graph = nx.Graph()
    for name in "abcd":
        graph.add_node(name, type="gpu")
    graph.add_edge("a", "b", kind="nvlink", bw_gb_s=25.0)
    graph.add_edge("c", "d", kind="nvlink", bw_gb_s=25.0)
    topology = from_networkx(graph, fabric="f")
    job = job_profile({"dp": 4}, volumes={"dp": 1e9})
    (part,) = simulate_job(job, topology, gpus(topology))
    assert part.time_us is None
    assert part.bound_us > 0


@pytest.mark.parametrize("wrong", [[0, 0], [0], [0, 99], [0, 8], [0.0, 1.0]])
def test_ranks_need_gpus_of_their_own(wrong):
    topology: FabricTopology = generate("hgx-h100")
    with pytest.raises(ProblemError, match="gpu_of_rank"):
        simulate_job(job_profile({"tp": 2}, volumes={"tp": 1e9}), topology, wrong)
