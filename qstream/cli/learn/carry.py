"""`qstream learn export|import`: the learners of a key in a safetensors file, and from it to any key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors
import typer
from safetensors.numpy import save_file

from qstream.cli.learn.steer import Reason, obeyed, send
from qstream.cli.learn.stored import Key, Module, known, learning, opened, require_learner
from qstream.cli.options import BootstrapServers, RedisUrl
from qstream.cli.output import counted
from qstream.errors import ConfigError
from schemas.frame import HEADER_KEY
from schemas.learning import LearnCommand
from schemas.wording import must_be


def export(
    module: Module,
    key: Key,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Safetensors file to write.")],
    redis: RedisUrl = None,
) -> None:
    """Write the learners of a key to a file.

    The file is in the safetensors format: of each learner an array of bytes, a safetensors file in itself.

    \b
    Example:
      qstream learn export routing demo-moe --out demo-moe.safetensors
    """
    processor = learning(module)
    with opened(processor, redis) as store:
        found = known(processor, store, key)
    arrays = {name: np.frombuffer(learner.encode(), np.uint8) for name, learner in found.learners.items()}
    header = {"module": module, "key": key, "version": found.version}
    try:
        save_file(arrays, out, {HEADER_KEY: json.dumps(header)})
    except (OSError, safetensors.SafetensorError) as exc:
        raise ConfigError(must_be("--out", f"a file that can be written ({exc})", str(out))) from exc
    typer.echo(f"wrote {counted(len(arrays), 'learner')} of {module} {key} to {out}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What export wrote.")],
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Another key than the one it was exported from.")] = None,
    reason: Reason = "",
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Restore learners from a file.

    To the key that they were exported from or to another one, which must have a state.

    \b
    Example:
      qstream learn import demo-moe.safetensors --key demo-moe-2
    """
    try:
        with safetensors.safe_open(file, framework="numpy") as opened_file:
            header = json.loads((opened_file.metadata() or {})[HEADER_KEY])
            module, to = header["module"], key or header["key"]
            states = {name: opened_file.get_tensor(name) for name in opened_file.keys()}  # noqa: SIM118 not a mapping
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as exc:
        raise ConfigError(must_be("FILE", f"what qstream learn export has written ({exc})", str(file))) from exc
    processor = learning(module)
    commands = []
    for name, state in states.items():
        require_learner(processor, name)
        commands.append(LearnCommand.build(module=module, key=to, command="restore", learner=name, reason=reason, state=state))
    send(commands, bootstrap_servers)
    typer.echo(f"asked {module} to restore {counted(len(commands), 'learner')} of {to}")
    typer.echo(obeyed(module, to), err=True)
