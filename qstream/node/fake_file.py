"""Fake file: modelled GPUs whose limits outlive the process that sets them, as those of hardware do."""

from __future__ import annotations

import json
from pathlib import Path

from qstream.errors import ConfigError
from qstream.node.device import CLOCK, LIMIT
from qstream.node.fake import FakeNvml
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be


class FiledNvml(FakeNvml):
    """A `FakeNvml` that appends each write to a file: what was asked for, and what is enforced since then.

    Processes that open the same file have the same GPUs: one sets limits, and another reads what GPUs draw under them. Power,
    energy and progress are each process's own.
    """

    def __init__(self, path: Path, gpus: int = 8, *, node: str = "node-0", model: str = "h100", seed: int = 0) -> None:
        super().__init__(gpus, node=node, model=model, seed=seed)
        self._path, self._read = path, 0
        try:
            path.touch()
        except OSError as exc:
            raise ConfigError(must_be("file of fake GPUs", "writable", Shown(f"{path}: {exc.strerror}"))) from exc

    def advance(self, seconds: float) -> None:
        """Let time pass under the limits that are in the file."""
        self._refresh()
        super().advance(seconds)

    def telemetry(self, domain: str) -> GpuTelemetry:
        """The readings now."""
        self._refresh()
        return super().telemetry(domain)

    def power_limit_w(self, uuid: str) -> float:
        """The power limit that is enforced."""
        self._refresh()
        return super().power_limit_w(uuid)

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """The cap of the SM clock, None without one."""
        self._refresh()
        return super().sm_clock_cap_mhz(uuid)

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Set the power limit, and note it in the file."""
        super().set_power_limit_w(uuid, watts)
        self._note(uuid, LIMIT, watts, float(self._limit_w[self._index(uuid)]))

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Cap the SM clock, and note it in the file."""
        super().set_sm_clock_cap_mhz(uuid, mhz)
        self._note(uuid, CLOCK, mhz, float(self._cap_mhz[self._index(uuid)]))

    def _note(self, uuid: str, knob: str, asked: float | None, enforced: float) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"uuid": uuid, "knob": knob, "asked": asked, "enforced": enforced}) + "\n")

    def _refresh(self) -> None:
        """Take over what was written since the last time, whole lines only."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            for row in file:
                if not row.endswith(b"\n"):
                    break
                self._read += len(row)
                write = json.loads(row)
                values = self._limit_w if write["knob"] == LIMIT else self._cap_mhz
                values[self._index(write["uuid"])] = write["enforced"]


def open_fake(node: str, path: Path | None) -> FakeNvml:
    """Eight modelled GPUs of a node, in a file if there is one."""
    return FakeNvml(node=node) if path is None else FiledNvml(path, node=node)
