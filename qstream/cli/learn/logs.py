"""Logs: decisions of one learner from the decision topic or a file, and to a file for other tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.names import find_topic
from qstream.cli.options import client_settings
from qstream.errors import ConfigError
from qstream.install import install_hint
from qstream.learn.dsjson import from_dsjson, to_dsjson
from qstream.learn.logged import Logged, join, sound
from qstream.learn.table import from_table, to_table
from qstream.stream.read import frame_of, read_all
from schemas.frame import JSON, SAFETENSORS, FrameError
from schemas.learning import Decisions
from schemas.topics import LEARN_DECISION
from schemas.wording import must_be

Source = Annotated[
    str,
    typer.Argument(
        metavar="TOPIC|FILE", help="The decision topic, or a .dsjson, .jsonl, .csv, .parquet or .safetensors file of decisions."
    ),
]
Learner = Annotated[
    str, typer.Option(metavar="NAME", help="Of a topic or .jsonl: only this learner's, as MODULE or MODULE/LEARNER.")
]
R = TypeVar("R")
Damaged = tuple[int, str]  # how many records, and what is wrong with the first
_MOST_CELL: Final = 2**31 - 1


def read_log(source: str, learner: str, bootstrap_servers: str | None) -> Logged:
    """The sound decisions of one learner; damaged rows are counted in the log.

    Raises
    ------
    ConfigError
        The source is not such, or a file cannot be read.
    LearnError, FrameError
        It holds no decision of which anything could be learnt.
    """
    path = Path(source)
    read = _FILES.get(path.suffix)
    if read is not None:
        if learner:
            raise ConfigError(must_be("--learner", f"left out for a {path.suffix} file, which is of one learner", learner))
        return sound(read(path))
    if path.suffix == ".jsonl":
        lines = (line for line in _bytes(path).splitlines() if line.strip())
        return _of_one(_decoded(lines, lambda line: Decisions.decode(line, JSON)), learner)
    if path.is_file():
        raise ConfigError(must_be("FILE", f"a file that ends in {', '.join(_FILES)} or .jsonl", source))
    topic = find_topic(source)
    if topic != LEARN_DECISION:
        raise ConfigError(must_be("TOPIC", LEARN_DECISION.name, topic.name))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [LEARN_DECISION])
    records = read_all(settings, LEARN_DECISION.name)
    return _of_one(_decoded(records, lambda record: frame_of(record, Decisions)), learner)


def write_log(log: Logged, to: str, out: Path) -> None:
    """Write the decisions as dsjson, csv or parquet."""
    try:
        if to == "dsjson":
            out.write_text("".join(f"{line}\n" for line in to_dsjson(log)), encoding="utf-8")
        elif to == "csv":
            columns = to_table(log)
            with out.open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(columns)
                rows.writerows(zip(*columns.values(), strict=True))
        else:
            parquet, table = _arrow()
            parquet.write_table(table(to_table(log)), out)
    except OSError as exc:
        raise ConfigError(must_be("--out", f"a file that can be written ({exc.strerror})", str(out))) from exc


def _decoded(records: Iterable[R], read: Callable[[R], Decisions]) -> tuple[list[Decisions], Damaged]:
    """The frames of records, and what cannot be read."""
    frames, damaged, fault = [], 0, ""
    for record in records:
        try:
            frames.append(read(record))
        except FrameError as exc:
            damaged, fault = damaged + 1, fault or str(exc)
    return frames, (damaged, fault)


def _of_one(found: tuple[list[Decisions], Damaged], learner: str) -> Logged:
    """The decisions of the learner that is meant; `ConfigError` if there are several."""
    frames, (damaged, fault) = found
    if damaged and not frames:
        raise FrameError(fault)
    module, _, name = learner.partition("/")
    kept = [one for one in frames if module in ("", one.module) and name in ("", one.learner)]
    known = sorted({f"{one.module}/{one.learner}" for one in kept or frames})
    if frames and (len(known) > 1 or not kept):
        raise ConfigError(must_be("--learner", f"one of {', '.join(known)}", learner))
    return sound(join(kept)._replace(damaged=damaged, fault=fault))


def _safetensors(path: Path) -> Logged:
    return join([Decisions.decode(_bytes(path), SAFETENSORS)])


def _dsjson(path: Path) -> Logged:
    return from_dsjson(line.decode(errors="replace") for line in _bytes(path).splitlines())


def _csv(path: Path) -> Logged:
    """A table whose rows of another length than its header are damaged."""
    csv.field_size_limit(_MOST_CELL)
    try:
        header, *rows = csv.reader(io.StringIO(_bytes(path).decode("utf-8-sig", errors="replace"), newline=""))
    except (csv.Error, ValueError) as exc:
        raise ConfigError(must_be("FILE", f"a CSV file with a header ({exc})", str(path))) from exc
    whole, damaged, fault = [], 0, ""
    for number, row in enumerate(rows, 2):
        if len(row) == len(header):
            whole.append(row)
        elif row:
            damaged, fault = damaged + 1, fault or must_be(f"row {number}", f"of {len(header)} cells", len(row))
    columns = dict(zip(header, zip(*whole, strict=True) if whole else [()] * len(header), strict=True))
    return from_table(columns)._replace(damaged=damaged, fault=fault)


def _parquet(path: Path) -> Logged:
    parquet, _ = _arrow()
    try:
        columns = parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as exc:  # pyarrow's own errors are such
        raise ConfigError(must_be("FILE", f"a Parquet file that can be read ({exc})", str(path))) from exc
    return from_table(columns)


def _arrow() -> tuple[Any, Callable[[Any], Any]]:
    """pyarrow's Parquet, and what makes a table of columns."""
    try:
        from pyarrow import parquet, table  # noqa: PLC0415 - an extra that only Parquet needs
    except ModuleNotFoundError as exc:
        raise ConfigError(f"Parquet needs pyarrow: {install_hint('parquet')}") from exc
    return parquet, table


_FILES: Final = {".safetensors": _safetensors, ".dsjson": _dsjson, ".csv": _csv, ".parquet": _parquet}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(must_be("FILE", f"a file that can be read ({exc.strerror})", str(path))) from exc
