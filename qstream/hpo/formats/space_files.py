"""Spaces and studies from JSON or YAML, in our own form or in one that users have: W&B, Optuna, Ray Tune."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from qstream.errors import ProblemError
from qstream.hpo.formats.distributions import optuna_parameters, ray_parameters
from qstream.hpo.formats.parameters import parameter_of
from qstream.hpo.formats.wandb_sweep import is_sweep, sweep_parameters, sweep_study
from schemas.hpo import StudySpec
from schemas.space import Parameter
from schemas.wording import Shown, must_be

Source = str | Path | Mapping[str, Any] | Sequence[Any]
STUDY_FIELDS: Final = frozenset(StudySpec.model_fields) - {"frame", "prior_points", "prior_value"}


class StudyFile(NamedTuple):
    """A file's fields of `schemas.hpo.StudySpec`, `parameters` among them, and the names in it that mean nothing here."""

    fields: dict[str, Any]
    ignored: tuple[str, ...]


def read_space(source: Source) -> tuple[Parameter, ...]:
    """The parameters that a file, a mapping or a list describes.

    Ours: a list of mappings with the fields of `schemas.space.Parameter`, or a mapping with such ``parameters``, as a list or by
    name. A W&B sweep: its ``parameters``. Optuna: distributions by name, as objects or as Optuna's JSON. Ray Tune: a
    ``param_space``, whose constants are left out.

    Raises
    ------
    ProblemError
        The file cannot be read, or a parameter breaks a rule: its message names the parameter, the rule and the value.
    """
    if isinstance(source, str | Path):
        return read_space(read_file(Path(source)))
    if isinstance(source, Mapping):
        found = source.get("parameters")
        if isinstance(found, Mapping):
            if is_sweep(found):
                return sweep_parameters(found)
            return tuple(parameter_of(fields, name) for name, fields in found.items())
        if found is None:
            return _foreign(source)
        source = found
    if not isinstance(source, Sequence) or isinstance(source, str):
        raise ProblemError(must_be("parameters", "a list, or a mapping by name", Shown(type(source).__name__)))
    return tuple(parameter_of(fields) for fields in source)


def read_study(source: Source) -> StudyFile:
    """The study that a file or mapping describes, or, with nothing but parameters, what `read_space` takes. Errors as there."""
    given = read_file(Path(source)) if isinstance(source, str | Path) else source
    fields: dict[str, Any] = {"parameters": read_space(given)}
    if not isinstance(given, Mapping) or "parameters" not in given:
        return StudyFile(fields, ())
    others = {str(key): value for key, value in given.items() if key != "parameters"}
    if isinstance(given["parameters"], Mapping) and is_sweep(given["parameters"]):
        known = sweep_study(given)
        return StudyFile(fields | known, tuple(sorted(others.keys() - {"metric", "run_cap", "name"})))
    if unknown := sorted(others.keys() - STUDY_FIELDS):
        raise ProblemError(must_be("a field of a study", f"one of {', '.join(sorted(STUDY_FIELDS))}", unknown[0]))
    return StudyFile(fields | others, ())


def read_file(path: Path) -> Any:
    """What a JSON or YAML file holds. `ProblemError` if it cannot be read, is no mapping or list, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ProblemError(must_be("a file of a space", f"readable text ({exc})", str(path))) from exc
    try:
        try:
            found = json.loads(text, object_pairs_hook=_distinct)
        except json.JSONDecodeError:
            found = yaml.load(text, _Loader)
    except ProblemError:
        raise
    except (ValueError, yaml.YAMLError, RecursionError) as exc:  # ValueError: a date that is none, a number of 5,000 digits
        reason = " ".join(str(exc).split())
        raise ProblemError(must_be("a file of a space", f"JSON or YAML ({reason})", str(path))) from exc
    if not isinstance(found, Mapping | list):  # a text would be taken for another path
        raise ProblemError(must_be("what a file of a space holds", "a mapping or a list", found))
    return found


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-5 as a number, as JSON and YAML 1.2 do, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _distinct([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        try:
            if key in found:
                raise ProblemError(must_be("keys of a mapping", "distinct", Shown(f"{key!r} twice")))
        except TypeError as exc:
            raise ProblemError(must_be("keys of a mapping", "text", key)) from exc
        found[key] = value
    return found


def _foreign(source: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """A mapping without ``parameters``: distributions of Optuna or domains of Ray by name."""
    found = optuna_parameters(source) or ray_parameters(source)
    if found is None:
        keys = ", ".join(str(key) for key in list(source)[:8])
        rule = "a mapping with parameters, distributions of Optuna by name, or a param_space of Ray Tune"
        raise ProblemError(must_be("a space", rule, Shown(f"a mapping with {keys or 'nothing'}")))
    return found
