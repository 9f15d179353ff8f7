"""Readings: CPU use of a host, and outlooks on its next second: frames and topics of the meter."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.learn.version import Reason
from schemas.deadletter import DeadLetter
from schemas.frame import Axes, Count, Frame, Name
from schemas.topics import Topic, dead_letter_name

NAME: Final = "meter"
RATE_HZ: Final = 10
SECOND: Final = 10  # readings in the second that is forecast


class Reading(Frame):
    """CPU use of a host, number by number, and what earlier guesses have earned by now.

    `rewarded` are the numbers of the readings whose guesses earned `reward`, in any order, repeated or too early as may be.
    `fault` says how the processor must fail on it.
    """

    host: Name
    number: Count
    load: float
    fault: Literal["", "poison", "error"] = ""
    rewarded: Annotated[NDArray[np.int64], Axes("rewards")]
    reward: Annotated[NDArray[np.float64], Axes("rewards")]

    @classmethod
    def example(cls) -> Self:
        return cls.of("host-3", 17, 0.4, {12: 1.0})

    @classmethod
    def of(cls, host: str, number: int, load: float, earned: dict[int, float] | None = None, fault: str = "") -> Self:
        """A reading; `load` is the part of the CPU time of all cores that was used, `earned` the rewards by number."""
        numbers, values = np.array(list(earned or {}), np.int64), np.array(list((earned or {}).values()), np.float64)
        return cls.build(host=host, number=number, load=load, fault=fault, rewarded=numbers, reward=values)


class Outlook(Frame):
    """What a host's next second will be like, as known at one reading.

    `mean` is the forecast of the mean load, `bound` what that mean exceeds in one of twenty cases, `guess` whether it will be
    above the present load. `incumbent` is the forecast without a trained model, `offered` that of the model's version
    `offered_by`, which is compared with it, and `model_version` the version that answered; -1 for none. `fallback_reason` says
    that the pinned version is missing. `compared` and `wealth` are the guard's: it lets the model answer at a wealth of 20.

    The rest are the state's counters: readings learnt from, missed and repeated, forecasts that were met, those within their
    bound, and the sums of absolute errors of the forecasts and of the last value.
    """

    host: Name
    number: Count
    load: float
    mean: float
    bound: float
    guess: Literal["falls", "rises"]
    incumbent: float
    offered: float
    offered_by: int
    model_version: int
    fallback_reason: Reason = ""
    compared: Count
    wealth: float
    promotions: Count
    rollbacks: Count
    updates: Count
    missed: Count
    repeated: Count
    matched: Count
    unmatched: Count
    met: Count
    within: Count
    error: float
    error_of_last: float
    forecasters: Annotated[tuple[Name, ...], Field(strict=False)]
    weight: Annotated[NDArray[np.float64], Axes("forecasters")]

    @classmethod
    def example(cls) -> Self:
        return cls(
            host="host-3",
            number=17,
            load=0.4,
            mean=0.35,
            bound=0.6,
            guess="falls",
            incumbent=0.35,
            offered=0.0,
            offered_by=-1,
            model_version=-1,
            wealth=1.0,
            updates=18,
            met=8,
            within=8,
            error=0.4,
            error_of_last=0.5,
            forecasters=("ewma 1", "mean 30"),
            weight=np.array([0.25, 0.75]),
            compared=0,
            promotions=0,
            rollbacks=0,
            missed=0,
            repeated=0,
            matched=0,
            unmatched=0,
        )


READINGS: Final = Topic("meter.reading.v1", Reading, "host", "input", "readings of CPU use")
OUTLOOKS: Final = Topic("meter.outlook.v1", Outlook, "host", "plan", "what the next second will be like")
LETTERS: Final = Topic(dead_letter_name(NAME), DeadLetter, "topic", "dead-letter", "readings that could not be processed", 1)
