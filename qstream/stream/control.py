"""Control: the processor as its operator wants it, taken between two batches."""

from __future__ import annotations

import logging
from typing import Generic, TypeVar

from qstream.contract import Processor
from qstream.errors import OptionError
from qstream.metrics import PAUSED
from schemas.control import Control
from schemas.frame import Frame

log = logging.getLogger(__name__)
S = TypeVar("S", bound=Frame)


class Controlled(Generic[S]):
    """A processor whose options and pause come from the control topic.

    Attributes
    ----------
    processor
        The one in force.
    paused
        Whether nothing is to be read.
    error
        Why the newest options were refused, empty if they were not.
    """

    def __init__(self, processor: Processor[S]) -> None:
        self.base = self.processor = processor
        self.paused = False
        self.error = ""
        self._newest: Control | None = None

    def ask(self, control: Control) -> None:
        """Take what an operator asks for; it holds from the next `apply` on. Any thread."""
        self._newest = control

    def apply(self) -> None:
        """Put in force what was asked for last. Refused options leave the earlier ones as they are."""
        control, self._newest = self._newest, None
        if control is None:
            return
        try:
            self.processor = self.base.configure(control.options)
            self.error = ""
        except OptionError as exc:
            self.error = str(exc)
            log.error("control refused, the options stay as they were: %s", exc)
        self.paused = control.paused
        PAUSED.labels(self.base.name).set(self.paused)
