"""Recording: readings by GPU and name, brought into telemetry frames in which all columns are in one order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from schemas.power import GpuTelemetry

COUNTERS: Final = (
    "clock_event_reasons",
    "energy_mj",
    "power_profile_requested",
    "power_profile_enforced",
    "power_violation_ns",
    "thermal_violation_ns",
)
METRICS: Final = (
    "power_w",
    "power_instant_w",
    "power_limit_w",
    "power_limit_min_w",
    "power_limit_max_w",
    "power_limit_default_w",
    "power_limit_enforced_w",
    "sm_clock_mhz",
    "mem_clock_mhz",
    "sm_clock_max_mhz",
    "temp_c",
    "mem_temp_c",
    "gpu_util",
    "gr_active",
    "sm_active",
    "tensor_active",
    "dram_active",
    "fb_used_mib",
    "pcie_tx_bytes_s",
    "pcie_rx_bytes_s",
    "nvlink_tx_bytes_s",
    "nvlink_rx_bytes_s",
)
POWER: Final = ("power_w", "power_instant_w")
UNKNOWN_COUNT: Final = 2**64 - 1
LARGEST_VALUE: Final = 1e30
LATEST_NS: Final = 2**63 - 1
MAX_NAME: Final = 200  # characters of a name in a frame


@dataclass(frozen=True, slots=True)
class Recording:
    """Frames in the order of time, and how many damaged rows of the file were left out."""

    frames: list[GpuTelemetry]
    skipped: int

    @classmethod
    def of(cls, rows: Iterable[GpuTelemetry | None]) -> Self:
        """All that a reader yields: frames, and None for each damaged row."""
        frames, skipped = [], 0
        for frame in rows:
            if frame is None:
                skipped += 1
            else:
                frames.append(frame)
        return cls(frames, skipped)


@dataclass(slots=True)
class Sample:
    """What one node said at one time: values by GPU and name; a value that was not reported is absent."""

    node: str
    ts_ns: int
    readings: dict[str, dict[str, float]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)

    def frame(self, domain: str, seq: int) -> GpuTelemetry:
        """The frame; only names that some GPU reported are in it."""
        uuids, jobs = tuple(self.readings), tuple(self.jobs.get(uuid, "") for uuid in self.readings)
        named = {name for readings in self.readings.values() for name in readings}
        metrics = tuple(name for name in METRICS if name in named) or POWER[:1]
        counters = tuple(name for name in COUNTERS if name in named)
        rows = self.readings.values()
        value = [[_value(readings, name) for readings in rows] for name in metrics]
        count = [[_count(readings, name) for readings in rows] for name in counters]
        return GpuTelemetry(
            domain=domain,
            ts_ns=self.ts_ns,
            node=self.node,
            seq=seq,
            uuid=uuids,
            metric=metrics,
            counter=counters,
            job=jobs if any(jobs) else (),
            value=np.array(value, np.float32),
            count=np.array(count, np.uint64) if counters else None,
        )


def is_name(text: str) -> bool:
    """Whether a frame can name a GPU or a node so."""
    return 0 < len(text) <= MAX_NAME and text.isprintable()


def _value(readings: Mapping[str, float], name: str) -> float:
    value = readings.get(name, -1.0)
    return value if -LARGEST_VALUE < value < LARGEST_VALUE else -1.0


def _count(readings: Mapping[str, float], name: str) -> int:
    value = readings.get(name, -1.0)
    return int(value) if 0 <= value < UNKNOWN_COUNT else UNKNOWN_COUNT
