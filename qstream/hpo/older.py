"""Older: results of an older search, as rows, from a CSV file, a saved study or a study of Optuna, as the prior of a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from qstream.errors import ProblemError
from qstream.hpo import memory
from qstream.hpo.formats.optuna_study import load_optuna
from qstream.hpo.formats.past import OnBad, Past, checked, read_csv
from qstream.hpo.memory import HpoState
from qstream.hpo.space import Params, SearchSpace
from schemas.frame import SAFETENSORS, FrameError
from schemas.hpo import MAX_PRIOR, Direction
from schemas.wording import Shown, must_be

SAVED: Final = ".safetensors"
Older = Iterable[tuple[Params, float]] | str | Path | HpoState
Row = tuple[Params, float]


def older_rows(
    space: SearchSpace,
    older: Older,
    objective: str,
    direction: Direction,
    *,
    rename: Mapping[str, str] | None = None,
    on_bad: OnBad = "refuse",
) -> Past:
    """The rows of an older search; of a study those that the space holds. A URL is a storage of Optuna, with
    ``#NAME`` where it has several studies. `rename` is for the columns of a file.

    `ProblemError` names the row, or the line and column, that does not fit, unless `on_bad` says to drop it.
    """
    if isinstance(older, HpoState):
        found = checked(_of_state(older, objective, direction), space, "drop")
        if found.dropped and not found.rows:
            raise ProblemError(f"no trial of the saved study fits the space, the first: {found.dropped[0]}")
        return found
    if not isinstance(older, str | Path):
        return checked(list(older), space, on_bad)
    if isinstance(older, str) and "://" in older:
        return _of_optuna(space, older, direction, on_bad)
    path = Path(older)
    if path.suffix == SAVED:
        return older_rows(space, read_state(path), objective, direction)
    return read_csv(path, space, objective=objective, rename=rename, on_bad=on_bad)


def prior_fields(space: SearchSpace, rows: Sequence[Row]) -> dict[str, Any]:
    """The fields of a `StudySpec` that hold an older search; the newest rows if there are too many."""
    kept = rows[-MAX_PRIOR:]
    if not kept:
        return {}
    unit = np.stack([space.encode(params) for params, _ in kept])
    return {"prior_points": space.to_points(unit), "prior_value": np.array([value for _, value in kept], np.float64)}


def read_state(path: Path) -> HpoState:
    """The state in a file; `ProblemError` if it cannot be read or is another."""
    try:
        return HpoState.decode(path.read_bytes(), SAFETENSORS)
    except OSError as exc:
        raise ProblemError(must_be("a saved study", "a file that can be read", Shown(f"{path}: {exc.strerror}"))) from exc
    except FrameError as exc:
        raise ProblemError(must_be("a saved study", "the state of one, as safetensors", Shown(f"{path}: {exc}"))) from exc


def _of_optuna(space: SearchSpace, storage: str, direction: Direction, on_bad: OnBad) -> Past:
    """The completed trials of a study of Optuna, at ``URL`` or ``URL#NAME``."""
    url, _, name = storage.partition("#")
    found = load_optuna(url, name or None, space, on_bad)
    if found.direction != direction:
        raise ProblemError(must_be("direction of the study of Optuna", f"that of this one, {direction}", found.direction))
    return found.past


def _of_state(state: HpoState, objective: str, direction: Direction) -> list[Row]:
    """The complete trials of a saved study."""
    for name, wanted in (("objective", objective), ("direction", direction)):
        if (found := getattr(state.spec, name)) != wanted:
            raise ProblemError(must_be(f"{name} of the saved study", f"that of this one, {wanted}", found))
    complete = np.flatnonzero(state.outcome == memory.COMPLETE).tolist()
    return [(memory.params(state, trial), float(state.value[trial])) for trial in complete]
