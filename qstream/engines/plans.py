"""The newest placement of a model, read by a thread of its own so that no engine waits for Kafka; and acknowledgements."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Final

from qstream.config import EMBEDDED, Settings
from qstream.errors import ConfigError, QstreamError
from qstream.routing.formats.vllm_policy import newest_of
from qstream.stream.cause import OnceAMinute
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.placement import PlacementAck, PlacementPlan
from schemas.topics import PLACEMENT_ACK, PLACEMENT_PLAN
from schemas.wording import must_be

FIRST_S: Final = 5.0  # that the first question waits for what the topic holds
_POLL_S: Final = 0.5
_RETRY_S: Final = 5.0
log = logging.getLogger("vllm.qstream")


class Plans:
    """Reads from the first question on; until then there is no connection, and no thread that a fork would lose.

    Raises
    ------
    ConfigError
        The settings name no broker.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        if settings.bootstrap_servers == EMBEDDED:
            raise ConfigError(must_be("QSTREAM_BOOTSTRAP_SERVERS", "HOST:PORT of the agent's broker", EMBEDDED))
        self._model, self._settings = model, settings
        self._newest: PlacementPlan | None = None
        self._read, self._ended = threading.Event(), threading.Event()
        self._acks = queue.SimpleQueue[int]()
        self._thread: threading.Thread | None = None

    def newest(self) -> PlacementPlan | None:
        """The newest plan so far; the first call waits a few seconds for those that the topic holds."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="qstream-plans", daemon=True)
            self._thread.start()
            self._read.wait(FIRST_S)
        return self._newest

    def acknowledge(self, version: int) -> None:
        """Say that a placement is applied; returns at once."""
        self._acks.put(version)

    def close(self) -> None:
        """Stop reading. An engine need not: its thread ends with the process."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        seldom = OnceAMinute(log)
        while not self._ended.is_set():
            try:
                self._follow()
            except QstreamError as exc:
                seldom.warning(f"no plans of {self._model}: {exc}; next try in {_RETRY_S:.0f} s")
                self._ended.wait(_RETRY_S)

    def _follow(self) -> None:
        given, servers = self._settings, self._settings.bootstrap_servers
        with (
            PlanSubscriber(PLACEMENT_PLAN, PlacementPlan, servers, key=self._model, from_start=True, settings=given) as plans,
            Publisher(servers, source=given.worker_id, settings=given) as publisher,
        ):
            newest = newest_of(plans, self._model, _POLL_S)
            while not self._ended.is_set():
                self._newest = newest() or self._newest
                self._read.set()
                while not self._acks.empty():
                    self._send(publisher, self._acks.get())

    def _send(self, publisher: Publisher, version: int) -> None:
        now_ns = time.time_ns()
        publisher.publish(
            PLACEMENT_ACK,
            PlacementAck(model=self._model, source=self._settings.worker_id, applied_version=version, ts_ns=now_ns),
        )
        publisher.flush()
        log.info("placement %d of %s is applied", version, self._model)
