"""Stored: the states of a module's keys as its workers have written them, read only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from agents.registry import find_agent, start_processor
from qstream.config import EMBEDDED, load_settings
from qstream.contract import Processor, TopicPartition
from qstream.errors import ConfigError
from qstream.learn.state import LearningState, learner_of
from qstream.state.store import StateStore
from schemas.frame import Frame
from schemas.wording import must_be

ANSWER_MS = 3000
Module = Annotated[str, typer.Argument(metavar="MODULE", help="A module that learns, such as routing.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="A key of its states, such as a model.")]
Learner = Annotated[str, typer.Option(metavar="NAME", help="A learner by its dotted name, as show prints it; else all.")]


@dataclass(frozen=True, eq=False)
class Known:
    """One key: the version of its state, how many commands it has obeyed, the learners that have begun, and the names of those
    that stand still."""

    key: str
    version: int
    commands: int
    learners: dict[str, Frame]
    frozen: tuple[str, ...]


def learning(module: str) -> Processor[Any]:
    """The module's processor; `ConfigError` if the module has no learners."""
    processor = start_processor(find_agent(module), load_settings())
    if not processor.learners:
        raise ConfigError(must_be("MODULE", "one that learns", module))
    return processor


def require_learner(processor: Processor[Any], learner: str) -> None:
    """`ConfigError` unless the learner is one of the module's, or empty for all."""
    if learner and learner not in processor.learners:
        raise ConfigError(must_be("--learner", f"one of {', '.join(processor.learners)}", learner))


@contextmanager
def opened(processor: Processor[Any], redis: str | None) -> Iterator[StateStore[Any]]:
    """The module's states in Redis, which must be named."""
    url = load_settings(redis_url=redis).redis_url.get_secret_value()
    if url == EMBEDDED:
        raise ConfigError(must_be("--redis", "the URL of the Redis that the workers use, here or as QSTREAM_REDIS_URL", url))
    assert processor.state is not None
    with StateStore(url, processor.name, processor.state, ANSWER_MS) as store:
        yield store


def keys(processor: Processor[Any], store: StateStore[Any]) -> list[str]:
    """The keys that have a state."""
    partitions = [TopicPartition(topic.name, n) for topic in processor.inputs for n in range(topic.partitions)]
    return sorted({key for partition in partitions for key in store.index.read(partition)})


def known(processor: Processor[Any], store: StateStore[Any], key: str) -> Known:
    """The learners of a key; `ConfigError` if the key has no state."""
    found = find(processor, store, key)
    if found is None:
        raise ConfigError(must_be("KEY", f"one that {processor.name} has a state of", key))
    return found


def find(processor: Processor[Any], store: StateStore[Any], key: str) -> Known | None:
    """The learners of a key; None if it has no state, as one that has ended."""
    found = store.load(key)
    if not isinstance(found.state, LearningState):
        return None
    return Known(key, found.version, found.state.commands, learners_in(processor, found.state), found.state.frozen)


def learners_in(processor: Processor[Any], state: Frame | None) -> dict[str, Frame]:
    """The learners that have begun in a key's state, by name."""
    if state is None:
        return {}
    return {name: learner for name in processor.learners if (learner := learner_of(state, name)) is not None}
