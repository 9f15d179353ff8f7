"""Distributions of Optuna and domains of Ray Tune as parameters, by what they are named and hold: neither has to be installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from qstream.errors import ProblemError
from qstream.hpo.formats.parameters import kind_of, of_choices, of_numbers, parameter_of
from schemas.space import Parameter
from schemas.wording import Shown, must_be

Choices = Callable[[str, Sequence[Any]], Parameter]
_OPTUNA: Final = ("FloatDistribution", "IntDistribution", "CategoricalDistribution")
_OLD_OPTUNA: Final[Mapping[str, tuple[str, bool]]] = {  # the names before Optuna 3, the present one, and whether the scale is log
    "UniformDistribution": ("FloatDistribution", False),
    "LogUniformDistribution": ("FloatDistribution", True),
    "DiscreteUniformDistribution": ("FloatDistribution", False),
    "IntUniformDistribution": ("IntDistribution", False),
    "IntLogUniformDistribution": ("IntDistribution", True),
}
_RAY: Final = ("Float", "Integer", "Categorical")


def optuna_parameters(distributions: Mapping[str, Any]) -> tuple[Parameter, ...] | None:
    """The parameters of Optuna's distributions by name: its objects, or their JSON; None if one of them is none."""
    read = {name: _optuna(found) for name, found in distributions.items()}
    if not read or any(found is None for found in read.values()):
        return None
    return tuple(_of_optuna(name, *found, of_choices) for name, found in read.items() if found is not None)


def ray_parameters(param_space: Mapping[str, Any]) -> tuple[Parameter, ...] | None:
    """The parameters of a Ray Tune ``param_space``; None if it holds no domain.

    Nested ones are named ``outer/inner``, as Ray does. What is no domain is a constant, which Ray gives to trials itself.
    """
    found = tuple(_of_ray("/".join(path), domain, of_choices) for path, domain in ray_domains(param_space))
    return found or None


class Indexed(NamedTuple):
    """Parameters whose choices, of any kind, are searched by their index, for tools that run in this process."""

    parameters: tuple[Parameter, ...]
    choices: Mapping[str, tuple[Any, ...]]

    def inward(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A tool's configuration with indices for choices; names that are no parameters are left out."""
        names = [parameter.name for parameter in self.parameters if parameter.name in params]
        return {name: self._index(name, params[name]) if name in self.choices else params[name] for name in names}

    def outward(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration of ours with the choices themselves."""
        return {name: self.choices[name][value] if name in self.choices else value for name, value in params.items()}

    def _index(self, name: str, value: Any) -> int:
        for at, choice in enumerate(self.choices[name]):
            if choice is value or (type(choice) is type(value) and choice == value):
                return at
        raise ProblemError(must_be(f"parameter {name!r}", "one of its choices", value))


def indexed_optuna(distributions: Mapping[str, Any]) -> Indexed:
    """Parameters of Optuna's distributions, which are objects, by name."""
    choices = {name: tuple(found.choices) for name, found in distributions.items() if hasattr(found, "choices")}
    read = {name: _optuna(found) for name, found in distributions.items()}
    return Indexed(tuple(_of_optuna(name, *found, _by_index) for name, found in read.items() if found is not None), choices)


def indexed_ray(param_space: Mapping[str, Any]) -> Indexed:
    """Parameters of a Ray Tune ``param_space``, as `ray_parameters` names them."""
    domains = {"/".join(path): domain for path, domain in ray_domains(param_space)}
    choices = {name: tuple(domain.categories) for name, domain in domains.items() if hasattr(domain, "categories")}
    return Indexed(tuple(_of_ray(name, domain, _by_index) for name, domain in domains.items()), choices)


def ray_domains(space: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths and domains of a ``param_space``, depth first."""
    for key, value in space.items():
        here = (*path, str(key))
        if isinstance(value, Mapping) and "grid_search" in value:
            raise ProblemError(
                must_be(f"parameter {'/'.join(here)!r}", "a domain such as tune.choice, not grid_search", dict(value))
            )
        if isinstance(value, Mapping):
            yield from ray_domains(value, here)
        elif hasattr(value, "get_sampler") and hasattr(value, "sample"):
            yield here, value


def _by_index(name: str, choices: Sequence[Any]) -> Parameter:
    return parameter_of({"name": name, "type": kind_of(choices), "choices": tuple(range(len(choices)))})


def _optuna(found: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Name and attributes of a distribution: an object, a mapping or a text of JSON."""
    if isinstance(found, str) and found.lstrip().startswith("{"):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    if isinstance(found, Mapping):
        name, attributes = found.get("name"), found.get("attributes")
    else:
        name, attributes = type(found).__name__, {key.lstrip("_"): value for key, value in getattr(found, "__dict__", {}).items()}
    if not isinstance(attributes, Mapping) or name not in (*_OPTUNA, *_OLD_OPTUNA):
        return None
    return str(name), attributes


def _of_optuna(name: str, kind: str, attributes: Mapping[str, Any], choices: Choices) -> Parameter:
    kind, log = _OLD_OPTUNA.get(kind, (kind, bool(attributes.get("log", False))))
    if kind == "CategoricalDistribution":
        return choices(name, tuple(attributes.get("choices", ())))
    step = attributes.get("step", attributes.get("q"))
    return of_numbers(name, attributes.get("low"), attributes.get("high"), whole=kind == "IntDistribution", log=log, step=step)


def _of_ray(name: str, domain: Any, choices: Choices) -> Parameter:
    kind, sampler = type(domain).__name__, domain.get_sampler()
    step = getattr(sampler, "q", None)  # Quantized
    inner = type(sampler.get_sampler() if step is not None else sampler).__name__.lstrip("_")
    if kind not in _RAY or inner not in ("Uniform", "LogUniform", "Grid"):
        got = Shown(f"{kind} drawn by {inner}")
        raise ProblemError(must_be(f"parameter {name!r}", "a Float, Integer or Categorical, uniform or log-uniform", got))
    if kind == "Categorical":
        return choices(name, tuple(domain.categories))
    log, low, high = inner == "LogUniform", domain.lower, domain.upper
    if kind == "Float":
        return of_numbers(name, low, high, whole=False, log=log, step=step)
    # Ray leaves the upper bound of an Integer out, but for quantised ones.
    return of_numbers(name, int(low), int(high) - (step is None), whole=True, log=log, step=step if step is None else int(step))
