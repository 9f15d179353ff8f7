"""read_telemetry: a recording in any form that is known, by what it contains."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from qstream.energy.formats.dcgm import read_dcgm
from qstream.energy.formats.recording import POWER, Recording
from qstream.energy.formats.smi import read_smi
from qstream.errors import ProblemError
from schemas.frame import JSON, FrameError
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be


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
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "bytes that are not text"
        raise ProblemError(must_be(f"recording {path}", "a text file", Shown(str(reason)))) from exc
    first, lines = text.lstrip()[:100], text.splitlines()
    if first.startswith("{"):
        return _json_lines(lines, domain)
    if first.startswith(("# HELP", "# TYPE", "DCGM_")):
        return read_dcgm(lines, domain=domain, node=node)
    if "," in first:
        return read_smi(lines, domain=domain, node=node or "node-0", zone=None if zone is None else _zone(zone))
    forms = "nvidia-smi's CSV, text of DCGM's exporter, or JSON lines of GpuTelemetry"
    raise ProblemError(must_be(f"recording {path}", forms, Shown(repr(first[:40]) if first else "an empty file")))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise ProblemError(must_be("zone", "a time zone, such as UTC or Europe/Paris", name)) from exc


def _json_lines(lines: Iterable[str], domain: str) -> Recording:
    frames, skipped = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            frame = GpuTelemetry.decode(line.encode(), JSON)
        except FrameError:
            skipped += 1
            continue
        if frame.domain == domain:
            frames.append(frame)
    if not any({*POWER} & {*frame.metric} for frame in frames):
        rule = f"given GpuTelemetry of domain {domain!r} with power_w"
        raise ProblemError(must_be("JSON lines", rule, Shown(f"{len(frames)} such frames, {skipped} lines that are none")))
    return Recording(frames, skipped)
