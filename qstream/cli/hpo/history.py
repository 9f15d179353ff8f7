"""`qstream hpo history`: what became of each trial of a study, as CSV or JSON lines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from qstream.cli.hpo.records import find_study, records_of
from qstream.cli.hpo.show import REPEATED
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, write_files
from schemas.hpo import TrialRecord
from schemas.topics import HPO_HISTORY


def history(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write CSV here instead of JSON lines on stdout.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="With reports that changed nothing: duplicates, superseded ones.")] = False,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Print what became of each trial of a study.

    One JSON object a line, or CSV. The CSV has a column for each parameter and metric, and begins another study: --prior of
    qstream hpo create.

    \b
    Example:
      qstream hpo history lm-small --csv lm-small.csv
      qstream hpo history lm-small --json
    """

    from qstream.hpo.formats.history import row, write_csv  # noqa: PLC0415 - help does not need it

    settings = client_settings(bootstrap_servers)
    spec = find_study(settings, study)
    found = [record for _, record in records_of(settings, HPO_HISTORY, TrialRecord, study)]
    rows = [row(record, spec.objective) for record in found if every or record.outcome not in REPEATED]
    if csv is None:
        for line in rows:
            print_json(line)
        return
    text = io.StringIO()
    write_csv(rows, text)
    (written,) = write_files([(csv, text.getvalue().encode())])
    if as_json:
        print_json({"written": written, "rows": len(rows)})
    else:
        typer.echo(f"{counted(len(rows), 'trial')} written: {written}")
