"""`qstream learn export|import`: the learners of a key in a safetensors file, and from it to any key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors
import typer
from numpy.typing import NDArray
from safetensors.numpy import save_file

from qstream.cli.learn.steer import Reason, obeyed, send
from qstream.cli.learn.stored import Key, Module, known, learning, opened
from qstream.cli.options import BootstrapServers, RedisUrl
from qstream.cli.output import counted
from qstream.contract import Processor
from qstream.errors import ConfigError
from qstream.learn.state import kind_of
from schemas.frame import HEADER_KEY, FrameError
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

    To the key that they were exported from or to another one, which must have a state. A file
    of which any learner is damaged is refused whole.

    \b
    Example:
      qstream learn import demo-moe.safetensors --key demo-moe-2
    """
    module, exported, states = _read(file)
    processor, to = learning(module), key or exported
    _require_learners(processor, states, file)
    commands = [
        LearnCommand.build(module=module, key=to, command="restore", learner=name, reason=reason, state=state)
        for name, state in states.items()
    ]
    send(commands, bootstrap_servers)
    typer.echo(f"asked {module} to restore {counted(len(commands), 'learner')} of {to}")
    typer.echo(obeyed(module, to), err=True)


def _read(file: Path) -> tuple[str, str, dict[str, NDArray[np.uint8]]]:
    """The module, the key and the bytes of each learner in a file; `ConfigError` if export has not written it."""
    try:
        with safetensors.safe_open(file, framework="numpy") as opened_file:
            header = json.loads((opened_file.metadata() or {}).get(HEADER_KEY, "{}"))
            states = {name: opened_file.get_tensor(name) for name in opened_file.keys()}  # noqa: SIM118 not a mapping
    except (OSError, safetensors.SafetensorError, ValueError) as exc:
        raise _foreign(file, exc) from exc
    module, key = (header.get("module"), header.get("key")) if isinstance(header, dict) else (None, None)
    if isinstance(module, str) and isinstance(key, str) and module and key and states:
        return module, key, states
    raise _foreign(file, "its header must name a module and a key, and it must hold a learner")


def _require_learners(processor: Processor[Any], states: Mapping[str, NDArray[np.uint8]], file: Path) -> None:
    """`ConfigError` unless each learner is one of the module's and can be read: else a part of a file would be restored."""
    assert processor.state is not None
    for name, state in states.items():
        if name not in processor.learners:
            raise ConfigError(must_be(f"learner of {file}", f"one of {', '.join(processor.learners)}", name))
        try:
            kind_of(processor.state, name).decode(state.tobytes())
        except FrameError as exc:
            raise _foreign(file, f"learner {name}: {exc}") from exc


def _foreign(file: Path, why: object) -> ConfigError:
    return ConfigError(must_be("FILE", f"what qstream learn export has written ({why})", str(file)))
