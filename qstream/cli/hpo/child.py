"""Child: the command of one trial as a process, with files of what it writes, ended in time and with its worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from qstream.cli.hpo.command import Command
from qstream.cli.hpo.outcome import Ended
from qstream.embedded.child import Child, start_child
from qstream.errors import ConfigError
from schemas.control import Scalar
from schemas.wording import must_be

PREFIX: Final = "HPO_"  # of the variables of a trial: QSTREAM_ is that of settings
_MOST_BYTES: Final = 1 << 20  # of the end of a file that is read


@dataclass(slots=True, eq=False)
class Running:
    """A command that runs a trial. Times are seconds of the caller's clock."""

    process: Child
    folder: Path
    started_s: float
    stop_at_s: float | None
    grace_s: float
    stopped: Literal["TIMEOUT", "PREEMPTED"] | None = None
    kill_at_s: float | None = None

    def poll(self, now_s: float) -> Ended | None:
        """How it ended, None while it runs; one that is over its time is stopped."""
        code = self.process.poll()
        if code is not None:
            if self.stopped is not None:
                self._signal(signal.SIGKILL)  # what it started, and what is not to stay
            return Ended(code, tail(self.folder / "output"), tail(self.folder / "errors"), self.stopped)
        if self.stopped is None and self.stop_at_s is not None and now_s >= self.stop_at_s:
            self.stop("TIMEOUT", now_s)
        elif self.kill_at_s is not None and now_s >= self.kill_at_s:
            self._signal(signal.SIGKILL)
        return None

    def stop(self, why: Literal["TIMEOUT", "PREEMPTED"], now_s: float) -> None:
        """Ask the command and all that it started to end; after the grace they are killed."""
        if self.stopped is None and self.process.poll() is None:
            self.stopped, self.kill_at_s = why, now_s + self.grace_s
            self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def program_of(command: Command) -> str:
    """The path of the command's program; `ConfigError` if there is none."""
    found = shutil.which(command.words[0])
    if found is None:
        raise ConfigError(
            must_be("the program of --command", "one that is on the PATH or a file that may be run", command.words[0])
        )
    return os.path.abspath(found)


def start(
    command: Command,
    params: Mapping[str, Scalar],
    facts: Mapping[str, Scalar],
    folder: Path,
    *,
    now_s: float,
    timeout_s: float | None,
    grace_s: float,
) -> Running:
    """Start the command of a trial in the working folder of this process.

    `folder` takes its output, its errors and ``params.json``. The command has all variables of this process, and ``HPO_TRIAL``,
    ``HPO_ATTEMPT``, ``HPO_STUDY``, ``HPO_WORKER``, ``HPO_SLOT``, ``HPO_PARAMS`` (JSON) and ``HPO_PARAMS_FILE``. The kernel kills
    it if this process dies. Raises what `Command.filled` and `program_of` raise, and OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, path = json.dumps(dict(params)), folder / "params.json"
    path.write_text(text + "\n")
    all_facts = {**facts, "params": text, "params_file": str(path.resolve())}
    words, variables = command.filled(params, all_facts)
    words[0] = program_of(Command(tuple(words)))
    own = {f"{PREFIX}{name.upper()}": str(value) for name, value in all_facts.items()}
    for name in ("output", "errors"):
        (folder / name).unlink(missing_ok=True)
    process = start_child(
        words, folder / "output", Path.cwd(), errors=folder / "errors", environment={**os.environ, **own, **variables}
    )
    return Running(process, folder, now_s, None if timeout_s is None else now_s + timeout_s, grace_s)


def tail(path: Path) -> str:
    """The end of a file, from the first whole line; empty if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _MOST_BYTES))
            body = file.read()
    except FileNotFoundError:
        return ""
    return (body if size <= _MOST_BYTES else body.partition(b"\n")[2]).decode(errors="replace")
