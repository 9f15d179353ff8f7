"""Fake source: readings of modelled GPUs that work, at the pace of a clock."""

from __future__ import annotations

from collections.abc import Sequence

from qstream.node.fake import FakeNvml
from qstream.node.telemetry import Source
from schemas.power import GpuTelemetry


def fake_source(gpus: FakeNvml, domain: str) -> Source:
    """Reads `gpus`, after letting the time pass that has passed since the call before; each source is a start of the node."""
    boot_id, last_ns = "", 0

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        nonlocal boot_id, last_ns
        boot_id = boot_id or f"fake-{now_ns}"
        if last_ns and now_ns > last_ns:
            gpus.advance((now_ns - last_ns) / 1e9)
        last_ns = max(now_ns, last_ns)
        return [gpus.telemetry(domain).model_copy(update={"ts_ns": now_ns, "boot_id": boot_id})]

    return read


def give_work(gpus: FakeNvml) -> None:
    """The first half of the GPUs decode, the others train."""
    for at, uuid in enumerate(gpus.uuids):
        decodes = at < (len(gpus.uuids) + 1) // 2
        gpus.load(uuid, beta=0.15 if decodes else 0.8, activity=0.3 if decodes else 0.9)
