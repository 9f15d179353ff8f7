"""Checks of Redis: the doctor does what an agent does, with its rights, and warns of what may lose states."""

from __future__ import annotations

from typing import Final

from agents.registry import all_agents
from qstream.cli.checks import MIB, REDIS_ANSWER_MS, Check
from qstream.config import EMBEDDED
from qstream.contract import TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError, StoreRefused, StoreUnavailable
from qstream.state.store import Facts, StateStore
from schemas.frame import Frame

_CORRECT: Final = "correct --redis or QSTREAM_REDIS_URL"


def check_redis(url: str, max_state_bytes: int) -> list[Check]:
    """Whether Redis does what each agent asks of it, whether it may drop states, and whether it has room for them."""
    if url == EMBEDDED:
        try:
            with EmbeddedRedis() as server, StateStore(server.url, "doctor", Frame, REDIS_ANSWER_MS) as store:
                return [Check("ok", "redis", f"embedded, starts and answers ({_version(store.facts())})")]
        except (ConfigError, StoreUnavailable) as exc:
            return [Check("fail", "redis", str(exc), "install redis-server, or name one by --redis")]
    refused: dict[str, StoreRefused] = {}
    found: list[Check] = []
    nodes: list[Facts] = []
    ran = 0
    for agent in all_agents():
        partitions = [TopicPartition(topic.name, n) for topic in agent.topics for n in range(topic.partitions)]
        try:
            with StateStore(url, agent.name, Frame, REDIS_ANSWER_MS) as store:
                store.check()
                nodes = nodes or store.facts()
                ran += bool(store.logs.known())
                found += _of_keys(agent.name, store.has_expiring(partitions))
        except ConfigError as exc:
            return [Check("fail", "redis", str(exc), _CORRECT)]
        except StoreRefused as exc:
            refused[agent.name] = exc
        except StoreUnavailable as exc:
            return [Check("fail", "redis", f"no answer: {exc}", f"start it, or {_CORRECT}")]
    if not nodes:
        return [Check("fail", "redis", str(exc), f"change that in Redis, or {_CORRECT}") for exc in [*refused.values()][:1]]
    found = [*_of_server(nodes), *_of_room(nodes, max(1, ran), max_state_bytes), *found]
    return found + [Check("warn", f"redis for {name}", str(exc), "grant it if that agent runs") for name, exc in refused.items()]


def _of_server(nodes: list[Facts]) -> list[Check]:
    known = [node.info for node in nodes if node.info is not None]
    found = [Check("ok", "redis", f"does all that an agent asks, {_version(nodes)}")]
    if not known:
        fix = "have its operator confirm maxmemory-policy noeviction and persistence"
        return [*found, Check("warn", "redis memory", "not known whether it may drop states: this user may not run INFO", fix)]
    for policy in sorted({info.get("maxmemory_policy", "noeviction") for info in known} - {"noeviction"}):
        fix = "CONFIG SET maxmemory-policy noeviction, and in redis.conf"
        found.append(Check("warn", "redis memory", f"maxmemory-policy is {policy}: an evicted state is a cold start", fix))
    unsaved = [node for node in nodes if node.info is not None and not node.info.get("aof_enabled") and not node.snapshots]
    if unsaved:
        asked = "no snapshots" if unsaved[0].snapshots is False else "whether there are snapshots is not known"
        detail = f"no append-only file, {asked}: a restart loses what no live worker knows"
        found.append(Check("warn", "redis persistence", detail, "CONFIG SET appendonly yes, and in redis.conf"))
    return found


def _of_room(nodes: list[Facts], agents: int, max_state_bytes: int) -> list[Check]:
    """Whether one worker of each agent that has run may keep all the states that it takes."""
    limits = [int(node.info.get("maxmemory", 0)) if node.info is not None else 0 for node in nodes]
    room, wanted = sum(limits), agents * max_state_bytes
    if not all(limits) or room >= wanted:
        return []
    workers = "a worker" if agents == 1 else f"{agents} agents with a worker each"
    detail = f"maxmemory is {room // MIB} MiB, and {workers} may keep {wanted // MIB} MiB of states"
    return [Check("warn", "redis room", detail, "raise maxmemory, or lower QSTREAM_MAX_STATE_BYTES of the workers")]


def _of_keys(agent: str, expiring: bool) -> list[Check]:
    if not expiring:
        return []
    detail = f"something sets a time to live on keys of {agent}, which qstream never does on these: states will be lost"
    return [Check("warn", "redis keys", detail, "have it leave keys that begin with qstream: alone")]


def _version(nodes: list[Facts]) -> str:
    versions = sorted({node.info["redis_version"] for node in nodes if node.info is not None})
    count = f", {len(nodes)} nodes" if len(nodes) > 1 else ""
    return f"version {' and '.join(versions) or 'not known'}{count}"
