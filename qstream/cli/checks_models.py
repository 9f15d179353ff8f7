"""Checks of what learns: models that no worker can use, guards that have tripped, pinned versions that are missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from agents.registry import all_agents, start_processor
from qstream.cli.checks import REDIS_ANSWER_MS, Check
from qstream.cli.learn.models import Parts, fault_of, known_parts
from qstream.cli.learn.stored import keys, learners_in
from qstream.cli.output import counted
from qstream.config import EMBEDDED, Settings
from qstream.contract import Processor
from qstream.errors import QstreamError, StoreUnavailable, Transient
from qstream.state.store import StateStore
from schemas.topics import MODELS

MOST_KEYS: Final = 1000  # of an agent that are looked at
TOGETHER: Final = 100
NAMED: Final = 3  # keys of a finding


def check_models(settings: Settings) -> list[Check]:
    """What is wrong with models and learners; nothing where a server is the embedded one."""
    parts: Parts | None = None
    found = []
    if settings.bootstrap_servers != EMBEDDED:
        try:
            parts = known_parts(settings)
            found.append(_of_topic(parts))
        except Transient as exc:
            found.append(Check("warn", "models", f"{MODELS.name} cannot be read: {exc}", "qstream topics apply"))
    url = settings.redis_url.get_secret_value()
    if url == EMBEDDED:
        return found
    known = None if parts is None else {version for version, of in parts.items() if not fault_of(of)}
    for agent in all_agents():
        try:
            processor = start_processor(agent, settings)
            if processor.learners and processor.state is not None:
                found += _of_learners(processor, url, known)
        except StoreUnavailable as exc:
            found.append(Check("warn", f"learners of {agent.name}", f"cannot be read: {exc}"))
        except QstreamError as exc:
            found.append(Check("warn", f"learners of {agent.name}", str(exc), "correct QSTREAM_OPTIONS"))
    return found


def _of_topic(parts: Parts) -> Check:
    faults = [(f"{module}/{name}/{version}", fault_of(of)) for (module, name, version), of in sorted(parts.items())]
    torn = [f"{name}: {fault}" for name, fault in faults if fault]
    if torn:
        return Check("warn", "models", f"not used: {'; '.join(torn)}", "publish the missing parts again, or retire the version")
    used = sum(not any(part.retired for part in of) for of in parts.values())
    return Check("ok", "models", f"{used} published, {len(parts) - used} retired")


def _of_learners(processor: Processor[Any], url: str, known: Collection[tuple[str, Any, Any]] | None) -> list[Check]:
    """Findings of an agent. `known` are the versions of models that are whole or retired, None where that is not known."""
    facts, seen = _looked_at(processor, url)
    name, what = processor.name, f"learners of {processor.name}"
    tripped, missing = defaultdict(list), defaultdict(list)
    for key, learner, of in facts:
        version = (name, of.get("model"), of.get("version"))
        if of.get("trips") and of["retired"]:
            tripped[learner].append(key)
        elif version[2] is not None and known is not None and version not in known and not of["retired"]:
            missing[learner, *version[1:]].append(key)
    found = []
    for learner, on in tripped.items():
        detail = f"the guard of {learner} has tripped in {_named(on)}: the incumbent answers"
        fix = f"retire the model, or qstream learn reset {name} {on[0]} --learner {learner}"
        found.append(Check("warn", what, detail, fix))
    for (learner, model, number), on in missing.items():
        detail = f"{learner} pins {model} {number}, which is missing, in {_named(on)}: the incumbent answers"
        found.append(Check("warn", what, detail, "qstream learn publish FILE, the same or a newer one"))
    return found or [Check("ok", what, f"no guard has tripped, no pinned model is missing; looked at {seen}")]


def _looked_at(processor: Processor[Any], url: str) -> tuple[list[tuple[str, str, dict[str, Any]]], str]:
    """Key, learner and its facts of the first keys, and how many keys those are."""
    from qstream.learn.describe import describe  # noqa: PLC0415 - all learners, which no other check needs

    assert processor.state is not None
    facts = []
    with StateStore(url, processor.name, processor.state, REDIS_ANSWER_MS) as store:
        names = keys(processor, store)
        for first in range(0, min(len(names), MOST_KEYS), TOGETHER):
            part = names[first : min(first + TOGETHER, MOST_KEYS)]
            for key, stored in zip(part, store.load_all(part), strict=True):
                facts += [(key, name, describe(one)) for name, one in learners_in(processor, stored.state).items()]
    more = f", {MOST_KEYS} of them" if len(names) > MOST_KEYS else ""
    return facts, counted(len(names), "key") + more


def _named(on: list[str]) -> str:
    more = f" and {len(on) - NAMED} more" if len(on) > NAMED else ""
    return f"{counted(len(on), 'key')} ({', '.join(on[:NAMED])}{more})"
