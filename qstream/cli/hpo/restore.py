"""`qstream hpo restore`: give a study whose state was lost its results back, from the history topic."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

import typer

from qstream.cli.hpo.records import find_study, records_of
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, printable
from qstream.stream.client import Publisher
from schemas.hpo import TrialRecord, TrialReport, TrialState
from schemas.topics import HPO_HISTORY, HPO_TRIAL

COUNTED: Final[tuple[TrialState, ...]] = ("complete", "failed", "infeasible", "pruned")


def restore(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Give a study whose state was lost its results back.

    For a study whose state in Redis was lost: the agent makes it again from its record on the topic of studies, without
    trials, and this publishes the results again that the history topic keeps. They get new numbers, and do not count for
    max_trials. Results that the study still has are recognized and change nothing, so that the command may be run twice.

    \b
    Example:
      qstream hpo restore lm-small
    """
    settings = client_settings(bootstrap_servers)
    find_study(settings, study)
    records = [record for _, record in records_of(settings, HPO_HISTORY, TrialRecord, study)]
    found = {(record.asked_ns, _key(record)): record for record in records if record.outcome in COUNTED}
    with Publisher(settings.bootstrap_servers, "qstream/hpo", settings) as publisher:
        for record in found.values():
            publisher.publish(HPO_TRIAL, report_of(record), content_type=HPO_TRIAL.content_type)
    counts = Counter(record.outcome for record in found.values())
    if as_json:
        print_json({"study": study, "published": len(found), "outcomes": counts})
    else:
        typer.echo(printable(f"{study}: {counted(len(found), 'result')} published again; qstream hpo show {study}"))


def report_of(record: TrialRecord) -> TrialReport:
    """The outcome as a result that was not suggested. The agent knows it again by the time when its trial was handed out."""
    return TrialReport(
        study=record.study,
        worker=record.worker,
        ts_ns=record.asked_ns,
        ask=False,
        state=next(state for state in COUNTED if state == record.outcome),
        metrics=record.metrics or None,
        reason=record.reason,
        params=record.params,
    )


def _key(record: TrialRecord) -> str:
    return repr(sorted(record.params.items()))
