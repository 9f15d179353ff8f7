"""History of a study as rows, as CSV and as lines of JSON, and its best configurations as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from schemas.hpo import StudyBest, TrialRecord

FIRST: Final = ("study", "trial", "attempt", "state")
LAST: Final = ("source", "worker", "asked_ns", "done_ns", "duration_s", "best_so_far", "late")


def row(record: TrialRecord, objective: str) -> dict[str, Any]:
    """An outcome as one flat mapping, in the order of the columns.

    ``study, trial, attempt, state, param.<name>, value, metric.<name>, source, worker, asked_ns, done_ns, duration_s,
    best_so_far, late``; `value` is the objective, None without a result, and all metrics follow it under their names.
    """
    return {
        "study": record.study,
        "trial": record.trial,
        "attempt": record.attempt,
        "state": record.outcome,
        **{f"param.{name}": value for name, value in record.params.items()},
        "value": record.metrics.get(objective),
        **{f"metric.{name}": value for name, value in record.metrics.items()},
        "source": record.source,
        "worker": record.worker,
        "asked_ns": record.asked_ns,
        "done_ns": record.done_ns,
        "duration_s": round(max(record.done_ns - record.asked_ns, 0) / 1e9, 6),
        "best_so_far": record.best_so_far,
        "late": record.late,
    }


def columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns of some rows: those of `row`, with every parameter and metric that any row has, in the order of coming."""
    found = {name: None for line in rows for name in line}
    params = [name for name in found if name.startswith("param.")]
    metrics = [name for name in found if name.startswith("metric.")]
    return (*FIRST, *params, "value", *metrics, *LAST)


def write_csv(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Write rows as CSV that `formats.past` reads; booleans as true and false, what a row has not as nothing."""
    names = columns(rows)
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for line in rows:
        writer.writerow([_cell(line.get(name)) for name in names])


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each row as a line of JSON, without the line's end."""
    return (json.dumps(dict(line), allow_nan=False) for line in rows)


def best_json(best: StudyBest) -> str:
    """The best configurations of a study as a JSON document, best first."""
    points = [point.model_dump(exclude_none=True) for point in best.points]
    counts = {"finished": best.finished, "running": best.running, "failed": best.failed, "ended": best.ended}
    return json.dumps({"study": best.study, **counts, "best": points}, indent=2, allow_nan=False)


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
