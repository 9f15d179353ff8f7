"""Formats of recordings: what tools write is read, what is damaged is left out and counted, what has no power is refused."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.formats.read import read_recording, read_telemetry
from qstream.errors import ProblemError
from schemas.frame import JSON
from schemas.power import GpuTelemetry

SMI = """\
timestamp, index, uuid, power.draw [W], power.limit [W], clocks.current.sm [MHz], temperature.gpu, clocks_event_reasons.active
2026/05/04 12:00:00.100, 0, GPU-a, 285.84 W, 700.00 W, 1980 MHz, 55, 0x0000000000000000
2026/05/04 12:00:00.101, 1, GPU-b, 648.12 W, 700.00 W, 1755 MHz, 56, 0x0000000000000004
2026/05/04 12:00:01.100, 0, GPU-a, [N/A], 700.00 W, 1980 MHz, 55, 0x0000000000000000
2026/05/04 12:00:01.101, 1, GPU-b, 645.98 W, 70
not a time, 0, GPU-a, 1 W, 700.00 W, 1980 MHz, 55, 0x0000000000000000
"""
DCGM = """\
# HELP {power} Power draw (in W).
{power}{{gpu="0",{uuid}="GPU-a",{host}="n1",pod="chat-0"}} 287.5
{power}{{gpu="0",{uuid}="GPU-b",{host}="n2"}} 648.25
{power}{{gpu="1",{uuid}="GPU-c",GPU_I_PROFILE="3g.40gb",GPU_I_ID="1",{host}="n2"}} 71.25
{power}{{gpu="1",{uuid}="GPU-c",GPU_I_PROFILE="3g.40gb",GPU_I_ID="2",{host}="n2"}} 71.25
{active}{{gpu="0",{uuid}="GPU-b",{host}="n2"}} 9223372036854775794
{active}{{gpu="0",{uuid}="GPU-a",{host}="n1",pod="chat-0"}} 0.5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",{uuid}="GPU-b",{host}="n2"}} 184467000000
this is no line
"""
OLD = {"power": "DCGM_FI_DEV_POWER_USAGE", "active": "DCGM_FI_PROF_SM_ACTIVE", "uuid": "UUID", "host": "Hostname"}
NEW = {"power": "DCGM_FI_DEV_BOARD_POWER_WATTS", "active": "DCGM_FI_PROF_SM_UTIL_RATIO", "uuid": "uuid", "host": "hostname"}


def written(tmp_path, text):
    path = tmp_path / "recording"
    path.write_text(text)
    return path


def test_rows_of_nvidia_smi_become_a_frame_for_each_round(tmp_path):
    found = read_recording(written(tmp_path, SMI), domain="d", zone="Europe/Paris")
    assert (len(found.frames), found.skipped) == (2, 2)
    first, second = found.frames
    assert (first.node, first.uuid, first.ts_ns) == ("node-0", ("GPU-a", "GPU-b"), 1_777_888_800_100_000_000)
    assert first.value[first.metric.index("power_w")].tolist() == np.array([285.84, 648.12], np.float32).tolist()
    assert first.count.tolist() == [[0, 4]]
    assert "power_w" not in second.metric


def test_both_namings_of_dcgm_give_equal_frames_and_partitions_count_once(tmp_path):
    old = read_recording(written(tmp_path, DCGM.format(**OLD)), domain="d")
    new = read_recording(written(tmp_path, DCGM.format(**NEW)), domain="d")
    assert old.frames == new.frames
    assert old.skipped == 1
    one, two = old.frames
    assert (one.node, one.uuid, one.job) == ("n1", ("GPU-a",), ("chat-0",))
    assert (two.uuid, two.metric) == (("GPU-b", "GPU-c"), ("power_w",))
    assert two.value.tolist() == [[648.25, 71.25]]
    assert two.count.tolist() == [[184467000000, 2**64 - 1]]


def test_scrapes_of_dcgm_one_after_another_are_thirty_seconds_apart(tmp_path):
    frames = read_telemetry(written(tmp_path, 2 * DCGM.format(**OLD)), domain="d")
    assert [(frame.node, frame.ts_ns // 10**9) for frame in frames] == [("n1", 30), ("n2", 30), ("n1", 60), ("n2", 60)]


def test_json_lines_are_the_frames_of_the_domain(tmp_path):
    mine = GpuTelemetry.example()
    other = mine.model_copy(update={"domain": "row-2"})
    text = "\n".join([mine.encode(JSON).decode(), "{}", other.encode(JSON).decode()])
    found = read_recording(written(tmp_path, text), domain="row-1")
    assert (found.frames, found.skipped) == ([mine], 1)


@pytest.mark.parametrize(
    ("text", "zone", "message"),
    [
        (SMI, None, "zone must be given for times of nvidia-smi"),
        (SMI, "Mars/Base", "zone must be a time zone, such as UTC or Europe/Paris, got 'Mars/Base'"),
        (SMI.replace("power.draw [W]", "fan.speed [%]"), "UTC", r"header must be given a column power.draw \[W\]"),
        (SMI.replace("power.draw [W]", "power.draw [mW]"), "UTC", "unit of power.draw must be W, got 'mW'"),
        (SMI.replace("uuid", "serial"), "UTC", "header must be given a column uuid"),
        ('DCGM_FI_DEV_SM_CLOCK{uuid="a"} 1980\n', None, "no line with the power of a GPU"),
        ("{}\n", None, "with power_w, got 0 such frames, 1 lines that are none"),
        ("", None, "got an empty file"),
        ("hello", None, "JSON lines of GpuTelemetry, got 'hello'"),
    ],
)
def test_a_recording_that_cannot_be_used_is_refused(tmp_path, text, zone, message):
    with pytest.raises(ProblemError, match=message):
        read_telemetry(written(tmp_path, text), domain="d", zone=zone)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProblemError, match="No such file"):
        read_telemetry(tmp_path / "none.csv", domain="d")
