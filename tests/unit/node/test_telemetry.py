"""Telemetry: what a source gives is published, what it does not is counted and said once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from qstream.errors import DeliveryFailed
from qstream.node import FakeNvml
from qstream.node.fake_file import FiledNvml
from qstream.node.fake_source import fake_source, give_work
from qstream.node.progress import with_progress
from qstream.node.telemetry import SourceFault, publish_readings, run_telemetry, with_power, within
from qstream.node.trouble import Troubles
from schemas.power import GpuTelemetry
from tests.unit.node.plans import S


class Kept:
    """What a publisher is given; `away` times it does not confirm."""

    def __init__(self, away: int = 0) -> None:
        self.frames, self.times, self.away = [], [], away

    def publish(self, topic, frame, *, timestamp_ms):
        assert topic.name == "qstream.gpu.telemetry.v1"
        self.frames.append(frame)
        self.times.append(timestamp_ms)

    def flush(self, timeout_s):
        if self.away:
            self.away -= 1
            raise DeliveryFailed("1 records were not confirmed: no broker answers")


@pytest.fixture
def said():
    return []


@pytest.fixture
def troubles(said):
    return Troubles(said.append)


def test_fake_gpus_follow_the_clock(troubles):
    gpus, kept = FakeNvml(4, node="n"), Kept()
    give_work(gpus)
    source = fake_source(gpus, "d")
    for second in (100, 101, 111):
        assert publish_readings(source, kept, troubles, second * S) == 1
    first, second, third = kept.frames
    assert kept.times == [100_000, 101_000, 111_000]
    assert [frame.ts_ns for frame in kept.frames] == [100 * S, 101 * S, 111 * S]
    progress = [frame.count[frame.counter.index("progress")].astype(float) for frame in (first, second, third)]
    np.testing.assert_allclose(progress[2] - progress[1], 10 * (progress[1] - progress[0]), rtol=1e-3)
    assert (first.boot_id, first.boot_id == fake_source(gpus, "d")(5 * S)[0].boot_id) == (third.boot_id, False)


def test_a_gpu_without_power_is_left_out_and_counted_and_said_once(said, troubles):
    gpus, kept = FakeNvml(3, node="n"), Kept()
    gpus.fail(gpus.uuids[1], "power_limit_w", "lost")
    source = fake_source(gpus, "d")
    for second in range(3):
        publish_readings(source, kept, troubles, second * S)
    assert {frame.uuid for frame in kept.frames} == {(gpus.uuids[0], gpus.uuids[2])}
    assert all(frame.value.shape == (9, 2) and frame.count.shape == (3, 2) for frame in kept.frames)
    assert (troubles.counts["power"], said) == (3, ["n: 1 of 3 GPUs report no power"])
    gpus.fail(gpus.uuids[1], "power_limit_w", "none")
    publish_readings(source, kept, troubles, 9 * S)
    assert said[1:] == ["n: every GPU reports its power, after 3 failures"]


def test_a_frame_in_which_no_gpu_reports_power_is_not_published(troubles):
    frame = GpuTelemetry(domain="d", ts_ns=1, node="n", uuid=("a",), metric=("temp_c",), value=np.ones((1, 1), np.float32))
    kept = Kept()
    assert with_power(frame) is None
    assert publish_readings(lambda _: [frame], kept, troubles, 1) == 0
    assert kept.frames == []


def test_jobs_stay_with_their_gpus():
    frame = GpuTelemetry.example()
    value = frame.value.copy()
    value[0, 0] = -1
    kept = with_power(frame.model_copy(update={"value": value, "job": ("a", "b"), "workload": ("train", "decode")}))
    assert (kept.uuid, kept.job, kept.workload) == (("GPU-1",), ("b",), ("decode",))
    assert GpuTelemetry.decode(kept.encode()) == kept


def test_a_source_that_fails_is_said_once_and_the_loop_goes_on(said, troubles):
    gpus, kept, stop = FakeNvml(2), Kept(), threading.Event()
    good, calls = fake_source(gpus, "d"), iter(range(100))

    def source(now_ns):
        if next(calls) in (1, 2, 3):
            raise SourceFault("the exporter does not answer")
        return good(now_ns)

    clock = iter(range(S, 100 * S, S))
    sent = run_telemetry(source, kept, troubles, interval_s=1e-3, stop=stop, clock_ns=lambda: next(clock), count=3)
    assert (sent, len(kept.frames), troubles.counts["source"]) == (3, 3, 3)
    assert said == ["the exporter does not answer", "the source answers, after 3 failures"]


def test_a_broker_that_is_away_is_said_once_and_the_loop_goes_on(said, troubles):
    kept = Kept(away=2)
    source = fake_source(FakeNvml(2), "d")
    assert run_telemetry(source, kept, troubles, interval_s=1e-3, stop=threading.Event(), count=4) == 4
    assert troubles.counts["kafka"] == 2
    assert said == ["1 records were not confirmed: no broker answers", "the broker confirms records, after 2 failures"]


def test_a_source_that_hangs_is_not_asked_again_before_it_comes_back():
    asked, go_on = [], threading.Event()

    def hangs(now_ns):
        asked.append(now_ns)
        go_on.wait()
        return []

    source = within(hangs, 0.01)
    for now_ns in (1, 2, 3):
        with pytest.raises(SourceFault, match=r"the source hangs: no answer for more than 0\.01 s"):
            source(now_ns)
    assert asked == [1]
    go_on.set()
    patient = within(hangs, 60)
    assert (patient(4), asked) == ([], [1, 4])


def test_what_a_source_raises_is_raised_to_who_asks():
    def broken(_):
        raise SourceFault("garbage")

    with pytest.raises(SourceFault, match="garbage"):
        within(broken, 60)(1)


def test_fake_gpus_in_a_file_are_the_same_for_all_who_open_it(tmp_path):
    path = tmp_path / "gpus.jsonl"
    one, other = FiledNvml(path), FiledNvml(path)
    give_work(other)
    one.set_power_limit_w(one.uuids[7], 300)
    one.set_sm_clock_cap_mhz(one.uuids[0], 1000)
    assert (other.power_limit_w(one.uuids[7]), other.sm_clock_cap_mhz(one.uuids[0])) == (300, 990)
    other.advance(30)
    frame = other.telemetry("d")
    assert frame.value[frame.metric.index("power_w"), 7] < 310
    one.set_sm_clock_cap_mhz(one.uuids[0], None)
    assert FiledNvml(path).sm_clock_cap_mhz(one.uuids[0]) is None


def test_jobs_say_their_progress_in_files_and_what_is_none_is_left_out(tmp_path, said, troubles):
    gpus = FakeNvml(5)
    for uuid, text in zip(gpus.uuids, ("17 chat decode", "18 chat", "9" * 30, "-3", "4 a b c"), strict=True):
        (tmp_path / uuid).write_text(text)
    source = with_progress(fake_source(gpus, "d"), tmp_path, troubles)
    frame = source(S)[0]
    none = 2**64 - 1
    assert frame.counter == ("energy_mj", "clock_event_reasons", "progress")
    assert frame.count[2].tolist() == [17, 18, none, none, none]
    assert (frame.job, frame.workload) == (("chat", "chat", "", "", ""), ("decode", "", "", "", ""))
    assert GpuTelemetry.decode(frame.encode()) == frame
    assert (troubles.counts["progress"], len(said)) == (3, 1)
    (tmp_path / gpus.uuids[0]).write_bytes(b"\xff\xfe")
    assert source(2 * S)[0].count[2, 0] == none


def test_without_any_file_readings_stay_as_they_are(tmp_path, troubles):
    source = fake_source(FakeNvml(2), "d")
    assert with_progress(lambda _: source(S), tmp_path, troubles)(S)[0].counter == (
        "energy_mj",
        "clock_event_reasons",
        "progress",
    )
