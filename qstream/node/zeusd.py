"""Zeusd: the daemon of Zeus, which reads GPUs, and sets them for processes that have no right to (ml.energy/zeus/zeusd/api)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from qstream.energy.formats.recording import Sample
from qstream.node.device import Device, DeviceDenied
from qstream.node.fetch import NoAnswer, fetch
from qstream.node.telemetry import Source, SourceFault
from schemas.power import GpuTelemetry

DRIVER: Final = Path("/proc/driver/nvidia/gpus")
UNSERVED: Final = (400, 404)  # what a daemon answers to a question that it, or a GPU of it, does not know
# Our name, the daemon's question and name, and what the daemon's unit is in ours.
READINGS: Final = (
    ("power_limit_w", "/gpu/get_power_limit", "power_limit_mw", 1e-3),
    ("power_limit_min_w", "/gpu/get_power_limit_constraints", "min_power_limit_mw", 1e-3),
    ("power_limit_max_w", "/gpu/get_power_limit_constraints", "max_power_limit_mw", 1e-3),
    ("energy_mj", "/gpu/get_cumulative_energy", "energy_mj", 1),
)


def uuid_by_address(driver: Path = DRIVER) -> dict[str, str]:
    """The uuid of each GPU by its PCI address, such as ``0000:01:00.0``, as NVIDIA's driver shows them; empty without one."""
    found = {}
    for information in driver.glob("*/information"):
        fields = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
        if uuid := fields.get("GPU UUID", "").strip():
            found[information.parent.name.lower()] = uuid
    return found


def zeusd_source(place: str, domain: str, node: str, uuids: Mapping[str, str], *, token: str = "") -> Source:
    """Reads what the daemon knows of each GPU: power, limits and energy.

    The daemon counts GPUs; `uuids` has their names by PCI address, as `uuid_by_address` gives them on the same node.
    """
    seq = 0

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        nonlocal seq
        sample = Sample(node, now_ns)
        try:
            named = _indices(place, uuids, token)
            power = _asked(place, "/gpu/get_power", token)["power_mw"]
            for uuid, index in named.items():
                if str(index) in power:
                    sample.readings[uuid] = {"power_instant_w": float(power[str(index)]) * 1e-3}
            for question in dict.fromkeys(row[1] for row in READINGS):
                _add(sample, named, question, _optional(place, question, token))
        except (NoAnswer, KeyError, TypeError, ValueError, AttributeError) as exc:
            raise SourceFault(f"zeusd cannot be read: {_reason(exc)}") from exc
        seq += 1
        return [sample.frame(domain, seq)] if sample.readings else []

    return read


class ZeusdDevice:
    """GPUs that the daemon sets and that `reads` reads: what the daemon reports of its own writes does not count as read back."""

    def __init__(self, reads: Device, place: str, uuids: Mapping[str, str], *, token: str = "") -> None:
        self._reads, self._place, self._names, self._token = reads, place, uuids, token

    @property
    def uuids(self) -> Sequence[str]:
        """The GPUs of the node."""
        return self._reads.uuids

    def limits_w(self, uuid: str) -> tuple[float, float, float]:
        """Lowest, highest and default power limit."""
        return self._reads.limits_w(uuid)

    def power_limit_w(self, uuid: str) -> float:
        """The power limit that is enforced now."""
        return self._reads.power_limit_w(uuid)

    def clocks_mhz(self, uuid: str) -> tuple[float, float]:
        """Lowest and highest SM clock."""
        return self._reads.clocks_mhz(uuid)

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """The cap of the SM clock."""
        return self._reads.sm_clock_cap_mhz(uuid)

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Have the daemon set the power limit."""
        self._post(uuid, "/gpu/set_power_limit", power_limit_mw=round(watts * 1000))

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Have the daemon lock the clocks between the lowest and the cap, or unlock them."""
        if mhz is None:
            self._post(uuid, "/gpu/reset_gpu_locked_clocks")
        else:
            lowest, _ = self._reads.clocks_mhz(uuid)
            self._post(uuid, "/gpu/set_gpu_locked_clocks", min_clock_mhz=int(lowest), max_clock_mhz=int(mhz))

    def _post(self, uuid: str, path: str, **values: int) -> None:
        """Set one GPU, whose number is asked for each time: it may have changed since the driver was loaded again."""
        try:
            index = _indices(self._place, self._names, self._token).get(uuid)
            if index is None:
                raise DeviceDenied(f"zeusd does not know {uuid}")
            fetch(self._place, path, method="POST", token=self._token, gpu_ids=index, block="true", **values)
        except (NoAnswer, KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DeviceDenied(f"zeusd did not set {uuid}: {_reason(exc)}") from exc


def _indices(place: str, uuids: Mapping[str, str], token: str) -> dict[str, int]:
    """The daemon's number of each GPU whose uuid is known; ValueError if there is none."""
    gpus = _asked(place, "/discover", token)["gpus"]
    found = {uuids[gpu["pci_address"].lower()]: int(gpu["id"]) for gpu in gpus if gpu["pci_address"].lower() in uuids}
    if not found:
        addresses = ", ".join(str(gpu["pci_address"]) for gpu in gpus) or "no GPU"
        raise ValueError(f"it has {addresses}, whose uuids are not in {DRIVER}")
    return found


def _asked(place: str, path: str, token: str) -> Any:
    return json.loads(fetch(place, path, token=token))


def _optional(place: str, path: str, token: str) -> Any:
    """An answer that older daemons do not give; then nothing."""
    try:
        return _asked(place, path, token)
    except NoAnswer as exc:
        if exc.status not in UNSERVED:
            raise
        return {}


def _add(sample: Sample, named: Mapping[str, int], question: str, answer: Any) -> None:
    for name, path, theirs, scale in READINGS:
        for uuid, index in named.items() if path == question else ():
            value = answer.get(str(index), {}).get(theirs)
            if value is not None and uuid in sample.readings:
                sample.readings[uuid][name] = float(value) * scale


def _reason(exc: Exception) -> str:
    return str(exc) if isinstance(exc, (NoAnswer, ValueError)) else f"an answer of another form ({type(exc).__name__} {exc})"
