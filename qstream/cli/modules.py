"""The group of commands of a module: its own, and for one without any a page that says what else works with it."""

from __future__ import annotations

from typing import Any

import typer

from agents.registry import Agent, find_agent, load
from qstream.cli.options import new_app
from qstream.errors import ConfigError
from schemas.wording import must_be


def module_group(name: str) -> Any:
    """The click group ``qstream <name>``; `ConfigError` if the agent's commands cannot be loaded."""
    agent = find_agent(name)
    commands = load(agent.commands) if agent.commands else only_shared(agent)
    if not isinstance(commands, typer.Typer):
        raise ConfigError(must_be(f"commands of agent {name!r}", "a typer app", commands))
    return typer.main.get_group(commands)


def only_shared(agent: Agent) -> typer.Typer:
    """A group without commands."""
    app = new_app(
        f"""The {agent.name} module {agent.purpose}. It has no commands of its own.

        \b
        Example:
          qstream run {agent.name}
          qstream control {agent.name} --show
        """
    )
    app.callback()(lambda: None)
    return app
