"""The registry: every module that can run as an agent, ours and those that other packages bring; all else is read from it."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Final

from agents.names import agent_names, files, points
from qstream.errors import ConfigError
from schemas.topics import TOPICS, Topic, dead_letter_topic
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from qstream.config import Settings
    from qstream.contract import Processor

log = logging.getLogger(__name__)
# Agents that are run by name, and whose scenes are shown, but that are no part of the product: no list has them.
UNLISTED: Final = {"meter": "qstream.testing.meter:AGENT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One module as an agent: the last line of ``agents/<name>.py``, or the object that an entry point names.

    Texts of the form ``package.module:attribute`` are imported when they are needed, so that a command of one module does not
    load the solvers of the others.

    Attributes
    ----------
    name
        Of the file, of the processor, and of the group of commands; the dead-letter topic is ``qstream.<name>.dlq.v1``.
    purpose
        What the module decides, for help and tables: a sentence without a full stop.
    topics
        Every topic that the processor reads or writes.
    processor
        Makes the processor that a worker starts with. Import what it needs inside.
    options
        The module's options, a subclass of `ModuleOptions`; for the reference pages, and to know the module's package.
    examples
        A function without arguments that gives `Record` s of one key, for the conformance checks.
    example_options
        Options of the module with which the examples are processed.
    commands
        A `typer.Typer` with the module's own commands: ``qstream <name> ...``.
    lines
        A function that gives a frame of the module as one line for people, or None for a frame that it does not know.
    observe
        A function that is given each delivered `Event`, for the module's own metrics.
    scenes
        Scenes of ``qstream demo``, by name.
    trainers
        Functions ``train(frames, *, seed, deadline_s) -> (Model, Report)`` by kind, for ``qstream learn train``; `frames` are of
        any topics, in the order in which they were read.
    logs
        Functions ``read(path) -> list[Frame]`` by the ending of a file that no command else reads, for its trainers: `LearnError`
        for one that is something else.
    settings
        Values of `Settings` that suit the module, where its user sets none.
    """

    name: str
    purpose: str
    topics: tuple[Topic, ...]
    processor: Callable[[Settings], Processor[Any]]
    options: str = ""
    examples: str = ""
    example_options: Mapping[str, Any] = field(default_factory=dict)
    commands: str = ""
    lines: str = ""
    observe: str = ""
    scenes: Mapping[str, str] = field(default_factory=dict)
    trainers: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ConfigError(must_be("name of an agent", "a lower-case Python name", self.name))

    @property
    def dead_letters(self) -> Topic:
        """The topic of the records that it could not process."""
        return dead_letter_topic(self.name)

    @property
    def package(self) -> str:
        """The package of its module, where its options are; two agents may share one."""
        return self.options.partition(":")[0].rpartition(".")[0] or f"qstream.{self.name}"

    def with_settings(self, settings: Settings) -> Settings:
        """The settings, with the module's own defaults where the user set none."""
        unset = {name: value for name, value in self.settings.items() if name not in settings.model_fields_set}
        return settings.model_copy(update=unset)


@contextmanager
def faults_named(what: str) -> Iterator[None]:
    """Code of a module runs inside: what it raises becomes a `ConfigError` that says what failed (`what`), how and where."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as exc:  # whatever another package's code may raise
        place = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{place.filename}:{place.lineno}"
        raise ConfigError(f"{what} must not fail, got {type(exc).__name__} at {where}: {exc}") from exc


def load(path: str) -> Any:
    """The object at ``package.module:attribute``; `ConfigError` if it cannot be imported."""
    try:
        return pkgutil.resolve_name(path)
    except Exception as exc:  # whatever a module raises while it is imported
        reason = f"{type(exc).__name__}: {exc}"
        raise ConfigError(must_be("a reference of an agent", f"package.module:attribute ({reason})", path)) from exc


def start_processor(agent: Agent, settings: Settings) -> Processor[Any]:
    """The processor that a worker starts with.

    Raises
    ------
    ConfigError
        A setting or option is wrong; or the module fails to make it or to say what it reads, writes and keeps.
    """
    from qstream.contract import periods

    with faults_named(f"the processor of agent {agent.name!r}"):
        processor = agent.processor(settings)
        _ = processor.name, processor.inputs, processor.outputs, processor.tables, processor.state, periods(processor)
    return processor


def require_agent(name: str) -> None:
    """`ConfigError` lists the known agents if this is not one of them."""
    known = agent_names()
    if name not in known:
        raise ConfigError(must_be("agent", f"one of {', '.join(known)}", name))


def find_agent(name: str) -> Agent:
    """The agent of that name. `ConfigError` if there is none, if there are two, or if it cannot be imported."""
    if name in UNLISTED:
        return _checked(name, UNLISTED[name], load(UNLISTED[name]))
    require_agent(name)
    found = points(name)
    declared = [f"agents/{name}.py"] * (name in files()) + [f"the entry point {point.value}" for point in found]
    if len(declared) > 1:
        raise ConfigError(must_be(f"agent {name!r}", "declared once", Shown(" and ".join(declared))))
    if found:
        return _checked(name, found[0].value, _imported(found[0]))
    return _checked(name, f"agents.{name}:AGENT", getattr(importlib.import_module(f"agents.{name}"), "AGENT", None))


def all_agents() -> tuple[Agent, ...]:
    """Every agent. One of another package that cannot be imported is left out, with a warning in the log."""
    found = []
    for name in agent_names():
        try:
            found.append(find_agent(name))
        except ConfigError as exc:
            if name in files():
                raise
            log.warning("agent %s is left out: %s", name, exc)
    return tuple(found)


def all_topics() -> tuple[Topic, ...]:
    """The topics of `schemas.topics`, then those of other packages' agents and their dead letters.

    `ConfigError` if two agents declare one name differently.
    """
    known = {topic.name: topic for topic in TOPICS}
    for agent in all_agents():
        for topic in (*agent.topics, agent.dead_letters):
            if known.setdefault(topic.name, topic) != topic:
                other = Shown(f"another one from agent {agent.name}")
                raise ConfigError(must_be(f"topic {topic.name}", "the same in all agents", other))
    return tuple(known.values())


def topics_by_name() -> dict[str, Topic]:
    """`all_topics` by name."""
    return {topic.name: topic for topic in all_topics()}


def partitions_of_topics() -> dict[str, int]:
    """Partitions by topic: what an embedded broker is started with."""
    return {topic.name: topic.partitions for topic in all_topics()}


def scenes() -> dict[str, str]:
    """Scenes of the demo by name, as ``package.module:attribute``."""
    agents = (*all_agents(), *(find_agent(name) for name in UNLISTED))
    return {scene: path for agent in agents for scene, path in agent.scenes.items()}


def _imported(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as exc:  # whatever another package's code may raise
        raise ConfigError(f"agent {point.name!r} must be importable, got {type(exc).__name__} from {point.value}: {exc}") from exc


def _checked(name: str, path: str, found: object) -> Agent:
    if not isinstance(found, Agent):
        raise ConfigError(must_be(path, "an Agent", found))
    if found.name != name:
        raise ConfigError(must_be(f"name of {path}", f"{name!r}, as it is registered", found.name))
    return found
