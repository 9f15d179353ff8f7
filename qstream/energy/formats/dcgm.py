"""DCGM exporter: exposition text, with names of fields and labels as they were up to DCGM 4.5 and as they are since 4.6."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from qstream.energy.formats.recording import LATEST_NS, MAX_NAME, POWER, Sample, is_name
from qstream.energy.guard import BLANK_FLOAT, BLANK_INT
from qstream.errors import ProblemError
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be

# Names since DCGM 4.6 and before it (dcgm_fields.h), by our name.
FIELDS: Final = {
    "sm_clock_mhz": ("DCGM_FI_DEV_SM_CLOCK",),
    "mem_clock_mhz": ("DCGM_FI_DEV_MEM_CLOCK",),
    "clock_event_reasons": ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"),
    "sm_clock_max_mhz": ("DCGM_FI_DEV_MAX_SM_CLOCK",),
    "mem_temp_c": ("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "DCGM_FI_DEV_MEMORY_TEMP"),
    "temp_c": ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "DCGM_FI_DEV_GPU_TEMP"),
    "power_w": ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE"),
    "energy_mj": ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",),
    "power_instant_w": ("DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", "DCGM_FI_DEV_POWER_USAGE_INSTANT"),
    "power_limit_w": ("DCGM_FI_DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT"),
    "power_limit_min_w": ("DCGM_FI_DEV_BOARD_POWER_LIMIT_MIN_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN"),
    "power_limit_max_w": ("DCGM_FI_DEV_BOARD_POWER_LIMIT_MAX_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX"),
    "power_limit_default_w": ("DCGM_FI_DEV_BOARD_POWER_LIMIT_DEFAULT_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF"),
    "power_limit_enforced_w": ("DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT"),
    "power_profile_requested": (
        "DCGM_FI_DEV_BOARD_POWER_PROFILE_REQUESTED_MASK",
        "DCGM_FI_DEV_REQUESTED_POWER_PROFILE_MASK",
    ),
    "power_profile_enforced": ("DCGM_FI_DEV_BOARD_POWER_PROFILE_ENFORCED_MASK", "DCGM_FI_DEV_ENFORCED_POWER_PROFILE_MASK"),
    "gpu_util": ("DCGM_FI_DEV_GPU_UTIL_RATIO", "DCGM_FI_DEV_GPU_UTIL"),  # percent under both names
    "power_violation_ns": ("DCGM_FI_DEV_POWER_VIOLATION",),
    "thermal_violation_ns": ("DCGM_FI_DEV_THERMAL_VIOLATION",),
    "fb_used_mib": ("DCGM_FI_DEV_FB_USED",),
    "gr_active": ("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
    "sm_active": ("DCGM_FI_PROF_SM_UTIL_RATIO", "DCGM_FI_PROF_SM_ACTIVE"),
    "tensor_active": ("DCGM_FI_PROF_TENSOR_UTIL_RATIO", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
    "dram_active": ("DCGM_FI_PROF_DRAM_UTIL_RATIO", "DCGM_FI_PROF_DRAM_ACTIVE"),
    "pcie_tx_bytes_s": ("DCGM_FI_PROF_PCIE_TX_BYTES",),
    "pcie_rx_bytes_s": ("DCGM_FI_PROF_PCIE_RX_BYTES",),
    "nvlink_tx_bytes_s": ("DCGM_FI_PROF_NVLINK_TX_BYTES",),
    "nvlink_rx_bytes_s": ("DCGM_FI_PROF_NVLINK_RX_BYTES",),
}
METRIC_OF: Final = {name: metric for metric, names in FIELDS.items() for name in names}
INTERVAL_NS: Final = 30_000_000_000  # the exporter's, where lines carry no time
_LINE: Final = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+(\d+))?\s*$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def dcgm_frames(lines: Iterable[str], *, domain: str, node: str | None) -> Iterator[GpuTelemetry | None]:
    """A frame for each scrape of each node, and None for each damaged line, in the order of the text.

    A partitioned GPU repeats the board's values for each instance: the first counts. Lines without a time are of scrapes 30 s
    apart, from 30 s after 1970. Lines that are not DCGM's, or not of a GPU, are ignored. `node` is for text without the label
    ``hostname``.

    Raises
    ------
    ProblemError
        No line has the power of a GPU.
    """
    open_: dict[str, _Scrape] = {}
    powered = False
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.match(line)
        value = _number(found[3]) if found else None
        if found is None or value is None:
            yield None
            continue
        labels = {name.lower(): text for name, text in _LABEL.findall(found[2] or "")}
        if not found[1].startswith("DCGM_") or ("uuid" not in labels and "gpu" not in labels):
            continue
        uuid, host, ts_ns = labels.get("uuid", ""), labels.get("hostname") or node or "node-0", int(found[4] or 0) * 1_000_000
        if not is_name(uuid) or not is_name(host) or ts_ns > LATEST_NS:
            yield None
            continue
        scrape = open_.setdefault(host, _Scrape(host))
        key = found[1], uuid, labels.get("gpu_i_id", "")
        if key in scrape.seen:
            yield scrape.sample.frame(domain, scrape.number)
            scrape = open_[host] = _Scrape(host, scrape.number + 1)
        powered |= scrape.take(key, labels, value, ts_ns)
    for scrape in open_.values():
        yield scrape.sample.frame(domain, scrape.number)
    if not powered:
        raise ProblemError(must_be("DCGM's text", f"given {FIELDS['power_w'][0]}", Shown("no line with the power of a GPU")))


class _Scrape:
    """What one node said in one scrape, as far as it was read."""

    def __init__(self, host: str, number: int = 0) -> None:
        self.number = number
        self.sample = Sample(host, (number + 1) * INTERVAL_NS)
        self.seen: set[tuple[str, str, str]] = set()

    def take(self, key: tuple[str, str, str], labels: Mapping[str, str], value: float, ts_ns: int) -> bool:
        """Keep a value; whether it is power. The first time that a line carries is the scrape's."""
        field, uuid, _ = key
        if ts_ns and not self.seen:
            self.sample.ts_ns = ts_ns
        self.seen.add(key)
        readings, metric = self.sample.readings.setdefault(uuid, {}), METRIC_OF.get(field)
        self.sample.jobs.setdefault(uuid, labels.get("pod", "")[:MAX_NAME])
        if metric is None or metric in readings or not _reported(value):
            return False
        readings[metric] = value
        return metric in POWER


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reported(value: float) -> bool:
    """Whether it is a value: DCGM has numbers that stand for none."""
    return 0 <= value < BLANK_INT and value != BLANK_FLOAT
