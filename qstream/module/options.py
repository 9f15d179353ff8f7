"""The toggles of a module: one frozen model, changed by name, with its recommended configurations as data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qstream.errors import OptionError
from qstream.learn.options import Learn
from schemas.wording import Shown, must_be

MOST_WORK_MS: Final = 5000.0  # of a core, by estimate, that one plan may take: longer, and the records behind it wait
_SHOULD = re.compile(r"^(Value error, |Input should be |(Input|String|Value|List|Tuple) should )")


class Range(NamedTuple):
    """Numbers from `low` up to, but not including, `high`."""

    low: float = 0
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value < self.high

    def __str__(self) -> str:
        return f"{self.low:g} or more" if self.high == math.inf else f"{self.low:g} to below {self.high:g}"


class Row(NamedTuple):
    """One line of a table of recommended configurations: a situation, and the options that differ from the defaults there.

    `where` names only what matters: each situation that it does not name may be anything.
    """

    where: Mapping[str, str | Range]
    options: Mapping[str, Any]

    def fits(self, situation: Mapping[str, str | float]) -> bool:
        """Whether this line speaks of the situation."""
        return all(
            situation[name] in want if isinstance(want, Range) else situation[name] == want for name, want in self.where.items()
        )


class ModuleOptions(BaseModel):
    """How a module works. Every field can be changed while its agent runs: ``qstream control MODULE --set name=value``.

    A module gives its name, its fields with defaults and descriptions, and, if it recommends anything, `situations` (what a
    situation consists of: the allowed words, the usual one first, or a range of numbers) and `recommendations`, of which the
    first that fits holds. Where values that are each in range may cost too much, `work_ms` estimates that.

    Raises
    ------
    OptionError
        An option is unknown, has a value that it must not have, contradicts another, or makes a plan take more than
        `MOST_WORK_MS`; the message names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    module: ClassVar[str] = ""
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {}
    recommendations: ClassVar[tuple[Row, ...]] = ()

    if not TYPE_CHECKING:  # a type checker knows the fields, with their types

        def __init__(self, **options: object) -> None:
            fields = type(self).model_fields
            if unknown := sorted(options.keys() - fields.keys()):
                raise OptionError(must_be(f"an option of {self.module}", f"one of {', '.join(fields)}", unknown[0]))
            for name, value in options.items():
                if isinstance(value, bool) and fields[name].annotation is not bool:
                    raise OptionError(must_be(f"option {name}", "a number or text, not a boolean", value))
            try:
                super().__init__(**options)
            except ValidationError as exc:
                raise OptionError(_first_fault(exc)) from exc

    def work_ms(self) -> Mapping[str, float]:
        """Estimated ms of a core for one plan of a usual size, by the option that most of each part comes from."""
        return {}

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        parts = self.work_ms()
        if sum(parts.values()) > MOST_WORK_MS:
            dearest = max(parts, key=parts.__getitem__)
            allowed = f"lower: a plan may take {MOST_WORK_MS:.0f} ms of a core, by estimate"
            raise OptionError(
                must_be(f"option {dearest}", allowed, Shown(f"{getattr(self, dearest)!r}, which takes {parts[dearest]:.0f} ms"))
            )
        return self

    def changed(self, options: Mapping[str, object]) -> Self:
        """These options with some replaced; the text ``none`` stands for None where that is the default. Errors as above."""
        fields = type(self).model_fields
        given = {
            name: None if value == "none" and name in fields and fields[name].default is None else value
            for name, value in options.items()
        }
        return type(self)(**(self.model_dump() | given))

    @classmethod
    def recommended(cls, **situation: str | float) -> Self:
        """The recommended options in a situation: names of `situations`, each with an allowed value.

        A word that is not given is the first one allowed; a number must be given.

        Raises
        ------
        OptionError
            A name is unknown, a number is missing, or a value is not allowed.
        """
        if unknown := sorted(situation.keys() - cls.situations.keys()):
            raise OptionError(must_be(f"a situation of {cls.module}", f"one of {', '.join(cls.situations)}", unknown[0]))
        found: dict[str, str | float] = {}
        for name, allowed in cls.situations.items():
            value = situation.get(name, None if isinstance(allowed, Range) else allowed[0])
            if value is None or value not in allowed:
                said = str(allowed) if isinstance(allowed, Range) else f"one of {', '.join(allowed)}"
                raise OptionError(must_be(name, said, value))
            found[name] = value
        return cls().changed(next((row.options for row in cls.recommendations if row.fits(found)), {}))


class LearnOptions(ModuleOptions):
    """Whether a module learns; mixed in by each module that does: ``class MyOptions(PortfolioOptions, LearnOptions)``.

    A module that uses a trained model of some name has a field of type `ModelChoice` called ``model_<name>``; one that chooses
    among arms by a bandit mixes in `ExploreOptions` instead. Recommended values: `qstream.learn.options.RECOMMENDED`.
    """

    learn: Learn = Field(
        default="on",
        description="on; shadow: what learns goes on learning and logging, but does not answer; off: it stands still and is kept",
    )


class ExploreOptions(LearnOptions):
    """Of a module whose bandits choose among arms."""

    explore: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="part of decisions that is drawn evenly among the allowed arms; 0.05 or more if logs shall be evaluated",
    )


ModelChoice = Annotated[
    Literal["auto", "none"] | Annotated[int, Field(ge=0, lt=2**63)],
    Field(description="auto: the newest version, once its guard lets it answer; a version: that one, unguarded; none: no model"),
]


class PortfolioOptions(ModuleOptions):
    """Which solvers a plan may use, under which deadline. A module changes defaults by declaring a field once more."""

    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all random choices")
    qaoa: bool = Field(default=False, description="QAOA circuits take part; else such problems are enumerated")
    hqc: bool = Field(default=False, description="turn after turn improves the plan, until the expectation no longer falls")
    deterministic: bool = Field(
        default=True, description="the classical plan answers where no other solver does; off: then the plan in force is kept"
    )
    circuit_layers: int = Field(default=2, ge=1, le=16, description="layers of a circuit")
    shots: int = Field(default=32, ge=1, le=100_000, description="samples of a circuit")
    circuit_slots: int = Field(default=10, ge=2, le=16, multiple_of=2, description="what one circuit rearranges at once")
    device: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="device of the pool that runs circuits; none: they are simulated",
    )
    deadline_ms: float | None = Field(
        default=None, gt=0, le=3_600_000, description="ms for the solvers of one plan; none: a fixed amount of work, reproducible"
    )

    @model_validator(mode="after")
    def _some_solver_is_on(self) -> Self:
        if not (self.deterministic or self.qaoa or self.hqc):
            raise OptionError(must_be("option deterministic", "true while qaoa and hqc are off, or nothing would plan", False))
        if self.device is not None and not self.qaoa:
            raise OptionError(must_be("option device", "none while qaoa is off, since only QAOA runs circuits", self.device))
        return self


def _first_fault(exc: ValidationError) -> str:
    """The first fault in the house's words: pydantic says "Input should be X" for "must be X", and of an option that may have
    one of several types once for each."""
    faults = exc.errors(include_url=False)
    name = faults[0]["loc"][0]
    rules = [
        "a smaller integer" if fault["type"] == "int_parsing_size" else _SHOULD.sub("", fault["msg"])
        for fault in faults
        if fault["loc"][0] == name
    ]
    return must_be(f"option {name}", ", or ".join(rules).replace("match pattern", "text that matches"), faults[0]["input"])
