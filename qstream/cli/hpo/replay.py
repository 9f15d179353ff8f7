"""`qstream hpo replay`: compute every suggestion of a study again, and name those that differ."""

from __future__ import annotations

from typing import Annotated

import typer
from confluent_kafka import Message

from qstream.cli.ending import EXIT_FAILED
from qstream.cli.hpo.records import find_study, records_of
from qstream.cli.hpo.texts import params_text
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings
from qstream.cli.output import counted, print_json, printable
from schemas.hpo import StudySpec, TrialReport, TrialSuggestion
from schemas.topics import HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL


def replay(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Compute a study's suggestions again, and compare.

    Those that are others than were published are named. A suggestion is a function of the results, the running trials, its
    number, the seed and the study: one that differs was made by another version, with other options (say by --set what the agent
    was run with), under a deadline, or before a change of the study whose older record is gone. Exit code 1 if any differs.

    \b
    Example:
      qstream hpo replay lm-small
    """
    from qstream.hpo.options import HpoOptions  # noqa: PLC0415 - numpy, which help does not need
    from qstream.hpo.replay import Asked, replayed  # noqa: PLC0415

    options = HpoOptions().changed(parse_options(changes or []))
    settings = client_settings(bootstrap_servers)
    find_study(settings, study)
    specs = [(_ns(message), spec) for message, spec in records_of(settings, HPO_STUDY, StudySpec, study)]
    published = {
        plan.plan_id.rpartition("/")[0]: plan for _, plan in records_of(settings, HPO_SUGGESTION, TrialSuggestion, study)
    }
    asked = [
        Asked(report, _ns(message), published.get(f"{message.topic()}/{message.partition()}/{message.offset()}"))
        for message, report in records_of(settings, HPO_TRIAL, TrialReport, study)
    ]
    checked = list(replayed(specs, asked, options))
    different = [check for check in checked if check.why]
    if as_json:
        rows = [
            {
                "trial": check.published.trial,
                "why": check.why,
                "published": check.published.params,
                "computed": dict(check.params),
            }
            for check in different
        ]
        print_json({"study": study, "suggestions": len(checked), "same": len(checked) - len(different), "different": rows})
    else:
        for check in different:
            what = f"trial {check.published.trial}: {check.why}"
            typer.echo(
                printable(f"{what}\n  published {params_text(check.published.params)}\n  computed  {params_text(check.params)}")
            )
        typer.echo(f"{len(checked) - len(different)} of {counted(len(checked), 'suggestion')} are the same")
    if different:
        raise typer.Exit(EXIT_FAILED)


def _ns(message: Message) -> int:
    """The time of a record, in ns."""
    time_ms: int = message.timestamp()[1]
    return time_ms * 1_000_000
