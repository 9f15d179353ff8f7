"""Service: the batch loop as a thread inside a Faust worker."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from mode import Service

from qstream.errors import EXIT_FATAL, QstreamError
from qstream.stream.loop import BatchLoop

log = logging.getLogger(__name__)


class LoopService(Service):  # type: ignore[misc]  # mode is untyped
    """Starts the loop with the worker and drains it when the worker stops.

    A loop that ends by an error ends the process with exit code 70, without commit: a supervisor starts another.
    """

    def __init__(self, batch_loop: BatchLoop[Any], drain_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_loop = batch_loop
        self.drain_s = drain_s
        self._thread: asyncio.Future[None] | None = None

    async def on_start(self) -> None:
        """Start the thread."""
        self._thread = asyncio.get_running_loop().run_in_executor(None, self.batch_loop.run)
        self._thread.add_done_callback(_end_process_on_error)

    async def on_stop(self) -> None:
        """Let the loop finish the batch in hand, for at most the drain time; the rest is delivered again."""
        self.batch_loop.stop()
        if self._thread is not None:
            _done, pending = await asyncio.wait([self._thread], timeout=self.drain_s)
            if pending:
                log.error("the loop did not drain in %.1f s; uncommitted records will be delivered again", self.drain_s)
                _end_process()


def _end_process_on_error(thread: asyncio.Future[None]) -> None:
    error = None if thread.cancelled() else thread.exception()
    if error is not None:
        unexpected = None if isinstance(error, QstreamError) else error  # others say in their message what the matter is
        log.critical("the loop stopped without commit: %s", error, exc_info=unexpected)
        _end_process()


def _end_process() -> None:
    logging.shutdown()
    os._exit(EXIT_FATAL)
