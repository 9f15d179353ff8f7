"""`qstream hpo worker`: run the trials of a study by a command, for an agent behind a broker or on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from qstream.cli.ending import stop_signal
from qstream.cli.options import AsJson, BootstrapServers, OptionChanges, client_settings, seconds
from qstream.errors import ConfigError
from schemas.wording import must_be

MAX_SLOTS: Final = 256
LOCAL_ONLY: Final = ("--trials", "--objective", "--direction", "--limit", "--seed", "--prior", "--save", "--set")
Command = Annotated[str, typer.Option("--command", metavar="TEXT", help="What runs a trial, with {NAME} for its values.")]
SlotCount = Annotated[int, typer.Option("--slots", min=1, max=MAX_SLOTS, help="Trials at one time; {slot} is 0, 1, ...")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="Stop a trial after this time, as 90s, 45m or 2h.")
]
Grace = Annotated[str, typer.Option("--grace", metavar="TIME", help="From SIGTERM to SIGKILL for a command that is stopped.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the worker; else the Slurm task's or the host's.")]
Logs = Annotated[
    Path | None, typer.Option("--logs", metavar="FOLDER", help="Keep what commands write, a folder a trial; else it is lost.")
]
Count = Annotated[int | None, typer.Option("--count", min=1, help="End after this many trials.")]
GiveUp = Annotated[
    int, typer.Option("--give-up", min=0, help="End with code 1 after so many failures in a row by the command; 0: never.")
]
IsLocal = Annotated[bool, typer.Option("--local", help="Search on this machine, without a server; STUDY is a file.")]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="With --local: trials of the study.")]
Objective = Annotated[str | None, typer.Option("--objective", help="With --local: the metric that decides; else loss.")]
Towards = Annotated[str | None, typer.Option("--direction", help="With --local: minimize or maximize.")]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", metavar="METRIC<=VALUE", help="With --local: a limit of a metric; may be repeated.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="With --local: seed of all suggestions.")]
Prior = Annotated[
    str | None, typer.Option("--prior", metavar="FILE", help="With --local: past results: CSV, a saved study, a URL of Optuna.")
]
Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="FILE", help="With --local: keep the study here (.safetensors), and go on with it."),
]


def worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study; with --local the file of a space or study.")],
    *,
    command: Command,
    slots: SlotCount = 1,
    timeout: Timeout = None,
    grace: Grace = "10s",
    name: Name = None,
    logs: Logs = None,
    count: Count = None,
    give_up: GiveUp = 10,
    local: IsLocal = False,
    trials: Trials = None,
    objective: Objective = None,
    direction: Towards = None,
    limit: Limits = None,
    seed: Seed = None,
    prior: Prior = None,
    save: Save = None,
    changes: OptionChanges = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Run the trials of a study by a command.

    Each slot asks for a trial, runs the command, reports, and asks again, until the study is done. The command is one
    program with arguments; no shell reads it. {NAME} is the value of a parameter, {args} all of them as
    --name=value, {params_file} a JSON file of them, {trial}, {attempt}, {slot}, {study} and {worker} what they say; {{ and }}
    are braces. HPO_PARAMS, HPO_PARAMS_FILE, HPO_TRIAL, HPO_ATTEMPT, HPO_SLOT, HPO_STUDY and HPO_WORKER are in its environment.

    Its metrics are the numbers of the last line of output that is a JSON object. A trial has failed if the exit code is not 0,
    the loss is not finite (NAN), memory ran out (OOM) or the time is over (TIMEOUT).

    SIGTERM and Ctrl-C stop the commands and report them as PREEMPTED; the exit code is 143 then, and 1 if trials ended and none
    was complete. A worker that starts again under its name gets the trials that it held.

    \b
    Example:
      qstream hpo worker lm-small --command 'python train.py --lr {lr} --batch {batch_size}' -b localhost:9092
      qstream hpo worker lm-small --slots 8 --timeout 2h --command 'CUDA_VISIBLE_DEVICES={slot} python train.py {args}'
      qstream hpo worker space.yaml --local --trials 40 --slots 4 --save lm.safetensors --command 'python train.py {args}'
    """
    from qstream.cli.hpo.command import parse_command  # noqa: PLC0415 - numpy and Kafka, which help does not need
    from qstream.cli.hpo.work import Work, work_here, work_there  # noqa: PLC0415 - as above

    stop = stop_signal()
    times = (None if timeout is None else seconds(timeout, "--timeout"), seconds(grace, "--grace"))
    work = Work(parse_command(command), slots, *times, logs, give_up, count, as_json)
    given = dict(zip(LOCAL_ONLY, (trials, objective, direction, limit, seed, prior, save, changes), strict=True))
    if local:
        work_here(Path(study), given, work, stop)
        return
    for option, value in given.items():
        if value is not None:
            raise ConfigError(must_be(option, "absent without --local (a study says it: qstream hpo create)", value))
    work_there(study, name, client_settings(bootstrap_servers), work, stop)
