"""Routes: flow is conserved, the time is the linear program's, single paths are worse, and plans of direct boxes carry them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from qstream.errors import ProblemError
from qstream.nvlink import generate, job_profile, job_traffic, place_job, route_demand
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.routes import Routes, shortest_routes
from qstream.nvlink.sketch import Link, Sketch
from schemas.fabric import GPU, FabricTopology
from schemas.plan import SkipReason

DGX1V = generate("dgx-1v")


def paths(routes: Routes) -> list[tuple[list[int], float]]:
    ways = np.split(routes.node, routes.first[1:-1]) if len(routes.nbytes) else []
    return [(way.tolist(), float(size)) for way, size in zip(ways, routes.nbytes, strict=True)]


def load_us(topology: FabricTopology, routes: Routes) -> float:
    """The fullest pair of joined nodes, counted from the paths alone."""
    speed: dict[tuple[int, int], float] = defaultdict(float)
    for at, ends in enumerate(zip(topology.link_src.tolist(), topology.link_dst.tolist(), strict=True)):
        speed[ends] += float(topology.speed_gb_s[at])
    carried: dict[tuple[int, int], float] = defaultdict(float)
    for way, size in paths(routes):
        for ends in itertools.pairwise(way):
            carried[ends] += size
    return max((size / speed[ends] / 1e3 for ends, size in carried.items()), default=0.0)


def program_us(topology: FabricTopology, demand: Any, *, relay: bool) -> float:
    """The least time by another form of the program: a flow for each pair, no detour weighed."""
    gpus = np.flatnonzero(topology.node_type == GPU)
    src, dst, speed = topology.link_src, topology.link_dst, topology.speed_gb_s.astype(float)
    pairs = [(a, b) for a in range(len(gpus)) for b in range(len(gpus)) if a != b and demand[a, b] > 0]
    links, nodes, unit = len(src), len(topology.node_type), demand.max()
    keeps, wanted = np.zeros((len(pairs) * nodes, len(pairs) * links + 1)), np.zeros(len(pairs) * nodes)
    fits, upper = np.zeros((links, len(pairs) * links + 1)), np.full(len(pairs) * links + 1, np.inf)
    for at, (a, b) in enumerate(pairs):
        for link in range(links):
            column = at * links + link
            keeps[at * nodes + src[link], column] -= 1
            keeps[at * nodes + dst[link], column] += 1
            fits[link, column] = 1
            passes_on = src[link] != gpus[a] and topology.node_type[src[link]] == GPU
            upper[column] = 0 if passes_on and not relay else np.inf
        wanted[at * nodes + gpus[a]], wanted[at * nodes + gpus[b]] = -demand[a, b] / unit, demand[a, b] / unit
    fits[:, -1] = -speed / speed.max()
    cost = np.append(np.zeros(len(pairs) * links), 1.0)
    bounds = np.column_stack([np.zeros(len(upper)), upper])
    found = linprog(cost, fits, np.zeros(links), keeps, wanted, bounds, method="highs")
    return float(found.fun) * unit / speed.max() / 1e3


def check(topology: FabricTopology, demand: Any, routes: Routes, *, relay: bool) -> None:
    """Bytes of pairs, links that exist, no node twice, GPUs that pass nothing on without `relay`, and the times."""
    gpus = np.flatnonzero(topology.node_type == GPU)
    number = {gpu: at for at, gpu in enumerate(gpus.tolist())}
    links = set(zip(topology.link_src.tolist(), topology.link_dst.tolist(), strict=True))
    sent = np.zeros_like(demand, dtype=float)
    for way, size in paths(routes):
        assert size > 0
        assert len(set(way)) == len(way)
        assert set(itertools.pairwise(way)) <= links
        assert relay or not any(node in number for node in way[1:-1])
        sent[number[way[0]], number[way[-1]]] += size
    np.testing.assert_allclose(sent, np.where(np.eye(len(gpus), dtype=bool), 0, demand), rtol=1e-9)
    assert routes.drain_us == pytest.approx(load_us(topology, routes), rel=1e-9)
    assert routes.port_us <= routes.bound_us * (1 + 1e-6)
    assert routes.bound_us <= routes.drain_us * (1 + 1e-6)


@pytest.mark.parametrize("relay", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_routes_on_a_dgx_are_those_of_the_linear_program(seed: int, relay: bool) -> None:
    demand = np.random.default_rng(seed).lognormal(0, 2, (8, 8)) * 1e8
    routes = route_demand(DGX1V, demand, relay=relay)
    check(DGX1V, demand, routes, relay=relay)
    least_us = program_us(DGX1V, demand, relay=relay)
    assert least_us * (1 - 1e-6) <= routes.drain_us <= least_us * 1.0002
    assert routes.bound_us == pytest.approx(least_us, rel=2e-4)
    assert shortest_routes(DGX1V, demand, relay=relay).drain_us >= least_us * (1 - 1e-6)


def test_equal_traffic_drains_sooner_over_several_paths_than_over_one() -> None:
    demand = np.full((8, 8), 1e9)
    routes, peer = route_demand(DGX1V, demand), shortest_routes(DGX1V, demand)
    check(DGX1V, demand, peer, relay=True)
    assert peer.drain_us > 1.15 * routes.drain_us
    # All bytes of a GPU leave by 150 GB/s of NVLink and 12 of PCIe; 2.14 of NVLink's own time is the optimum with both.
    assert routes.drain_us == pytest.approx(15 / 7 * 7e9 / 150 / 1e3, rel=2e-4)
    without = route_demand(DGX1V, demand, relay=False)
    assert without.drain_us > 5 * routes.drain_us


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 5), st.booleans())
def test_flow_is_conserved_on_any_graph(seed: int, size: int, relay: bool) -> None:
    rng = np.random.default_rng(seed)
    sketch = Sketch()
    for gpu in range(size):
        sketch.node(f"g{gpu}", "gpu", host="h")
    sketch.node("s", "nvswitch", host="h")
    for gpu in range(size):
        sketch.link(f"g{gpu}", "s", Link("nvlink", 1, float(rng.uniform(1, 50))), both=True)
        for other in range(gpu):
            if rng.random() < 0.5:
                sketch.link(f"g{gpu}", f"g{other}", Link("xgmi", 1, float(rng.uniform(1, 50))), both=bool(rng.random() < 0.7))
    topology = sketch.topology("any", "drawn")
    demand = rng.lognormal(0, 3, (size, size)) * (rng.random((size, size)) < 0.7) * 1e6
    routes = route_demand(topology, demand, relay=relay)
    check(topology, demand, routes, relay=relay)
    if demand[~np.eye(size, dtype=bool)].any():
        assert routes.drain_us <= program_us(topology, demand * ~np.eye(size, dtype=bool), relay=relay) * 1.0002


def test_no_traffic_takes_no_time_and_the_same_arguments_give_the_same_routes() -> None:
    nothing = route_demand(DGX1V, np.eye(8) * 5)
    assert (len(nothing.nbytes), nothing.drain_us, nothing.bound_us) == (0, 0.0, 0.0)
    demand = np.random.default_rng(3).random((8, 8))
    first, second = (route_demand(DGX1V, demand) for _ in range(2))
    assert first.node.tobytes() == second.node.tobytes()
    assert first.nbytes.tobytes() == second.nbytes.tobytes()


def test_links_that_are_down_carry_nothing() -> None:
    up = np.ones(len(DGX1V.link_src), np.bool_)
    up[(DGX1V.link_src < 8) & (DGX1V.link_dst < 8)] = False
    broken = DGX1V.model_copy(update={"link_up": up})
    routes = route_demand(broken, np.full((8, 8), 1e9))
    assert not routes.link_bytes[~up].any()
    assert routes.drain_us == pytest.approx(routes.port_us * 12 / 10 * 16 / 7, rel=1e-3)  # 16 pairs go over 10 GB/s


@pytest.mark.parametrize(
    ("demand", "message"),
    [(np.ones((4, 4)), "8 x 8"), (np.full((8, 8), -1.0), "at least 0"), (np.full((8, 8), np.nan), "finite")],
)
def test_what_is_no_demand_is_named(demand: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        route_demand(DGX1V, demand)


def test_a_pair_without_a_way_and_a_program_too_large_are_named() -> None:
    sketch = Sketch()
    for gpu in "abc":
        sketch.node(gpu, "gpu")
    sketch.link("a", "b", Link("nvlink", 1, 25.0), both=True)
    with pytest.raises(ProblemError, match="no way joins"):
        route_demand(sketch.topology("parts", "drawn"), np.ones((3, 3)))
    with pytest.raises(ProblemError, match="20000 sources times links"):
        route_demand(generate("gb200-nvl72"), np.ones((72, 72)))


def job(**sizes: int) -> Any:
    return job_profile(sizes, volumes={"tp": 4e9, "dp": 1e9, "ep": 2e9})


def test_a_plan_of_a_direct_box_carries_paths_of_all_its_bytes() -> None:
    profile = job(tp=2, dp=4, ep=8)
    plan = place_job(profile, DGX1V)
    assert plan.gpu_of_rank is not None
    assert plan.path_first is not None
    assert plan.path_node is not None
    assert plan.path_bytes is not None
    src, dst, nbytes = job_traffic(profile)
    wanted, sent = np.zeros((8, 8)), np.zeros((8, 8))
    np.add.at(wanted, (plan.gpu_of_rank[src], plan.gpu_of_rank[dst]), nbytes)
    ends = plan.path_node[plan.path_first[:-1]], plan.path_node[plan.path_first[1:] - 1]
    np.add.at(sent, ends, plan.path_bytes)
    np.testing.assert_allclose(sent, wanted, atol=1)
    assert len(plan.path_bytes) > 56  # some pairs take several


def test_gpus_of_others_pass_nothing_on_and_without_relay_none_does() -> None:
    profile, current = job(tp=4), np.array([0, 5, 6, 3], np.int32)
    for relay in (True, False):
        plan = place_job(profile, DGX1V, current=current, options=NvlinkOptions(relay=relay, min_gain=1.0))
        assert plan.skip_reason == SkipReason.GAIN_TOO_SMALL
        assert plan.path_node is not None
        assert plan.path_first is not None
        passing = np.delete(plan.path_node, np.concatenate([plan.path_first[:-1], plan.path_first[1:] - 1]))
        assert set(passing.tolist()) & set(range(8)) <= (set(current.tolist()) if relay else set())


def test_switched_boxes_need_no_paths_and_each_direct_box_has_its_own() -> None:
    assert place_job(job(tp=8, dp=2), generate("hgx-h100", hosts=2)).path_first is None
    fabric = generate("dgx-1v", hosts=2)
    plan = place_job(job(tp=4, dp=4), fabric)
    assert plan.path_first is not None
    assert plan.path_node is not None
    hosts = fabric.node_host[plan.path_node]
    for first, end in itertools.pairwise(plan.path_first):
        assert len(set(hosts[first:end].tolist())) == 1
