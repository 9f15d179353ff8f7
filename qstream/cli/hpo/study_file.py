"""Study file: a space with what else a study is, from a JSON or YAML file and from options of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from qstream.cli.output import counted, printable
from qstream.errors import ConfigError, ProblemError
from qstream.hpo.formats.past import OnBad, Past
from qstream.hpo.formats.space_files import read_study
from qstream.hpo.older import older_rows, prior_fields
from qstream.hpo.space import SearchSpace
from schemas.control import Scalar
from schemas.frame import FrameError
from schemas.hpo import StudySpec
from schemas.wording import must_be

_BAD: Final[tuple[OnBad, ...]] = ("refuse", "drop")
_LIMIT: Final = re.compile(r"\s*(.+?)\s*(<=|>=)\s*([^<>=]+?)\s*")


def study_of(path: Path, given: Mapping[str, Any], ts_ns: int, options: Mapping[str, Scalar]) -> StudySpec:
    """The study of a file; fields of `given` that are not None replace those of the file, as do single `options`.

    In the file ``limits`` may be ``{metric: largest value}``. Without a name the study is called as the file. What the file says
    that no study has is named on stderr. `ConfigError` names the file, field, value and rule.
    """
    try:
        fields, ignored = read_study(path)
        fields = {"study": path.stem} | fields | {name: value for name, value in given.items() if value is not None}
        limits = fields.get("limits", ())
        if isinstance(limits, Mapping):
            limits = [{"metric": metric, "value": value} for metric, value in limits.items()]
        if not isinstance(limits, list | tuple):
            raise ProblemError(must_be("limits", "a mapping {metric: largest value}, or a list", limits))
        own = fields.get("options", {})
        if not isinstance(own, Mapping):
            raise ProblemError(must_be("options", "a mapping {name: value}", own))
        fields |= {"limits": tuple(_limit(limit) for limit in limits), "options": {**own, **options}}
        if "lease_s" in fields:
            fields["lease_s"] = _float(fields["lease_s"])
        spec = StudySpec.build(**fields | {"ts_ns": ts_ns})
    except (ProblemError, FrameError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    if ignored:
        typer.echo(printable(f"{path}: a study has no {', '.join(ignored)}: ignored"), err=True)
    return spec


def with_prior(
    spec: StudySpec, past: str | Path | None, *, rename: Mapping[str, str] | None = None, on_bad: OnBad = "refuse"
) -> StudySpec:
    """The study with the results of a file, or of a storage of Optuna, as its prior; `ConfigError` for what does not fit."""
    if past is None:
        return spec
    try:
        space = SearchSpace(spec.parameters)
        found = older_rows(space, past, spec.objective, spec.direction, rename=rename, on_bad=on_bad)
        say_dropped(past, found)
        return StudySpec.build(**{**dict(spec), **prior_fields(space, found.rows)})
    except (ProblemError, FrameError) as exc:
        raise ConfigError(f"--prior: {exc}") from exc


def say_dropped(path: str | Path, found: Past) -> None:
    """Say on stderr what was left out of a file."""
    if found.dropped:
        typer.echo(printable(f"{path}: {counted(len(found.dropped), 'fault')} dropped, the first: {found.dropped[0]}"), err=True)


def on_bad_of(text: str) -> OnBad:
    """What --on-bad says; `ConfigError` if it is neither."""
    for known in _BAD:
        if known == text:
            return known
    raise ConfigError(must_be("--on-bad", "refuse or drop", text))


def rename_of(pairs: Sequence[str]) -> dict[str, str]:
    """``theirs=ours`` pairs; `ConfigError` for anything else."""
    for pair in pairs:
        if not all(pair.partition("=")):
            raise ConfigError(must_be("--rename", "THEIRS=OURS", pair))
    return {theirs: ours for theirs, _, ours in (pair.partition("=") for pair in pairs)}


def limit_of(text: str) -> dict[str, Any]:
    """``step_ms<=40`` as a limit; `ConfigError` for anything else."""
    found = _LIMIT.fullmatch(text)
    try:
        return {"metric": found[1], "op": found[2], "value": float(found[3])} if found else _no_limit(text)
    except ValueError:
        return _no_limit(text)


def _no_limit(text: str) -> dict[str, Any]:
    raise ConfigError(must_be("--limit", "METRIC<=VALUE or METRIC>=VALUE", text))


def _limit(limit: Any) -> Any:
    return {**limit, "value": _float(limit.get("value"))} if isinstance(limit, Mapping) else limit


def _float(value: Any) -> Any:
    """A whole number of a file as a float, as frames want it."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
