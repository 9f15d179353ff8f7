"""Rows: a packed or unpacked file as a table with a line for each tensor, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from qstream.cli.output import counted, print_table

if TYPE_CHECKING:
    from qstream.compression.files import FileReport, Packed

_TIMED = 1_000_000  # bytes: a smaller tensor's time is that of loading what codes it
COLUMNS = ("tensor", "dtype", "shape", "mode", "bits", "ratio", "rel L2", "error/bound", "MB/s", "note")


def rows_of(report: FileReport) -> dict[str, Any]:
    """The report for machines."""
    return {
        "path": str(report.path),
        "file_bytes": report.file_bytes,
        "archive_bytes": report.archive_bytes,
        "ratio": report.file_bytes / report.archive_bytes,
        "identical": report.verified,
        "as_one": report.as_one,
        "tensors": [_row(each) for each in report.tensors],
    }


def print_rows(report: FileReport) -> None:
    """The table and its total."""
    print_table(COLUMNS, [_texts(_row(each)) for each in report.tensors])
    if report.as_one:
        typer.echo("packed as one: the file is smaller than what codes its tensors one by one")
    seconds = sum(each.seconds for each in report.tensors)
    speed = f", {report.file_bytes / seconds / 1e6:.0f} MB/s" if seconds and report.file_bytes >= _TIMED else ""
    typer.echo(
        f"{counted(len(report.tensors), 'tensor')}: file {report.file_bytes:,} bytes, archive {report.archive_bytes:,},"
        f" ratio {report.file_bytes / report.archive_bytes:.3f}{speed}"
    )


def _row(each: Packed) -> dict[str, Any]:
    header, quality = each.header, each.header.quality
    values = 1
    for n in header.shape:
        values *= n
    error = quality.max_abs_error if quality.max_relative_error is None else quality.max_relative_error
    if header.promise == "l2":
        error = quality.rel_l2
    return {
        "name": header.name,
        "dtype": header.dtype,
        "shape": list(header.shape),
        "mode": header.mode,
        "promise": header.promise,
        "bits": 8 * each.payload_bytes / values if values else 0.0,
        "ratio": each.nbytes / each.payload_bytes if each.payload_bytes else 1.0,
        "rel_l2": quality.rel_l2,
        "error_over_bound": error / quality.bound if quality.bound else None,
        "escapes": quality.escapes,
        "mb_s": each.nbytes / each.seconds / 1e6 if each.seconds and each.nbytes >= _TIMED else None,
        "fallback_reason": header.fallback_reason,
        "refined": [asdict(refined) for refined in each.refined],
    }


def _check(refined: dict[str, Any]) -> str:
    """A check by a circuit, or a refiner that was left out, as a note."""
    if refined["difference"] is not None:
        return f"{refined['name']} within {refined['difference']:.0e} ({refined['execution']})"
    return f"{refined['name']} {refined['reason']}" if refined["reason"] else ""


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["dtype"],
        "x".join(map(str, row["shape"])) or "scalar",
        row["mode"],
        f"{row['bits']:.3f}",
        f"{row['ratio']:.2f}",
        "identical" if row["promise"] == "exact" else f"{row['rel_l2']:.4f}",
        "" if row["error_over_bound"] is None else f"{row['error_over_bound']:.3f}",
        "" if row["mb_s"] is None else f"{row['mb_s']:.0f}",
        ", ".join(filter(None, [row["fallback_reason"], *map(_check, row["refined"])])),
    )
