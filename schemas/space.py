"""Parameter: one dimension of a search space, and the rules that parameters of one space keep together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from schemas.control import Scalar
from schemas.frame import Int64, Name
from schemas.part import Part
from schemas.wording import Shown, must_be

MAX_PARAMETERS: Final = 64
MAX_CHOICES: Final = 256
MAX_INT: Final = 2**53  # whole numbers up to it are exact as float64
MAX_STEPS: Final = 2**32
LARGEST: Final = 1e300  # of a bound, so that no difference, step or cell overflows
SMALLEST: Final = 1e-300  # of a difference, so that a millionth of it is not rounded to 0

Number = Int64 | float
ParameterType = Literal["float", "int", "categorical", "ordinal"]
Scale = Literal["linear", "log"]
Choices = Annotated[tuple[Scalar, ...], Field(strict=False, max_length=MAX_CHOICES)]


class When(Part):
    """The condition under which a parameter is active: another one has one of some values, and is active itself."""

    parameter: Name = Field(description="the other parameter, which has choices or is an int")
    values: Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1, max_length=MAX_CHOICES)] = Field(
        description="its values under which this one is active"
    )


class Parameter(Part):
    """One hyperparameter: a float or int between two bounds, or one of some choices, in order (ordinal) or not (categorical)."""

    name: Name = Field(description="name of the parameter, each once")
    type: ParameterType = Field(description="float, int, categorical (choices without an order) or ordinal (choices in order)")
    low: Number | None = Field(default=None, description="least value of a float or int")
    high: Number | None = Field(default=None, description="greatest value of a float or int")
    scale: Scale = Field(default="linear", description="log: equal factors are equally far apart")
    step: Number | None = Field(default=None, gt=0, description="values are low, low + step, ...; absent: 1 for an int")
    choices: Choices | None = Field(default=None, description="values of a categorical or ordinal; true and false make a switch")
    default: Scalar | None = Field(default=None, description="the usual value; it stands in where the parameter is not active")
    unit: str = Field(default="", max_length=40, description="unit of the values, for people")
    when: When | None = Field(default=None, strict=False, description="when the parameter is active; absent: always")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type in ("float", "int"):
            self._check_numbers()
        else:
            self._check_choices()
        if self.default is not None and not allows(self, self.default):
            raise ValueError(must_be(f"default of parameter {self.name!r}", allowed_values(self), self.default))
        return self

    def _check_numbers(self) -> None:
        if self.choices is not None:
            raise self._fault("choices", f"absent with type {self.type}", Shown(f"{len(self.choices)} choices"))
        for field in ("low", "high", "step"):
            value = getattr(self, field)
            if value is None and field != "step":
                raise self._fault(field, f"given with type {self.type}", None)
            if self.type == "int" and value is not None and (value != math.floor(value) or abs(value) > MAX_INT):
                raise self._fault(field, "a whole number of at most 2^53", value)
            if value is not None and abs(value) > LARGEST:
                raise self._fault(field, f"at most {LARGEST:g} in size", value)
        low, high, step = float(self.low or 0), float(self.high or 0), self.step
        if low >= high:
            raise self._fault("low", f"below high, {self.high}", self.low)
        if step is not None and step > high - low:
            raise self._fault("step", f"at most high - low, {high - low:g}", step)
        self._check_resolution(low, high)
        least = (step or (1 if self.type == "int" else 0)) / 2
        if self.scale == "log" and low <= least:
            rule = "above 0 with scale log" if not least else f"above {least:g}, half a step, with scale log"
            raise self._fault("low", rule, self.low)

    def _check_resolution(self, low: float, high: float) -> None:
        """Values can be told apart: cells are numbered, and a float has a million places between its bounds."""
        largest = max(abs(low), abs(high))
        if self.type == "float" and high - low < (least := max(largest * 2.0**-28, SMALLEST)):
            raise self._fault("high", f"at least {least:g} above low", self.high)
        step = self.step if self.step is not None else 1 if self.type == "int" else None
        if step is not None and (high - low) / step > MAX_STEPS:
            raise self._fault("step", f"at least {(high - low) / MAX_STEPS:g}, (high - low) / 2^32", step)
        if self.type == "float" and step is not None and step < (least := max(largest * 2.0**-40, SMALLEST)):
            raise self._fault("step", f"at least {least:g}", step)

    def _check_choices(self) -> None:
        for field in ("low", "high", "step"):
            if getattr(self, field) is not None:
                raise self._fault(field, f"absent with type {self.type}", getattr(self, field))
        if self.scale != "linear":
            raise self._fault("scale", f"linear with type {self.type}", self.scale)
        if not self.choices:
            raise self._fault("choices", f"1 to {MAX_CHOICES} values with type {self.type}", self.choices)
        seen = [identity(choice) for choice in self.choices]
        repeated = [choice for at, choice in enumerate(self.choices) if seen[at] in seen[:at]]
        if repeated:
            raise self._fault("choices", "distinct", Shown(f"{repeated[0]!r} twice"))

    def _fault(self, field: str, rule: str, value: object) -> ValueError:
        return ValueError(must_be(f"{field} of parameter {self.name!r}", rule, value))


def identity(value: Scalar) -> tuple[str, Scalar]:
    """A key that is equal for equal values of one kind: 1 and 1.0 are one number, but true is none, as it is in Python."""
    return ("switch" if isinstance(value, bool) else "text" if isinstance(value, str) else "number", value)


def index_of(parameter: Parameter, value: Scalar) -> int | None:
    """The index of a value among the choices; None if it is not one of them."""
    wanted = identity(value)
    return next((at for at, choice in enumerate(parameter.choices or ()) if identity(choice) == wanted), None)


def allows(parameter: Parameter, value: Scalar) -> bool:
    """Whether the parameter may have this value."""
    if parameter.choices is not None:
        return index_of(parameter, value) is not None
    low, high = bounds(parameter)
    try:
        if isinstance(value, bool | str) or not low <= value <= high:
            return False
    except (TypeError, ValueError):  # it is neither text nor number
        return False
    step = grid_step(parameter)
    if step is None:
        return True
    steps = (value - low) / step
    return abs(steps - round(steps)) <= 1e-6


def allowed_values(parameter: Parameter) -> str:
    """The values that a parameter may have, to follow the words "must be"."""
    if parameter.choices is not None:
        shown = ", ".join(map(repr, parameter.choices[:8]))
        return f"one of {shown}{', ...' if len(parameter.choices) > 8 else ''}"
    low, high = bounds(parameter)
    if parameter.type == "int":
        steps = f" in steps of {parameter.step:g}" if parameter.step is not None else ""
        return f"a whole number from {low:.15g} to {high:.15g}{steps}"
    return f"a number from {low:g} to {high:g}" + (f" in steps of {parameter.step:g}" if parameter.step is not None else "")


def bounds(parameter: Parameter) -> tuple[float, float]:
    """Least and greatest value of a float or int."""
    assert parameter.low is not None
    assert parameter.high is not None
    return float(parameter.low), float(parameter.high)


def grid_step(parameter: Parameter) -> float | None:
    """The distance from one value of a float or int to the next; None where they are dense."""
    return float(parameter.step) if parameter.step is not None else 1.0 if parameter.type == "int" else None


def check_parameters(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError unless names are distinct, and conditions name other parameters, values that they have, and no cycle."""
    if not 1 <= len(parameters) <= MAX_PARAMETERS:
        raise ValueError(must_be("length of parameters", f"1 to {MAX_PARAMETERS}", len(parameters)))
    known: dict[str, Parameter] = {}
    for parameter in parameters:
        if parameter.name in known:
            raise ValueError(must_be("parameters", "of distinct names", Shown(f"{parameter.name!r} twice")))
        known[parameter.name] = parameter
    for parameter in parameters:
        if parameter.when is not None:
            _check_condition(parameter, parameter.when, known)
    for parameter in parameters:
        _check_acyclic(parameter, known)


def _check_condition(parameter: Parameter, when: When, known: Mapping[str, Parameter]) -> None:
    where = f"when of parameter {parameter.name!r}"
    parent = known.get(when.parameter)
    if parent is None:
        raise ValueError(must_be(where, "about a parameter of the space", when.parameter))
    if parent.choices is None and grid_step(parent) is None:
        raise ValueError(must_be(where, "about a parameter with choices or steps", Shown(f"{parent.name!r}, a float")))
    for value in when.values:
        if not allows(parent, value):
            raise ValueError(must_be(f"values of {where}", allowed_values(parent), value))


def _check_acyclic(parameter: Parameter, known: Mapping[str, Parameter]) -> None:
    chain = [parameter.name]
    while (when := known[chain[-1]].when) is not None:
        if when.parameter in chain:
            way = " -> ".join([*chain, when.parameter])
            raise ValueError(must_be(f"when of parameter {parameter.name!r}", "without a cycle", Shown(way)))
        chain.append(when.parameter)
