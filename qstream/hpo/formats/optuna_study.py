"""A study of Optuna as a space and past results: from a storage URL, or from the study itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qstream.errors import ConfigError, ProblemError
from qstream.hpo.formats.distributions import optuna_parameters
from qstream.hpo.formats.past import OnBad, Past, checked
from qstream.hpo.space import SearchSpace
from qstream.install import install_hint
from schemas.control import Scalar
from schemas.hpo import Direction
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import optuna


class OptunaStudy(NamedTuple):
    """What a study of Optuna says: the parameters that all its trials have, which way is better, and its results."""

    space: SearchSpace
    direction: Direction
    past: Past


def load_optuna(
    storage: str, study: str | None = None, space: SearchSpace | None = None, on_bad: OnBad = "refuse"
) -> OptunaStudy:
    """The study of a storage, a URL such as ``sqlite:///past.db`` or the path of a journal file; see `read_optuna`.

    Raises
    ------
    ConfigError
        Optuna is not installed.
    ProblemError
        The storage cannot be read, has no such study, or has several and none is named.
    """
    try:
        import optuna  # noqa: PLC0415 an extra
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 comes with it
    except ImportError as exc:
        raise ConfigError(f"studies of Optuna must be read by Optuna, which is not installed: {install_hint('optuna')}") from exc
    try:
        opened: Any = storage if "://" in storage else _journal(Path(storage))
        names = optuna.study.get_all_study_names(opened)
    except (ImportError, ValueError, OSError, SQLAlchemyError, optuna.exceptions.OptunaError) as exc:
        raise ProblemError(must_be("storage of Optuna", f"one that can be read ({exc})", storage)) from exc
    if study not in names and (study is not None or len(names) != 1):
        raise ProblemError(must_be("study of Optuna", f"one of {', '.join(names[:12]) or 'none, the storage is empty'}", study))
    return read_optuna(optuna.load_study(study_name=study or names[0], storage=opened), space, on_bad)


def _journal(path: Path) -> Any:
    """The storage of a journal file, which must be there: Optuna would make it."""
    from optuna.storages import JournalStorage  # noqa: PLC0415 an extra
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415 as above

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return JournalStorage(JournalFileBackend(str(path)))


def read_optuna(study: optuna.Study, space: SearchSpace | None = None, on_bad: OnBad = "refuse") -> OptunaStudy:
    """The completed trials of a study as past results of a space: the one given, or of what all completed trials share.

    Raises
    ------
    ProblemError
        The study has several objectives, no completed trial, or, with `on_bad` refuse, a trial that is not of the space.
    """
    if len(study.directions) != 1:
        raise ProblemError(must_be("objectives of a study of Optuna", "1", len(study.directions)))
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if space is None:
        shared: dict[str, Any] = dict(trials[0].distributions) if trials else {}
        for trial in trials:
            shared = {name: one for name, one in shared.items() if trial.distributions.get(name) == one}
        parameters = optuna_parameters(shared)
        if parameters is None:
            got = Shown(f"{len(trials)} trials without one")
            raise ProblemError(must_be("completed trials of a study of Optuna", "of a parameter that all have", got))
        space = SearchSpace(parameters)
    rows: list[tuple[dict[str, Scalar], float]] = []
    for trial in trials:
        params = {name: value for name, value in trial.params.items() if name in space.names}
        rows.append((params, float(trial.values[0])))
    direction: Direction = "maximize" if study.directions[0].name == "MAXIMIZE" else "minimize"
    return OptunaStudy(space, direction, checked(rows, space, on_bad))
