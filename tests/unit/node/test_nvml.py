"""NVML: units, errors and what cannot be read, on a library with pynvml's functions over modelled GPUs."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path

import numpy as np
import pynvml
import pytest

from qstream.errors import ConfigError
from qstream.node import FakeNvml
from qstream.node.device import DeviceDenied, DeviceLost
from qstream.node.fake_source import give_work
from qstream.node.nvml import NvmlGpus, nvml_source
from qstream.node.telemetry import SourceFault
from tests.unit.node.library import Library
from tests.unit.node.plans import S, applying, limits, plan_for

NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def fake():
    gpus = FakeNvml(4, seed=1)
    give_work(gpus)
    gpus.advance(30)
    return gpus


def test_without_a_driver_the_error_says_so():
    library = Library(FakeNvml(1))

    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    library.nvmlInit = no_driver
    with pytest.raises(
        ConfigError, match="NVML must be there, with NVIDIA's driver and a GPU, got NVML Shared Library Not Found"
    ):
        NvmlGpus(library)


def test_pynvml_has_each_function_that_is_called():
    called = set(re.findall(r"nvml(?:Init|Shutdown|Device)\w*", Path(inspect.getfile(NvmlGpus)).read_text()))
    assert len(called) > 15
    assert [name for name in called if not hasattr(pynvml, name)] == []


def test_a_function_that_an_older_pynvml_lacks_is_a_reading_that_is_left_out(fake):
    library = Library(fake)
    library.nvmlDeviceGetTotalEnergyConsumption = None
    assert "energy_mj" not in NvmlGpus(library).readings(fake.uuids[0])


def test_readings_are_in_watts_by_uuid_and_what_is_not_known_is_left_out(fake):
    library = Library(fake)
    library.unsupported = {"nvmlDeviceGetTotalEnergyConsumption"}
    (frame,) = nvml_source(NvmlGpus(library), "d", "n")(NOW_NS)
    assert (frame.node, frame.ts_ns, frame.uuid, frame.seq) == ("n", NOW_NS, fake.uuids, 1)
    by_name = dict(zip(frame.metric, frame.value, strict=True))
    np.testing.assert_allclose(by_name["power_w"], fake.telemetry("d").value[0], rtol=0.02)
    assert [by_name[f"power_limit_{name}_w"][0] for name in ("min", "max", "default", "enforced")] == [200, 700, 700, 700]
    assert by_name["sm_clock_max_mhz"].tolist() == [1980] * 4
    assert (frame.counter, "power_instant_w" in by_name) == (("clock_event_reasons",), False)


def test_a_lost_gpu_is_left_out_and_without_any_the_driver_is_opened_again(fake):
    library = Library(fake)
    source = nvml_source(NvmlGpus(library), "d", "n")
    fake.fail(fake.uuids[0], "power_limit_w", "lost")
    assert source(NOW_NS)[0].uuid == fake.uuids[1:]
    for uuid in fake.uuids:
        fake.fail(uuid, "power_limit_w", "lost")
    for _ in range(3):
        with pytest.raises(SourceFault, match="NVML must be there, with a GPU that answers, got 4 GPUs that do not"):
            source(NOW_NS)
    for uuid in fake.uuids:
        fake.fail(uuid, "power_limit_w", "none")
    with pytest.raises(SourceFault):
        source(NOW_NS)  # it opens the driver for the next time
    assert (len(source(NOW_NS)[0].uuid), library.opened) == (4, 1)


def test_an_actuator_sets_reads_back_and_restores(fake, tmp_path):
    actuator = applying(NvmlGpus(Library(fake)), tmp_path)
    ack = actuator.take(plan_for(fake.uuids, 300, clock=1600), 1 * S)
    assert (ack.result, ack.enforced_limit_w.tolist(), limits(fake)) == (("ok",) * 4, [300] * 4, [300] * 4)
    assert fake.sm_clock_cap_mhz(fake.uuids[0]) == 1590
    actuator.take(plan_for(fake.uuids[:1], 300, version=2), 2 * S)
    assert limits(fake) == [300, 700, 700, 700]
    assert [fake.sm_clock_cap_mhz(uuid) for uuid in fake.uuids] == [None] * 4


def test_after_a_kill_clock_caps_are_taken_away_although_nvml_cannot_say_that_there_are_any(fake, tmp_path):
    applying(NvmlGpus(Library(fake)), tmp_path).take(plan_for(fake.uuids, -1, clock=1000), 1 * S)
    again = NvmlGpus(Library(fake))
    assert math.isnan(again.sm_clock_cap_mhz(fake.uuids[0]))
    actuator = applying(again, tmp_path)
    assert [fake.sm_clock_cap_mhz(uuid) for uuid in fake.uuids] == [None] * 4
    assert (actuator.restored.result, actuator.touched) == (("expired",) * 4, ())


def test_without_the_right_to_set_each_target_is_denied(fake, tmp_path):
    ack = applying(NvmlGpus(Library(fake, root=False)), tmp_path).take(plan_for(fake.uuids, 300), 1 * S)
    assert (set(ack.result), fake.writes) == ({"denied"}, [])


def test_a_partitioned_gpu_is_never_set(fake, tmp_path):
    library = Library(fake)
    library.mig = {fake.uuids[2]}
    ack = applying(NvmlGpus(library), tmp_path).take(plan_for(fake.uuids, 300, clock=1590), 1 * S)
    assert ack.result == ("ok", "ok", "unsupported", "ok")
    assert fake.uuids[2] not in {uuid for uuid, _, _ in fake.writes}


def test_a_gpu_without_limits_or_clocks_is_unsupported(fake, tmp_path):
    library = Library(fake)
    library.unsupported = {"nvmlDeviceGetPowerManagementLimitConstraints", "nvmlDeviceGetSupportedMemoryClocks"}
    actuator = applying(NvmlGpus(library), tmp_path)
    assert set(actuator.take(plan_for(fake.uuids, 300), 1 * S).result) == {"unsupported"}
    assert set(actuator.take(plan_for(fake.uuids, -1, clock=1590, version=2), 1 * S).result) == {"unsupported"}
    assert fake.writes == []


def test_errors_of_the_library_say_whether_the_gpu_or_the_right_is_missing(fake):
    gpus, uuid = NvmlGpus(Library(fake)), fake.uuids[0]
    with pytest.raises(DeviceDenied):
        gpus.set_power_limit_w(uuid, 1)
    fake.fail(uuid, "power_limit_w", "lost")
    with pytest.raises(DeviceLost):
        gpus.power_limit_w(uuid)
    with pytest.raises(DeviceLost):
        gpus.set_sm_clock_cap_mhz(uuid, 1000)
