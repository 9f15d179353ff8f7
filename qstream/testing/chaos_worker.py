"""A worker to be killed: the real agent around a processor whose every loss, repetition and reordering shows.

Run it by ``python -m qstream.testing.chaos_worker '<settings as JSON>'``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from agents.app import run
from agents.registry import Agent, find_agent
from qstream.config import load_settings
from qstream.contract import Batch, Event, Processor, Result
from qstream.errors import Poison, StoreConflict
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from qstream.testing import meter
from schemas.frame import Axes, Count, Frame, Name
from schemas.topics import Topic

NAME: Final = "chaos"


class Payment(Frame):
    """An input: `number` is unlike any other's; `fault` says how the processor must fail on it."""

    account: Name
    number: Count
    fault: Literal["", "poison", "error"] = ""

    @classmethod
    def example(cls) -> Self:
        return cls(account="account-3", number=17)


class Balance(Frame):
    """An output, and the state of an account: by input topic the payments so far, and a digest of their numbers in order."""

    account: Name
    counts: Annotated[NDArray[np.int64], Axes("topics")]
    digests: Annotated[NDArray[np.uint64], Axes("topics")]

    @classmethod
    def example(cls) -> Self:
        return cls(account="account-3", counts=np.array([2, 0], np.int64), digests=np.array([11, 0], np.uint64))


class Receipt(Frame):
    """An event: what the payments of one account and topic have come to with this one."""

    account: Name
    number: Count
    count: Count
    digest: Count

    @classmethod
    def example(cls) -> Self:
        return cls(account="account-3", number=17, count=2, digest=11)


PAYMENTS = Topic("chaos.payments.v1", Payment, "account", "input", "payments")
REFUNDS = Topic("chaos.refunds.v1", Payment, "account", "input", "payments by another way")
RECEIPTS = Topic("chaos.receipts.v1", Receipt, "account", "plan", "one receipt a payment")


@dataclass(frozen=True)
class Ledgers(Processor[Balance]):
    """Counts and digests the payments of each account; those of one topic say nothing of the other's, as the order between
    topics is open."""

    inputs: tuple[Topic, ...] = (PAYMENTS,)
    name: str = NAME
    outputs: tuple[Topic, ...] = (RECEIPTS,)
    state: type[Balance] = Balance
    tick_s: float | None = None

    def process(self, batch: Batch, state: Balance | None, now_ns: int) -> Result[Balance]:
        counts = np.zeros(2, np.int64) if state is None else state.counts.copy()
        digests = np.zeros(2, np.uint64) if state is None else state.digests.copy()
        events = []
        for record in batch.records:
            payment = record.frame
            assert isinstance(payment, Payment)
            if payment.fault == "poison":
                raise Poison(record, f"payment {payment.number} can never be processed")
            if payment.fault == "error":
                raise ArithmeticError(f"payment {payment.number} meets a bug")
            row = 0 if record.topic == PAYMENTS.name else 1
            digest = hashlib.blake2b(f"{digests[row]}:{payment.number}".encode(), digest_size=7).digest()
            counts[row] += 1
            digests[row] = int.from_bytes(digest, "big")
            receipt = Receipt(account=batch.key, number=payment.number, count=int(counts[row]), digest=int(digests[row]))
            events.append(Event(RECEIPTS, batch.key, record.event_id(0), receipt, record))
        return Result(events, state=Balance(account=batch.key, counts=counts, digests=digests))


def die_at_saves(share: float) -> None:
    """Have this process kill itself at that share of the writes to the store, as often before a write as after it.

    Kills from outside seldom meet the moments between delivery, write and commit, which last a millisecond each.
    """
    save_all, rng = StateStore[Balance].save_all, random.Random(os.getpid())

    def save_or_die(store: StateStore[Balance], writes: Sequence[Write[Balance]]) -> list[Stored[Balance] | StoreConflict]:
        chance = rng.random()
        if chance < share / 2:
            os.kill(os.getpid(), signal.SIGKILL)
        saved = save_all(store, writes)
        if chance < share:
            os.kill(os.getpid(), signal.SIGKILL)
        return saved

    StateStore.save_all = save_or_die  # type: ignore[method-assign,assignment]


def main() -> None:
    """Run the worker; ends the process.

    Apart from the settings, ``topics`` (1 or 2) is how many inputs it reads, ``agent`` makes it the meter or an agent of that
    name instead, and ``deaths`` is the share of `die_at_saves`.
    """
    given = json.loads(sys.argv[1])
    topics = (PAYMENTS, REFUNDS)[: given.pop("topics", 1)]
    die_at_saves(given.pop("deaths", 0.0))
    ledgers = Agent(name=NAME, purpose="counts payments", topics=tuple(topics), processor=lambda settings: Ledgers(topics))
    name = given.pop("agent", "")
    run(meter.AGENT if name == "meter" else find_agent(name) if name else ledgers, load_settings(**given))


if __name__ == "__main__":
    main()
