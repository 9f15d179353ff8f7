"""Plans of jobs: nothing to win on one tier, scrambled racks put in order, room, pins, moves, and what each plan says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink import generate, job_profile
from qstream.nvlink.formats.export import EXPORTERS
from qstream.nvlink.job_plan import place_job
from qstream.nvlink.options import NvlinkOptions
from schemas.fabric import GPU, FabricTopology, JobProfile
from schemas.plan import SkipReason

VOLUMES = {"tp": 4e9, "dp": 1e9, "pp": 0.25e9}


def gpus(topology: FabricTopology) -> Any:
    return np.flatnonzero(topology.node_type == GPU)


def job(tp: int = 8, dp: int = 4, pp: int = 1, **changes: Any) -> JobProfile:
    return job_profile({"tp": tp, "dp": dp, "pp": pp}, volumes=VOLUMES, **changes)


def scrambled(topology: FabricTopology, ranks: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).permutation(gpus(topology))[:ranks].astype(np.int32)


@pytest.mark.parametrize("system", ["hgx-a100", "hgx-h100", "hgx-b200"])
def test_inside_a_healthy_box_nothing_is_won(system: str) -> None:
    topology = generate(system)
    plan = place_job(job(dp=1), topology)
    assert plan.skip_reason == SkipReason.SINGLE_TIER
    assert plan.gpu_of_rank is not None
    assert plan.gpu_of_rank.tolist() == gpus(topology).tolist()
    assert plan.version == plan.base_version


def test_a_rack_is_one_tier_too_and_what_runs_stays_where_it_is() -> None:
    topology = generate("gb200-nvl72")
    now = scrambled(topology, 64)
    plan = place_job(job(dp=8), topology, current=now)
    assert plan.skip_reason == SkipReason.SINGLE_TIER
    assert plan.gpu_of_rank is not None
    assert plan.gpu_of_rank.tolist() == now.tolist()


def test_scrambled_ranks_of_four_boxes_are_put_in_order() -> None:
    topology = generate("hgx-h100", hosts=4)
    plan = place_job(job(), topology, current=scrambled(topology, 32))
    assert plan.skip_reason is None
    assert plan.score is not None
    assert plan.gpu_of_rank is not None
    host = topology.node_host[plan.gpu_of_rank].reshape(4, 8)
    assert (host == host[:, :1]).all()
    assert plan.score.gain > 0.5
    assert plan.score.modelled
    assert plan.score.cross_domain_bytes < plan.score.cross_domain_bytes_before
    assert plan.slice_ranks is not None
    assert plan.slice_ranks.sum() == 32
    assert {record.solver for record in plan.candidates} >= {"linear", "incumbent", "growth"}


def test_a_job_that_is_well_placed_stays() -> None:
    topology = generate("hgx-h100", hosts=4)
    now = gpus(topology).astype(np.int32)
    plan = place_job(job(), topology, current=now)
    assert plan.skip_reason == SkipReason.GAIN_TOO_SMALL
    assert plan.gpu_of_rank is not None
    assert plan.gpu_of_rank.tolist() == now.tolist()
    assert plan.score is not None
    assert plan.score.gain == 0


def test_moves_that_cost_more_than_they_win_are_not_made() -> None:
    topology = generate("hgx-h100", hosts=4)
    now = scrambled(topology, 32)
    plan = place_job(job(period_us=1e6), topology, current=now, options=NvlinkOptions(restart_us=1e12, horizon_s=1, rails=False))
    assert plan.skip_reason == SkipReason.GAIN_TOO_SMALL


def test_busy_and_broken_gpus_are_left_alone_and_too_few_are_told() -> None:
    topology = generate("hgx-h100", hosts=4)
    free = topology.node_free.copy()
    free[gpus(topology)[:8]] = False
    busy = topology.model_copy(update={"node_free": free})
    plan = place_job(job(dp=3), busy)
    assert plan.gpu_of_rank is not None
    assert not set(plan.gpu_of_rank.tolist()) & set(gpus(topology)[:8].tolist())
    short = place_job(job(), busy)
    assert short.skip_reason == SkipReason.TOO_FEW_GPUS
    assert short.gpu_of_rank is None


def test_pinned_ranks_have_their_gpu_and_every_rank_one_of_its_own() -> None:
    topology = generate("hgx-h100", hosts=4)
    pins = {0: int(gpus(topology)[17]), 9: int(gpus(topology)[3])}
    plan = place_job(job(pins=pins), topology)
    assert plan.gpu_of_rank is not None
    assert [plan.gpu_of_rank[rank] for rank in pins] == list(pins.values())
    assert len(set(plan.gpu_of_rank.tolist())) == 32


def test_balanced_jobs_have_slices_of_one_size_and_few_slices_if_asked() -> None:
    topology = generate("hgx-h100", hosts=4)
    free = topology.node_free.copy()
    free[gpus(topology)[1:6]] = False
    uneven = topology.model_copy(update={"node_free": free})
    plan = place_job(job(tp=4, dp=5, balanced=True), uneven)
    assert plan.gpu_of_rank is None or len(set(np.bincount(topology.node_host[plan.gpu_of_rank])) - {0}) == 1
    two = place_job(job(tp=8, dp=2, max_slices=2), topology)
    assert two.gpu_of_rank is not None
    assert len(set(topology.node_host[two.gpu_of_rank].tolist())) == 2


def test_ranks_on_a_broken_gpu_are_placed_anew() -> None:
    topology = generate("hgx-h100", hosts=5)
    health = topology.node_health.copy()
    health[gpus(topology)[0]] = 2
    broken = topology.model_copy(update={"node_health": health})
    plan = place_job(job(), broken, current=gpus(topology)[:32])
    assert plan.skip_reason is None
    assert plan.gpu_of_rank is not None
    assert gpus(topology)[0] not in plan.gpu_of_rank


def test_the_same_arguments_give_the_same_bytes_and_plans_can_be_exported() -> None:
    topology = generate("hgx-h100", hosts=4)
    plans = [place_job(job(), topology, current=scrambled(topology, 32)) for _ in range(2)]
    assert plans[0].encode() == plans[1].encode()
    assert "hostfile" in EXPORTERS["slurm"](plans[0], topology)
    assert plans[0].directives


@pytest.mark.parametrize(
    ("change", "current", "message"),
    [
        ({"pins": {0: 9999}}, None, "pin_gpu"),
        ({}, [0, 1], "gpu_of_rank"),
        ({}, [0] * 32, "gpu_of_rank"),
        ({}, [10**6, *range(31)], "gpu_of_rank"),
    ],
)
def test_what_the_fabric_does_not_have_is_named(change: dict[str, Any], current: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        place_job(job(**change), generate("hgx-h100", hosts=4), current=current)
