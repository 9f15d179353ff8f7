"""Recordings as a user names them: files whose frames are merged by time, counted, and never held all at once."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import typer

from qstream.cli.output import counted
from qstream.errors import ConfigError, ProblemError
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be

WATTS: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(W|kW|MW)?\s*")
SCALE: Final = {None: 1.0, "W": 1.0, "kW": 1e3, "MW": 1e6}
Zone = Annotated[str | None, typer.Option(help="Time zone of nvidia-smi's times, such as UTC.")]


@dataclass(slots=True)
class Read:
    """What was seen of recordings while their frames were used."""

    frames: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # damaged rows, by file
    role: dict[str, str] = field(default_factory=dict)  # workload or job, by uuid

    def seen(self, frames: Iterable[GpuTelemetry]) -> Iterator[GpuTelemetry]:
        """The same frames, counted."""
        for frame in frames:
            self.frames += 1
            for names in (frame.job, frame.workload):  # the workload last: it counts where both are known
                self.role.update((uuid, name) for uuid, name in zip(frame.uuid, names, strict=bool(names)) if name)
            yield frame

    def say_skipped(self) -> None:
        """Say on stderr which files had damaged rows."""
        for name, skipped in self.skipped.items():
            typer.echo(f"{name}: {counted(skipped, 'damaged row')} left out", err=True)


def merged(
    paths: Sequence[Path], domain: str, zone: str | None, nodes: Sequence[str | None], read: Read
) -> Iterator[GpuTelemetry]:
    """The frames of files, one a node or more, in the order of time; `nodes` are for files that name none."""
    taken: set[Path] = set()
    for path in paths:
        if path.resolve() in taken:
            raise ConfigError(must_be("RECORDING", "files that are named once each", Shown(f"{path} twice")))
        taken.add(path.resolve())
    files = (_frames(path, domain, node, zone, read) for path, node in zip(paths, nodes, strict=True))
    return read.seen(heapq.merge(*files, key=lambda frame: frame.ts_ns))


def _frames(path: Path, domain: str, node: str | None, zone: str | None, read: Read) -> Iterator[GpuTelemetry]:
    """The frames of a file; an error names the file."""
    from qstream.energy.formats.read import stream_recording  # noqa: PLC0415 - numpy, which help does not need

    try:
        for frame in stream_recording(path, domain=domain, node=node, zone=zone):
            if frame is None:
                read.skipped[path.name] = read.skipped.get(path.name, 0) + 1
            else:
                yield frame
    except ProblemError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def watts(text: str) -> float:
    """Watts of a text such as 2600, 40kW or 1.2 MW; `ConfigError` if it is none."""
    found = WATTS.fullmatch(text)
    if found is None:
        raise ConfigError(must_be("--budget", "watts, such as 2600, 40kW or 1.2MW", text))
    return float(found[1]) * SCALE[found[2]]
