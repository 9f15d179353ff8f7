"""The demo's figures: a plan is judged only by windows that began after it came, and every batch is accounted for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.demo.routing.score import Score
from qstream.demo.routing.summary import Split, Versus
from qstream.demo.routing.twin import Twin
from schemas.control import Scalar
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan, PlacementScore
from schemas.routing import RoutingMetrics, RoutingPlan
from schemas.shares import DispatchShares, SharesScore
from schemas.solver import SolverRecord
from schemas.tokens import TokenBatch

# One placement a window, at once, whatever it wins.
OPTIONS: dict[str, Scalar] = {"window_tokens": 4, "shares_tokens": 4, "min_gain": 0.0, "plan_ms": 0.0, "plan_every_s": 0.0}
TOPOLOGY = ExpertTopology(model="m", num_layers=1, num_logical_experts=4, num_nodes=2, num_gpus=2, slots_per_gpu=2)
SOLVER = SolverRecord(solver="by-hand")
WINDOW_TOKENS = 4
# Contiguous, GPU 0 holds experts 0 and 1; these four tokens all go there, so one GPU of two works: balancedness 1/2.
HOT_PAIR = np.array([[0], [1], [0], [1]], np.int32)
APART = np.array([[0, 2, 1, 3]], np.int32)  # one of the hot pair on each GPU: balancedness 1


def batch(name: str, topk_ids: NDArray[np.int32] = HOT_PAIR) -> TokenBatch:
    tokens = len(topk_ids)
    return TokenBatch(
        batch_id=name,
        ts_ns=1,
        model="m",
        layer=0,
        token_id=np.arange(tokens, dtype=np.uint64),
        topk_ids=topk_ids,
        src_rank=np.zeros(tokens, np.int32),
    )


def placement(version: int, slots: NDArray[np.int32] | None, variant: str | None = None) -> PlacementPlan:
    return PlacementPlan(
        model="m",
        plan_id=f"p{version}",
        ts_ns=1,
        version=version,
        base_version=version - 1,
        num_gpus=2,
        slots_per_gpu=2,
        skip_reason="gain_too_small" if slots is None else None,
        physical_to_logical_map=slots,
        solver=SOLVER.model_copy(update={"variant": variant}),
        expected=PlacementScore(balancedness_before=0.5, balancedness=1.0, worst_layer_balancedness=1.0, moved_experts=2),
    )


def route(name: str, copies: float, version: int = 1) -> RoutingPlan:
    return RoutingPlan(
        plan_id=name,
        batch_id=name,
        model="m",
        layer=0,
        ts_ns=1,
        placement_version=version,
        solver=SOLVER,
        metrics=RoutingMetrics(max_over_mean=1.0, balancedness=1.0, cross_node_copies_per_token=copies),
        slot_ids=np.zeros((4, 1), np.int32),
    )


@pytest.fixture
def score() -> Score:
    return Score(TOPOLOGY, WINDOW_TOKENS, WINDOW_TOKENS, Twin(TOPOLOGY, OPTIONS))


def test_a_plan_that_comes_while_a_window_fills_is_judged_from_the_next_window_on(score: Score) -> None:
    score.published(batch("a", HOT_PAIR[:2]), 0.0)
    score.received(placement(1, APART), 0.0)
    score.published(batch("b", HOT_PAIR[2:]), 0.0)
    assert score.agent.windows.scores == {}  # the window began under no plan
    score.published(batch("c"), 0.0)
    assert list(score.agent.windows.scores.values()) == [(1, (0.5, 1.0))]


def test_a_skipped_plan_leaves_the_placement_in_force(score: Score) -> None:
    score.received(placement(1, APART), 0.0)
    score.published(batch("a"), 0.0)
    score.received(placement(1, None), 0.0)
    score.published(batch("b"), 0.0)
    score.published(batch("c"), 0.0)
    assert list(score.agent.windows.scores.values()) == [(1, (0.5, 1.0)), (1, (0.5, 1.0))]
    summary = score.summary(1.0)
    assert (summary.placement_plans, summary.placement_plans_skipped, summary.balance.windows) == (1, 1, 2)
    assert summary.balance.next_window_balancedness == Versus(0.5, 1.0)


def test_moves_are_the_experts_that_a_gpu_did_not_hold_before(score: Score) -> None:
    score.received(placement(1, APART), 0.0)  # GPU 0 loads expert 2, GPU 1 loads expert 1
    score.received(placement(2, APART[:, [1, 0, 2, 3]]), 0.0)  # other slots of the same GPU
    assert score.summary(1.0).moved_experts == 2


def test_latency_runs_from_publishing_a_batch_to_its_plan_and_unanswered_batches_are_lost(score: Score) -> None:
    for index, name in enumerate("abc"):
        score.published(batch(name), at_s=float(index))
    score.received(route("a", 0.0), 0.010)
    score.received(route("b", 0.0), 1.030)
    score.received(route("b", 0.0), 1.040)
    summary = score.summary(1.0, repeated_on_the_wire=2)
    assert summary.latency_ms.p50 == pytest.approx(20.0)
    assert (summary.token_batches, summary.routing_plans, summary.lost, summary.repeated) == (3, 2, 1, 3)


def test_copies_are_compared_on_the_batches_that_a_placement_plan_routed(score: Score) -> None:
    to_other_node = np.full((4, 1), 3, np.int32)  # contiguous, expert 3 lies on GPU 1: a copy for each token of GPU 0
    score.published(batch("before", HOT_PAIR), 0.0)
    score.published(batch("after", to_other_node), 0.0)
    score.received(placement(1, APART), 0.0)
    score.received(route("before", 0.0, version=0), 0.0)
    score.received(route("after", 0.25), 0.0)
    assert score.summary(1.0).balance.cross_node_copies_per_token == Versus(1.0, 0.25)


def test_before_anything_is_measured_the_figures_are_absent_not_zero(score: Score) -> None:
    summary = score.summary(0.0)
    assert summary.balance.next_window_balancedness == summary.colocate.cross_node_copies_per_token == Versus(None, None)
    assert summary.balance.shares_on_next_tokens == summary.balance_instead.shares_on_next_tokens == Split(None, None)
    assert summary.claim_error is None
    assert summary.latency_ms.p50 is summary.latency_ms.p99 is summary.loss.first is summary.loss.last is None


# Expert 0 has a replica on each GPU: GPU 0 holds 0 and 1, GPU 1 holds 0 and 2.
REPLICATED = ExpertTopology(model="m", num_layers=1, num_logical_experts=3, num_nodes=2, num_gpus=2, slots_per_gpu=2)
TWICE = np.array([[0, 1, 0, 2]], np.int32)
# Two tokens of expert 0 and two of 1: an even split puts 3 of 4 on GPU 0, balancedness 2/3; all of 0 on GPU 1 makes it 1.
SKEWED = np.array([[0], [0], [1], [1]], np.int32)
ALL_ON_GPU_1 = np.array([[0.0, 1.0, 1.0, 1.0]], np.float32)


def shares(gate_choices: int, version: int = 1, name: str = "s", claim: float = 1.0) -> DispatchShares:
    return DispatchShares(
        model="m",
        plan_id=name,
        ts_ns=1,
        placement_version=version,
        gate_choices=gate_choices,
        solver=SOLVER,
        shares=ALL_ON_GPU_1,
        score=SharesScore(balancedness_even=2 / 3, balancedness=claim),
    )


@pytest.fixture
def replicated() -> Score:
    return Score(REPLICATED, WINDOW_TOKENS, WINDOW_TOKENS, Twin(REPLICATED, OPTIONS))


def test_shares_are_recounted_on_the_batches_that_add_up_to_their_choices(replicated: Score) -> None:
    replicated.published(batch("a", SKEWED[:2]), 0.0)
    replicated.published(batch("b", SKEWED[2:]), 0.0)
    replicated.published(batch("later", HOT_PAIR % 2 + 1), 0.0)
    replicated.received(shares(4, claim=0.9), 0.0)  # before its placement
    replicated.received(placement(1, TWICE), 0.0)
    summary = replicated.summary(1.0)
    assert summary.balance.shares_on_their_tokens == Split(pytest.approx(2 / 3, abs=1e-4), 1.0)
    assert (summary.dispatch_shares, summary.dispatch_shares_recounted) == (1, 1)
    assert summary.claim_error == pytest.approx(0.1)  # it said 0.9


def test_shares_whose_choices_no_batches_add_up_to_are_not_recounted_nor_any_after_them(replicated: Score) -> None:
    replicated.received(placement(1, TWICE), 0.0)
    for name in "ab":
        replicated.published(batch(name, SKEWED), 0.0)
    replicated.received(shares(5), 0.0)
    replicated.received(shares(4, name="next"), 0.0)
    summary = replicated.summary(1.0)
    assert (summary.dispatch_shares, summary.dispatch_shares_recounted) == (2, 0)
    assert summary.balance.shares_on_their_tokens == Split(None, None)


def test_shares_serve_the_tokens_after_them_under_their_own_placement_only(replicated: Score) -> None:
    replicated.received(placement(1, TWICE), 0.0)
    replicated.published(batch("before", SKEWED), 0.0)
    replicated.received(shares(4), 0.0)
    replicated.published(batch("after", SKEWED), 0.0)
    replicated.received(placement(2, TWICE), 0.0)
    replicated.published(batch("other", SKEWED), 0.0)
    scores = [pair for _, pair in replicated.agent.next_tokens.scores]
    assert scores == [pytest.approx((2 / 3, 2 / 3)), pytest.approx((2 / 3, 1.0)), pytest.approx((2 / 3, 2 / 3))]


def test_figures_are_kept_apart_by_what_a_placement_was_made_for(score: Score) -> None:
    score.received(placement(1, APART), 0.0)
    for name in "ab":
        score.published(batch(name), 0.0)
    score.received(placement(2, np.array([[0, 1, 2, 3]], np.int32), "colocation"), 0.0)
    for name in "cd":
        score.published(batch(name), 0.0)
    summary = score.summary(1.0)
    assert summary.balance.next_window_balancedness == Versus(0.5, 1.0)  # windows b and c began under the first plan
    assert summary.colocate.next_window_balancedness == Versus(0.5, 0.5)
    assert (summary.balance.windows, summary.colocate.windows) == (2, 1)


def test_a_twin_of_equal_options_makes_the_plans_of_the_module(score: Score) -> None:
    score.published(batch("a"), 0.0)  # all tokens on GPU 0: the twin moves one of the hot pair away
    score.received(placement(1, APART, "colocation"), 0.0)
    score.published(batch("b"), 0.0)
    score.published(batch("c"), 0.0)
    score.received(route("c", 0.0), 0.0)
    summary = score.summary(1.0)
    assert summary.balance_instead.placement_plans == 1
    assert summary.balance_instead.next_window_balancedness == Versus(0.5, 1.0)  # apart, too
    assert summary.balance_instead.windows == summary.colocate.windows == 1
