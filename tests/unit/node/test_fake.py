"""FakeNvml: its physics, its faults, and that it repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.node import FakeNvml
from qstream.node.device import DeviceDenied, DeviceLost


def measured(gpus, uuid, **caps):
    """Speed and joules a token of a GPU under caps, from its counters."""
    if "clock" in caps:
        gpus.set_sm_clock_cap_mhz(uuid, caps["clock"])
    if "limit" in caps:
        gpus.set_power_limit_w(uuid, caps["limit"])
    before = gpus.telemetry("d")
    gpus.advance(100)
    energy_mj, _, tokens = (gpus.telemetry("d").count - before.count)[:, gpus.uuids.index(uuid)].tolist()
    return tokens / 100, energy_mj / 1e3 / tokens


def test_a_clock_cap_saves_a_quarter_of_the_energy_of_decoding_and_little_of_training():
    saved = {}
    for name, beta, activity, clock in (("decode", 0.15, 0.3, 1490), ("train", 0.8, 0.9, 1860)):
        gpus = FakeNvml(1)
        gpus.load(gpus.uuids[0], beta, activity)
        speed, energy = measured(gpus, gpus.uuids[0])
        slower, less = measured(gpus, gpus.uuids[0], clock=clock)
        assert 0.04 < speed / slower - 1 < 0.06
        saved[name] = 1 - less / energy
    assert 0.25 < saved["decode"] < 0.32
    assert 0.04 < saved["train"] < 0.09


def test_a_power_limit_keeps_the_mean_power_and_says_so():
    gpus = FakeNvml(2)
    for uuid in gpus.uuids:
        gpus.load(uuid, 0.8, 1.0)
    gpus.set_power_limit_w(gpus.uuids[0], 400)
    gpus.advance(30)
    frame = gpus.telemetry("d")
    power = frame.value[frame.metric.index("power_w")]
    assert power[0] < 405 < 680 < power[1]
    assert frame.count[frame.counter.index("clock_event_reasons")].tolist() == [4, 0]


def test_the_same_seed_and_calls_give_the_same_readings():
    frames = []
    for _ in range(2):
        gpus = FakeNvml(3, seed=5)
        gpus.load(gpus.uuids[1], 0.5, 0.5)
        gpus.advance(3)
        frames.append(gpus.telemetry("d"))
    assert frames[0] == frames[1]
    assert frames[0] != FakeNvml(3, seed=6).telemetry("d")


def test_faults_are_those_that_were_asked_for():
    gpus = FakeNvml(4)
    for uuid, how in zip(gpus.uuids, ("denied", "ignored", "clamped", "lost"), strict=True):
        gpus.fail(uuid, "power_limit_w", how)
    with pytest.raises(DeviceDenied):
        gpus.set_power_limit_w(gpus.uuids[0], 300)
    gpus.set_power_limit_w(gpus.uuids[1], 300)
    gpus.set_power_limit_w(gpus.uuids[2], 300)
    assert [gpus.power_limit_w(uuid) for uuid in gpus.uuids[:3]] == [700, 700, 500]
    with pytest.raises(DeviceLost):
        gpus.power_limit_w(gpus.uuids[3])
    assert (gpus.telemetry("d").value[:, 3] == -1).all()
    with pytest.raises(DeviceDenied):
        gpus.set_power_limit_w(gpus.uuids[1], 100)
    assert len(gpus.writes) == 4


def test_after_a_reboot_counters_and_limits_begin_again_in_another_order():
    gpus = FakeNvml(2)
    gpus.load(gpus.uuids[0], 0.5, 1.0)
    gpus.set_power_limit_w(gpus.uuids[0], 300)
    gpus.advance(10)
    before, uuid = gpus.telemetry("d"), gpus.uuids[0]
    gpus.reboot()
    after = gpus.telemetry("d")
    assert (after.uuid, after.count[0].tolist()) == (before.uuid[::-1], [0, 0])
    assert (gpus.power_limit_w(uuid), after.boot_id == before.boot_id) == (700, False)
    gpus.advance(10)
    assert np.argmax(gpus.telemetry("d").value[0]) == 1  # it still has its work


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FakeNvml(0), "gpus must be a whole number from 1 to 72, got 0"),
        (lambda: FakeNvml(1.5), "gpus must be a whole number from 1 to 72, got 1.5"),
        (lambda: FakeNvml(seed=-1), "seed must be a whole number from 0 to .*, got -1"),
        (lambda: FakeNvml(1).advance(float("inf")), "seconds must be finite and above 0, got inf"),
        (lambda: FakeNvml(model="x1"), "model must be one of v100, a100, h100, h200, b200, got 'x1'"),
        (lambda: FakeNvml(1).load("GPU-9", 0.5, 0.5), "uuid must be one of GPU-node-0-0, got 'GPU-9'"),
        (lambda: FakeNvml(1).fail("GPU-node-0-0", "fan", "lost"), "knob must be power_limit_w or sm_clock_mhz, got 'fan'"),
        (
            lambda: FakeNvml(1).fail("GPU-node-0-0", "power_limit_w", "x"),
            "how must be one of denied, ignored, clamped, lost, none",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(ProblemError, match=message):
        call()
