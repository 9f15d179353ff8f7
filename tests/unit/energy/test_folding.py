"""Readings go into a domain's state the same way however they are split, repeated or late, and whatever their clocks say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.contract import Batch, Record
from qstream.energy.folding import NONE_AWAITED
from qstream.energy.memory import fresh
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.energy.readings import fold
from qstream.energy.samples import gather
from schemas.power import GpuTelemetry
from schemas.topics import GPU_TELEMETRY, POWER_TOPOLOGY
from tests.unit.energy.racks import rack, topology_of

START_MS = 1_000_000_000
METRICS = ("power_w", "power_instant_w", "power_limit_w", "sm_clock_mhz")
COUNTERS = ("energy_mj", "progress", "clock_event_reasons")
TOPOLOGY = topology_of(rack(3, 2), 3000)


def frame_of(node, power, *, counts=(5, 7, 0), boot="b", job=(), limit=700.0):
    gpus = np.ones((1, 2))
    return GpuTelemetry(
        domain="d", ts_ns=1, node=f"node-{node}", boot_id=boot, job=job, metric=METRICS, counter=COUNTERS,
        uuid=tuple(f"GPU-node-{node}-{at}" for at in range(2)),
        value=(np.array([[power], [-1], [limit], [1980]]) * gpus).astype(np.float32),
        count=(np.array([[count] for count in counts], np.uint64) * np.ones((1, 2), np.uint64)),
    )  # fmt: skip


def folded(*frames, at_ms=None):
    """The memory after frames, a second apart, of a domain in which nothing is awaited."""
    memory = fresh(TOPOLOGY)
    memory.set(since_ns=NONE_AWAITED)
    at_ms = at_ms or [START_MS + 1000 * at for at in range(len(frames))]
    samples = gather(frames, [ms * 1_000_000 for ms in at_ms], memory.now)
    assert not samples.faults
    fold(memory, samples)
    return memory.now


@st.composite
def records(draw):
    """Readings of three nodes with every kind of trouble, a step of up to six seconds from one to the next."""
    at_ms, found = START_MS, [Record(POWER_TOPOLOGY.name, 0, 0, "d", TOPOLOGY, START_MS)]
    for offset in range(draw(st.integers(2, 25))):
        at_ms += draw(st.integers(0, 6000))
        frame = frame_of(
            draw(st.integers(0, 2)),
            draw(st.sampled_from([100.0, 350.0, 690.0, -1.0, 5000.0])),
            counts=(draw(st.integers(0, 9)), draw(st.integers(0, 9)), draw(st.sampled_from([0, 8, 2**64 - 1]))),
            boot=draw(st.sampled_from(["b", "b", "c"])),
            job=draw(st.sampled_from([(), ("x", ""), ("y", "x")])),
            limit=draw(st.sampled_from([700.0, 360.0, 700_000.0])),
        )
        wrong_ms = draw(st.sampled_from([0, 0, 0, 86_400_000, -3000, -30_000]))
        found.append(Record(GPU_TELEMETRY.name, 0, offset, "d", frame, at_ms + wrong_ms))
    return found


def through(split):
    """What the processor makes of batches: the bytes of its events and of its state, and what is dead."""
    processor, state, events, dead = EnergyProcessor(EnergyOptions(settle_s=1, measure_s=5)), None, [], []
    for batch in split:
        result = processor.process(Batch("d", batch), state, 0)
        state = result.state or state
        events += [(event.id, event.frame.encode()) for event in result.events]
        dead += [(poison.record.id, str(poison)) for poison in result.dead]
    return events, state.encode(), dead


@settings(max_examples=12, deadline=None)
@given(records(), st.data())
def test_any_split_into_batches_gives_the_same_plans_state_and_dead_letters(given_records, data):
    cut = data.draw(st.integers(1, len(given_records) - 1))
    at_once = through([given_records])
    assert through([given_records[:cut], given_records[cut:]]) == at_once
    assert through([[record] for record in given_records]) == at_once


def test_a_repeated_or_old_record_changes_nothing():
    once = folded(frame_of(0, 300.0), frame_of(0, 310.0))
    late = folded(frame_of(0, 300.0), frame_of(0, 310.0), frame_of(0, 300.0), at_ms=[START_MS, START_MS + 1000, START_MS])
    old = folded(frame_of(0, 300.0), frame_of(0, 310.0), frame_of(1, 99.0), at_ms=[START_MS, START_MS + 1000, START_MS - 30_000])
    assert once == late == old


def test_samples_that_are_no_measurement_leave_what_is_known():
    for power in (-5.0, 9000.0, 3.7e12):
        known = folded(frame_of(0, 300.0), frame_of(0, power))
        assert known.power_w[:2].tolist() == [300.0, 300.0]
        assert known.seen_ns[0] == START_MS * 10**6


def test_samples_that_are_no_measurement_are_counted_once_each_until_one_is():
    good, bad = frame_of(0, 300.0), frame_of(0, 9000.0)
    assert folded(good, bad, bad, bad).unfit.tolist() == [3, 3, 0, 0, 0, 0]
    assert folded(good, bad, bad, bad, at_ms=[START_MS, *[START_MS + 1000] * 3]).unfit[0] == 1  # the same record again
    assert folded(good, bad, bad, bad, good).unfit[0] == 0


def test_a_gpu_that_reports_only_instant_power_is_heard():
    frame = frame_of(0, -1.0)
    value = frame.value.copy()
    value[1] = 250.0
    assert folded(frame.model_copy(update={"value": value})).power_w[:2].tolist() == [250.0, 250.0]


@pytest.mark.parametrize(
    "second", [{"counts": (4, 7, 0)}, {"counts": (5, 6, 0)}, {"counts": (5, 7, 0x40)}, {"boot": "c"}, {"job": ("z", "z")}]
)
def test_a_reset_heat_a_new_start_or_another_job_ends_a_measurement(second):
    for fields, goes_on in (({}, True), (second, False)):
        memory = fresh(TOPOLOGY)
        fold(memory, gather([frame_of(0, 300.0, job=("x", "x"))], [1], memory.now))
        memory.edit("begin_ns")[:2] = 1
        fold(memory, gather([frame_of(0, 300.0, **{"job": ("x", "x")} | fields)], [2], memory.now))
        assert (memory.now.begin_ns[:2] == 1).all() == goes_on


def test_unknown_event_reasons_are_not_heat_and_a_progress_that_ends_is_unknown():
    known = folded(frame_of(0, 300.0), frame_of(0, 300.0, counts=(5, 2**64 - 1, 2**64 - 1)))
    assert known.hot[0] == 0
    assert known.works[0] == 0
    assert known.progress[0] == 7


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-20, 60)), min_size=1, max_size=30))
def test_the_watermark_is_the_median_over_the_nodes_that_are_heard_or_awaited_and_never_falls(sent):
    memory, newest, highest, awaits = fresh(TOPOLOGY), {}, 0, True
    for node, second in sent:
        at_ns = (START_MS + 1000 * second) * 10**6
        fold(memory, gather([frame_of(node, 300.0)], [at_ns], memory.now))
        if at_ns <= newest.get(node, 0) or at_ns < highest - 20 * 10**9:
            continue
        newest[node] = at_ns
        heard = sorted(newest.values())
        lasts_s = heard[(len(heard) - 1) // 2] // 10**9 - START_MS // 1000 - sent[0][1]
        awaits = awaits and len(heard) < 3 and lasts_s < 30
        known = [0] * (3 - len(heard)) * awaits + heard
        highest = max(highest, known[len(known) // 2])
        assert memory.now.watermark_ns == highest


@pytest.mark.parametrize("wrong_ms", [0, -15_000, -86_400_000, 86_400_000, None], ids=["", "late", "behind", "ahead", "silent"])
def test_a_late_silent_or_wrongly_clocked_node_neither_holds_nor_hastens_the_plans_of_the_others(wrong_ms):
    processor, offset = EnergyProcessor(EnergyOptions(plan_s=5, ttl_s=5, stale_s=3600, lost_s=3600)), 0
    state = processor.process(Batch("d", [Record(POWER_TOPOLOGY.name, 0, 0, "d", TOPOLOGY, START_MS)]), None, 0).state
    planned_ms = []
    for second in range(1, 31):
        for node in range(3):
            if node == 1 and wrong_ms is None:
                continue
            at_ms = START_MS + 1000 * second + (wrong_ms or 0) * (node == 1)
            offset += 1
            record = Record(GPU_TELEMETRY.name, 0, offset, "d", frame_of(node, 300.0), at_ms)
            result = processor.process(Batch("d", [record]), state, 0)
            state = result.state
            planned_ms += [event.frame.ts_ns // 1_000_000 - START_MS for event in result.events]
    assert planned_ms[-6:] == [5000, 10_000, 15_000, 20_000, 25_000, 30_000]
