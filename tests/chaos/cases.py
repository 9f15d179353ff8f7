"""Cases: a processor that is put under faults, what is published to it, and what must be left of that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qstream.contract import Processor, Record
from qstream.testing.chaos_worker import NAME, PAYMENTS, RECEIPTS, REFUNDS, Balance, Ledgers, Payment
from qstream.testing.verify import Run, fault_free
from schemas.frame import Frame
from schemas.topics import Topic

ACCOUNTS = 64


class Step(NamedTuple):
    """One record to publish. `fault` says why it must become a dead letter; ``bytes``: because it is none of the frame's."""

    topic: Topic
    key: str
    frame: Frame
    fault: str = ""


@dataclass(frozen=True)
class Case:
    """A processor: its topics and keys, the records to publish by seed and count, of which the `first` are committed before any
    fault, and what a run without faults leaves of them, given what was found of the states.

    No more than `most_behind` records wait while others are published, so that topics between which no order holds do meet.
    """

    name: str
    inputs: tuple[Topic, ...]
    outputs: tuple[Topic, ...]
    state: type[Frame]
    keys: tuple[str, ...]
    script: Callable[[random.Random, int], Iterator[Step]]
    expected: Callable[[Sequence[Record], Collection[str], Mapping[str, bytes]], Run]
    first: int = 0
    open_order: bool = False
    most_behind: float = math.inf


def draw_fault(rng: random.Random, share: float = 0.01) -> str:
    """Mostly none."""
    return rng.choice(["poison", "error", "bytes"]) if rng.random() < share else ""


def ledgers(topics: int) -> Case:
    """Payments of one or two topics, of which each receipt says all that came before."""
    inputs = (PAYMENTS, REFUNDS)[:topics]
    keys = tuple(f"account-{n}" for n in range(ACCOUNTS))

    def script(rng: random.Random, count: int) -> Iterator[Step]:
        numbers = dict.fromkeys(keys, 0)
        for _ in range(count):
            key, topic, fault = rng.choice(keys), rng.choice(inputs), draw_fault(rng)
            yield Step(topic, key, Payment.build(account=key, number=numbers[key], fault=fault.replace("bytes", "")), fault)
            numbers[key] += 1

    def expected(records: Sequence[Record], poison: Collection[str], states: Mapping[str, bytes]) -> Run:
        processor: Processor[Any] = Ledgers()
        return fault_free(processor, records, poison)

    return Case(NAME, inputs, (RECEIPTS,), Balance, keys, script, expected)
