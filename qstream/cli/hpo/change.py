"""`qstream hpo change`: another budget, lease, status, limit or option for a study, while it runs."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from qstream.cli.hpo.create import Lease, Limits, Status, Trials, publish, status_of
from qstream.cli.hpo.records import find_study
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings, seconds
from schemas.hpo import StudySpec


def change(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    trials: Trials = None,
    limit: Limits = None,
    lease: Lease = None,
    status: Status = None,
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Change a study while it runs; what is not named stays.

    Limits that are named replace all that there were. The search itself cannot change once there are trials: publish another
    study then, with the history of this one as --prior.

    \b
    Example:
      qstream hpo change lm-small --trials 400
      qstream hpo change lm-small --status paused
    """
    from qstream.cli.hpo.study_file import limit_of  # noqa: PLC0415 - numpy, which help does not need

    settings = client_settings(bootstrap_servers)
    old = find_study(settings, study)
    given = {
        "max_trials": trials,
        "limits": None if limit is None else [limit_of(text) for text in limit],
        "lease_s": None if lease is None else seconds(lease, "--lease"),
        "status": status_of(status),
        "options": {**old.options, **parse_options(changes or [])},
        "ts_ns": max(time.time_ns(), old.ts_ns + 1),
    }
    spec = StudySpec.build(**{**dict(old), **{name: value for name, value in given.items() if value is not None}})
    publish(settings, spec, as_json)
