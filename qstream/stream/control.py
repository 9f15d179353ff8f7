"""Control: the processor as its operator wants it and with the rows of its tables, taken between two batches."""

from __future__ import annotations

import logging
import threading
from typing import Generic, TypeVar

from qstream.contract import Processor, periods
from qstream.errors import Fatal, OptionError, QstreamError
from qstream.metrics import PAUSED
from qstream.stream.tables import Tables
from schemas.control import Control
from schemas.frame import Frame
from schemas.topics import Topic

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)


class Controlled(Generic[S]):
    """A processor whose options and pause come from the control topic, and whose tables are followed.

    Without a row of the agent on the control topic, the options are those of its start. Without a control topic,
    they stay those.

    Attributes
    ----------
    processor
        The one in force.
    tick_s, ttl_s
        Its periods.
    paused
        Whether nothing is to be read.
    """

    def __init__(self, processor: Processor[S], tables: Tables, topic: Topic | None) -> None:
        self.base = self.processor = self._configured = self._in_force = processor
        self.tick_s, self.ttl_s = periods(processor)
        self._tables = tables
        self._topic = topic
        self._names = [table.name for table in processor.tables]
        self.paused = False
        self._refused = self._held_back = ""
        self._newest: Control | None = None

    @property
    def error(self) -> str:
        """Why the newest options are not in force, empty if they are."""
        return self._refused or self._held_back

    def start(self, stop: threading.Event) -> None:
        """Read the control topic and all tables whole, so that not one batch is processed without them."""
        self._tables.read(stop)
        self._follow(set(self._tables.rows))
        self.apply()

    def close(self) -> None:
        """Stop following."""
        self._tables.close()

    def apply(self) -> None:
        """Put in force what was asked for last, and the newest rows. What is refused leaves everything as it was."""
        self._follow(self._tables.changes())
        control, self._newest = self._newest, None
        if control is None:
            return
        if control.paused != self.paused:
            log.info("%s: %s", self.base.name, "paused" if control.paused else "resumed")
        self.paused = control.paused
        PAUSED.labels(self.base.name).set(self.paused)
        try:
            self._configured = self.base.configure(control.options)
        except OptionError as exc:
            self._refused = str(exc)
            log.error("%s: options refused, those in force stay: %s", self.base.name, exc)
        except Fatal:
            raise
        except Exception as exc:  # the record stays on its topic: raised here, it would end every worker at every start
            self._refused = f"{type(exc).__name__}: {exc}"
            log.exception("%s: failed to take options, those in force stay", self.base.name)
        else:
            self._refused = ""
            self._put_in_force()
            if not self._held_back:
                log.info("%s: options of the control topic are in force: %s", self.base.name, control.options)

    def _follow(self, changed: set[str]) -> None:
        if self._topic is not None and self._topic.name in changed:
            row = self._tables.rows[self._topic.name].get(self.base.name)
            self._newest = row if isinstance(row, Control) else Control(agent=self.base.name, ts_ns=0)
        if changed.intersection(self._names):
            self._put_in_force()

    def _put_in_force(self) -> None:
        """Make the newest options and rows those of the processor; where it refuses them, it stays as it was."""
        try:
            taken = self._configured.with_tables(self._tables.snapshot(self._names)) if self._names else self._configured
            self.tick_s, self.ttl_s = periods(taken)
        except Fatal:
            raise
        except (QstreamError, ValueError) as exc:
            log.error("%s: options or rows of its tables refused, the processor stays as it was: %s", self.base.name, exc)
            self._hold_back(str(exc))
        except Exception as exc:  # as above: rows stay on their topic
            log.exception("%s: failed to take the rows of its tables, the processor stays as it was", self.base.name)
            self._hold_back(f"{type(exc).__name__}: {exc}")
        else:
            if self._held_back:
                log.info("%s: the options that were held back are in force", self.base.name)
            self.processor, self._in_force, self._held_back = taken, self._configured, ""

    def _hold_back(self, reason: str) -> None:
        """Rows that are refused alone leave the options in force; with new options they keep these out."""
        if self._configured is not self._in_force:
            where = " with the rows of its tables" if self._names else ""
            self._held_back = f"options are not in force, refused{where}: {reason}"
