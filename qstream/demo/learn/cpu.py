"""CPU: this machine's use of its cores, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

STAT = Path("/proc/stat")


def ticks() -> tuple[int, int]:
    """Ticks of all cores since the start of the machine: busy, and all. From proc_stat(5); a guest's time is in `user`."""
    user, nice, system, idle, iowait, irq, softirq, steal = (int(word) for word in STAT.read_text().split(maxsplit=9)[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def loads() -> Iterator[float]:
    """The part of the CPU time of all cores that was used since the last value was taken, in [0, 1]; endless."""
    busy, total = ticks()
    while True:
        now_busy, now_total = ticks()
        yield min(1.0, max(0.0, (now_busy - busy) / (now_total - total))) if now_total > total else 0.0
        busy, total = now_busy, now_total
