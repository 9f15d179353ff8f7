"""Names: what a worker is called, so that after a restart it gets the trial that it held, and no two are called the same."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final

from qstream.errors import ConfigError
from schemas.wording import Shown, must_be

MOST_CHARACTERS: Final = 180  # of a name; a slot's number follows it


def usual_name(environment: Mapping[str, str], host: str) -> str:
    """The name that a batch system gives again when it starts the same task again, else the host's.

    Slurm keeps job, array and task numbers over a requeue. Kubernetes gives the pods of an indexed job and of a stateful set
    the same host name each time.

    >>> usual_name({"SLURM_JOB_ID": "812", "SLURM_ARRAY_JOB_ID": "810", "SLURM_ARRAY_TASK_ID": "2"}, "n7")
    'slurm-810_2'
    >>> usual_name({"SLURM_JOB_ID": "815", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, "n7")
    'slurm-815.3'
    >>> usual_name({}, "tune-3")
    'tune-3'
    """
    job, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    name = f"slurm-{job}_{task}" if job and task else f"slurm-{found}" if (found := environment.get("SLURM_JOB_ID")) else host
    if name != host and environment.get("SLURM_NTASKS", "1") != "1":
        name += f".{environment.get('SLURM_PROCID', '0')}"
    return name


@contextmanager
def held_name(study: str, name: str | None, usual: str) -> Iterator[str]:
    """A name that no other worker of the study on this machine has meanwhile: `name`, else the first that is free of
    `usual`, ``usual.2``, ``usual.3``... The kernel lets go of it however the process ends.

    Raises
    ------
    ConfigError
        Another worker has `name`, or no lock can be made.
    """
    if name is not None and not (name.isprintable() and 0 < len(name) <= MOST_CHARACTERS):
        raise ConfigError(must_be("--name", f"1 to {MOST_CHARACTERS} printable characters", name))
    folder = Path(tempfile.gettempdir()) / f"qstream-hpo-{os.getuid()}"
    names = [name] if name is not None else (usual if number == 1 else f"{usual}.{number}" for number in count(1))
    with ExitStack() as held:
        for candidate in names:
            if (file := _locked(folder, study, candidate)) is not None:
                held.enter_context(file)
                yield candidate
                return
        raise ConfigError(must_be("--name", f"of one worker of {study} on this machine", Shown(f"{name!r}, which another has")))


def _locked(folder: Path, study: str, name: str) -> BinaryIO | None:
    """An open file with the lock of the name, None if another process has it."""
    path = folder / f"{hashlib.blake2s(f'{study}/{name}'.encode(), digest_size=12).hexdigest()}.lock"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        file = path.open("wb")
    except OSError as exc:
        raise ConfigError(must_be("TMPDIR", "a folder that can be written", Shown(f"{path}: {exc.strerror}"))) from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
