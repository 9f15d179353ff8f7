"""`qstream hpo create`: publish a study from a file, or change one that is there."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.hpo.records import newest_of, records_of
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings, seconds
from qstream.cli.output import counted, print_json, printable
from qstream.config import Settings
from qstream.errors import ConfigError
from qstream.stream.client import Publisher
from schemas.hpo import StudySpec, TrialSuggestion
from schemas.topics import HPO_STUDY, HPO_SUGGESTION
from schemas.wording import Shown, must_be

STATUSES = ("open", "paused", "closed")
FIXED = ("parameters", "objective", "direction", "seed")  # of a study that has trials
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Trials until it is done.")]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", metavar="METRIC<=VALUE", help="A limit of another metric; may be repeated.")
]
Lease = Annotated[
    str | None, typer.Option("--lease", metavar="TIME", help="A trial goes out again after this time without a report.")
]
Status = Annotated[str | None, typer.Option("--status", help="open, paused (no new trials) or closed (none ever).")]


def create(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A study or a space, as YAML or JSON, or a sweep of W&B.")],
    *,
    name: Annotated[
        str | None, typer.Option(help="Name of the study; else the file's field study, else the file's name.")
    ] = None,
    trials: Trials = None,
    objective: Annotated[str | None, typer.Option(help="The metric that decides; else loss.")] = None,
    direction: Annotated[str | None, typer.Option(help="minimize or maximize.")] = None,
    limit: Limits = None,
    lease: Lease = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of all suggestions.")] = None,
    status: Status = None,
    prior: Annotated[str | None, typer.Option(metavar="FILE", help="Past results: CSV, a saved study, a URL of Optuna.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="THEIRS=OURS", help="Of --prior, a column under another name; may be repeated.")
    ] = None,
    on_bad: Annotated[str, typer.Option("--on-bad", help="Of --prior, rows that do not fit: refuse or drop.")] = "refuse",
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Publish a study.

    One of the name that is there is changed, as by qstream hpo change, and keeps its prior if none is named. What is searched,
    the objective, the direction and the seed of a study that has trials cannot change: publish it under another name then, with
    the history of the old one as --prior.

    \b
    Example:
      qstream hpo create study.yaml
      qstream hpo create space.yaml --name lm-large --trials 200 --limit 'step_ms<=40' --prior lm-small.csv
    """
    from qstream.cli.hpo import study_file as files  # noqa: PLC0415 - numpy, which help does not need

    given = {
        "study": name,
        "max_trials": trials,
        "objective": objective,
        "direction": direction,
        "limits": None if limit is None else [files.limit_of(text) for text in limit],
        "lease_s": None if lease is None else seconds(lease, "--lease"),
        "seed": seed,
        "status": status_of(status),
    }
    spec = files.study_of(file, given, time.time_ns(), parse_options(changes or []))
    spec = files.with_prior(spec, prior, rename=files.rename_of(rename or []), on_bad=files.on_bad_of(on_bad))
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [HPO_STUDY, HPO_SUGGESTION])
    publish(settings, _after(settings, spec), as_json)


def status_of(text: str | None) -> str | None:
    """What --status says; `ConfigError` for what it cannot say."""
    if text is not None and text not in STATUSES:
        raise ConfigError(must_be("--status", "open, paused or closed", text))
    return text


def publish(settings: Settings, spec: StudySpec, as_json: bool) -> None:
    """Publish a study, and say what it is; `ConfigError` if its options contradict themselves."""
    from qstream.hpo.options import HpoOptions  # noqa: PLC0415 - numpy, which help does not need

    HpoOptions().changed(spec.options)
    with Publisher(settings.bootstrap_servers, "qstream/hpo", settings) as publisher:
        publisher.publish(HPO_STUDY, spec)
    _say(spec, as_json)


def _after(settings: Settings, spec: StudySpec) -> StudySpec:
    """The study with the prior of the one that is there; `ConfigError` if it would change what that one's trials mean."""
    old = newest_of(settings, HPO_STUDY, StudySpec, spec.study)
    if old is None:
        return spec
    changed = [name for name in FIXED if getattr(old, name) != getattr(spec, name)]
    if changed and any(plan.status == "run" for _, plan in records_of(settings, HPO_SUGGESTION, TrialSuggestion, spec.study)):
        rule = f"as in the study {spec.study!r}, which has trials (another one: --name)"
        raise ConfigError(must_be(changed[0], rule, Shown("another")))
    kept: dict[str, Any] = {"ts_ns": max(spec.ts_ns, old.ts_ns + 1)}
    if spec.prior_value is None and old.parameters == spec.parameters:
        kept |= {"prior_points": old.prior_points, "prior_value": old.prior_value}
    return StudySpec.build(**{**dict(spec), **kept})


def _say(spec: StudySpec, as_json: bool) -> None:
    if as_json:
        print_json(spec.model_dump(mode="json", exclude=spec.array_names, exclude_none=True))
        return
    rows = 0 if spec.prior_value is None else len(spec.prior_value)
    prior = f", {counted(rows, 'result')} of an older study" if rows else ""
    what = f"{counted(len(spec.parameters), 'parameter')}, {spec.direction} {spec.objective}"
    typer.echo(printable(f"{spec.study}: {what}, at most {counted(spec.max_trials, 'trial')}{prior}, {spec.status}"))
    typer.echo(printable(f"next: qstream hpo worker {shlex.quote(spec.study)} --command '...'"))
