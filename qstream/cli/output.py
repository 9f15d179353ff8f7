"""Output: tables and JSON on stdout, with untrusted text made harmless."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qstream.errors import ConfigError
from schemas.frame import Frame
from schemas.solver import CLASSICAL, SolverRecord
from schemas.wording import Shown, must_be

WIDE = 200
ADDED: Final = ("frame", "record")  # to a frame as JSON: its kind, and by `watch --json` its place


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    typer.echo(json.dumps(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Sequence[str] = ()) -> None:
    """A table; `styles` colours the cells of the first column, one a row."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for number, row in enumerate(rows):
        first, *others = (Text(printable(str(cell)), overflow="fold") for cell in row)
        if number < len(styles):
            first.stylize(styles[number])
        table.add_row(first, *others)
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table)


def write_files(bodies: Sequence[tuple[Path, bytes]]) -> list[str]:
    """Write files one after another, and return their names; `ConfigError` names the one that cannot be written."""
    for path, body in bodies:
        try:
            path.write_bytes(body)
        except OSError as exc:
            raise ConfigError(must_be("an output", "a file that can be written", Shown(f"{path}: {exc.strerror}"))) from exc
    return [str(path) for path, _ in bodies]


def say_unknown(where: str, kind: type[Frame], fields: Iterable[str]) -> None:
    """Say on stderr which fields of an object the frame does not have. They are ignored, as those of newer versions must be, but
    a misspelt name in a file written by hand would otherwise lose what it says."""
    unknown = sorted({*fields} - {*kind.model_fields, *ADDED})
    if unknown:
        typer.echo(printable(f"{where}: {kind.tag()} has no {', '.join(unknown)}: ignored"), err=True)


def printable(text: str) -> str:
    """The text with control characters written out: a record must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape", "replace").decode() for c in text)


def joined(*parts: str | None) -> str:
    """Parts of a line, without those that are None."""
    return "  ".join(part for part in parts if part is not None)


def counted(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size_text(nbytes: float) -> str:
    """``1.5 GB``: bytes in powers of 1,000, to three digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.3g} bytes"


def solver_text(record: SolverRecord) -> str:
    """Who answered, as a person reads it: the solver, its variant, how circuits ran, and the parts that were kept."""
    more = [record.variant, None if record.execution == CLASSICAL else record.execution]
    if record.tried is not None:
        more.append(f"{record.kept} of {record.tried} kept")
    details = ", ".join(part for part in more if part)
    return f"{record.solver} ({details})" if details else record.solver


def utc(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601."""
    moment = datetime.fromtimestamp(min(max(timestamp_ms, 0), 253_402_300_799_000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
