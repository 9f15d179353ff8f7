"""Formats of recordings: what tools write is read, what is damaged is left out and counted, what has no power is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from qstream.energy.formats.read import read_recording, read_telemetry, stream_recording
from qstream.errors import ProblemError
from schemas.frame import JSON
from schemas.power import GpuTelemetry

SAMPLES = Path(__file__).parents[2] / "data" / "energy"
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_recording_is_decoded_as_its_first_bytes_say(tmp_path, encoding):
    path = tmp_path / "recording"
    text = "\ufeff" + SMI if encoding == "utf-16-be" else SMI
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert read_recording(path, domain="d", zone="UTC") == read_recording(written(tmp_path, SMI), domain="d", zone="UTC")


def test_cells_without_units_count_where_the_header_has_them(tmp_path):
    bare = SMI.replace(" W,", ",").replace(" MHz", "")
    with_units = read_recording(written(tmp_path, SMI), domain="d", zone="UTC")
    assert read_recording(written(tmp_path, bare), domain="d", zone="UTC") == with_units


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


def test_the_samples_of_both_namings_of_dcgm_are_equal_frames():
    old, new = (read_recording(SAMPLES / f"dcgm_exporter_{name}.prom", domain="d") for name in ("4_5", "4_6"))
    assert old.frames == new.frames
    assert (old.skipped, new.skipped) == (0, 0)
    assert [(frame.node, len(frame.uuid)) for frame in old.frames] == [("gpu-node-01", 2), ("gpu-node-02", 2)]
    partitioned = old.frames[1].value[:, 1]
    assert partitioned[old.frames[1].metric.index("power_w")] == 71.25  # of two instances, not their sum
    assert partitioned[old.frames[1].metric.index("sm_active")] == -1  # DCGM's number for none


def test_the_sample_of_nvidia_smi_is_read_whole():
    found = read_recording(SAMPLES / "nvidia_smi.csv", domain="d", zone="UTC")
    assert (len(found.frames), found.skipped) == (4, 0)
    first = found.frames[0]
    assert (first.ts_ns, len(first.uuid), len(first.metric), first.counter) == (
        1_777_896_000_100_000_000,
        2,
        8,
        ("clock_event_reasons",),
    )


def test_a_stream_of_zeusd_is_refused_since_it_has_no_uuids():
    with pytest.raises(ProblemError, match=r"must be of GPUs by uuid, got zeusd's stream, which counts them"):
        read_telemetry(SAMPLES / "zeusd_stream_power.txt", domain="d")


def test_what_is_not_of_a_gpu_is_no_damage(tmp_path):
    text = DCGM.format(**OLD).replace(
        "this is no line",
        'go_goroutines 12\nDCGM_FI_DEV_NVSWITCH_POWER{nvswitch="s0",Hostname="n1"} 80\n'
        'up{job="gpu"} 1 1700000000000\nDCGM_FI_DEV_POWER_USAGE{gpu="3",Hostname="n1"} 90',
    )
    found = read_recording(written(tmp_path, text), domain="d")
    assert found.skipped == 1  # the last one, whose GPU has no uuid
    assert found.frames == read_recording(written(tmp_path, DCGM.format(**OLD)), domain="d").frames


def test_nodes_whose_scrapes_follow_one_another_are_of_the_same_times(tmp_path):
    scrapes = {node: f'DCGM_FI_DEV_POWER_USAGE{{UUID="GPU-{node}",Hostname="{node}"}} 300\n' for node in ("n1", "n2")}
    frames = read_telemetry(written(tmp_path, 3 * scrapes["n1"] + 3 * scrapes["n2"]), domain="d")
    assert [frame.ts_ns // 10**9 for frame in frames if frame.node == "n1"] == [30, 60, 90]
    assert [frame.ts_ns // 10**9 for frame in frames if frame.node == "n2"] == [30, 60, 90]


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
        (SMI.replace(" [W]", ""), "UTC", r"header must be with units: power.draw \[W\] \(drop nounits\), got 'power.draw'"),
        (SMI.replace("uuid", "serial"), "UTC", "header must be given a column uuid"),
        ('DCGM_FI_DEV_SM_CLOCK{uuid="a"} 1980\n', None, "no line with the power of a GPU"),
        (SMI.replace(" W,", "].").replace(" W\n", "].\n"), "UTC", "CSV must be given the power of a GPU, got no row with it"),
        ("\x93NUMPY\x00\x01", None, "JSON lines of GpuTelemetry, got bytes that are not text"),
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


def test_a_name_that_no_frame_can_have_is_refused(tmp_path):
    with pytest.raises(ProblemError, match="node must be 1 to 200 printable characters, got ''"):
        read_telemetry(written(tmp_path, SMI), domain="d", node="", zone="UTC")


def test_a_reader_yields_a_frame_before_it_has_read_the_next():
    rows = stream_recording(SAMPLES / "nvidia_smi.csv", domain="d", zone="UTC")
    assert next(rows).seq == 0  # the file may be larger than memory
    rows.close()


@pytest.mark.parametrize("name", ["nvidia_smi.csv", "dcgm_exporter_4_5.prom", "dcgm_exporter_4_6.prom", "frames.jsonl"])
def test_a_damaged_file_gives_whole_frames_or_is_refused(tmp_path, name):
    whole = b"\n".join([GpuTelemetry.example().encode(JSON)] * 4) if name == "frames.jsonl" else (SAMPLES / name).read_bytes()
    draw, read = random.Random(name), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            at = draw.randrange(len(damaged))
            damaged[at : at + draw.choice([0, 1, 40])] = draw.randbytes(draw.choice([0, 1, 4]))
        path = tmp_path / "damaged"
        path.write_bytes(bytes(damaged))
        try:
            found = read_recording(path, domain="row-1", zone="UTC")
        except ProblemError:
            continue
        read += 1
        for frame in found.frames:
            assert GpuTelemetry.decode(frame.encode(JSON), JSON) == frame
    assert read > 30
