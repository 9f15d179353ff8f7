"""Rails: bytes conserved, the bound kept, as few relays as a linear program finds, and what bad input is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from qstream.errors import ProblemError
from qstream.nvlink import balance_rails
from qstream.nvlink.rail_simplex import spill
from qstream.nvlink.rails import Rails, receivers_rails


def traffic(servers: int, g: int, seed: int, density: float = 1.0) -> Any:
    """Skewed bytes between GPUs of different servers, [N, g, N, g]."""
    rng = np.random.default_rng(seed)
    n = servers * g
    sent = rng.lognormal(0, 1.5, (n, n)) * (rng.random((n, n)) < density) * 1e6
    return sent.reshape(servers, g, servers, g) * ~np.eye(servers, dtype=bool)[:, None, :, None]


def least_relayed(sent: Any, slack: float = 0.0) -> float:
    """The fewest relayed bytes with no NIC above the bound, by a solver of others."""
    servers, g = sent.shape[:2]
    flat = sent.reshape(servers * g, -1)
    src, dst = np.nonzero(flat)
    m, r = np.repeat(np.arange(len(src)), g), np.tile(np.arange(g), len(src))
    var = np.arange(len(m))
    nic = np.concatenate([src[m] // g * g + r, servers * g + dst[m] // g * g + r])
    over = coo_matrix((np.ones(2 * len(m)), (nic, np.tile(var, 2))), (2 * servers * g, len(m))).tocsr()
    whole = coo_matrix((np.ones(len(m)), (m, var)), (len(src), len(m))).tocsr()
    unit = bound(sent)
    relays = (src[m] % g != r) * 1.0 + (dst[m] % g != r)
    found = linprog(relays, over, np.full(2 * servers * g, 1 + slack), whole, flat[src, dst] / unit, method="highs")
    return float(found.fun) * unit


def bound(sent: Any) -> float:
    """Bytes of a NIC of the fullest server."""
    between = sent.sum((1, 3))
    return float(max(between.sum(0).max(), between.sum(1).max())) / sent.shape[1]


def fullest(found: Rails, g: int) -> float:
    return float(max(np.bincount(gpu // g * g + found.rail, found.nbytes).max() for gpu in (found.src, found.dst)))


def assert_whole(found: Rails, sent: Any) -> None:
    n = sent.shape[0] * sent.shape[1]
    done = np.zeros((n, n))
    np.add.at(done, (found.src, found.dst), found.nbytes)
    np.testing.assert_allclose(done, sent.reshape(n, n), rtol=1e-12)
    assert (found.nbytes > 0).all()
    assert len(np.unique(np.stack([found.src, found.dst, found.rail]), axis=1).T) == len(found.src)


@pytest.mark.parametrize(("servers", "g", "density"), [(2, 4, 1.0), (4, 8, 0.3), (4, 4, 1.0), (3, 8, 0.1), (2, 3, 0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_nic_is_above_the_slack_and_relays_are_the_fewest(servers: int, g: int, density: float, seed: int) -> None:
    sent = traffic(servers, g, seed, density)
    found = balance_rails(sent, 50, 450)
    assert_whole(found, sent)
    assert fullest(found, g) <= 1.001 * bound(sent) * (1 + 1e-9)
    assert found.relayed_bytes <= least_relayed(sent, 0.00099) * 1.0003
    assert len(found.src) <= np.count_nonzero(sent) + 2 * servers * g


def test_figures_are_those_of_the_pieces() -> None:
    """By hand: 8 MB from GPU 0 of server 0 to GPU 0 of server 1 must share two rails; half is relayed at both ends."""
    sent = np.zeros((2, 2, 2, 2))
    sent[0, 0, 1, 0] = 8e6
    found = balance_rails(sent, 50, 400, slack=0)
    assert found.bound_us == pytest.approx(80)
    assert found.nic_us == pytest.approx(80)
    assert found.relayed_bytes == pytest.approx(8e6)
    assert found.nvlink_us == pytest.approx(10)
    assert found.rail.tolist() == [0, 1]
    assert found.nbytes == pytest.approx([4e6, 4e6])


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 4)).map(lambda a: (*a, *a)), elements=st.integers(0, 3)),
    st.sampled_from([0.0, 0.001, 0.1]),
    st.sampled_from([0, 1]),
)
@settings(max_examples=150, deadline=None)
def test_bytes_are_conserved_and_no_nic_is_below_the_bound_of_all(sent: Any, slack: float, min_piece: int) -> None:
    sent = sent * 1_000_003 * ~np.eye(len(sent), dtype=bool)[:, None, :, None]
    found = balance_rails(sent, 50, 450, slack=slack, min_piece_bytes=min_piece)
    assert_whole(found, sent.astype(float))
    if sent.any():
        assert found.nic_us >= found.bound_us * (1 - 1e-12)
        assert fullest(found, sent.shape[1]) <= (1 + slack) * bound(sent) * (1 + 1e-6)


def test_equal_traffic_is_left_whole() -> None:
    sent = np.ones((4, 8, 4, 8)) * ~np.eye(4, dtype=bool)[:, None, :, None]
    found = balance_rails(sent, 50, 450)
    assert len(found.src) == np.count_nonzero(sent)
    assert found.nic_us == pytest.approx(found.bound_us)
    assert found.relayed_bytes == pytest.approx(sent.sum() * 7 / 8)


def test_pieces_below_the_least_are_not_made() -> None:
    sent = traffic(4, 8, 3, 0.2)
    least = 1 << 20
    found = balance_rails(sent, 50, 450, min_piece_bytes=least)
    assert_whole(found, sent)
    _, message, count = np.unique(found.src * 32 + found.dst, return_inverse=True, return_counts=True)
    assert (found.nbytes[count[message] > 1] >= least).all()
    assert (count > 1).any()


def test_what_pivots_leave_above_the_room_goes_where_room_is() -> None:
    """One message of 4 on rail 0 of 4 rails with room for 1 each, without any linear program."""
    part = np.array([4.0])
    of, rail, size = spill(np.array([0]), np.array([4]), part, np.array([0]), np.array([0]), 4, np.ones((2, 8)))
    assert part.tolist() == [1.0]
    assert of.tolist() == [0, 0, 0]
    assert sorted(rail.tolist()) == [1, 2, 3]
    assert size == pytest.approx([1, 1, 1])


def test_the_receivers_rails_are_nccls() -> None:
    sent = traffic(4, 8, 0)
    peer = receivers_rails(sent, 50, 450)
    assert_whole(peer, sent)
    assert (peer.rail == peer.dst % 8).all()
    assert peer.nic_us > 1.5 * balance_rails(sent, 50, 450).nic_us


def test_nothing_to_send_is_no_piece_and_the_same_arguments_give_the_same() -> None:
    empty = balance_rails(np.zeros((2, 4, 2, 4)), 50, 450)
    assert len(empty.src) == empty.nic_us == empty.bound_us == empty.relayed_bytes == empty.nvlink_us == 0
    one, two = (balance_rails(traffic(4, 4, 5, 0.4), 50, 450) for _ in range(2))
    assert one.nbytes.tobytes() == two.nbytes.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nbytes": np.ones((2, 2))}, "nbytes"),
        ({"nbytes": np.ones((2, 2, 2, 3))}, "nbytes"),
        ({"nbytes": np.ones((2, 2, 2, 2))}, "nbytes within server 0"),
        ({"nbytes": -traffic(2, 2, 0)}, r"nbytes\[0, 0, 1, 0\]"),
        ({"nbytes": traffic(2, 2, 0) * np.nan}, r"nbytes\[0, 0, 0, 0\]"),
        ({"nbytes": np.full((2, 2, 2, 2), "a")}, "nbytes"),
        ({"nic_gb_s": 0}, "nic_gb_s"),
        ({"nic_gb_s": np.nan}, "nic_gb_s"),
        ({"nvlink_gb_s": -1}, "nvlink_gb_s"),
        ({"slack": -0.1}, "slack"),
        ({"min_piece_bytes": np.inf}, "min_piece_bytes"),
    ],
)
def test_what_is_no_problem_is_named(change: dict[str, Any], message: str) -> None:
    given_: dict[str, Any] = {"nbytes": traffic(2, 2, 0), "nic_gb_s": 50, "nvlink_gb_s": 450}
    with pytest.raises(ProblemError, match=message):
        balance_rails(**(given_ | change))
