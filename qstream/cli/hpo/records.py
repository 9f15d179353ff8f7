"""Records: what the topics hold of one study."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from confluent_kafka import Message

from qstream.cli.cluster import reach, require_topics
from qstream.config import Settings
from qstream.errors import ConfigError
from qstream.stream.headers import event_id_of
from qstream.stream.read import frame_of, read_all
from schemas.frame import Frame, FrameError
from schemas.hpo import StudySpec
from schemas.topics import HPO_STUDY, Topic
from schemas.wording import must_be

F = TypeVar("F", bound=Frame)
_MOST_NAMED: Final = 20


def find_study(settings: Settings, name: str) -> StudySpec:
    """The newest record of a study; `ConfigError` names those that there are if there is none."""
    require_topics(reach(settings), [HPO_STUDY])
    found = newest_of(settings, HPO_STUDY, StudySpec, name)
    if found is not None:
        return found
    known = sorted({(message.key() or b"").decode(errors="replace") for message in read_all(settings, HPO_STUDY.name)})
    shown = ", ".join(known[:_MOST_NAMED]) + (", ..." if len(known) > _MOST_NAMED else "")
    raise ConfigError(must_be("STUDY", f"a study that was created ({shown or 'there is none: qstream hpo create FILE'})", name))


def newest_of(settings: Settings, topic: Topic, frame: type[F], study: str) -> F | None:
    """The newest readable record of a study; None if there is none, or if it was deleted."""
    newest: F | None = None
    for message in read_all(settings, topic.name, study):
        if message.value() is None:
            newest = None
            continue
        try:
            newest = frame_of(message, frame)
        except FrameError:
            continue
    return newest


def records_of(settings: Settings, topic: Topic, frame: type[F], study: str) -> Iterator[tuple[Message, F]]:
    """The readable records of a study in their order, each event once."""
    seen: set[str] = set()
    for message in read_all(settings, topic.name, study):
        try:
            event, found = event_id_of(message), frame_of(message, frame)
        except FrameError:
            continue
        if event not in seen:
            seen.add(event)
            yield message, found
