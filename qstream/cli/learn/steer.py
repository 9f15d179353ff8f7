"""`qstream learn reset|freeze|thaw`: commands to a key's learners, as records of the key's stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.learn.stored import Key, Learner, Module, learning, require_learner
from qstream.cli.options import BootstrapServers, client_settings
from qstream.errors import ConfigError
from qstream.stream.client import Publisher
from schemas.learning import LearnCommand
from schemas.topics import LEARN_COMMAND
from schemas.wording import must_be

Reason = Annotated[str, typer.Option(help="Why, for the next operator.")]


def reset(
    module: Module, key: Key, learner: Learner = "", reason: Reason = "", bootstrap_servers: BootstrapServers = None
) -> None:
    """Reset learners of a key, so that they start over.

    \b
    Example:
      qstream learn reset routing demo-moe --learner shares --reason "the model was retrained"
    """
    _ask("reset", module, key, learner, reason, bootstrap_servers)


def freeze(
    module: Module, key: Key, learner: Learner = "", reason: Reason = "", bootstrap_servers: BootstrapServers = None
) -> None:
    """Freeze learners of a key.

    They keep what they know, and the incumbent answers.

    \b
    Example:
      qstream learn freeze routing demo-moe
    """
    _ask("freeze", module, key, learner, reason, bootstrap_servers)


def thaw(
    module: Module, key: Key, learner: Learner = "", reason: Reason = "", bootstrap_servers: BootstrapServers = None
) -> None:
    """Have frozen learners learn again.

    \b
    Example:
      qstream learn thaw routing demo-moe
    """
    _ask("thaw", module, key, learner, reason, bootstrap_servers)


def _ask(command: str, module: str, key: str, learner: str, reason: str, bootstrap_servers: str | None) -> None:
    require_learner(learning(module), learner)
    if not key:
        raise ConfigError(must_be("KEY", "a key of the module, such as the name of a model", key))
    send([LearnCommand.build(module=module, key=key, command=command, learner=learner, reason=reason)], bootstrap_servers)
    typer.echo(f"asked {module} to {command} {learner or 'all learners'} of {key}")
    typer.echo(obeyed(module, key), err=True)


def obeyed(module: str, key: str) -> str:
    """Where an operator sees what becomes of a command."""
    return f"qstream learn show {module} {key} counts it once it is obeyed; qstream dlq list has it if it cannot be"


def send(commands: Sequence[LearnCommand], bootstrap_servers: str | None) -> None:
    """Publish commands, each to the stream of its key."""
    settings = client_settings(bootstrap_servers)
    require_topics(reach(settings), [LEARN_COMMAND])
    with Publisher(settings.bootstrap_servers, "qstream/learn", settings) as publisher:
        for command in commands:
            publisher.publish(LEARN_COMMAND, command)
