"""Needs: the topics that a worker reads and writes; it and they may come up in any order."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from confluent_kafka import KafkaException

from qstream.stream.consume import Intake

log = logging.getLogger(__name__)
ANSWER_S = 5.0


class Needs:
    """The names of the topics that must exist before anything is read; `missing` are those that the cluster lacked last."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.missing: tuple[str, ...] = ()

    def met_by(self, intake: Intake) -> bool:
        """Ask the cluster whether it has all of them; the log names what it lacks whenever that changes."""
        try:
            known = intake.topics(ANSWER_S)
        except KafkaException as exc:
            log.warning("no broker answers yet: %s", intake.cause.explain(exc.args[0]))
            return False
        before, self.missing = self.missing, tuple(name for name in self.names if name not in known)
        if self.missing and self.missing != before:
            hidden = intake.hidden(self.missing, ANSWER_S)
            if hidden:
                log.error("the Kafka user must have DESCRIBE on topic %s, or they do not exist", ", ".join(hidden))
            if names := ", ".join(name for name in self.missing if name not in hidden):
                log.warning("waiting for topics that the cluster lacks: %s; create by: qstream topics apply", names)
        return not self.missing
