"""read_telemetry: a recording in any form that is known, by what it contains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from qstream.energy.formats.dcgm import dcgm_frames
from qstream.energy.formats.recording import MAX_NAME, POWER, Recording, is_name
from qstream.energy.formats.smi import smi_frames
from qstream.errors import ProblemError
from schemas.frame import JSON, FrameError
from schemas.parse import UTF_16
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be

SNIFFED: Final = 4096  # characters from which the form is known
ZEUSD: Final = 'data: {"timestamp_ms"'


def read_telemetry(path: Path | str, *, domain: str, node: str | None = None, zone: str | None = None) -> list[GpuTelemetry]:
    """Readings of a file, as frames in the order of the file.

    Known are nvidia-smi's CSV, the exposition text of DCGM's exporter under both its namings, and JSON lines of `GpuTelemetry`.

    Parameters
    ----------
    domain
        The power domain of the frames. JSON lines have theirs: those of other domains are left out.
    node
        The node, where the file names none; ``node-0`` without.
    zone
        Time zone of nvidia-smi's times, such as ``UTC``.

    Raises
    ------
    ProblemError
        The file cannot be read, is of no known form, or has no power.
    """
    return read_recording(path, domain=domain, node=node, zone=zone).frames


def read_recording(path: Path | str, *, domain: str, node: str | None = None, zone: str | None = None) -> Recording:
    """As `read_telemetry`, with the number of damaged rows that were left out."""
    return Recording.of(stream_recording(path, domain=domain, node=node, zone=zone))


def stream_recording(
    path: Path | str, *, domain: str, node: str | None = None, zone: str | None = None
) -> Iterator[GpuTelemetry | None]:
    """As `read_telemetry`, one frame after another, so that a file may be larger than memory; None for each damaged row.

    A file without power is refused at its end.
    """
    try:
        with Path(path).open(encoding=_encoding(path), errors="replace") as lines:
            first = lines.read(SNIFFED)
            lines.seek(0)
            yield from _reader(path, first, lines, domain, node, zone)
    except OSError as exc:
        raise ProblemError(must_be(f"recording {path}", "a text file", Shown(str(exc.strerror)))) from exc


def _encoding(path: Path | str) -> str:
    """UTF-16 where the file's first bytes say so, as those that PowerShell's ``>`` writes; else UTF-8."""
    with Path(path).open("rb") as file:
        return "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"


def _reader(
    path: Path | str, first: str, lines: Iterable[str], domain: str, node: str | None, zone: str | None
) -> Iterator[GpuTelemetry | None]:
    """The reader of the form that the file's beginning has."""
    for name, text in (("domain", domain), ("node", node)):
        if text is not None and not is_name(text):
            raise ProblemError(must_be(name, f"1 to {MAX_NAME} printable characters", text))
    shown = first.lstrip()
    if shown.startswith("{"):
        return _json_frames(lines, domain)
    if shown.startswith(("# HELP", "# TYPE", "DCGM_")):
        return dcgm_frames(lines, domain=domain, node=node)
    if shown.startswith(ZEUSD):
        raise ProblemError(must_be(f"recording {path}", "of GPUs by uuid", Shown("zeusd's stream, which counts them")))
    if "," in shown.partition("\n")[0]:
        return smi_frames(lines, domain=domain, node=node or "node-0", zone=None if zone is None else _zone(zone))
    forms = "nvidia-smi's CSV, text of DCGM's exporter, or JSON lines of GpuTelemetry"
    is_text = "\0" not in first and "\ufffd" not in first
    found = repr(shown[:40]) if shown else "an empty file"
    raise ProblemError(must_be(f"recording {path}", forms, Shown(found if is_text else "bytes that are not text")))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise ProblemError(must_be("zone", "a time zone, such as UTC or Europe/Paris", name)) from exc


def _json_frames(lines: Iterable[str], domain: str) -> Iterator[GpuTelemetry | None]:
    """The frames of the domain, in the order of the lines; None for each line that is not a frame."""
    frames = skipped = 0
    powered = False
    for line in lines:
        if not line.strip():
            continue
        try:
            frame = GpuTelemetry.decode(line.encode(), JSON)
        except FrameError:
            skipped += 1
            yield None
            continue
        if frame.domain == domain:
            frames += 1
            powered = powered or any((frame.value[row] >= 0).any() for row, name in enumerate(frame.metric) if name in POWER)
            yield frame
    if not powered:
        rule = f"given GpuTelemetry of domain {domain!r} with power_w"
        raise ProblemError(must_be("JSON lines", rule, Shown(f"{frames} such frames, {skipped} lines that are none")))
