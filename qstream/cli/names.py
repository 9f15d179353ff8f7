"""Names: what a user types for a topic or an option, and what it means."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic_core import from_json

from agents.registry import all_topics
from qstream.errors import ConfigError
from schemas.control import Scalar
from schemas.topics import Topic
from schemas.wording import Shown, must_be

INT64_END = 1 << 63  # a control record holds no larger integer


def find_topic(name: str, topics: Sequence[Topic] | None = None) -> Topic:
    """The topic of a full name or of an alias: its domain (``placement``), its entity (``batch``), or both (``routing.dlq``).

    A domain means its data, not its dead letters; among several its plan, and among several plans the one that is
    called ``plan``. `topics` are all of the registry by default. `ConfigError` lists what is allowed.
    """
    topics = all_topics() if topics is None else topics
    found = [topic for topic in topics if name == topic.name or name in _aliases(topic)]
    plans = [topic for topic in found if topic.role == "plan"]
    for choice in (found, plans, [topic for topic in plans if topic.name.split(".")[-2] == "plan"]):
        if len(choice) == 1:
            return choice[0]
    known = ", ".join(topic.name for topic in found or topics)
    rule = f"the name of one topic or a part of it, such as 'tokens'; {'several match' if found else 'known are'}: {known}"
    raise ConfigError(must_be("topic", rule, name))


def parse_options(changes: Sequence[str]) -> dict[str, Scalar]:
    """``option=value`` pairs: a value that reads as a JSON number, true or false is one, all else is text."""
    options: dict[str, Scalar] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not (name and equals):
            raise ConfigError(must_be("--set", "OPTION=VALUE", change))
        if name in options:
            raise ConfigError(f"--set must name each option once, got {name!r} twice")
        value = _scalar(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(must_be(f"--set {name}", "a finite number", Shown(text)))
        if isinstance(value, int) and not -INT64_END <= value < INT64_END:
            raise ConfigError(
                must_be(f"--set {name}", "an integer of 64 bits with its sign", Shown(f"{value.bit_length() + 1} bits"))
            )
        options[name] = value
    return options


def _aliases(topic: Topic) -> set[str]:
    domain, entity = topic.name.split(".")[1:-1][:1], topic.name.split(".")[2:-1]
    aliases = {".".join(domain + entity), *entity}
    return aliases if topic.role == "dead-letter" else aliases.union(domain)


def _scalar(text: str) -> Scalar:
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
