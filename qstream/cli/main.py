"""The root of the `qstream` command: which commands there are, and how they are loaded and end."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from agents.names import agent_names
from qstream import __version__

# name -> (module and its typer app, summary); a module is imported when its command is called, which keeps --help fast.
VERBS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("demo:app", "Show a module at work on real input, with its figures."),
    "run": ("run:app", "Run an agent until SIGTERM or Ctrl-C."),
    "topics": ("topics:app", "List the topics, or create those that are missing."),
    "publish": ("publish:app", "Publish frames or tables of tokens from a file."),
    "watch": ("watch:app", "Print the records of a topic as they arrive."),
    "control": ("control:app", "Pause, resume or retune a running agent."),
    "learn": ("learn.commands:app", "See what a module has learnt, and steer it."),
    "dlq": ("dlq:app", "Show records that failed, and send them back."),
    "solve": ("solve:app", "Solve a problem file, by circuits or classical solvers."),
    "doctor": ("doctor:app", "Check the installation, Kafka, Redis and the GPU."),
    "broker": ("servers:broker", "Run the embedded Kafka broker until Ctrl-C."),
    "redis": ("servers:redis", "Run the bundled Redis until Ctrl-C."),
}


class LazyGroup(TyperGroup):
    """The shared verbs, then a group for each module; imports only the one that is called. A verb wins over a module's name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(dict.fromkeys([*VERBS, *agent_names()]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command's name and summary only, which is all that the help needs."""
        if cmd_name in VERBS:
            return TyperCommand(cmd_name, help=VERBS[cmd_name][1])
        return TyperCommand(cmd_name, help=f"Commands of the {cmd_name} module.") if cmd_name in agent_names() else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in VERBS:
            module, _, attribute = VERBS[name][0].partition(":")
            command = typer.main.get_command(getattr(importlib.import_module(f"qstream.cli.{module}"), attribute))
        elif name is not None:
            command = importlib.import_module("qstream.cli.modules").module_group(name)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        # Which errors there are is known to modules that the help need not wait for.
        return importlib.import_module("qstream.cli.ending").ended_well(super().invoke, ctx)


app = typer.Typer(
    name="qstream",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qstream {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and end.")] = False,
) -> None:
    """Optimize GPU clusters from an event stream: agents, topics, plans.

    Settings come from the command line, else from QSTREAM_* variables, else from the TOML file that QSTREAM_CONFIG names.
    Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 70 fatal.

    \b
    Example:
      qstream doctor
      qstream run routing --bootstrap-servers localhost:9092 --redis redis://localhost:6379/0
    """


if __name__ == "__main__":
    app(prog_name="qstream")
