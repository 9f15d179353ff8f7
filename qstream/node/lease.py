"""Lease: what an actuator has set and until when, in a file that is written before anything is set."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qstream.errors import ConfigError, QstreamError
from schemas.frame import Count, Name, TimeNs
from schemas.wording import Shown, must_be


class LeaseUnreadable(QstreamError):
    """The file is there and says nothing that can be trusted, or cannot be written: nothing may be touched."""


class Lease(BaseModel):
    """The newest plan that was taken, the GPUs on which it or an earlier one set anything, and when they go back."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    domain: Name
    node: Name
    fence: Count = 0
    version: Count = 0
    plan_id: str = ""
    until_ns: TimeNs = 0
    touched: Annotated[tuple[Name, ...], Field(strict=False)] = ()

    @property
    def order(self) -> tuple[int, int]:
        """A plan must be above this."""
        return self.fence, self.version


def read_lease(path: Path | None, domain: str, node: str) -> Lease:
    """The lease in the file, or a new one if the file does not exist.

    Raises
    ------
    LeaseUnreadable
        The file cannot be read, is not a lease, or belongs to another node.
    """
    if path is None:
        return Lease(domain=domain, node=node)
    try:
        lease = Lease.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Lease(domain=domain, node=node)
    except (OSError, ValidationError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else f"{exc.error_count()} faults"
        raise LeaseUnreadable(must_be(f"state file {path}", "a lease of an actuator", Shown(str(reason)))) from exc
    if (lease.domain, lease.node) != (domain, node):
        got = Shown(f"one of {lease.domain}/{lease.node}")
        raise LeaseUnreadable(must_be(f"state file {path}", f"a lease of {domain}/{node}", got))
    return lease


def write_lease(path: Path | None, lease: Lease) -> None:
    """Replace the file, whole or not at all, and have it on the disk; `LeaseUnreadable` if that fails."""
    if path is None:
        return
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(lease.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as exc:
        raise LeaseUnreadable(must_be(f"state file {path}", "writable", Shown(str(exc.strerror)))) from exc


@contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Nobody else acts on this state file meanwhile; the kernel lets go of it however the process ends.

    Raises
    ------
    ConfigError
        Another actuator does, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(path.name + ".lock").open("wb")
    except OSError as exc:
        raise ConfigError(must_be("--state", "a file in a folder that can be written", Shown(f"{path}: {exc.strerror}"))) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(must_be("--state", "of one actuator", Shown(f"{path}, which another one has"))) from exc
        yield
