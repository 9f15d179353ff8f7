"""Weights & Biases sweeps: the parameters, metric and run cap of a sweep's configuration, of all its distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from qstream.errors import ProblemError
from qstream.hpo.formats.parameters import of_choices, of_numbers
from schemas.space import Parameter
from schemas.wording import must_be

SPREAD: Final = 3.0  # standard deviations on each side of a normal distribution's mean that are searched
_KEYS: Final = frozenset(
    ("distribution", "value", "values", "probabilities", "min", "max", "mu", "sigma", "q", "a", "b", "parameters")
)


def is_sweep(parameters: Mapping[str, Any]) -> bool:
    """Whether these are parameters of a sweep, and not of our own form, which has a type for each."""
    return any(isinstance(fields, Mapping) and "type" not in fields and fields.keys() & _KEYS for fields in parameters.values())


def sweep_parameters(parameters: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """The parameters of a sweep; nested ones are named ``outer.inner``.

    Values without a distribution are choices, whole bounds an int. A normal distribution is searched three deviations on each
    side of its mean; probabilities and the shape of a distribution do not count, only its range and scale.
    """
    return tuple(_parameters(parameters, ""))


def sweep_study(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep says besides its parameters, as fields of `schemas.hpo.StudySpec`."""
    found: dict[str, Any] = {}
    metric = sweep.get("metric")
    if isinstance(metric, Mapping):
        goal = metric.get("goal", "minimize")
        if goal not in ("minimize", "maximize"):
            raise ProblemError(must_be("metric.goal", "minimize or maximize", goal))
        found |= {"direction": goal} | ({"objective": metric["name"]} if "name" in metric else {})
    names = {"run_cap": "max_trials", "name": "study"}
    return found | {ours: sweep[theirs] for theirs, ours in names.items() if theirs in sweep}


def _parameters(parameters: Mapping[str, Any], prefix: str) -> Iterator[Parameter]:
    for key, fields in parameters.items():
        name = f"{prefix}{key}"
        if not isinstance(fields, Mapping):
            raise ProblemError(must_be(f"parameter {name!r}", "a mapping with value, values, min and max, or parameters", fields))
        if unknown := sorted(str(field) for field in fields.keys() - _KEYS):
            raise ProblemError(must_be(f"a field of parameter {name!r}", f"one of {', '.join(sorted(_KEYS))}", unknown[0]))
        if isinstance(fields.get("parameters"), Mapping):
            yield from _parameters(fields["parameters"], f"{name}.")
        else:
            yield _parameter(name, fields)


def _parameter(name: str, fields: Mapping[str, Any]) -> Parameter:
    given = fields.get("distribution") or _usual(name, fields)
    read = _DISTRIBUTIONS.get(given)
    if read is None:
        raise ProblemError(must_be(f"distribution of parameter {name!r}", f"one of {', '.join(_DISTRIBUTIONS)}", given))
    return read(name, fields)


def _usual(name: str, fields: Mapping[str, Any]) -> str:
    """The distribution that W&B takes where none is named."""
    if "values" in fields:
        return "categorical"
    if "value" in fields:
        return "constant"
    if "min" in fields and "max" in fields:
        return "int_uniform" if all(type(fields[field]) is int for field in ("min", "max")) else "uniform"
    raise ProblemError(must_be(f"parameter {name!r}", "given a value, values, or min and max", dict(fields)))


def _number(name: str, fields: Mapping[str, Any], field: str, default: float | None = None) -> float:
    value = fields.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ProblemError(must_be(f"{field} of parameter {name!r}", "a finite number", value))
    return value


def _between(name: str, fields: Mapping[str, Any], low: float, high: float, *, log: bool, quantised: bool) -> Parameter:
    """A float, or the multiples of q between the bounds."""
    if not quantised:
        return of_numbers(name, low, high, whole=False, log=log)
    q = _number(name, fields, "q", 1)
    if q <= 0:
        raise ProblemError(must_be(f"q of parameter {name!r}", "above 0", q))
    first, last = math.ceil(low / q - 1e-9), math.floor(high / q + 1e-9)
    first = max(first, 1) if log else first  # a logarithm has no place for 0
    if first > last:
        raise ProblemError(must_be(f"q of parameter {name!r}", f"such that a multiple is from {low:g} to {high:g}", q))
    return of_numbers(name, first * q, last * q, whole=float(q).is_integer(), log=log, step=q)


def _bounded(*, log: bool = False, quantised: bool = False, exponents: int = 0) -> Callable[[str, Mapping[str, Any]], Parameter]:
    """A reader of min and max, which are exponents of e if `exponents` is 1, of 1/e if it is -1."""

    def read(name: str, fields: Mapping[str, Any]) -> Parameter:
        low, high = _number(name, fields, "min"), _number(name, fields, "max")
        if exponents:
            low, high = sorted(_exp(name, exponents * bound) for bound in (low, high))
        return _between(name, fields, low, high, log=log, quantised=quantised)

    return read


def _normal(*, log: bool = False, quantised: bool = False) -> Callable[[str, Mapping[str, Any]], Parameter]:
    def read(name: str, fields: Mapping[str, Any]) -> Parameter:
        mu, sigma = _number(name, fields, "mu", 0), _number(name, fields, "sigma", 1)
        if sigma <= 0:
            raise ProblemError(must_be(f"sigma of parameter {name!r}", "above 0", sigma))
        low, high = mu - SPREAD * sigma, mu + SPREAD * sigma
        low, high = (_exp(name, low), _exp(name, high)) if log else (low, high)
        return _between(name, fields, low, high, log=log, quantised=quantised)

    return read


def _exp(name: str, exponent: float) -> float:
    if abs(exponent) > 700:
        raise ProblemError(must_be(f"min and max of parameter {name!r}", "exponents from -700 to 700", exponent))
    return math.exp(exponent)


def _choices(name: str, fields: Mapping[str, Any]) -> Parameter:
    values = fields.get("values")
    if not isinstance(values, list | tuple):
        raise ProblemError(must_be(f"values of parameter {name!r}", "a list", values))
    return of_choices(name, values)


def _integers(name: str, fields: Mapping[str, Any]) -> Parameter:
    return of_numbers(name, _number(name, fields, "min"), _number(name, fields, "max"), whole=True)


_DISTRIBUTIONS: Final[Mapping[str, Callable[[str, Mapping[str, Any]], Parameter]]] = {
    "constant": lambda name, fields: of_choices(name, (fields.get("value"),)),
    "categorical": _choices,
    "categorical_w_probabilities": _choices,
    "int_uniform": _integers,
    "uniform": _bounded(),
    "q_uniform": _bounded(quantised=True),
    "log_uniform": _bounded(log=True, exponents=1),
    "log_uniform_values": _bounded(log=True),
    "q_log_uniform": _bounded(log=True, quantised=True, exponents=1),
    "q_log_uniform_values": _bounded(log=True, quantised=True),
    "inv_log_uniform": _bounded(log=True, exponents=-1),
    "inv_log_uniform_values": _bounded(log=True),
    "normal": _normal(),
    "q_normal": _normal(quantised=True),
    "log_normal": _normal(log=True),
    "q_log_normal": _normal(log=True, quantised=True),
    "beta": lambda name, fields: _between(name, fields, 0.0, 1.0, log=False, quantised=False),
    "q_beta": lambda name, fields: _between(name, fields, 0.0, 1.0, log=False, quantised=True),
}
