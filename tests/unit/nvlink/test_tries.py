"""Layouts tried: drawn slices, hand-made collisions, what the plan says, and that nothing costs more than before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn.model import parts
from qstream.nvlink import ContentionModel, NvlinkOptions, generate, place_job
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.examples import FABRIC, job, report, topology
from qstream.nvlink.ground import ground_of, traffic_of
from qstream.nvlink.layouts import FEATURES, Layout, bound_s
from qstream.nvlink.memory import FabricState
from qstream.nvlink.outcomes import KEPT, read_log, with_outcome
from qstream.nvlink.processor import NvlinkProcessor
from qstream.nvlink.train_contention import outcomes_of, train_contention
from qstream.nvlink.tries import draw, simulated_us, tried
from qstream.testing.feed import Feed
from schemas.fabric import GPU, FabricPlan, FabricTopology
from schemas.solver import Reason

LEAF = np.array([0, 0, 1, 1])
EVEN = np.full((2, 2), 100.0)


def layout(src: list[int], dst: list[int], nbytes: list[float], up: Any = EVEN) -> Layout:
    return Layout(np.array(src), np.array(dst), np.array(nbytes), LEAF, 400.0, up, EVEN)


def pod(per_leaf: int = 4) -> FabricTopology:
    """Single GPUs, four below each of four leaves, and four spines; a quarter of the uplinks is slow."""
    leaves, spines = 4, 4
    gpus = np.arange(leaves * per_leaf)
    leaf, spine = len(gpus) + np.arange(leaves), len(gpus) + leaves + np.arange(spines)
    a, b = (side.ravel() for side in np.meshgrid(leaf, spine, indexing="ij"))
    src = np.concatenate([gpus, leaf[gpus // per_leaf], a, b])
    dst = np.concatenate([leaf[gpus // per_leaf], gpus, b, a])
    nodes = len(gpus) + leaves + spines
    speed = np.full(len(src), 400, np.float32)
    speed[2 * len(gpus) :][np.random.default_rng(3).random(2 * len(a)) < 0.25] = 200
    return FabricTopology(
        fabric=FABRIC,
        node_name=tuple(f"node-{i}" for i in range(nodes)),
        node_type=np.repeat([0, 5, 6], [len(gpus), leaves, spines]).astype(np.uint8),
        node_host=np.full(nodes, -1, np.int32),
        node_domain=np.full(nodes, -1, np.int32),
        node_health=np.zeros(nodes, np.uint8),
        node_free=np.ones(nodes, np.bool_),
        link_src=src.astype(np.int32),
        link_dst=dst.astype(np.int32),
        link_kind=np.full(len(src), 5, np.uint8),
        link_count=np.ones(len(src), np.int32),
        link_gb_s=speed,
    )


def model(seed: int = 0) -> ContentionModel:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(100, len(FEATURES)))
    return ContentionModel.fit(x, x[:, 0] > 0)


def test_slices_stay_together_pinned_ones_stay_and_the_first_layout_is_the_one_given() -> None:
    block = np.array([0, 0, 1, 1, 2], np.int32)
    room = np.array([2, 2, 1, 2, 2])
    found = draw(block, room, [1], 20, seed=1)
    assert found[0] is block
    assert len({each.tobytes() for each in found}) == len(found) > 2
    for each in found:
        assert each[2:4].tolist() == [1, 1]
        assert each[0] == each[1]
        assert (np.bincount(each, minlength=5) <= room).all()


def test_one_flow_takes_its_bytes_over_the_slowest_link_of_its_way() -> None:
    assert simulated_us(layout([0], [2], [1e9])) == pytest.approx(1e9 / 100 / 1e3)
    assert simulated_us(layout([0], [1], [1e9])) == pytest.approx(1e9 / 400 / 1e3)
    assert simulated_us(layout([], [], [])) == 0


def test_a_way_that_is_down_is_not_taken_and_none_at_all_takes_for_ever() -> None:
    half = np.array([[0.0, 50.0], [100.0, 100.0]])
    assert simulated_us(layout([0], [2], [1e9], half)) == pytest.approx(1e9 / 50 / 1e3)
    assert simulated_us(layout([0], [2], [1e9], np.zeros((2, 2)))) == np.inf


def test_the_first_by_score_are_simulated_and_the_fastest_of_them_comes_first() -> None:
    cases = [layout([0], [2], [size]) for size in (3e9, 1e9, 2e9, 4e9)]
    found = tried(cases, None, 2, always=[3], extra_us=[0.0] * 4)
    assert found.at == [1, 3]
    assert found.time_us == pytest.approx([1e4, 4e4])
    assert found.gain(1, 3) == pytest.approx(0.75)
    assert tried(cases, None, 2, always=[3], extra_us=[0.0, 1e5, 0.0, 0.0]).at == [3, 1]


def test_another_layout_is_taken_only_if_it_saves_the_least_gain_over_the_one_that_was_found() -> None:
    cases = [layout([0], [2], [size]) for size in (1.0e9, 0.995e9, 0.998e9)]
    found = tried(cases, None, 3, always=[0], extra_us=[0.0] * 3)
    assert found.at[0] == 1
    assert found.worth([0], 0.01) == 0
    assert found.worth([0], 0.004) == 1
    assert found.worth([0, 2], 0.01) == 2  # the placement in force stays, being faster


def test_a_layout_that_never_ends_gives_way_to_one_that_does() -> None:
    cut = layout([0], [2], [1e9], np.zeros((2, 2)))
    found = tried([cut, layout([0], [2], [1e9]), cut], None, 3, always=[0], extra_us=[0.0] * 3)
    assert found.worth([0], 0.01) == 1
    assert (found.gain(1, 0), found.gain(2, 0)) == (1, 0)


def test_a_job_that_runs_nowhere_is_laid_out_as_without_layouts_unless_one_saves_the_least_gain() -> None:
    fabric, profile = pod(), job("a", 5)
    others = [(traffic_of(job("b", 6)), np.array([0, 4, 8, 12, 1, 5], np.int32))]
    free = fabric.node_free.copy()
    free[others[0][1]] = False
    fabric = fabric.model_copy(update={"node_free": free})
    plain = place_job(profile, fabric).gpu_of_rank
    moved = []
    for min_gain in (0.0, 1.0):
        options = NvlinkOptions(classifier=True, simulate_top=64, min_gain=min_gain)
        moved.append(place_job(profile, fabric, options=options, others=others).gpu_of_rank)
    assert plain is not None
    assert [np.array_equal(plain, each) for each in moved] == [False, True]


def test_of_layouts_that_differ_by_rounding_alone_the_first_stays() -> None:
    case = layout([0], [2], [1e9])
    slower = layout([0], [2], [1e9 * (1 + 1e-13)])
    assert tried([slower, case], None, 2, always=[0], extra_us=[0.0, 0.0]).at == [0, 1]


def test_the_plan_has_times_the_fastest_first_and_costs_no_more_than_without() -> None:
    fabric, profile = pod(), job("a", 5)
    others = [(traffic_of(job("b", 6)), np.array([0, 4, 8, 12, 1, 5], np.int32))]
    free = fabric.node_free.copy()
    free[others[0][1]] = False
    fabric = fabric.model_copy(update={"node_free": free})
    plain = place_job(profile, fabric)
    options = NvlinkOptions(classifier=True)
    plan = place_job(profile, fabric, options=options, others=others, model=model())
    assert plan.layout_time_us is not None
    assert plain.layout_time_us is None
    assert len(plan.layout_time_us) == options.simulate_top
    assert (np.diff(plan.layout_time_us) >= 0).all()
    assert plan.fallback_reason is None
    assert plan.score is not None
    assert plan.score.cost_us <= plan.score.cost_before_us * (1 + 1e-9)
    ground = ground_of(fabric, blocks_of(fabric))
    assert ground is not None
    ours, theirs = (
        simulated_us(ground.layout([*others, (traffic_of(profile), np.asarray(each.gpu_of_rank))])) for each in (plan, plain)
    )
    assert ours == pytest.approx(plan.layout_time_us[0])
    assert ours <= theirs * (1 + 1e-6)


def test_without_a_model_the_bound_ranks_and_the_plan_says_so() -> None:
    plan = place_job(job("a", 5), pod(), options=NvlinkOptions(classifier=True))
    assert plan.fallback_reason == Reason.MODEL_MISSING
    assert plan.layout_time_us is not None


def test_where_rails_have_spines_of_their_own_bytes_take_the_rail_of_the_receiver() -> None:
    fabric = generate("hgx-h100", racks=2, hosts=2)
    ground = ground_of(fabric, blocks_of(fabric))
    assert ground is not None
    gpus = np.flatnonzero(fabric.node_type == GPU)
    pair = (np.array([0], np.int32), np.array([1], np.int32), np.array([1e9]))
    same_rack, far = (ground.layout([(pair, gpus[[3, to]])]) for to in (13, 21))
    for found, to in ((same_rack, 13), (far, 21)):
        assert (found.src.tolist(), found.dst.tolist()) == ([gpus[5]], [gpus[to]])  # GPU 5 of the sender's box
        assert np.isfinite(simulated_us(found))
    plan = place_job(job("a", 4), fabric, options=NvlinkOptions(classifier=True))
    assert plan.layout_time_us is not None
    assert np.isfinite(plan.layout_time_us).all()


def test_leaves_without_a_spine_between_them_are_no_times_of_a_plan() -> None:
    fabric = pod()
    up = (fabric.link_src < 18) & (fabric.link_dst < 18)  # two leaves alone
    up |= np.isin(fabric.link_src, [16, 17]) | np.isin(fabric.link_dst, [16, 17])
    plan = place_job(job("a", 16), fabric.model_copy(update={"link_up": up}), options=NvlinkOptions(classifier=True))
    assert plan.layout_time_us is None or np.isfinite(plan.layout_time_us).all()


def test_where_no_spine_can_be_chosen_nothing_is_tried() -> None:
    plan = place_job(job("a", 2), FabricTopology.example(), options=NvlinkOptions(classifier=True))
    assert (plan.layout_time_us, plan.fallback_reason) == (None, None)


def test_the_agent_takes_the_published_model_and_reports_fill_the_outcomes() -> None:
    feed: Feed[FabricState] = Feed(NvlinkProcessor(NvlinkOptions(plan_ms=0, classifier=True)))
    feed.send(topology(), at_ms=0)
    feed.send(job("a", 2), at_ms=1000)
    for part in parts(model().model):
        feed.send(part, at_ms=1500)
    feed.send(job("a", 3), at_ms=2000)
    feed.configure(model="77")
    feed.send(job("a", 4), at_ms=3000)
    plans = feed.frames(FabricPlan)
    assert [plan.fallback_reason for plan in plans] == [Reason.MODEL_MISSING, None, Reason.MODEL_MISSING]
    for step in range(3):
        feed.send(report("a", step, plans[-1].version), at_ms=4000 + step)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.outcomes is not None
    assert state.outcomes.seen == len(state.outcomes.slowdown) == 3
    feed.configure(freeze=True)
    feed.send(report("a", 9, plans[-1].version), at_ms=5000)
    assert feed.state(FABRIC).outcomes.seen == 3  # type: ignore[union-attr]


def test_the_oldest_outcome_gives_way_when_the_ring_is_full() -> None:
    known = None
    one = layout([0], [2], [1e9])
    for number in range(3):
        known = with_outcome(known, one, bound_s(one) * 1e6 * (number + 1))
    assert known is not None
    assert known.slowdown == pytest.approx([1, 2, 3])
    full = known.model_copy(
        update={"seen": KEPT + 1, "feature": np.zeros((KEPT, len(FEATURES)), np.float32), "slowdown": np.zeros(KEPT, np.float32)}
    )
    full = with_outcome(full, one, bound_s(one) * 1e6)  # type: ignore[assignment]
    assert full.slowdown[1] == pytest.approx(1)
    assert (len(full.slowdown), full.seen) == (KEPT, KEPT + 2)


def test_recorded_topics_teach_what_reports_say_of_the_layouts_in_force() -> None:
    feed: Feed[FabricState] = Feed(NvlinkProcessor(NvlinkOptions(plan_ms=0, classifier=True)))
    fabric, profile = topology(ts_ns=1), job("a", 3, ts_ns=2)
    feed.send(fabric, at_ms=1)
    feed.send(profile, at_ms=2)
    (plan,) = feed.frames(FabricPlan)
    told = report("a", 1, plan.version)
    feed.send(told, at_ms=3)
    found = outcomes_of([told, plan, profile, fabric])
    state = feed.state(FABRIC)
    assert found is not None
    assert state is not None
    assert state.outcomes is not None
    assert found.slowdown.tolist() == state.outcomes.slowdown.tolist()
    assert found.feature.tolist() == state.outcomes.feature.tolist()
    with pytest.raises(LearnError, match="80 or more"):
        train_contention([told, plan, profile, fabric], seed=0, deadline_s=60)


def test_the_log_of_simulated_layouts_teaches_more_than_how_often_they_were_slow(fabrics: Path) -> None:
    made, compared = train_contention(read_log(fabrics / "contention_log.npz"), seed=0, deadline_s=60)
    assert compared.beats_twin
    assert made.feature_names == FEATURES
    assert compared.held_out == 325


def test_another_file_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    path.write_bytes(b"no log")
    with pytest.raises(LearnError, match=r"log\.npz"):
        read_log(path)
    np.savez(path, src=np.zeros(3))
    with pytest.raises(LearnError, match="first_flow"):
        read_log(path)
