"""What all readers of spaces share: parameters from fields, with faults in the house's words, and the kind that choices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal

from pydantic import ValidationError

from qstream.errors import ProblemError
from schemas.space import Parameter
from schemas.wording import Shown, must_be

FIELDS: Final = tuple(Parameter.model_fields)


def parameter_of(fields: Any, name: object = None) -> Parameter:
    """A parameter from its fields; `ProblemError` names the parameter, the field, the rule and the value."""
    if isinstance(fields, Parameter):
        return fields
    if not isinstance(fields, Mapping):
        raise ProblemError(must_be("a parameter" if name is None else f"parameter {name!r}", "a mapping of its fields", fields))
    given = dict(fields) if name is None else {"name": name, **fields}
    shown = given.get("name")
    if unknown := sorted(str(key) for key in given.keys() - set(FIELDS)):
        raise ProblemError(must_be(f"a field of parameter {shown!r}", f"one of {', '.join(FIELDS)}", unknown[0]))
    try:
        return Parameter(**given)
    except ValidationError as exc:
        raise ProblemError(_fault(exc, shown)) from exc


def of_choices(name: str, choices: Sequence[Any]) -> Parameter:
    """A parameter of choices: ordinal where these are three or more numbers that rise or fall, else categorical."""
    for choice in choices:
        if not isinstance(choice, bool | int | float | str):
            rule = "booleans, numbers or texts"
            raise ProblemError(must_be(f"choices of parameter {name!r}", rule, choice))
    return parameter_of({"name": name, "type": kind_of(choices), "choices": tuple(choices)})


def kind_of(choices: Sequence[Any]) -> Literal["categorical", "ordinal"]:
    """Ordinal where choices are three or more numbers that rise or fall."""
    numbers = [choice for choice in choices if isinstance(choice, int | float) and not isinstance(choice, bool)]
    steps = [after - before for before, after in pairwise(numbers)]
    in_order = len(numbers) == len(choices) >= 3 and (all(s > 0 for s in steps) or all(s < 0 for s in steps))
    return "ordinal" if in_order else "categorical"


def of_numbers(name: str, low: Any, high: Any, *, whole: bool, log: bool = False, step: float | None = None) -> Parameter:
    """A float or int between two bounds; where these are equal, the one value as a choice."""
    for field, value in (("low", low), ("high", high)):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ProblemError(must_be(f"{field} of parameter {name!r}", "a number", value))
    if low == high:
        return of_choices(name, (low,))
    kind, scale = ("int" if whole else "float"), ("log" if log else "linear")
    fields: dict[str, Any] = {"name": name, "type": kind, "low": low, "high": high, "scale": scale}
    return parameter_of(fields | ({} if step is None or (whole and step == 1) else {"step": step}))


def _fault(exc: ValidationError, name: object) -> str:
    """The first fault in the house's words."""
    fault = exc.errors(include_url=False)[0]
    if fault["type"] == "value_error" and " must be " in fault["msg"]:
        found: str = fault["msg"].removeprefix("Value error, ")
        return found
    field = str(fault["loc"][0]) if fault["loc"] else "a field"
    rule = fault["msg"].replace("Input should be ", "").replace("Value error, ", "").removeprefix("must be ")
    if fault["type"] == "missing":
        return must_be(f"{field} of parameter {name!r}", "given", Shown("nothing"))
    if field in ("low", "high", "step") and "greater than" not in rule:  # of which pydantic says one type of two
        rule = "a finite number"
    if field in ("choices", "default") and len(fault["loc"]) > 1:  # of which pydantic says one type of several
        rule = "booleans, finite numbers or texts" if field == "choices" else "a boolean, finite number or text"
    return must_be(f"{field} of parameter {name!r}", rule, fault["input"])
