"""`qstream control`: what an operator asks of a running agent."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from agents.registry import faults_named, find_agent, start_processor
from qstream.cli.cluster import reach, require_topics
from qstream.cli.controls import controls_of
from qstream.cli.names import parse_options
from qstream.cli.options import AgentArgument, AsJson, BootstrapServers, OptionChanges, client_settings, new_app
from qstream.cli.output import print_table
from qstream.contract import periods
from qstream.errors import ConfigError
from qstream.stream.client import Publisher
from schemas.control import Control
from schemas.topics import CONTROL
from schemas.wording import must_be

app = new_app()


@app.command()
def control(
    agent: AgentArgument,
    changes: OptionChanges = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="Return an option to the value that the workers started with."),
    ] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Stop reading; the workers stay in their group.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue to read.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the next operator.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Only show what is in force.")] = False,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Pause, resume or retune all workers of an agent, from their next batch on.

    The record in force is read, changed and published as a whole. Options are checked against the agent first. Of two
    operators who change it at the same moment, the later one wins.

    \b
    Example:
      qstream control routing --set placement=fast --set min_gain=0.05 --reason "fewer moves"
      qstream control routing --unset min_gain
      qstream control routing --pause
    """
    wanted = parse_options(changes or [])
    dropped = set(unset or [])
    changing = bool(wanted or dropped or pause or resume or reason is not None)
    if pause and resume:
        raise ConfigError("only one of --pause and --resume must be given")
    if both := wanted.keys() & dropped:
        raise ConfigError(f"only one of --set and --unset must be given for {min(both)!r}")
    if show and changing:
        raise ConfigError("--show must be given alone, without a change")
    found = find_agent(agent)
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [CONTROL])
    records, unreadable = controls_of(settings, agent)
    control = records[-1] if records else Control(agent=agent, ts_ns=0)
    if show and unreadable:
        typer.echo(f"unreadable records skipped on {CONTROL.name}: {unreadable}", err=True)
    if changing:
        if absent := dropped - control.options.keys():
            raise ConfigError(
                must_be("--unset", f"an option that is set ({', '.join(control.options) or 'none is'})", min(absent))
            )
        control = Control.build(
            agent=agent,
            ts_ns=max(time.time_ns(), control.ts_ns + 1),
            paused=(control.paused or pause) and not resume,
            options={name: value for name, value in (control.options | wanted).items() if name not in dropped},
            reason=reason or "",
        )
        # What the workers started with is their own affair: an option that they were given may still contradict.
        base = start_processor(found, settings.model_copy(update={"options": {}}))
        with faults_named(f"configure of agent {agent!r}"):
            periods(base.configure(control.options))
        with Publisher(settings.bootstrap_servers, "qstream/control", settings) as publisher:
            publisher.publish(CONTROL, control)
    _show(control, as_json)


def _show(control: Control, as_json: bool) -> None:
    if as_json:
        typer.echo(control.model_dump_json())
        return
    rows = [("agent", control.agent), ("state", "paused" if control.paused else "running"), ("reason", control.reason)]
    print_table(("control", "value"), [*rows, *((f"option {name}", str(value)) for name, value in control.options.items())])
