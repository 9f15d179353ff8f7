"""Workers: `qstream hpo worker` as processes, one of which is killed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Self

from qstream.embedded.child import Child, end_child, log_end, start_child

GRACE_S = 10.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Workers:
    """Processes that ask for trials of studies and run them; they end with this object, and with this process.

    `text` is the file that trials train on, `folder` takes logs.
    """

    def __init__(self, bootstrap_servers: str, text: Path, folder: Path, seed: int) -> None:
        self._servers, self._folder = bootstrap_servers, folder
        self._trial = shlex.join([sys.executable, "-m", "qstream.demo.hpo.trial", f"--text={text}", f"--seed={seed}"]) + " {args}"
        self._children: dict[str, Child] = {}

    def start(self, study: str, name: str) -> None:
        """A worker of a study, with one slot: the worker ``NAME/0``."""
        command = [sys.executable, "-m", "qstream.cli", "hpo", "worker", study, "--name", name, "--command", self._trial]
        command += ["--bootstrap-servers", self._servers, "--give-up", "0", "--grace", "1s"]
        log = self._folder / f"{name}.log"
        self._children[name] = start_child(command, log, self._folder, environment={**os.environ, **ONE_THREAD})

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash of the machine would; its trial dies with it."""
        end_child(self._children.pop(name))

    def ended(self) -> list[str]:
        """Names of workers that ended by themselves."""
        return [name for name, child in self._children.items() if child.poll() is not None]

    def log(self, name: str, lines: int = 20) -> str:
        """The end of what a worker wrote."""
        return "\n".join(log_end(self._folder / f"{name}.log", lines))

    def close(self) -> None:
        """SIGTERM to all, and SIGKILL to those that do not end in time."""
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            end_child(child, GRACE_S)
        self._children = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
