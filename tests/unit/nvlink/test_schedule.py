"""Schedules: bytes conserved, no port twice at one time, at or above the bound; never worse than rotation or matchings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qstream.errors import ProblemError
from qstream.nvlink import Schedule, schedule_transfers
from qstream.nvlink.schedule import matchings_us, rotation_us

GB_S = 50.0


def skewed(n: int, kind: str, seed: int = 0) -> Any:
    """Bytes between ports with an empty diagonal, about .2 GB a port."""
    rng = np.random.default_rng(seed)
    sent = {
        "uniform": np.ones((n, n)),
        "zipf": np.outer(rng.uniform(0.8, 1.2, n), rng.permutation(1 / np.arange(1, n + 1))),
        "moe": np.array([rng.dirichlet(rng.dirichlet(np.ones(n)) * n * 2 + 0.05) for _ in range(n)]),
        "sparse": rng.lognormal(0, 1.5, (n, n)) * (rng.random((n, n)) < 0.3),
    }[kind]
    sent = sent * ~np.eye(n, dtype=bool)
    return sent / sent.sum() * n * 0.2e9


def bound_us(sent: Any, startup_us: float) -> float:
    return float(max((sent.sum(a) / GB_S / 1e3 + startup_us * (sent > 0).sum(a)).max() for a in (0, 1)))


def assert_valid(found: Schedule, sent: Any, startup_us: float) -> None:
    """Bytes are those asked for, no port does two things at once, and the span is the last end."""
    done, end = np.zeros_like(sent, np.float64), found.start_us + found.nbytes / GB_S / 1e3 + startup_us
    np.add.at(done, (found.src, found.dst), found.nbytes)
    np.testing.assert_allclose(done, sent, rtol=1e-12)
    assert (found.nbytes > 0).all()
    assert (np.diff(found.start_us) >= 0).all()
    for port in (found.src, found.dst):
        order = np.lexsort((found.start_us, port))
        same = port[order][1:] == port[order][:-1]
        assert (found.start_us[order][1:] >= end[order][:-1] - 1e-7 * found.span_us)[same].all()
    assert found.span_us == pytest.approx(end.max(initial=0.0), rel=1e-7)
    if sent.any():
        assert found.bound_us == pytest.approx(bound_us(sent, startup_us), rel=1e-7)
        assert found.span_us >= found.bound_us


@pytest.mark.parametrize("kind", ["uniform", "zipf", "moe", "sparse"])
@pytest.mark.parametrize("startup_us", [0.0, 2.0, 20.0])
@pytest.mark.parametrize("n", [8, 16, 32])
def test_the_last_transfer_ends_at_the_bound(n: int, kind: str, startup_us: float) -> None:
    sent = skewed(n, kind)
    found = schedule_transfers(sent, GB_S, startup_us)
    assert_valid(found, sent, startup_us)
    assert found.span_us <= 1.005 * found.bound_us


@pytest.mark.parametrize("kind", ["uniform", "zipf", "moe", "sparse"])
@pytest.mark.parametrize("startup_us", [0.0, 20.0])
def test_with_barriers_it_is_never_worse_than_rotation_or_matchings(kind: str, startup_us: float) -> None:
    sent = skewed(24, kind)
    found = schedule_transfers(sent, GB_S, startup_us, barriers=True)
    assert_valid(found, sent, startup_us)
    assert found.span_us <= min(rotation_us(sent, GB_S, startup_us), matchings_us(sent, GB_S, startup_us)) * (1 + 1e-9)
    for number in range(found.phase.max()):
        begins = found.start_us[found.phase == number + 1]
        assert len(set(begins)) == 1
        before = found.phase == number
        assert begins[0] >= (found.start_us + found.nbytes / GB_S / 1e3 + startup_us)[before].max() * (1 - 1e-12)
        assert len(set(found.src[before])) == len(set(found.dst[before])) == before.sum()


def test_long_transfers_are_cut_where_a_phase_would_wait_for_them() -> None:
    sent = skewed(24, "sparse", 3)
    assert schedule_transfers(sent, GB_S, barriers=True).span_us < 0.95 * matchings_us(sent, GB_S)
    assert schedule_transfers(sent, GB_S, barriers=True).method == "cut-matchings"


@given(
    hnp.arrays(np.int64, st.integers(1, 6).map(lambda n: (n, n)), elements=st.integers(0, 4)),
    st.sampled_from([0.0, 3.0]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_bytes_are_conserved_and_no_port_does_two_at_a_time(sent: Any, startup_us: float, barriers: bool) -> None:
    sent = sent * 100_003 * ~np.eye(len(sent), dtype=bool)
    found = schedule_transfers(sent, GB_S, startup_us, barriers=barriers)
    assert_valid(found, sent, startup_us)
    assert found.span_us <= rotation_us(sent, GB_S, startup_us) * (1 + 1e-9)


def test_equal_transfers_go_by_rotation_and_phases_count_the_order_of_each_sender() -> None:
    found = schedule_transfers(skewed(16, "uniform"), GB_S)
    assert found.method == "rotation"
    assert found.span_us == pytest.approx(found.bound_us)
    for port in range(16):
        mine = found.src == port
        assert found.phase[mine].tolist() == list(range(15))


@pytest.mark.parametrize("n", [2, 3, 9])
def test_where_all_ports_are_as_full_none_is_said_to_bind(n: int) -> None:
    assert schedule_transfers(skewed(n, "uniform"), GB_S).method != "port-bound"


def test_one_full_port_is_told_since_no_order_matters() -> None:
    sent = np.zeros((8, 8))
    sent[1:, 0] = 1e9
    sent[1, 2:] = 1e6
    found = schedule_transfers(sent, GB_S, 2.0)
    assert found.method == "port-bound"
    assert_valid(found, sent, 2.0)


def test_transfers_of_next_to_nothing_are_sent_too() -> None:
    sent = skewed(6, "moe")
    sent[2, 3] = 1e-200
    assert_valid(schedule_transfers(sent, GB_S), sent, 0.0)


def test_nothing_to_send_takes_no_time_and_the_same_arguments_give_the_same() -> None:
    empty = schedule_transfers(np.zeros((3, 3)), GB_S, 5.0)
    assert (empty.method, empty.span_us, empty.bound_us, len(empty.src)) == ("none", 0.0, 0.0, 0)
    one, two = (schedule_transfers(skewed(16, "sparse", 2), GB_S, 1.0) for _ in range(2))
    assert one.start_us.tobytes() == two.start_us.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nbytes": np.ones(3)}, "nbytes"),
        ({"nbytes": np.ones((2, 3))}, "nbytes"),
        ({"nbytes": np.ones((2, 2))}, r"nbytes\[0, 0\]"),
        ({"nbytes": np.array([[0, -1], [1, 0]])}, r"nbytes\[0, 1\]"),
        ({"nbytes": np.array([[0, np.inf], [1, 0]])}, r"nbytes\[0, 1\]"),
        ({"nbytes": np.array([["a"]])}, "nbytes"),
        ({"gb_s": 0.0}, "gb_s"),
        ({"gb_s": np.nan}, "gb_s"),
        ({"startup_us": -1.0}, "startup_us"),
        ({"startup_us": np.inf}, "startup_us"),
    ],
)
def test_what_is_no_problem_is_named(change: dict[str, Any], message: str) -> None:
    given_: dict[str, Any] = {"nbytes": skewed(4, "uniform"), "gb_s": GB_S, "startup_us": 0.0}
    with pytest.raises(ProblemError, match=message):
        schedule_transfers(**(given_ | change))
