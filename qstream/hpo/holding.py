"""Holding: which worker holds which trial, and until when; a row for each trial that runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.memory import NOBODY, HpoState, Memory


def row_of(now: HpoState, worker: str) -> int | None:
    """The row of the trial that a worker holds."""
    return now.worker.index(worker) if worker in now.worker else None


def hold(draft: Memory, trial: int, worker: str, now_ns: int) -> None:
    """The worker holds a trial that nobody held."""
    now = draft.now
    draft.set(
        active=_frozen(np.append(now.active, np.int32(trial))),
        lease_ns=_frozen(np.append(now.lease_ns, np.int64(0))),
        worker=(*now.worker, worker),
    )
    lease(draft, len(draft.now.active) - 1, now_ns)


def hand_over(draft: Memory, row: int, worker: str, now_ns: int) -> None:
    """Another worker holds the trial of a row."""
    draft.set(worker=_replaced(draft.now.worker, row, worker))
    lease(draft, row, now_ns)


def lease(draft: Memory, row: int, now_ns: int) -> None:
    """The worker of a row must report within a lease from now."""
    draft.edit("lease_ns")[row] = now_ns + int(draft.now.spec.lease_s * 1e9)


def give_back(draft: Memory, row: int, now_ns: int) -> None:
    """Nobody holds the trial any more: it goes out again with the next ask."""
    draft.set(worker=_replaced(draft.now.worker, row, NOBODY))
    draft.edit("lease_ns")[row] = now_ns


def release(draft: Memory, trial: int) -> None:
    """The trial runs no longer."""
    now = draft.now
    rows = np.flatnonzero(now.active == trial)
    if len(rows):
        row = int(rows[0])
        draft.set(
            active=_frozen(np.delete(now.active, row)),
            lease_ns=_frozen(np.delete(now.lease_ns, row)),
            worker=now.worker[:row] + now.worker[row + 1 :],
        )


def _replaced(workers: tuple[str, ...], row: int, worker: str) -> tuple[str, ...]:
    return (*workers[:row], worker, *workers[row + 1 :])


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Read-only, so that the next state shares it."""
    array.flags.writeable = False
    return array
