"""The fluid simulator: hand cases, an exact slow one beside it, and what no allocation may break."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink.fluid import drain


def paths(*links: tuple[int, ...]) -> tuple[list[int], list[int]]:
    first = [0]
    for path in links:
        first.append(first[-1] + len(path))
    return first, [link for path in links for link in path]


def slow(first: Any, link: Any, nbytes: Any, gb_s: Any) -> Any:
    """The same by textbook steps: raise all rates together, freeze those on a full link; one completion at a time."""
    routes = [list(link[a:b]) for a, b in itertools.pairwise(first)]
    left, end, now = [float(b) / 1e3 for b in nbytes], [0.0] * len(nbytes), 0.0
    alive = {f for f, b in enumerate(left) if b > 0 and routes[f]}
    while alive:
        rate, free = dict.fromkeys(alive, 0.0), set(alive)
        while free:
            room = {}
            for k, speed in enumerate(gb_s):
                sharing = [f for f in free if k in routes[f]]
                if sharing:
                    room[k] = (speed - sum(rate[f] for f in alive if k in routes[f])) / len(sharing)
            more = min(room.values())
            for f in free:
                rate[f] += more
            full = {k for k, r in room.items() if r <= more * (1 + 1e-12)}
            free = {f for f in free if not full & set(routes[f])}
        step = min(left[f] / rate[f] for f in alive)
        now += step
        for f in list(alive):
            left[f] -= rate[f] * step
            if left[f] <= 1e-9 * max(nbytes):
                end[f] = now
                alive.remove(f)
    return np.array(end)


def test_two_flows_over_one_link_share_it_until_the_shorter_ends() -> None:
    first, link = paths((0,), (0,))
    assert drain(first, link, [50e3, 150e3], [50.0]) == pytest.approx([2.0, 4.0])


def test_a_flow_that_is_slow_elsewhere_leaves_its_part_to_others() -> None:
    """Flow 0 is held to 10 GB/s by link 1, so flow 1 has 40 of link 0."""
    first, link = paths((0, 1), (0,))
    assert drain(first, link, [100e3, 400e3], [50.0, 10.0]) == pytest.approx([10.0, 10.0])


def test_flows_without_bytes_or_links_end_at_once_and_those_over_a_dead_link_never() -> None:
    first, link = paths((0,), (), (1,), (0,))
    assert drain(first, link, [0.0, 7.0, 5.0, 50e3], [50.0, 0.0]).tolist() == [0.0, 0.0, np.inf, 1.0]


def test_no_flow_at_all_is_no_time() -> None:
    assert drain([0], [], [], [50.0]).tolist() == []


@pytest.mark.parametrize("seed", range(8))
def test_ends_equal_those_of_the_exact_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    links = 7
    routes = [tuple(rng.permutation(links)[: rng.integers(1, 4)].tolist()) for _ in range(20)]
    first, link = paths(*routes)
    nbytes, gb_s = rng.lognormal(0, 1.5, 20) * 1e6, rng.uniform(5, 50, links)
    assert drain(first, link, nbytes, gb_s) == pytest.approx(slow(first, link, nbytes, gb_s), rel=1e-9)


def test_it_depends_on_the_graph() -> None:
    first, apart = paths((0,), (1,))
    assert drain(first, apart, [1e6, 1e6], [50.0, 50.0]).max() < drain(first, [0, 0], [1e6, 1e6], [50.0, 50.0]).max()


@pytest.mark.parametrize("seed", range(3))
def test_merged_completions_change_the_end_by_at_most_one_and_a_half_per_cent(seed: int) -> None:
    n, rng = 32, np.random.default_rng(seed)
    popular = rng.dirichlet(np.ones(n))
    nbytes = np.array([rng.dirichlet(popular * n * 2 + 0.05) for _ in range(n)]) * ~np.eye(n, dtype=bool) * 1e9
    src, dst = np.nonzero(nbytes)
    first, link = np.arange(len(src) + 1) * 2, np.stack([src, n + dst], axis=1).ravel()
    exact, merged = (drain(first, link, nbytes[src, dst], np.full(2 * n, 50.0), merge=merge).max() for merge in (0.0, 0.005))
    bound = max(nbytes.sum(axis=0).max(), nbytes.sum(axis=1).max()) / 50e3
    assert exact >= bound * (1 - 1e-9)
    assert merged == pytest.approx(exact, rel=0.015)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nbytes": [-1.0, 1.0]}, "nbytes"),
        ({"nbytes": [np.nan, 1.0]}, "nbytes"),
        ({"gb_s": [-5.0]}, "gb_s"),
        ({"first_link": [0, 1]}, "first_link"),
        ({"first_link": [0, 2, 1]}, "first_link"),
        ({"link": [0, 9]}, "link"),
        ({"link": [0.5, 0.0]}, "link"),
        ({"merge": 1.0}, "merge"),
    ],
)
def test_what_is_no_problem_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"first_link": [0, 1, 2], "link": [0, 0], "nbytes": [1.0, 1.0], "gb_s": [50.0]}
    with pytest.raises(ProblemError, match=message):
        drain(**(given | change))
