"""Settings of a worker or a client: defaults < file (QSTREAM_CONFIG, TOML) < environment (QSTREAM_*) < command line."""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from qstream.errors import ConfigError
from schemas.parse import as_utf8
from schemas.wording import Shown, must_be

EMBEDDED = "embedded"
PREFIX = "QSTREAM_"
CONFIG_VARIABLE = "QSTREAM_CONFIG"
OTHER_VARIABLES: Final = frozenset(
    {
        CONFIG_VARIABLE,
        "QSTREAM_DATA",
        "QSTREAM_EPLB",
        "QSTREAM_EPLB_MODEL",
        "QSTREAM_KAFKA_CACHE",
        "QSTREAM_QUIX_PYTHON",
        "QSTREAM_TEST_KAFKA",
    }
)
SECRET_SETTINGS: Final = frozenset({"redis_url", "kafka"})  # their values are never shown, whatever they are
# Kubernetes adds these to a container for each Service whose name begins with the prefix.
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
# What of librdkafka may be set: how to get in, connect, log, and how much to move at once. What is read, where from, by whom, and
# what counts as written is not among it: the promises of delivery rest on that. A * stands for any end of a name.
KAFKA_PROPERTIES: Final = (
    "security.protocol, sasl.*, ssl.*, enable.ssl.certificate.verification, enable.sasl.oauthbearer.unsecure.jwt, https.*, "
    "client.rack, client.dns.lookup, socket.*, broker.address.*, connections.max.idle.ms, reconnect.backoff.*, retry.backoff.*, "
    "api.version.*, broker.version.fallback, metadata.max.age.ms, topic.metadata.*, request.timeout.ms, max.in.flight*, "
    "max.poll.interval.ms, log_level, log.*, debug, enable.metrics.push, linger.ms, batch.*, queue.buffering.*, compression.*, "
    "message.max.bytes, message.copy.max.bytes, fetch.*, queued.*, max.partition.fetch.bytes, receive.message.max.bytes"
)
_KAFKA_SETTINGS: Final = {
    "bootstrap.servers": "bootstrap_servers",
    "metadata.broker.list": "bootstrap_servers",
    "client.id": "worker_id",
    "group.id": "group_prefix",
    "group.instance.id": "static_membership",
    "group.protocol": "group_protocol",
    "session.timeout.ms": "session_timeout_ms",
    "transactional.id": "delivery",
    "transaction.timeout.ms": "transaction_timeout_ms",
    "message.timeout.ms": "delivery_timeout_ms",
    "delivery.timeout.ms": "delivery_timeout_ms",
}  # the settings that stand for properties of the client
_REFUSED_PROPERTY: Final = "kafka_property"
_KINDS: Final = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}


def is_embedded(cluster_id: str | None) -> bool:
    """Whether the cluster id that a client's ``list_topics()`` reports is an embedded broker's (librdkafka's mock cluster)."""
    return cluster_id is not None and cluster_id.startswith("mockCluster")


class Settings(BaseModel):
    """How a worker or a client reaches Kafka and Redis, and how it batches, delivers and waits; `load_settings` reads them.

    What may hold a password, `redis_url` and each property of `kafka`, is a `SecretStr`: no message or log shows it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    bootstrap_servers: str = Field(
        default=EMBEDDED, min_length=1, description="HOST:PORT[,HOST:PORT], or 'embedded' for a broker inside the process"
    )
    redis_url: SecretStr = Field(
        default=SecretStr(EMBEDDED),
        min_length=1,
        description="redis://, rediss:// or unix://, redis+cluster:// or redis+sentinel://, or 'embedded' for a bundled server",
    )
    kafka: dict[str, SecretStr] = Field(
        default_factory=dict, description="librdkafka's properties of logins, TLS, connections, logs and throughput"
    )
    options: dict[str, bool | int | float | str] = Field(default_factory=dict, description="toggles of the agent's module")
    devices: str | None = Field(
        default=None, min_length=1, description="path of a device pool, TOML or JSON; without one, PennyLane's simulators"
    )
    worker_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        default_factory=lambda: f"{socket.gethostname()[:60]}-{os.getpid()}",
        description="names this worker in groups and transactions; stable across restarts for static membership",
    )
    static_membership: bool = Field(default=False, description="use worker_id as group.instance.id")
    group_protocol: Literal["classic", "consumer"] = Field(default="classic", description="'consumer' is KIP-848")
    group_prefix: str = Field(default="qstream", min_length=1, description="the group is <prefix>.<agent>")
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        default="at_least_once", description="'exactly_once' sends events and commits offsets in one Kafka transaction"
    )
    session_timeout_ms: int = Field(
        default=10_000,
        ge=1000,
        le=300_000,
        description="ms without a heartbeat after which the group gives this worker's partitions to others",
    )
    max_batch_records: int = Field(default=500, ge=1, le=100_000, description="most records in one batch")
    max_batch_bytes: int = Field(default=8 << 20, ge=1 << 10, le=1 << 30, description="most bytes in one batch")
    batch_window_ms: float = Field(
        default=0.0, ge=0, le=10_000, description="ms that a batch waits for more records than those that have come"
    )
    delivery_timeout_ms: int = Field(
        default=8000, ge=100, le=300_000, description="ms until an event that Kafka does not confirm counts as failed"
    )
    transaction_timeout_ms: int = Field(
        default=10_000, ge=1000, le=900_000, description="ms after which Kafka aborts an open transaction"
    )
    redis_timeout_ms: int = Field(default=200, ge=1, le=60_000, description="ms until a command to Redis counts as failed")
    max_uncommitted_records: int = Field(
        default=20_000, ge=1, description="records processed from memory while Redis is away, before the inputs pause"
    )
    max_cached_keys: int = Field(default=4096, ge=1, description="states kept in memory")
    max_cached_bytes: int = Field(
        default=512 << 20, ge=1 << 20, description="bytes of the states kept in memory, each counted as frame and as stored"
    )
    max_keys: int = Field(
        default=1_000_000,
        ge=1,
        description="keys with a state that a worker takes; the record that would begin another is dead-lettered",
    )
    max_key_bytes: int = Field(
        default=64 << 20,
        ge=1 << 10,
        description="bytes of the arrays of one key's state; the record that would need more is dead-lettered",
    )
    max_state_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        description="the same of all keys of a worker together; keys below an equal share may still grow",
    )
    max_turn_ms: float = Field(
        default=200.0, gt=0, le=60_000, description="most ms in the module before events are delivered and states saved"
    )
    max_waiting_records: int = Field(
        default=1000,
        ge=1,
        description="records that wait for what they lack, with those behind them, before their partitions pause",
    )
    max_waiting_bytes: int = Field(
        default=64 << 20, ge=1 << 16, description="bytes of such records before their partitions pause"
    )
    retry_max_s: float = Field(default=5.0, gt=0, le=600, description="seconds between two tries of what waits, at most")
    give_up_s: float = Field(
        default=5.0, gt=0, description="seconds that a record waits for what it lacks before it becomes a dead letter"
    )
    drain_s: float = Field(default=8.0, gt=0, le=600, description="seconds to finish the batch in hand after SIGTERM")
    host: str = Field(default="127.0.0.1", description="address of the pages /healthz, /readyz and /metrics")
    port: int = Field(
        default=6066,
        ge=0,
        le=65535,
        description="port of these pages; 0: none are served; where none is given, some agents have another one",
    )

    @field_validator("kafka")
    @classmethod
    def _may_be_set(cls, properties: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name in properties:
            if not any(
                name == known or (known[-1] == "*" and name.startswith(known[:-1])) for known in KAFKA_PROPERTIES.split(", ")
            ):
                setting = _KAFKA_SETTINGS.get(name)
                instead = "qstream's promises rest on its own value" if setting is None else f"set {setting} instead"
                text = f"kafka.{name} cannot be set: {instead}. What can be: {KAFKA_PROPERTIES}"
                raise PydanticCustomError(_REFUSED_PROPERTY, text.replace("{", "{{").replace("}", "}}"))
        return properties

    def kafka_properties(self) -> dict[str, str]:
        """The properties of `kafka` as they are, passwords included: for a client, never for a message."""
        return {name: value.get_secret_value() for name, value in self.kafka.items()}

    def with_kafka_defaults(self, properties: Mapping[str, str]) -> Self:
        """The same settings with these properties of `kafka` where they have none of the name."""
        return self.model_copy(update={"kafka": {name: SecretStr(text) for name, text in properties.items()} | self.kafka})


def load_settings(**overrides: Any) -> Settings:
    """Settings from all sources; `overrides` that are None do not count. `ConfigError` names field, value and rule.

    A later source replaces the values of an earlier one, in tables such as `kafka` name by name. Nested values in the
    environment are JSON: ``QSTREAM_KAFKA='{"security.protocol": "SASL_SSL"}'``.
    """
    given: dict[str, Any] = {}
    for source in (_of_file(), _of_environment(), overrides):
        for name, value in source.items():
            known = given.get(name)
            if value is not None:
                given[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise ConfigError("; ".join(_fault(error) for error in exc.errors())) from exc


def _fault(error: ErrorDetails) -> str:
    """pydantic's finding in the house's wording; of a value that may be a secret only the kind."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == _REFUSED_PROPERTY:
        return error["msg"]
    if error["type"] == "extra_forbidden":
        return f"{name} is not a setting{_nearest(name, Settings.model_fields)}"
    rule = re.sub(r"^(Input|String|Value) should ", "must ", error["msg"]).replace(" item after validation, not 0", " character")
    rule = rule.replace("a valid dictionary", "a table").replace("a valid string", "text")
    if error["loc"][0] in SECRET_SETTINGS:
        return f"{name} {rule}, got {_KINDS.get(type(error['input']), 'another value')} (not shown)"
    return f"{name} {rule}, got {error['input']!r:.80}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, as the end of a message; empty if none is."""
    by_end = {other.removeprefix(PREFIX): other for other in sorted(known)}
    found = difflib.get_close_matches(name.removeprefix(PREFIX), by_end, n=1)
    return f"; the nearest is {by_end[found[0]]}" if found else ""


def _of_file() -> dict[str, Any]:
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        return {}
    try:
        return tomllib.loads(as_utf8(Path(path).read_bytes()).decode())
    except OSError as exc:
        raise ConfigError(must_be(CONFIG_VARIABLE, "the path of a TOML file", Shown(f"{path!r}: {exc.strerror}"))) from exc
    except ValueError as exc:  # not TOML, or not in UTF-8
        raise ConfigError(must_be(CONFIG_VARIABLE, "the path of a TOML file", Shown(f"{path!r}: {exc}"))) from exc


def _of_environment() -> dict[str, Any]:
    """The settings among the environment's variables. `ConfigError` for a variable of the prefix that nothing reads."""
    variables = {PREFIX + name.upper(): name for name in Settings.model_fields}
    known = variables.keys() | OTHER_VARIABLES
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known and not _SERVICE_LINK.search(variable):
            raise ConfigError(f"{variable} is not a variable of qstream{_nearest(variable, known)}")
    given: dict[str, Any] = {}
    for variable, name in variables.items():
        value = os.environ.get(variable)
        if value is not None:
            is_table = get_origin(Settings.model_fields[name].annotation) is dict
            given[name] = _json_object(variable, value) if is_table else value
    return given


def _json_object(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        # Not chained, and without the text: it may hold a password.
        raise ConfigError(must_be(variable, "a JSON object", Shown(f"text that is not JSON ({exc})"))) from None
