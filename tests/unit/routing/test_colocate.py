"""Experts to nodes: optimal where all splits can be tried, within sizes and loads on any input, fewer nodes on real tokens."""

from __future__ import annotations

from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.colocate import coactivation, colocate
from qstream.routing.score import nodes_per_token


def tokens(rng: np.random.Generator, count: int, layers: int, experts: int, k: int) -> np.ndarray:
    return rng.random((count, layers, experts)).argsort(2)[:, :, :k].astype(np.int32)


def clustered(rng: np.random.Generator, experts: int, k: int = 4) -> np.ndarray:
    """Tokens [2000, 1, k] that draw from a hidden block of experts more often than from the others."""
    block = rng.permutation(experts) % 2
    score = rng.gumbel(size=(2000, experts)) + 1.5 * (block == rng.integers(0, 2, (2000, 1))) + rng.normal(0, 0.5, experts)
    return np.argsort(-score, axis=1)[:, None, :k].astype(np.int32)


def within(together: np.ndarray, node: np.ndarray) -> float:
    """Co-activations of pairs on one node, of one layer."""
    return float(np.triu(together * (node[:, None] == node), 1).sum())


def halves(experts: int) -> np.ndarray:
    """Every way to split `experts` into two equal halves, expert 0 in the first: bool [X, E]."""
    chosen = np.array(list(combinations(range(1, experts), experts // 2 - 1)))
    out = np.zeros((len(chosen), experts), np.bool_)
    out[:, 0] = True
    np.put_along_axis(out, chosen, True, 1)
    return out


def test_counts_are_those_of_a_set_by_set_count() -> None:
    ids = tokens(np.random.default_rng(0), 50, 3, 7, 3)
    got = coactivation(ids, 7)
    want = np.zeros((3, 7, 7), np.int64)
    for token in ids:
        for layer, chosen in enumerate(token):
            want[layer][np.ix_(chosen, chosen)] += 1
    np.testing.assert_array_equal(got, want)


def test_padding_counts_nothing() -> None:
    ids = tokens(np.random.default_rng(0), 50, 3, 7, 2)
    padded = np.concatenate([np.insert(ids, 1, -1, axis=2), np.full((9, 3, 3), -1, np.int32)])
    np.testing.assert_array_equal(coactivation(padded, 7), coactivation(ids, 7))


def test_a_sample_of_many_tokens_keeps_the_scale_of_the_counts() -> None:
    ids = tokens(np.random.default_rng(0), 6000, 1, 8, 2)
    sampled, every = coactivation(ids, 8, max_tokens=2000), coactivation(ids, 8)
    assert np.einsum("lee->", sampled) == np.einsum("lee->", every) == 12000
    assert abs(sampled / every - 1).max() < 0.2


@pytest.mark.parametrize(("experts", "cases"), [(12, 10), (16, 10), (20, 3)])
@pytest.mark.parametrize("eps", [0.02, 0.2, np.inf])
def test_two_nodes_are_split_as_well_as_any_split_within_the_load_limit(experts: int, cases: int, eps: float) -> None:
    splits = halves(experts)
    for seed in range(cases):
        together = coactivation(clustered(np.random.default_rng(seed), experts), experts)[0]
        load = together.diagonal()
        first = splits @ load
        allowed = np.maximum(first, load.sum() - first) <= (1 + eps) * load.sum() / 2
        if not allowed.any():
            continue
        one = splits[allowed].astype(np.float64)
        cut = np.einsum("xe,xe->x", one @ together, 1 - one)
        pairs = np.triu(together, 1).sum()
        node = colocate(together[None], np.full(2, experts // 2), eps=eps)[0]
        carried = np.bincount(node, load, minlength=2)
        assert carried.max() <= (1 + eps) * load.sum() / 2
        assert within(together, node) == pairs - cut.min()


def test_twenty_four_experts_on_two_nodes_reach_the_proven_optimum() -> None:
    splits = halves(24)
    for seed in range(2):
        together = coactivation(clustered(np.random.default_rng(seed), 24), 24)[0]
        cut = np.concatenate(
            [
                np.einsum("xe,xe->x", part @ together.astype(np.float32), 1 - part)
                for part in np.array_split(splits.astype(np.float32), 20)
            ]
        )
        node = colocate(together[None], np.array([12, 12]), eps=np.inf)[0]
        assert within(together, node) == np.triu(together, 1).sum() - cut.min()


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any),
    eps=st.sampled_from([0.0, 0.05, 0.5]),
    seed=st.integers(0, 2**63),
    data=st.data(),
)
def test_sizes_are_kept_and_limits_exceeded_by_no_more_than_in_the_even_start(
    sizes: list[int], eps: float, seed: int, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    experts = sum(sizes)
    ids = tokens(rng, 30, 2, experts, min(2, experts))
    together = coactivation(ids, experts) * data.draw(st.sampled_from([0, 1]))
    share = rng.uniform(0.5, 2.0, len(sizes)) * (np.array(sizes) > 0)
    args: dict[str, Any] = {"sizes": np.array(sizes), "share": share, "eps": eps, "seed": seed}
    start, node = (colocate(together, steps=steps, **args) for steps in (0, 500))
    assert node.tobytes() == colocate(together, steps=500, **args).tobytes()
    target = np.outer(together.diagonal(axis1=1, axis2=2).sum(1), share / share.sum())
    for layer in range(2):
        load = together[layer].diagonal()
        before, after = (np.bincount(n[layer], load, minlength=len(sizes)) for n in (start, node))
        assert np.bincount(node[layer], minlength=len(sizes)).tolist() == sizes
        limit = np.where(target[layer] > 0, (1 + eps) * target[layer], np.inf)
        excess = [np.maximum(carried - limit, 0).sum() for carried in (before, after)]
        assert excess[1] <= excess[0] + 1e-6
        assert within(together[layer], node[layer]) >= within(together[layer], start[layer]) - 1e-6


def test_unequal_nodes_carry_load_by_their_share() -> None:
    together = coactivation(tokens(np.random.default_rng(0), 500, 1, 12, 3), 12)
    load = np.array([[5.0] * 4 + [1.0] * 8])
    for share, allowed in (([1.0, 1.0], (15, 13)), ([1.0, 3.0], (7, 21))):
        node = colocate(together, np.array([3, 9]), load=load, share=np.array(share), eps=0.1)[0]
        assert tuple(np.bincount(node, load[0])) == allowed


def test_bad_input_is_named() -> None:
    ids = tokens(np.random.default_rng(0), 10, 1, 4, 2)
    together, two = coactivation(ids, 4), np.array([2, 2])
    lopsided = together.copy()
    lopsided[0, 0, 1] += 1
    for call, field in (
        (lambda: coactivation(ids, 3), "topk_ids"),
        (lambda: coactivation(ids - 2, 4), "topk_ids"),
        (lambda: coactivation(ids, 4, max_tokens=0), "max_tokens"),
        (lambda: colocate(lopsided, two), "together"),
        (lambda: colocate(-together, two), "together"),
        (lambda: colocate(together, np.array([2, 1])), "sizes"),
        (lambda: colocate(together, np.array([5, -1])), "sizes"),
        (lambda: colocate(together, two, load=np.ones((1, 3))), "load"),
        (lambda: colocate(together, two, load=np.full((1, 4), np.nan)), "load"),
        (lambda: colocate(together, two, share=np.array([1.0, 0.0])), "share"),
        (lambda: colocate(together, two, eps=float("nan")), "eps"),
        (lambda: colocate(together, two, steps=-1), "steps"),
    ):
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


def test_tokens_of_real_routing_touch_fewer_nodes_than_on_the_even_start(stick: ModuleType) -> None:
    traces = stick.load()
    first, second = (np.concatenate([np.array_split(t["ids"], 2)[half] for t in traces.values()]) for half in (0, 1))
    layers = [0, 10, 20]
    together = coactivation(first[:, layers].astype(np.int32), 64)
    even, near = (colocate(together, np.full(4, 16), steps=steps) for steps in (0, 40_000))
    touched = [
        np.mean([nodes_per_token(second[:, layer].astype(np.int32), node[i]) for i, layer in enumerate(layers)])
        for node in (even, near)
    ]
    assert touched[0] > 3.2
    assert touched[1] < 2.7
