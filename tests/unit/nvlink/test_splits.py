"""Splits: shares that sum to 1, a mix no worse than its experts, silent faults, the guard, the kill switch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.learn.evolve import evolve
from qstream.nvlink.links import fullest, utilisation, wcmp
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.outlook import memory_and_noise, next_demands
from qstream.nvlink.splits import plan_splits, start

LEAVES, SPINES = 5, 4


def fabric(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    sizes = (LEAVES, SPINES), (SPINES, LEAVES)
    return tuple(np.where(rng.random(size) < 0.2, 100.0, 400.0) for size in sizes)  # type: ignore[return-value]


def demands(windows: int, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    base, noise, found = rng.lognormal(4, 1, (LEAVES, LEAVES)), rng.normal(0, 1, (LEAVES, LEAVES)), []
    for _ in range(windows):
        noise = 0.8 * noise + 0.6 * rng.normal(0, 1, noise.shape)
        found.append(base * np.exp(0.3 * noise) * ~np.eye(LEAVES, dtype=bool))
    return np.array(found)


def played(windows: int, true_up: Any = None, **options: Any) -> list[dict[str, float]]:
    """Fullest link of the plan, of WCMP that knows only nominal capacities, and of one that knows the true ones."""
    (up, down), state, seen, used, found = fabric(), None, None, None, []
    true = up if true_up is None else true_up
    for demand in demands(windows):
        share, state = plan_splits(seen, up, down, utilisation=used, state=state, options=NvlinkOptions(**options))
        assert share.min() >= 0
        assert share.sum(axis=2) == pytest.approx(np.ones((LEAVES, LEAVES)))
        seen, used = demand, utilisation(share, demand, true, down)
        peers = {"wcmp": wcmp(up, down), "told": wcmp(true, down)}
        found.append({"ours": fullest(share, demand, true, down)} | {k: fullest(v, demand, true, down) for k, v in peers.items()})
    return found


def mean(found: list[dict[str, float]], name: str) -> float:
    return float(np.mean([window[name] for window in found]))


def test_wcmp_shares_follow_the_narrower_link_and_avoid_what_is_down() -> None:
    up, down = np.array([[400.0, 100.0, 0.0]] * 2), np.full((3, 2), 200.0)
    assert wcmp(up, down)[0, 1] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert wcmp(0 * up, down)[0, 1] == pytest.approx(np.ones(3) / 3)


def test_the_first_window_is_served_by_wcmp_and_later_ones_better() -> None:
    up, down = fabric()
    share, _ = plan_splits(None, up, down)
    assert share == pytest.approx(wcmp(up, down))
    found = played(16)
    assert mean(found[4:], "ours") < mean(found[4:], "wcmp")


def test_the_mix_is_never_worse_than_its_experts_weighted() -> None:
    up, down = fabric()
    state, seen = None, None
    for demand in demands(8):
        share, state = plan_splits(seen, up, down, state=state, options=NvlinkOptions(wcmp_floor=0.3))
        parts = [fullest(expert, demand, up, down) for expert in state.expert_share]
        weighted = 0.3 * fullest(wcmp(up, down), demand, up, down) + 0.7 * float(state.expert_weight @ parts)
        assert fullest(share, demand, up, down) <= weighted * (1 + 1e-9)
        seen = demand


def test_a_link_that_fell_silently_is_found_by_its_congestion() -> None:
    up, _ = fabric()
    broken = up.copy()
    broken[1, 2] *= 0.25
    found = played(16, broken)[8:]
    assert mean(found, "ours") < mean(found, "told") < mean(found, "wcmp")


def test_the_same_windows_give_the_same_bytes() -> None:
    up, down = fabric()
    states = []
    for _ in range(2):
        state, seen = None, None
        for demand in demands(5):
            _, state = plan_splits(seen, up, down, state=state)
            seen = demand
        assert state is not None
        states.append(state.to_bytes() if hasattr(state, "to_bytes") else state)
    assert states[0] == states[1]


def test_frozen_neither_answers_nor_learns() -> None:
    up, down = fabric()
    _, state = plan_splits(demands(1)[0], up, down)
    share, after = plan_splits(demands(1)[0], up, down, state=state, options=NvlinkOptions(freeze=True))
    assert share == pytest.approx(wcmp(up, down))
    assert after is state


def test_a_mix_that_does_worse_than_wcmp_for_five_windows_stands_back_for_five() -> None:
    up, down = fabric()
    flow = demands(1)[0]
    state = start(up, down)
    bad = np.zeros_like(state.share)
    bad[:, :, 0] = 1.0
    answered = []
    for _ in range(6):
        served = state if state.guard.answers == "incumbent" else evolve(state, share=bad.copy())
        _, state = plan_splits(flow, up, down, state=evolve(served, steps=max(served.steps, 1)))
        answered.append(state.guard.answers)
    assert answered[:4] == ["candidate"] * 4
    assert answered[4:] == ["incumbent"] * 2


def test_a_new_pattern_empties_the_ring_and_another_shape_begins_again() -> None:
    up, down = fabric()
    first, second = demands(1, 1)[0], demands(1, 9)[0]
    _, state = plan_splits(first, up, down)
    _, state = plan_splits(first, up, down, state=state)
    assert (state.seen, state.resets) == (2, 0)
    _, state = plan_splits(second, up, down, state=state)
    assert (state.seen, state.resets) == (1, 1)
    share, state = plan_splits(None, up[:3], down[:, :3], state=state)
    assert share.shape == (3, 3, SPINES)
    assert state.steps == 0


def test_no_traffic_and_dead_links_are_served_too() -> None:
    up, down = fabric()
    up[2] = 0.0
    share, state = plan_splits(np.zeros((LEAVES, LEAVES)), up, down)
    share, _ = plan_splits(demands(1)[0], up, down, state=state)
    assert share.sum(axis=2) == pytest.approx(np.ones((LEAVES, LEAVES)))
    up[2, 0] = 400.0
    share, _ = plan_splits(demands(1)[0], up, down)
    assert share[2, 0] == pytest.approx(np.eye(SPINES)[0])


def test_memory_and_noise_of_many_windows_are_found() -> None:
    rng = np.random.default_rng(0)
    log, rows = rng.normal(0, 1, 400), []
    for _ in range(60):
        log = 0.5 * log + 0.4 * rng.normal(0, 1, 400)
        rows.append(log + np.arange(400))
    memory, noise = memory_and_noise(np.array(rows))
    assert memory == pytest.approx(0.5, abs=0.05)
    assert noise == pytest.approx(0.4, abs=0.02)


def test_silent_pairs_stay_silent_in_what_may_come() -> None:
    ring = demands(4)
    ring[:, 0, 1] = 0.0
    drawn = next_demands(ring)
    assert (drawn[:, 0, 1] == 0).all()
    assert (drawn[:, 1, 0] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"demand": np.ones((2, 2))}, "demand"),
        ({"demand": np.full((LEAVES, LEAVES), np.nan)}, "demand"),
        ({"up_gb_s": np.ones(3)}, "up_gb_s"),
        ({"down_gb_s": -np.ones((SPINES, LEAVES))}, "down_gb_s"),
        ({"utilisation": (np.ones((LEAVES, SPINES)), np.ones((2, 2)))}, r"utilisation\[1\]"),
    ],
)
def test_what_is_no_problem_is_named(change: dict[str, Any], message: str) -> None:
    up, down = fabric()
    with pytest.raises(ProblemError, match=message):
        plan_splits(**({"demand": demands(1)[0], "up_gb_s": up, "down_gb_s": down} | change))
