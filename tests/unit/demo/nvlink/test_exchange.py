"""What an exchange takes in the model: hand cases of NICs, NVLink, spines, and the optimum of the fullest link."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.demo.nvlink.exchange import MERGE, Placed, exchange_ms, least_fullest, nic_over_bound
from qstream.demo.nvlink.fabric import GPUS, NIC_GB_S, NVLINK_GB_S, SERVERS, SPINES
from qstream.nvlink.links import fullest, wcmp

UP, DOWN = np.full((SERVERS, SPINES), NIC_GB_S), np.full((SPINES, SERVERS), NIC_GB_S)
EVEN = np.full((SERVERS, SERVERS, SPINES), 1 / SPINES)


def placed(*sends: tuple[int, int, float], ranks: int = 16) -> Placed:
    nbytes = np.zeros((ranks, ranks))
    for src, dst, size in sends:
        nbytes[src, dst] = size
    return Placed(nbytes, np.arange(ranks) // GPUS, np.arange(ranks) % GPUS)


def took(case: Placed, rail: Any = None, share: Any = EVEN, up: Any = UP) -> float:
    return exchange_ms(case, case.pxn if rail is None else rail, share, up, DOWN)


def test_nothing_takes_no_time_and_a_neighbour_is_reached_over_nvlink() -> None:
    assert took(placed()) == 0
    assert took(placed((0, 1, NVLINK_GB_S * 1e6))) == pytest.approx(1, rel=2 * MERGE)


def test_bytes_to_another_server_go_through_the_nic_of_the_receiver_s_rail() -> None:
    alone = placed((0, 4, NIC_GB_S * 1e6))
    assert took(alone) == pytest.approx(1, rel=2 * MERGE)
    both = placed((0, 4, NIC_GB_S * 1e6), (1, 8, NIC_GB_S * 1e6))  # both to the first GPU of a server: one NIC sends both
    assert took(both) == pytest.approx(2, rel=2 * MERGE)
    assert nic_over_bound(both, both.pxn) == pytest.approx(4)
    spread = np.full((16, 16, GPUS), 1 / GPUS)
    assert took(both, spread) == pytest.approx(0.5, rel=2 * MERGE)
    assert nic_over_bound(both, spread) == pytest.approx(1)


def test_a_relayed_byte_takes_nvlink_too() -> None:
    case, rail = placed((0, 4, NVLINK_GB_S * 1e6)), np.zeros((16, 16, GPUS))
    rail[0, 4, 1:] = 1 / 3
    assert took(case, rail) >= 3 - 2 * MERGE  # three NICs of 50 for 450
    assert took(case, rail, up=UP * 100) == pytest.approx(3, rel=2 * MERGE)


def test_a_slow_uplink_holds_up_the_bytes_that_are_sent_over_it() -> None:
    case, up = placed((0, 4, NIC_GB_S * 1e6)), UP.copy()
    up[0, 0] /= 16
    assert took(case, up=up) == pytest.approx(4, rel=2 * MERGE)
    assert took(case, share=wcmp(up, DOWN), up=up) == pytest.approx(1, rel=2 * MERGE)


def test_no_shares_are_better_than_the_optimum_and_where_all_links_are_alike_even_ones_are_it() -> None:
    rng = np.random.default_rng(0)
    demand = rng.lognormal(0, 1, (SERVERS, SERVERS)) * ~np.eye(SERVERS, dtype=bool)
    assert least_fullest(demand, UP, DOWN) == pytest.approx(fullest(EVEN, demand, UP, DOWN))
    up, down = (rng.choice([12.5, 25, 50], shape) for shape in (UP.shape, DOWN.shape))
    best = least_fullest(demand, up, down)
    for _ in range(50):
        share = rng.dirichlet(np.ones(SPINES), (SERVERS, SERVERS))
        assert fullest(share, demand, up, down) >= best - 1e-9
    assert best <= fullest(wcmp(up, down), demand, up, down)
    bound = max((demand.sum(1) / up.sum(1)).max(), (demand.sum(0) / down.sum(0)).max())
    assert best >= bound - 1e-9
