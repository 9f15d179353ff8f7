"""Settings of a worker or a client: defaults < file (QSTREAM_CONFIG, TOML) < environment (QSTREAM_*) < command line."""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from qstream.errors import ConfigError
from schemas.parse import as_utf8
from schemas.wording import Shown, must_be

EMBEDDED = "embedded"
PREFIX = "QSTREAM_"
CONFIG_VARIABLE = "QSTREAM_CONFIG"


def is_embedded(cluster_id: str | None) -> bool:
    """Whether the cluster id that a client's ``list_topics()`` reports is an embedded broker's (librdkafka's mock cluster)."""
    return cluster_id is not None and cluster_id.startswith("mockCluster")


class Settings(BaseModel):
    """How a worker or a client reaches Kafka and Redis, and how it batches, delivers and waits; `load_settings` reads them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap_servers: str = Field(
        default=EMBEDDED, min_length=1, description="HOST:PORT[,HOST:PORT], or 'embedded' for a broker inside the process"
    )
    redis_url: str = Field(
        default=EMBEDDED, min_length=1, description="redis://, rediss:// or unix://, or 'embedded' for a bundled server"
    )
    kafka: dict[str, str] = Field(default_factory=dict, description="further librdkafka properties, such as SASL and TLS")
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
    batch_window_ms: float = Field(default=2.0, ge=0, le=10_000, description="how long a batch waits for more records")
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
    max_turn_ms: float = Field(
        default=200.0, gt=0, le=60_000, description="longest time in the module before events are delivered and states saved"
    )
    max_waiting_records: int = Field(
        default=1000, ge=1, description="records that wait, with those behind them, before their partitions pause"
    )
    max_waiting_bytes: int = Field(default=64 << 20, ge=1 << 16, description="the same in bytes")
    retry_max_s: float = Field(default=5.0, gt=0, le=600, description="longest pause between two tries of a batch")
    give_up_s: float = Field(default=5.0, gt=0, description="a batch that waits longer for what it lacks is dead-lettered")
    drain_s: float = Field(default=8.0, gt=0, le=600, description="time to finish the batch in hand after SIGTERM")
    host: str = Field(default="127.0.0.1", description="address of the pages /healthz, /readyz and /metrics")
    port: int = Field(default=6066, ge=0, le=65535, description="port of these pages; 0: none are served")


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
    """pydantic's finding in the house's wording."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{name} is not a setting"
    rule = re.sub(r"^(Input|String) should ", "must ", error["msg"])
    return f"{name} {rule}, got {error['input']!r:.80}"


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
    """The settings among the environment's variables; those of other parts, such as QSTREAM_DATA, are passed over."""
    given: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        value = os.environ.get(variable)
        if value is not None:
            given[name] = _json_object(variable, value) if get_origin(field.annotation) is dict else value
    return given


def _json_object(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ConfigError(must_be(variable, "a JSON object", text)) from exc
