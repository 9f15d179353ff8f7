"""Control: the processor as its operator wants it and with the rows of its tables, taken between two batches."""

from __future__ import annotations

import logging
import threading
from typing import Generic, TypeVar

from qstream.contract import Processor
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
    paused
        Whether nothing is to be read.
    error
        Why the newest options were refused, empty if they were not.
    """

    def __init__(self, processor: Processor[S], tables: Tables, topic: Topic | None) -> None:
        self.base = self.processor = self._configured = processor
        self._tables = tables
        self._topic = topic
        self._names = [table.name for table in processor.tables]
        self.paused = False
        self.error = ""
        self._newest: Control | None = None

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
        try:
            self._configured = self.base.configure(control.options)
            self.error = ""
        except OptionError as exc:
            self.error = str(exc)
            log.error("control refused, the options stay as they were: %s", exc)
        except Fatal:
            raise
        except Exception as exc:  # the record stays on its topic: raised here, it would end every worker at every start
            self.error = f"{type(exc).__name__}: {exc}"
            log.exception("control refused, the options stay as they were: %s failed to take them", self.base.name)
        else:
            self._give_tables()
            log.info("%s: control taken, options %s%s", self.base.name, control.options, ", paused" if control.paused else "")
        self.paused = control.paused
        PAUSED.labels(self.base.name).set(self.paused)

    def _follow(self, changed: set[str]) -> None:
        if self._topic is not None and self._topic.name in changed:
            row = self._tables.rows[self._topic.name].get(self.base.name)
            self._newest = row if isinstance(row, Control) else Control(agent=self.base.name, ts_ns=0)
        if changed.intersection(self._names):
            self._give_tables()

    def _give_tables(self) -> None:
        try:
            self.processor = self._configured.with_tables(self._tables.snapshot(self._names)) if self._names else self._configured
        except (QstreamError, ValueError) as exc:
            log.error("%s: rows of its tables refused, the processor stays as it was: %s", self.base.name, exc)
        except Exception:  # as above: rows stay on their topic
            log.exception("%s: failed to take the rows of its tables, the processor stays as it was", self.base.name)
