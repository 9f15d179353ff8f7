"""`qstream hpo mlflow`: the trials of a study as runs of MLflow."""

from __future__ import annotations

import os
from typing import Annotated, Final

import typer

from qstream.cli.hpo.records import find_study, records_of
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, printable
from schemas.hpo import TrialRecord
from schemas.topics import HPO_HISTORY

RETRIES: Final = "3"  # of a request; MLflow's own 7 keep silent for minutes where no server answers


def mlflow(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    tracking_uri: Annotated[
        str, typer.Option("--tracking-uri", metavar="URI", help="MLflow's server or store, as http://localhost:5000.")
    ],
    experiment: Annotated[str, typer.Option(help="Name of the experiment; it is made if it is not there.")] = "qstream",
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Write the trials of a study to MLflow, each as a run.

    The runs are children of one that stands for the study. The command may be run again, while the study goes on or after its
    end: it adds what is new.

    \b
    Example:
      qstream hpo mlflow lm-small --tracking-uri http://localhost:5000
    """
    from qstream.hpo.formats.mlflow import export  # noqa: PLC0415 - help does not need it

    settings = client_settings(bootstrap_servers)
    spec = find_study(settings, study)
    records = [record for _, record in records_of(settings, HPO_HISTORY, TrialRecord, study)]
    typer.echo(printable(f"{study}: {counted(len(records), 'record')} to {tracking_uri}"), err=True)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
    about = {"study": study, "objective": spec.objective, "experiment": experiment}
    found = export(records, tracking_uri, direction=spec.direction, **about)
    if as_json:
        print_json(found._asdict())
    else:
        counts = f"{counted(found.created, 'run')} made, {found.changed} changed, {found.unchanged} as they were"
        typer.echo(printable(f"{study}: {counts}, in experiment {experiment!r} at {tracking_uri}"))
