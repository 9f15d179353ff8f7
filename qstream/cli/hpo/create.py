"""`qstream hpo create`: publish a study from a file, or change one that is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings, seconds
from qstream.cli.output import counted, print_json, printable
from qstream.errors import ConfigError
from qstream.stream.client import Publisher
from schemas.topics import HPO_STUDY
from schemas.wording import must_be

if TYPE_CHECKING:
    from schemas.hpo import StudySpec

STATUSES = ("open", "paused", "closed")


def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A study or a space, as YAML or JSON, or a sweep of W&B.")],
    *,
    name: Annotated[
        str | None, typer.Option(help="Name of the study; else the file's field study, else the file's name.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials until it is done.")] = None,
    objective: Annotated[str | None, typer.Option(help="The metric that decides; else loss.")] = None,
    direction: Annotated[str | None, typer.Option(help="minimize or maximize.")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="METRIC<=VALUE", help="A limit of another metric; may be repeated.")
    ] = None,
    lease: Annotated[
        str | None, typer.Option(metavar="TIME", help="A trial goes out again after this time without a report.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of all suggestions.")] = None,
    status: Annotated[str | None, typer.Option(help="open, paused (no new trials) or closed (none ever).")] = None,
    prior: Annotated[str | None, typer.Option(metavar="FILE", help="Past results: CSV, a saved study, a URL of Optuna.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="THEIRS=OURS", help="Of --prior, a column under another name; may be repeated.")
    ] = None,
    on_bad: Annotated[str, typer.Option("--on-bad", help="Of --prior, rows that do not fit: refuse or drop.")] = "refuse",
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Publish a study. The same command changes one: its budget, limits, lease, status and options, while it runs.

    What is searched, the objective, the direction and the seed of a study that has trials cannot change: publish it under
    another name then, with the old one as --prior.

    \b
    Example:
      qstream hpo create study.yaml
      qstream hpo create study.yaml --status paused
      qstream hpo create space.yaml --name lm-large --trials 200 --limit 'step_ms<=40' --prior lm-small.csv
    """
    from qstream.cli.hpo import study_file as files  # noqa: PLC0415 - numpy, which help does not need
    from qstream.hpo.options import HpoOptions  # noqa: PLC0415

    if status is not None and status not in STATUSES:
        raise ConfigError(must_be("--status", "open, paused or closed", status))
    given = {
        "study": name,
        "max_trials": trials,
        "objective": objective,
        "direction": direction,
        "limits": None if limit is None else [files.limit_of(text) for text in limit],
        "lease_s": None if lease is None else seconds(lease, "--lease"),
        "seed": seed,
        "status": status,
    }
    spec = files.study_of(file, given, time.time_ns(), parse_options(changes or []))
    HpoOptions().changed(spec.options)
    spec = files.with_prior(spec, prior, rename=files.rename_of(rename or []), on_bad=files.on_bad_of(on_bad))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [HPO_STUDY])
    with Publisher(settings.bootstrap_servers, "qstream/hpo", settings) as publisher:
        publisher.publish(HPO_STUDY, spec)
    _say(spec, as_json)


def _say(spec: StudySpec, as_json: bool) -> None:
    if as_json:
        print_json(spec.model_dump(mode="json", exclude=spec.array_names, exclude_none=True))
        return
    rows = 0 if spec.prior_value is None else len(spec.prior_value)
    prior = f", {counted(rows, 'result')} of an older study" if rows else ""
    what = f"{counted(len(spec.parameters), 'parameter')}, {spec.direction} {spec.objective}"
    typer.echo(printable(f"{spec.study}: {what}, at most {counted(spec.max_trials, 'trial')}{prior}, {spec.status}"))
    typer.echo(printable(f"next: qstream hpo worker {spec.study} --command '...'"))
