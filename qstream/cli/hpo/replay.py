"""`qstream hpo replay`: compute every suggestion of a study again, and name those that differ."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from confluent_kafka import Message

from qstream.cli.cluster import reach, require_topics
from qstream.cli.controls import controls_of
from qstream.cli.ending import EXIT_FAILED
from qstream.cli.hpo.records import find_study, records_of
from qstream.cli.hpo.texts import params_text
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings
from qstream.cli.output import counted, print_json, printable
from qstream.cli.progress import Progress
from qstream.config import Settings
from qstream.errors import OptionError
from schemas.hpo import StudySpec, TrialReport, TrialSuggestion
from schemas.topics import CONTROL, HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL

if TYPE_CHECKING:
    from qstream.hpo.options import HpoOptions
    from qstream.hpo.replay import Checked

HPO: Final = "hpo"  # the agent
MOST_SHOWN: Final = 20  # suggestions that differ, for people


def replay(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Compute a study's suggestions again, and compare.

    Those that are others than were published are named. A suggestion is a function of the results, the running trials, its
    number, the seed and the options: one that differs was made by another version, with options that are not known (say by --set
    what the agent was run with), on a device, or before a change of the study whose older record is gone. What qstream control
    has set is known, for as long as the topic keeps it. Exit code 1 if any differs.

    \b
    Example:
      qstream hpo replay lm-small
    """
    from qstream.hpo.options import HpoOptions  # noqa: PLC0415 - numpy, which help does not need

    settings = client_settings(bootstrap_servers)
    find_study(settings, study)
    require_topics(reach(settings), [CONTROL, HPO_SUGGESTION, HPO_TRIAL])
    checked = _checked(settings, study, _options(settings, HpoOptions().changed(parse_options(changes or []))))
    different = [check for check in checked if check.why]
    if as_json:
        rows = [_row(check) for check in different]
        print_json({"study": study, "suggestions": len(checked), "same": len(checked) - len(different), "different": rows})
    else:
        for check in different[:MOST_SHOWN]:
            typer.echo(printable(_text(check)))
        if len(different) > MOST_SHOWN:
            typer.echo(f"and {len(different) - MOST_SHOWN} more that differ: --json names all")
        typer.echo(f"{len(checked) - len(different)} of {counted(len(checked), 'suggestion')} are the same")
    if different:
        raise typer.Exit(EXIT_FAILED)


def _options(settings: Settings, base: HpoOptions) -> list[HpoOptions]:
    """What the agent had, as far as the control topic tells: the newest first, and last what it was run with."""
    found = [base]
    for control in controls_of(settings, HPO)[0]:
        with suppress(OptionError):  # the workers refused it
            found.insert(0, base.changed(control.options))
    return list(dict.fromkeys(found))


def _checked(settings: Settings, study: str, options: Sequence[HpoOptions]) -> list[Checked]:
    """Every suggestion of the study, computed again."""
    from qstream.hpo.replay import Asked, replayed  # noqa: PLC0415 - numpy, which help does not need

    specs = [(_ns(message), spec) for message, spec in records_of(settings, HPO_STUDY, StudySpec, study)]
    published = {
        plan.plan_id.rpartition("/")[0]: plan for _, plan in records_of(settings, HPO_SUGGESTION, TrialSuggestion, study)
    }
    asked = [
        Asked(report, _ns(message), published.get(f"{message.topic()}/{message.partition()}/{message.offset()}"))
        for message, report in records_of(settings, HPO_TRIAL, TrialReport, study)
    ]
    total = sum(one.published is not None and one.published.model is not None for one in asked)
    progress = Progress("suggestion", total, "{:,}".format)
    checked = []
    for check in replayed(specs, asked, options):
        checked.append(check)
        progress.add(1)
    progress.end()
    return checked


def _row(check: Checked) -> dict[str, Any]:
    """A suggestion that differs, for machines."""
    published = check.published
    return {"trial": published.trial, "why": check.why, "published": published.params, "computed": dict(check.params)}


def _text(check: Checked) -> str:
    """A suggestion that differs, for people."""
    published, computed = params_text(check.published.params), params_text(check.params)
    return f"trial {check.published.trial}: {check.why}\n  published {published}\n  computed  {computed}"


def _ns(message: Message) -> int:
    """The time of a record, in ns."""
    time_ms: int = message.timestamp()[1]
    return time_ms * 1_000_000
