"""The plans in force: where ranks are, which parts of bytes take which rail and spine, and what is not for this topology."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.demo.nvlink.fabric import GPUS, SERVERS, SPINES, Fabric
from qstream.demo.nvlink.held import Held
from schemas.fabric import FabricPlan, RouteShares
from schemas.plan import SkipReason
from schemas.solver import SolverRecord

RANKS = 16


@pytest.fixture
def held() -> Held:
    return Held(Fabric(0), RANKS)


def plan(held: Held, gpus: Any, **changes: Any) -> FabricPlan:
    fields: dict[str, Any] = {"plan_id": "p", "ts_ns": 1, "version": 3, "base_version": 0, "fabric": "modelled", "job": "moe"}
    solver = SolverRecord(solver="kept", n=RANKS)
    fields |= {"topology_digest": held.fabric.topology.digest(), "gpu_of_rank": gpus, "solver": solver}
    return FabricPlan(**(fields | changes))


def pieces(src: Any, dst: Any, rail: Any, nbytes: Any) -> dict[str, Any]:
    names = ("piece_src", "piece_dst", "piece_rail")
    found = {name: np.asarray(values, np.int32) for name, values in zip(names, (src, dst, rail), strict=True)}
    return found | {"piece_bytes": np.asarray(nbytes, np.int64)}


def test_a_plan_moves_ranks_and_one_for_another_topology_does_not(held: Held) -> None:
    gpus = held.fabric.linear(RANKS)[::-1].copy()
    held.take(plan(held, gpus, topology_digest="0" * 16))
    assert (held.version, held.answered) == (None, False)
    held.take(plan(held, gpus))
    assert held.version == 3
    assert held.gpus is not None
    assert held.gpus.tolist() == gpus.tolist()


def test_parts_of_bytes_by_rail_are_those_of_the_pieces_and_of_other_pairs_pxn(held: Held) -> None:
    gpus = held.fabric.linear(RANKS)[::-1].copy()
    held.take(plan(held, gpus, **pieces([gpus[0]] * 3, [gpus[9]] * 3, [0, 2, 2], [10, 20, 10])))
    placed = held.placed(np.ones((RANKS, RANKS)), gpus)
    rail = held.rails(placed)
    assert rail[0, 9].tolist() == [0.25, 0, 0.75, 0]
    assert rail[9, 0].tolist() == np.eye(GPUS)[held.fabric.index[gpus[0]]].tolist()
    assert rail.sum(2) == pytest.approx(np.ones((RANKS, RANKS)))


def test_a_plan_that_is_skipped_keeps_the_version_and_may_bring_rails(held: Held) -> None:
    gpus = held.fabric.linear(RANKS)
    held.take(plan(held, gpus, skip_reason=SkipReason.GAIN_TOO_SMALL, **pieces([gpus[0]], [gpus[4]], [3], [10])))
    assert (held.version, held.answered) == (None, True)
    assert held.rails(held.placed(np.ones((RANKS, RANKS)), gpus))[0, 4].tolist() == [0, 0, 0, 1]


def test_shares_are_by_leaf_and_spine(held: Held) -> None:
    leaf, spine = held.fabric.leaves.leaf, held.fabric.leaves.spine
    fields: dict[str, Any] = {"plan_id": "p", "ts_ns": 1, "fabric": "modelled", "planner": "mix"}
    fields["solver"] = SolverRecord(solver="mix", n=1)
    shares = RouteShares(
        **fields,
        topology_digest=held.fabric.topology.digest(),
        pair_src=leaf[[2]].astype(np.int32),
        pair_dst=leaf[[4]].astype(np.int32),
        via=np.array([[spine[3], spine[1], -1]], np.int32),
        share=np.array([[0.75, 0.25, 0]], np.float32),
    )
    before = held.share
    held.share_out(shares.model_copy(update={"topology_digest": "0" * 16}))
    assert held.share is before
    held.share_out(shares)
    assert held.share.shape == (SERVERS, SERVERS, SPINES)
    assert held.share[2, 4].tolist() == [0, 0.25, 0, 0.75]


def test_a_job_stands_still_from_when_its_server_leaves_until_a_plan_comes(held: Held) -> None:
    held.server_gone(1)
    assert held.gpus is None
    kept = plan(held, held.fabric.linear(RANKS), skip_reason=SkipReason.GAIN_TOO_SMALL)
    held.take(kept)
    assert held.gpus is None
    held.take(plan(held, held.fabric.linear(RANKS)))
    assert held.gpus is not None


def test_a_job_goes_on_where_another_server_leaves(held: Held) -> None:
    held.server_gone(4)
    assert held.gpus is not None
    assert held.fabric.server[held.gpus].tolist() == np.repeat(range(4), GPUS).tolist()
