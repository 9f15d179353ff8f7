"""Gate and rate: what does not pay is soon off and still tried, and what coding costs comes to its target."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.learn import gate, rate
from qstream.learn.describe import describe
from qstream.learn.fresh import fresh
from qstream.learn.tally import tally
from qstream.state.fields import pack


def run(gains: np.ndarray, **options: float) -> tuple[gate.GateState, np.ndarray, np.ndarray]:
    """The last state, and which options were tried and on for each record of the gains [T, O]."""
    state, tried, on = gate.start(gains.shape[1], **options), [], []  # type: ignore[arg-type]
    for gain in gains:
        tried.append(gate.due(state))
        state, now = gate.learn(state, gain, tried[-1])
        on.append(now)
    return state, np.array(tried), np.array(on)


def test_an_option_that_always_pays_is_on_and_one_that_never_does_is_tried_every_so_often():
    state, tried, on = run(np.tile([0.1, -0.1], (320, 1)))
    assert tried[:, 0].all()
    assert on[:, 0].all()
    assert not on[:, 1].any()
    assert np.flatnonzero(tried[:, 1]).tolist() == list(range(0, 320, 32))
    assert state.tries.tolist() == [320, 10]


def test_three_losses_in_a_row_switch_off_though_the_mean_is_good_and_two_do_not():
    gains = np.array([10.0] * 8 + [-1, -1, 10, -1, -1, -1])[:, None]
    _, _, on = run(gains)
    assert on[:-1].all()
    assert not on[-1]


def test_a_mean_that_falls_to_the_threshold_switches_off():
    _, _, on = run(np.array([1.0, -3.0])[:, None])
    assert on[:, 0].tolist() == [True, False]


def test_an_option_that_begins_to_pay_is_on_again_within_one_wait():
    gains = np.concatenate([np.full(100, -1.0), np.full(100, 1.0)])[:, None]
    state, _, on = run(gains, every=10)
    assert not on[:100].any()
    assert on[110:].all()
    assert state.switched_off.tolist() == [0]


def test_only_the_last_tries_count():
    _, _, on = run(np.array([100.0] * 5 + [1.0, -0.9] * 40)[:, None], window=4)
    assert on.all()
    state, _, on = run(np.array([100.0] * 5 + [0.9, -1.0] * 40)[:, None], window=4)
    first = int((~on[:, 0]).argmax())
    assert 5 < first <= 5 + 4
    assert state.switched_off[0] >= 1


def test_the_threshold_is_in_the_unit_of_the_gains():
    _, _, on = run(np.tile([0.02, 0.021], (9, 1)), threshold=0.02)
    assert not on[:, 0].any()
    assert on[:, 1].all()


@pytest.mark.parametrize("target", [1.0, 4.4, 7.0])
def test_bits_come_to_the_target_where_a_doubled_step_saves_one(target: float):
    state = rate.start(limit=8.0)
    for _ in range(20):
        bits = max(5.0 - state.offset, 0.0)
        state = rate.learn(state, bits, target)
    assert 5.0 - state.offset == pytest.approx(target, abs=1e-4)
    assert rate.factor(state) == pytest.approx(2.0 ** (5.0 - target), rel=1e-3)


def test_an_offset_is_what_a_hand_computes_and_stays_within_its_limit():
    state = rate.learn(rate.start(), 5.4, 4.4)
    assert state.offset == pytest.approx(0.5)
    assert rate.learn(state, 4.0, 4.4).offset == pytest.approx(0.3)
    for _ in range(9):
        state = rate.learn(state, 9.0, 4.4)
    assert state.offset == 2.0
    assert rate.factor(state) == 4.0
    for _ in range(9):
        state = rate.learn(state, 0.0, 4.4)
    assert state.offset == -2.0


def test_both_are_described_counted_and_begin_again_with_their_settings():
    began = gate.start(["table", "spectral"], threshold=0.1, window=2, losses=2, every=5)
    state, _ = gate.learn(began, [0.3, 0.0])
    facts = describe(state)
    assert facts["options"] == {
        "table": {"on": True, "tries": 1, "switched_off": 0, "gain": 0.3},
        "spectral": {"on": False, "tries": 1, "switched_off": 0},
    }
    assert tally(state).updates == 1
    assert pack(fresh(state)) == pack(began)
    coded = rate.learn(rate.start(gain=0.25, limit=1.0), 5.0, 4.0)
    assert describe(coded) == {"kind": "rate", "steps": 1, "offset": 0.25, "bits": 5.0, "error": 1.0}
    assert tally(coded).updates == 1
    assert pack(fresh(coded)) == pack(rate.start(gain=0.25, limit=1.0))
