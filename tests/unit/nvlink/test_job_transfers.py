"""Pieces and transfers of placed jobs: bytes conserved, NICs at the bound, an order only where it helps, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.nvlink import generate, job_profile
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.crossing import crossing, nic_speeds
from qstream.nvlink.job_plan import place_job
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.traffic import whole_bytes
from schemas.fabric import GPU, LINK_KINDS, FabricPlan, FabricTopology, JobProfile
from schemas.plan import SkipReason

VOLUMES = {"tp": 4e9, "dp": 1e9}


def fabric(hosts: int, kind: str = "ib", latency_us: float | None = None) -> FabricTopology:
    """Boxes of 8 GPUs, with another kind of network."""
    topology = generate("hgx-h100", hosts=hosts)
    kinds = np.where(topology.link_kind == LINK_KINDS.index("ib"), LINK_KINDS.index(kind), topology.link_kind)
    latency = None if latency_us is None else np.full(len(kinds), latency_us, np.float32)
    return topology.model_copy(update={"link_kind": kinds.astype(np.uint8), "link_latency_us": latency})


def skewed(ranks: int, seed: int = 0) -> JobProfile:
    """All ranks send to all, some of them ten times as much as others, to a few above all."""
    rng = np.random.default_rng(seed)
    src, dst = np.nonzero(~np.eye(ranks, dtype=bool))
    popular = rng.dirichlet(np.full(ranks, 0.5))
    nbytes = np.rint(1e9 * popular[dst] * rng.uniform(0.5, 5, len(src))).astype(np.int64) + 1
    return JobProfile(
        fabric="f",
        job="moe",
        ts_ns=1,
        num_ranks=ranks,
        traffic_src=src.astype(np.int32),
        traffic_dst=dst.astype(np.int32),
        traffic_bytes=nbytes,
    )


def crossing_bytes(plan: FabricPlan, profile: JobProfile, topology: FabricTopology) -> Any:
    """Bytes between nodes that are on different hosts, [nodes, nodes]."""
    assert plan.gpu_of_rank is not None
    nodes = len(topology.node_type)
    sent = np.zeros((nodes, nodes), np.int64)
    src, dst = (plan.gpu_of_rank[end] for end in (profile.traffic_src, profile.traffic_dst))
    assert profile.traffic_bytes is not None
    apart = topology.node_host[src] != topology.node_host[dst]
    np.add.at(sent, (src[apart], dst[apart]), profile.traffic_bytes[apart])
    return sent


def test_skewed_traffic_gets_pieces_that_fill_all_nics_alike() -> None:
    topology, profile = fabric(4), skewed(32)
    plan = place_job(profile, topology)
    assert plan.score is not None
    assert plan.piece_src is not None
    assert plan.piece_dst is not None
    assert plan.piece_rail is not None
    assert plan.piece_bytes is not None
    sent = np.zeros((len(topology.node_type),) * 2, np.int64)
    np.add.at(sent, (plan.piece_src, plan.piece_dst), plan.piece_bytes)
    np.testing.assert_array_equal(sent, crossing_bytes(plan, profile, topology))
    nic = np.bincount(topology.node_host[plan.piece_dst] * 8 + plan.piece_rail, plan.piece_bytes)
    assert plan.score.nic_us is not None
    assert plan.score.nic_us == pytest.approx(nic.max() / 50e3, rel=0.02)
    assert plan.score.nic_us_bound is not None
    assert plan.score.nic_us_before is not None
    assert plan.score.nic_us <= 1.02 * plan.score.nic_us_bound
    assert plan.score.nic_us < 0.5 * plan.score.nic_us_before
    assert plan.transfer_src is None
    assert FabricPlan.decode(plan.encode()).encode() == plan.encode()


def test_a_placement_that_stays_is_published_where_pieces_help_and_not_without_rails() -> None:
    topology, profile = fabric(4), skewed(32)
    placed = place_job(profile, topology)
    again = place_job(profile, topology, current=placed.gpu_of_rank)
    assert again.skip_reason is None
    assert again.gpu_of_rank is not None
    assert placed.gpu_of_rank is not None
    assert again.gpu_of_rank.tolist() == placed.gpu_of_rank.tolist()
    assert again.score is not None
    assert again.score.gain == 0
    off = place_job(profile, topology, current=placed.gpu_of_rank, options=NvlinkOptions(rails=False))
    assert off.skip_reason == SkipReason.GAIN_TOO_SMALL
    assert off.piece_src is None


def test_rings_that_fill_nics_alike_get_no_pieces() -> None:
    profile = job_profile({"tp": 8, "dp": 4}, volumes=VOLUMES)
    plan = place_job(profile, fabric(4))
    assert plan.piece_src is None
    assert plan.score is not None
    assert plan.score.nic_us == pytest.approx(plan.score.nic_us_bound)


@pytest.mark.parametrize("schedule", ["list", "phases"])
def test_on_roce_transfers_are_ordered_one_a_port_at_a_time(schedule: str) -> None:
    topology, profile = fabric(6, "roce", 3.0), skewed(48)
    plan = place_job(profile, topology, options=NvlinkOptions(schedule=schedule))  # type: ignore[arg-type]
    assert plan.score is not None
    assert plan.score.span_us is not None
    assert plan.score.span_us_bound is not None
    assert plan.score.span_us >= plan.score.span_us_bound
    assert plan.transfer_src is not None
    assert plan.transfer_dst is not None
    assert plan.transfer_bytes is not None
    assert plan.transfer_start_us is not None
    assert plan.piece_bytes is not None
    assert plan.transfer_bytes.sum() == plan.piece_bytes.sum()
    end = plan.transfer_start_us + plan.transfer_bytes / 50e3 + 3.0
    for port in (plan.transfer_src, plan.transfer_dst):
        order = np.lexsort((plan.transfer_start_us, port))
        same = port[order][1:] == port[order][:-1]
        assert (plan.transfer_start_us[order][1:] >= end[order][:-1] - 1e-4 * end.max())[same].all()
    assert plan.directives["transfers"] in ("list", "matchings", "cut-matchings", "rotation")


def test_without_order_where_the_network_shares_links_fairly_or_it_is_off() -> None:
    for topology, options in ((fabric(6, "ib"), NvlinkOptions()), (fabric(6, "roce"), NvlinkOptions(schedule="off"))):
        plan = place_job(skewed(48), topology, options=options)
        assert plan.transfer_src is None
        assert plan.score is not None
        assert plan.score.span_us is None


def test_above_144_ranks_pieces_and_transfers_name_hosts() -> None:
    topology, profile = fabric(20, "roce"), skewed(160)
    plan = place_job(profile, topology, options=NvlinkOptions(placement="fast"))
    assert plan.piece_src is not None
    assert plan.piece_bytes is not None
    hosts = set(topology.node_host[np.flatnonzero(topology.node_type == GPU)].tolist())
    assert set(plan.piece_src.tolist()) <= hosts
    assert plan.piece_bytes.sum() == crossing_bytes(plan, profile, topology).sum()
    assert len(plan.encode()) < 1_000_000


def test_inside_one_rack_there_is_nothing_to_balance_or_order() -> None:
    plan = place_job(skewed(72), generate("gb200-nvl72"))
    assert plan.skip_reason == SkipReason.SINGLE_TIER
    assert plan.piece_src is None
    assert plan.transfer_src is None


def test_seven_of_eight_gpus_have_seven_rails() -> None:
    topology = fabric(2)
    free = topology.node_free.copy()
    gpus = np.flatnonzero(topology.node_type == GPU)
    free[gpus[[2, 10]]] = False
    plan = place_job(skewed(14), topology.model_copy(update={"node_free": free}))
    assert plan.piece_rail is not None
    assert set(plan.piece_rail.tolist()) <= {0, 1, 3, 4, 5, 6, 7}


def test_rails_cannot_be_told_where_servers_differ_or_a_gpu_has_no_nic() -> None:
    topology = fabric(2)
    blocks, gpus = blocks_of(topology), np.flatnonzero(topology.node_type == GPU).astype(np.int32)
    ends = np.array([0], np.int32), np.array([1], np.int32), np.array([1e6])
    assert crossing(topology, blocks, gpus[[0, 8]], *ends) is not None
    assert crossing(topology, blocks, gpus[[0, 9]], *ends) is None
    assert crossing(topology, blocks, gpus[[0, 1]], *ends) is None
    down = np.ones(len(topology.link_src), bool)
    down[(topology.link_src == gpus[8]) & (topology.link_kind == LINK_KINDS.index("ib"))] = False
    broken = topology.model_copy(update={"link_up": down})
    assert nic_speeds(broken)[gpus[8]] == 0
    assert crossing(broken, blocks, gpus[[0, 8]], *ends) is None


def test_whole_bytes_add_up_to_those_of_each_pair() -> None:
    size = whole_bytes(np.array([1.5, 2.25, 1.25, 4.0]), np.array([7, 3, 7, 9]))
    assert size.tolist() == [2, 2, 1, 4]
