"""The group of commands of a module: its own, and for one without any a page that says what else works with it."""

from __future__ import annotations

from typing import Any

import typer

from agents.registry import Agent, find_agent, load
from qstream.cli.options import new_app


def module_group(name: str) -> Any:
    """The click group ``qstream <name>``; `ConfigError` if the agent's commands cannot be loaded."""
    agent = find_agent(name)
    return typer.main.get_group(load(agent.commands) if agent.commands else only_shared(agent))


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
