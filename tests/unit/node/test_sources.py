"""Sources and devices behind HTTP: real servers that serve what exporters and zeusd serve, and what they serve when broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qstream.errors import ConfigError
from qstream.node import Actuator, FakeNvml
from qstream.node.dcgm import dcgm_source
from qstream.node.device import DeviceDenied
from qstream.node.fake_source import give_work
from qstream.node.fetch import checked_place
from qstream.node.null import NullDevice
from qstream.node.telemetry import SourceFault
from qstream.node.trouble import Troubles
from qstream.node.zeusd import ZeusdDevice, uuid_by_address, zeusd_source
from tests.unit.node.plans import applying, limits, plan_for
from tests.unit.node.servers import Zeusd, serving

SAMPLES = Path(__file__).parents[2] / "data" / "energy"
NOW_NS = 1_700_000_000_000_000_000


def page(text):
    return lambda method, path, given: (200, text) if (method, path) == ("GET", "/metrics") else (404, b"")


def read_page(text, node=None, said=None):
    troubles = Troubles((said if said is not None else []).append)
    with serving(page(text)) as place:
        return dcgm_source(f"{place}/metrics", "d", node, troubles)(NOW_NS), troubles


def test_both_namings_of_an_exporter_give_equal_frames_with_the_time_of_the_reading():
    old, _ = read_page((SAMPLES / "dcgm_exporter_4_5.prom").read_bytes())
    new, _ = read_page((SAMPLES / "dcgm_exporter_4_6.prom").read_bytes())
    assert [(frame.node, frame.ts_ns, len(frame.uuid)) for frame in new] == [
        ("gpu-node-01", NOW_NS, 2),
        ("gpu-node-02", NOW_NS, 2),
    ]
    for frame, other in zip(old, new, strict=True):
        shared = [name for name in frame.metric if name in other.metric]
        assert "power_w" in shared
        for name in shared:
            assert frame.value[frame.metric.index(name)].tolist() == other.value[other.metric.index(name)].tolist()


def test_the_node_names_a_page_of_one_node_and_no_page_of_several():
    text = (SAMPLES / "dcgm_exporter_4_6.prom").read_text()
    one = "\n".join(line for line in text.splitlines() if "gpu-node-02" not in line)
    assert [frame.node for frame in read_page(one.encode(), "n7")[0]] == ["n7"]
    assert [frame.node for frame in read_page(text.encode(), "n7")[0]] == ["gpu-node-01", "gpu-node-02"]


def test_damaged_lines_are_counted_and_said_and_a_page_without_power_is_a_fault():
    said = []
    text = (SAMPLES / "dcgm_exporter_4_6.prom").read_bytes()
    frames, troubles = read_page(text + b"DCGM_FI_DEV_SM_CLOCK{gpu=\n\xff\xfe\x00\n", said=said)
    assert (len(frames), troubles.counts["damaged"], len(said)) == (2, 2, 1)
    for broken in (b"", b"<html>It works!</html>", b"\x00\x01\x02" * 100, b"DCGM_FI_DEV_SM_CLOCK 1\n"):
        with pytest.raises(SourceFault, match="the DCGM exporter cannot be read"):
            read_page(broken)


def test_values_that_an_exporter_repeats_are_no_new_reading():
    said, text = [], (SAMPLES / "dcgm_exporter_4_6.prom").read_bytes()
    later = text.replace(b"184467000000", b"184467300000")
    pages = iter((text, text, text, later))
    with serving(lambda *_: (200, next(pages))) as place:
        source = dcgm_source(place, "d", None, troubles := Troubles(said.append))
        assert [len(source(NOW_NS + at)) for at in range(4)] == [2, 0, 0, 2]
    assert (troubles.counts["repeated"], len(said)) == (4, 1)


def test_the_page_of_an_exporter_need_not_be_named():
    with serving(page((SAMPLES / "dcgm_exporter_4_6.prom").read_bytes())) as place:
        assert len(dcgm_source(place, "d", None, Troubles(print))(NOW_NS)) == 2


def test_an_exporter_that_answers_an_error_or_not_at_all_is_a_fault():
    with serving(page(b"")) as place, pytest.raises(SourceFault, match="answers 404"):
        dcgm_source(f"{place}/other", "d", None, Troubles(print))(NOW_NS)
    with pytest.raises(SourceFault, match="does not answer"):
        dcgm_source(f"{place}/metrics", "d", None, Troubles(print))(NOW_NS)


@pytest.mark.parametrize("text", ["", "localhost:9400", "ftp://host/x", "unix://", "http://"])
def test_a_place_is_a_url_or_a_socket(text):
    with pytest.raises(ConfigError, match="URL must be such as"):
        checked_place(text)


def test_zeusd_counts_gpus_and_readings_have_their_uuids(tmp_path):
    gpus = FakeNvml(3, node="n")
    give_work(gpus)
    gpus.advance(30)
    daemon = Zeusd(gpus)
    daemon.order.reverse()
    with serving(daemon, tmp_path / "zeusd.sock") as place:
        (frame,) = zeusd_source(place, "d", "n", daemon.names())(NOW_NS)
    assert (frame.ts_ns, frame.uuid) == (NOW_NS, gpus.uuids[::-1])
    by_name = dict(zip(frame.metric, frame.value, strict=True))
    true_w = gpus.telemetry("d").value[0][::-1]
    np.testing.assert_allclose(by_name["power_instant_w"], true_w, rtol=0.02)
    assert [by_name[f"power_limit{name}_w"].tolist() for name in ("", "_min", "_max")] == [[700] * 3, [200] * 3, [700] * 3]


def test_an_older_zeusd_gives_power_only():
    daemon = Zeusd(FakeNvml(2), old=True)
    with serving(daemon) as place:
        (frame,) = zeusd_source(place, "d", "n", daemon.names())(NOW_NS)
    assert (frame.metric, frame.count) == (("power_instant_w",), None)


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"an error of the driver"),
        (200, b"no json"),
        (200, b"[]"),
        (200, b'{"gpus": [{"id": 0}]}'),
        (200, b'{"gpus": [{"id": 0, "pci_address": "0000:99:00.0"}]}'),
        (200, b'{"gpus": [{"id": 0, "pci_address": 7}]}'),
        (200, b'{"gpus": [{"id": "x", "pci_address": "0000:01:00.0"}]}'),
    ],
)
def test_what_zeusd_does_not_say_is_a_fault_and_no_crash(answer):
    with serving(lambda *_: answer) as place:
        source = zeusd_source(place, "d", "n", {"0000:01:00.0": "GPU-a"})
        with pytest.raises(SourceFault, match="zeusd cannot be read"):
            source(NOW_NS)


def test_uuids_are_read_from_what_the_driver_shows(tmp_path):
    folder = tmp_path / "0000:1B:00.0"
    folder.mkdir()
    (folder / "information").write_text("Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-01-02\nBus Location: \t 0000:1b:00.0\n")
    assert uuid_by_address(tmp_path) == {"0000:1b:00.0": "GPU-01-02"}
    assert uuid_by_address(tmp_path / "none") == {}


def test_an_actuator_sets_gpus_through_zeusd_and_reads_back_by_itself(tmp_path):
    gpus = FakeNvml(4, seed=1)
    daemon = Zeusd(gpus)
    daemon.order.reverse()
    with serving(daemon, tmp_path / "zeusd.sock") as place:
        device = ZeusdDevice(gpus, place, daemon.names())
        actuator = applying(device, tmp_path)
        gpus.fail(gpus.uuids[1], "power_limit_w", "ignored")
        gpus.fail(gpus.uuids[2], "power_limit_w", "denied")
        ack = actuator.take(plan_for(gpus.uuids, 300, clock=1590), 1)
        assert ack.result == ("ok", "denied", "denied", "ok")
        assert limits(gpus) == [300, 700, 700, 300]
        assert [gpus.sm_clock_cap_mhz(uuid) for uuid in gpus.uuids] == [1590] * 4
        actuator.close()
    assert (limits(gpus), gpus.sm_clock_cap_mhz(gpus.uuids[0])) == ([700] * 4, None)


def test_a_zeusd_that_is_away_or_knows_another_gpu_denies(tmp_path):
    gpus = FakeNvml(2)
    daemon = Zeusd(gpus)
    with serving(daemon) as place:
        with pytest.raises(DeviceDenied, match="zeusd does not know"):
            ZeusdDevice(gpus, place, {"0000:01:00.0": gpus.uuids[0]}).set_power_limit_w(gpus.uuids[1], 300)
        with pytest.raises(DeviceDenied, match="answers 403"):
            ZeusdDevice(gpus, place, daemon.names()).set_power_limit_w(gpus.uuids[1], 3000)
    with pytest.raises(DeviceDenied, match="does not answer"):
        ZeusdDevice(gpus, place, daemon.names()).set_sm_clock_cap_mhz(gpus.uuids[1], None)


def test_the_null_device_has_no_limits_and_so_no_target(tmp_path):
    device = NullDevice(["GPU-a"])
    ack = Actuator(device, domain="d", node="n", mode="apply", allow=["GPU-a"]).take(plan_for(["GPU-a", "GPU-b"], 300), 1)
    assert (ack.uuid, ack.result, ack.enforced_limit_w.tolist()) == (("GPU-a",), ("unsupported",), [-1])
    for refused in (lambda: device.set_power_limit_w("GPU-a", 300), lambda: device.set_sm_clock_cap_mhz("GPU-a", None)):
        with pytest.raises(DeviceDenied):
            refused()
