"""Checks: what the doctor looks at, one function per part."""

from __future__ import annotations

import importlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import confluent_kafka
import pynvml
from confluent_kafka.admin import AclOperation

from agents.registry import all_agents, all_topics, topics_by_name
from qstream import __version__
from qstream.cli.cluster import Cluster, reach
from qstream.config import EMBEDDED, Settings
from qstream.embedded.kafka import EmbeddedKafka
from qstream.errors import ConfigError, QstreamError, Transient, Unreachable
from qstream.state.connection import Connection
from qstream.state.logs import LogIndex, is_another
from qstream.stream.admin import inspect_topics
from qstream.stream.groups import GroupState, group_state
from qstream.stream.identity import Identities
from schemas.topics import Topic

PACKAGES: Final = ("confluent-kafka", "faust-streaming", "numba", "numpy", "pydantic", "redis", "safetensors")
GROUPS_ANSWER_S: Final = 10.0
REDIS_ANSWER_MS: Final = 3000
BEHIND: Final = 1000
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `fix` says what to do, empty if nothing."""

    verdict: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    fix: str = ""


def check_installation() -> list[Check]:
    """Versions of Python and of the packages that matter in a report."""
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    librdkafka = confluent_kafka.libversion()[0]
    return [
        Check("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}, {platform.machine()}"),
        Check("ok", "packages", f"qstream {__version__}, {found}, librdkafka {librdkafka}"),
    ]


def check_kernel_cache() -> Check:
    """Whether compiled kernels can be kept, without which every start of an agent compiles again."""
    fix = "set NUMBA_CACHE_DIR to a folder that this user may write"
    try:
        kernels: Any = importlib.import_module("qstream.kernels")  # its kernels look for a cache as they are declared
        folder = Path(kernels.mix64.stats.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (RuntimeError, OSError) as exc:
        return Check("warn", "kernel cache", f"compiled kernels cannot be kept: {exc}", fix)
    return Check("ok", "kernel cache", str(folder))


def check_gpu() -> Check:
    """The NVIDIA GPUs of this machine; none is fine."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Check("ok", "gpu", "no NVIDIA GPU: placement works from counts alone")
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = sorted({_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles})
        memory = sum(pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles) // MIB
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as exc:
        return Check("warn", "gpu", f"the NVIDIA driver answers only partly: {exc}", "see nvidia-smi")
    finally:
        pynvml.nvmlShutdown()
    return Check("ok", "gpu", f"{len(handles)} x {', '.join(names)}, {memory} MiB in total, driver {driver}")


def check_broker(settings: Settings) -> list[Check]:
    """The broker, its topics, and the groups of the agents."""
    if settings.bootstrap_servers == EMBEDDED:
        try:
            with EmbeddedKafka() as server:
                return [Check("ok", "broker", f"embedded, starts and answers (here at {server.bootstrap_servers})")]
        except ConfigError as exc:
            return [Check("fail", "broker", str(exc), "name a broker by --bootstrap-servers")]
    try:
        cluster = reach(settings)
    except ConfigError as exc:
        return [Check("fail", "broker", str(exc), "correct QSTREAM_KAFKA")]
    except Unreachable as exc:
        fix = exc.fix or "start it, or correct --bootstrap-servers or QSTREAM_BOOTSTRAP_SERVERS"
        return [Check("fail", "broker", exc.reason, fix)]
    if cluster.embedded:
        broker = Check(
            "warn", "broker", f"{settings.bootstrap_servers} is an embedded one: nothing survives its end", "for development only"
        )
        return [broker, *_check_topics(cluster)]
    ours = len(cluster.topics & topics_by_name().keys())
    broker = Check("ok", "broker", f"{settings.bootstrap_servers} answers, {ours} of our topics")
    return [broker, *_check_topics(cluster), *_check_groups(cluster, settings)]


def check_logs(settings: Settings) -> list[Check]:
    """Topics that were created again since an agent read them: the offsets in its states are those of another log."""
    url = settings.redis_url.get_secret_value()
    if EMBEDDED in (settings.bootstrap_servers, url):
        return []
    known = Identities(settings, list(topics_by_name())).ask(GROUPS_ANSWER_S)
    found = []
    for agent in all_agents():
        try:
            logs = LogIndex(Connection(url, agent.name, REDIS_ANSWER_MS)).known()
        except QstreamError:  # which the checks of Redis name
            return []
        names = {at.topic for at, (_, identity) in logs.items() if is_another(known.get(at.topic, identity), identity)}
        found += [
            Check(
                "warn",
                f"topic {name}",
                f"created again since {agent.name} read it",
                f"nothing to do: the next worker reads it from its start, with the states as they are: qstream run {agent.name}",
            )
            for name in sorted(names)
        ]
    return found


def _check_topics(cluster: Cluster) -> list[Check]:
    try:
        states = inspect_topics(cluster.client, all_topics())
    except Transient as exc:
        return [Check("fail", "topics", str(exc))]
    fixes = {"missing": "qstream topics apply", "differs": "change or recreate the topic: qstream never does"}
    found = [
        Check(
            "fail",
            f"topic {state.topic}",
            state.finding + (f": {state.detail}" if state.finding == "differs" else ""),
            fixes[state.finding],
        )
        for state in states
        if state.finding in fixes
    ]
    fine = [state for state in states if state.finding == "ok"]
    if hidden := [state.topic for state in states if state.finding == "failed"]:
        detail = f"{len(hidden)} cannot be seen, if they exist: {', '.join(hidden)}"
        found.append(Check("warn", "topics", detail, "give the Kafka user DESCRIBE on them, where its agent needs them"))
    if unread := [state.topic for state in fine if state.detail]:
        detail = f"the settings of {len(unread)} cannot be compared: {', '.join(unread)}"
        found.append(Check("warn", "topic settings", detail, "give the Kafka user DESCRIBE_CONFIGS on them"))
    return found if len(fine) < len(states) else [Check("ok", "topics", f"all {len(states)} exist"), *found]


def _check_groups(cluster: Cluster, settings: Settings) -> list[Check]:
    found, prefix = [], settings.group_prefix
    for known in all_agents():
        agent = known.name
        what = f"group {prefix}.{agent}"
        try:
            state = _group(cluster, settings, f"{prefix}.{agent}", known.topics)
        except Transient as exc:
            found.append(Check("warn", what, str(exc)))
            continue
        if state is None or state.state == "absent":
            found.append(Check("warn", what, f"no worker of {agent} has joined yet", f"qstream run {agent}"))
            continue
        detail = f"{state.state}, {state.members} members, {state.lag} records behind"
        if state.members == 0:
            found.append(Check("warn", what, detail, f"no worker runs: qstream run {agent}"))
        elif state.lag > BEHIND:
            found.append(Check("warn", what, detail, "start more workers, up to the partitions; is it paused?"))
        else:
            found.append(Check("ok", what, detail))
    return found


def _group(cluster: Cluster, settings: Settings, group: str, topics: Sequence[Topic]) -> GroupState | None:
    """The state of a group, None if there is none; `Transient` names the right without which that cannot be said.

    A group that is absent is not described where the list of groups is known to be whole: on a fresh cluster no broker
    coordinates groups yet, and the answer says nothing.
    """
    try:
        listed = cluster.client.list_consumer_groups(request_timeout=GROUPS_ANSWER_S).result()
        is_listed = group in {known.group_id for known in listed.valid}
        if not is_listed and not listed.errors and _sees_all_groups(cluster):
            return None
    except confluent_kafka.KafkaException as exc:
        raise Transient(f"the broker does not list its groups: {exc.args[0].str()}") from exc
    return group_state(cluster.client, settings, group, topics)


def _sees_all_groups(cluster: Cluster) -> bool:
    """Whether the broker lists this user all groups, and not only those that it may describe one by one."""
    asked = cluster.client.describe_cluster(include_authorized_operations=True, request_timeout=GROUPS_ANSWER_S)
    return AclOperation.DESCRIBE in (asked.result().authorized_operations or ())


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
