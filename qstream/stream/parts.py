"""Parts: what a worker's loop is made of, put together for one processor, and how far the loop is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from qstream.config import Settings
from qstream.contract import Event, Processor
from qstream.state.store import StateStore
from qstream.stream.answer import Pace
from qstream.stream.begin import begin
from qstream.stream.clocks import Clocks
from qstream.stream.commit import Ledger
from qstream.stream.consume import Intake
from qstream.stream.control import Controlled
from qstream.stream.identity import Identities
from qstream.stream.learning import LearnReport
from qstream.stream.limits import Limits
from qstream.stream.needs import Needs
from qstream.stream.observe import LagReport
from qstream.stream.produce import Outbox
from qstream.stream.replay import Replays
from qstream.stream.retry import Retry
from qstream.stream.settle import Settling
from qstream.stream.tables import Tables
from qstream.stream.ticks import Ticks
from qstream.stream.wait import Waiting
from schemas.frame import Frame
from schemas.topics import Topic, dead_letter_name

S = TypeVar("S", bound=Frame)


class Parts(Generic[S]):
    """Each part does one thing; the loop says what comes after what.

    Attributes
    ----------
    warm, running
        The kernels are loaded; the loop has not ended.
    """

    def __init__(
        self,
        processor: Processor[S],
        settings: Settings,
        store: StateStore[S] | None,
        observe: Callable[[Event], None] = lambda event: None,
        control: Topic | None = None,
    ) -> None:
        self.controlled = Controlled(processor, Tables(settings, (*processor.tables, *([control] if control else []))), control)
        self.settings = settings
        self.observe = observe
        self.agent = processor.name
        begin(processor)
        self.topics = {topic.name: topic for topic in processor.inputs}
        letters = dead_letter_name(self.agent)
        used = (*processor.inputs, *processor.tables, *processor.outputs, *([control] if control else []))
        self.needs = Needs([*(topic.name for topic in used), letters])
        self.compacted = {topic.name for topic in processor.inputs if topic.compacted}
        self.clocks = Clocks(self.agent)
        self.intake = Intake(settings, self.agent, list(self.topics))
        self.outbox = Outbox(settings, self.agent, letters)
        self.ledger: Ledger[S] = Ledger(
            store,
            self.agent,
            max_keys=settings.max_cached_keys,
            max_bytes=settings.max_cached_bytes,
            is_beyond=self.intake.is_beyond,
            limits=Limits(settings),
        )
        self.waiting = Waiting(settings, self.agent)
        self.retry = Retry(settings, self.agent, self.intake, self.waiting)
        self.replays = Replays(self.ledger, self.intake)
        self.ticks = Ticks(self.ledger, self.intake, self.topics)
        self.pace = Pace(settings.max_turn_ms / 1000)
        transactional = self.outbox.transactional
        logs = Identities(settings, list(self.topics))
        self.settling = Settling(settings, self.intake, self.ledger, self.waiting, self.replays, logs, transactional)
        self.lag = LagReport(self.agent)
        self.learning = LearnReport(self.agent)
        self.warm = self.running = False
        self._stop = threading.Event()
        self._last_turn = time.monotonic()
        self._commit_passed_at = 0.0
