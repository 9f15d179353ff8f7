"""nvidia-smi: ``--query-gpu=... --format=csv``, with units in the header, ``[N/A]``, and local time without a zone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from typing import Final

from qstream.energy.formats.recording import LATEST_NS, POWER, Sample, is_name
from qstream.errors import ProblemError
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be

# nvidia-smi's name, and its unit in the header ("" where there is none).
COLUMNS: Final = {
    "power.draw": ("power_w", "W"),
    "power.draw.average": ("power_w", "W"),
    "power.draw.instant": ("power_instant_w", "W"),
    "power.limit": ("power_limit_w", "W"),
    "enforced.power.limit": ("power_limit_enforced_w", "W"),
    "power.default_limit": ("power_limit_default_w", "W"),
    "power.min_limit": ("power_limit_min_w", "W"),
    "power.max_limit": ("power_limit_max_w", "W"),
    "clocks.current.sm": ("sm_clock_mhz", "MHz"),
    "clocks.sm": ("sm_clock_mhz", "MHz"),
    "clocks.current.memory": ("mem_clock_mhz", "MHz"),
    "clocks.mem": ("mem_clock_mhz", "MHz"),
    "clocks.max.sm": ("sm_clock_max_mhz", "MHz"),
    "utilization.gpu": ("gpu_util", "%"),
    "temperature.gpu": ("temp_c", ""),
    "temperature.memory": ("mem_temp_c", ""),
    "memory.used": ("fb_used_mib", "MiB"),
    "clocks_event_reasons.active": ("clock_event_reasons", ""),
    "clocks_throttle_reasons.active": ("clock_event_reasons", ""),
}
ABSENT: Final = frozenset({"", "[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU is lost]"})


def smi_frames(lines: Iterable[str], *, domain: str, node: str, zone: tzinfo | None) -> Iterator[GpuTelemetry | None]:
    """A frame for the rows up to the next one of the same GPU, and None for each damaged row, in the order of the file.

    Raises
    ------
    ProblemError
        The zone, power, uuid or timestamp is missing, or a column has another unit.
    """
    if zone is None:
        raise ProblemError(must_be("zone", "given for times of nvidia-smi, which name none, such as UTC or Europe/Paris", None))
    rows = (line.split(",") for line in lines)  # nvidia-smi quotes nothing
    header = [name.strip() for name in next(rows, [])]
    columns = _columns(header)
    for name in ("timestamp", "uuid"):
        if name not in header:
            raise ProblemError(must_be("nvidia-smi's header", f"given a column {name}", Shown(", ".join(header))))
    time_at, uuid_at = header.index("timestamp"), header.index("uuid")
    sample, seq, powered = Sample(node, 0), 0, False
    for row in rows:
        if row == ["\n"]:
            continue
        try:
            ts_ns, uuid = _time_ns(row[time_at], zone), row[uuid_at].strip()
            readings = {name: number for at, name in columns.items() if (number := _number(row[at])) is not None}
        except (ValueError, IndexError, OverflowError):
            yield None
            continue
        if not is_name(uuid) or not 0 <= ts_ns <= LATEST_NS:
            yield None
            continue
        if uuid in sample.readings:
            yield sample.frame(domain, seq)
            sample, seq = Sample(node, ts_ns), seq + 1
        elif not sample.readings:
            sample.ts_ns = ts_ns
        sample.readings[uuid] = readings
        powered = powered or any(name in readings for name in POWER)
    if sample.readings:
        yield sample.frame(domain, seq)
    if not powered:
        raise ProblemError(must_be("nvidia-smi's CSV", "given the power of a GPU", Shown("no row with it")))


def _columns(header: list[str]) -> dict[int, str]:
    """The metric of each column that is known; the first of two columns of one metric counts."""
    found: dict[int, str] = {}
    for at, title in enumerate(header):
        name, _, unit = title.partition(" [")
        if name in COLUMNS:
            metric, wanted = COLUMNS[name]
            if wanted and not unit:
                raise ProblemError(must_be("nvidia-smi's header", f"with units: {name} [{wanted}] (drop nounits)", title))
            if unit.removesuffix("]") != wanted:
                raise ProblemError(must_be(f"unit of {name}", wanted or "absent", unit.removesuffix("]")))
            if metric not in found.values():
                found[at] = metric
    if not {*POWER} & {*found.values()}:
        raise ProblemError(must_be("nvidia-smi's header", "given a column power.draw [W]", Shown(", ".join(header)[:120])))
    return found


def _number(text: str) -> float | None:
    """The number of a cell with or without its unit; None where nothing is reported."""
    text = text.strip()
    if text in ABSENT:
        return None
    if text.startswith("0x"):
        return float(int(text, 16))
    return float(text.split(" ", 1)[0])


def _time_ns(text: str, zone: tzinfo) -> int:
    """Nanoseconds since 1970 of ``2026/05/04 12:00:00.100``, with or without the fraction."""
    at = datetime.fromisoformat(text.strip().replace("/", "-")).replace(tzinfo=zone)
    return int(at.timestamp()) * 10**9 + at.microsecond * 1000
