"""The root of the `qstream` command: which commands there are, and how they are loaded and end."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from qstream import __version__

# name -> (module and its typer app, summary); a module is imported when its command is called, which keeps --help fast.
COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("demo:app", "Train a small MoE model and optimize its routing live."),
    "run": ("run:app", "Run an agent until SIGTERM or Ctrl-C."),
    "topics": ("topics:app", "List the topics, or create those that are missing."),
    "publish": ("publish:app", "Publish frames or tables of tokens from a file."),
    "watch": ("watch:app", "Print the plans of a topic as they come."),
    "control": ("control:app", "Pause, resume or retune a running agent."),
    "dlq": ("dlq:app", "See records that failed, and send them back."),
    "solve": ("solve:app", "Solve a problem file by simulated circuits, PennyLane devices, or their classical twins."),
    "place": ("place:app", "Plan where the experts of a recorded model live, offline."),
    "route": ("route:app", "Route tokens of a file by a model graph, offline."),
    "doctor": ("doctor:app", "Check the installation, Kafka, Redis and the GPU."),
    "broker": ("servers:broker", "Run the embedded Kafka broker until Ctrl-C."),
    "redis": ("servers:redis", "Run the bundled Redis until Ctrl-C."),
}


class LazyGroup(TyperGroup):
    """Lists commands by the table above and imports only the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command's name and summary only, which is all that the help needs."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            module, _, attribute = COMMANDS[name][0].partition(":")
            command = typer.main.get_command(getattr(importlib.import_module(f"qstream.cli.{module}"), attribute))
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
