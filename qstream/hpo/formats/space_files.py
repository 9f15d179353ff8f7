"""Parameters of a space from a JSON or YAML file, or from what such a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from qstream.errors import ProblemError
from schemas.space import Parameter
from schemas.wording import Shown, must_be

FIELDS: Final = frozenset(Parameter.model_fields)


def read_space(source: str | Path | Mapping[str, Any] | Sequence[Any]) -> tuple[Parameter, ...]:
    """The parameters that a file, a mapping or a list describes.

    A list of parameters, each a mapping of the fields of `schemas.space.Parameter`; or a mapping with ``parameters``, such a
    list or one by name. `ProblemError` names the parameter, the rule and the value.
    """
    if isinstance(source, str | Path):
        return read_space(read_file(Path(source)))
    if isinstance(source, Mapping):
        found = source.get("parameters")
        if isinstance(found, Mapping):
            return tuple(parameter_of(fields, name) for name, fields in found.items())
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise ProblemError(
                must_be("a space", "a list of parameters, or a mapping with parameters", Shown(type(found).__name__))
            )
        source = found
    return tuple(parameter_of(fields) for fields in source)


def read_file(path: Path) -> Any:
    """What a JSON or YAML file holds. `ProblemError` if it cannot be read or parsed."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ProblemError(must_be("a file of a space", f"JSON or YAML that can be read ({exc})", str(path))) from exc


def parameter_of(fields: Any, name: object = None) -> Parameter:
    """One parameter of our own form."""
    if isinstance(fields, Parameter):
        return fields
    if not isinstance(fields, Mapping):
        raise ProblemError(must_be("a parameter", "a mapping of its fields", fields))
    given = dict(fields) if name is None else {"name": name, **fields}
    shown = given.get("name")
    if unknown := sorted(str(key) for key in given.keys() - FIELDS):
        raise ProblemError(must_be(f"a field of parameter {shown!r}", f"one of {', '.join(Parameter.model_fields)}", unknown[0]))
    try:
        return Parameter(**given)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        if fault["type"] == "value_error":
            raise ProblemError(fault["msg"].removeprefix("Value error, ")) from exc
        field = ".".join(str(part) for part in fault["loc"][:2])
        rule = "given" if fault["type"] == "missing" else fault["msg"].replace("Input should be ", "")
        raise ProblemError(must_be(f"{field} of parameter {shown!r}", rule, fault["input"])) from exc
