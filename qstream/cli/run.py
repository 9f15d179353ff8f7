"""`qstream run`: one agent, on real servers or with its own."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from agents import app as worker
from agents.registry import find_agent, partitions_of_topics, start_processor
from qstream.cli.cluster import reach, require_topics
from qstream.cli.names import parse_options
from qstream.cli.options import AgentArgument, BootstrapServers, OptionChanges, RedisUrl, new_app
from qstream.config import EMBEDDED, PREFIX, Settings, load_settings
from qstream.embedded.kafka import PROMPT, EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError
from schemas.topics import CONTROL, Topic
from schemas.wording import Shown, must_be

log = logging.getLogger(__name__)
app = new_app()
LOGLEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@app.command()
def run(
    agent: AgentArgument,
    bootstrap_servers: BootstrapServers = None,
    redis: RedisUrl = None,
    host: Annotated[str | None, typer.Option(help="Address of /healthz, /readyz and /metrics.")] = None,
    port: Annotated[int | None, typer.Option(help="Their port; 0 serves none.")] = None,
    group_protocol: Annotated[str | None, typer.Option(help="classic, or consumer (KIP-848).")] = None,
    delivery: Annotated[str | None, typer.Option(help="at_least_once or exactly_once.")] = None,
    changes: OptionChanges = None,
    worker_id: Annotated[str | None, typer.Option(help="Name of this worker, stable for exactly_once.")] = None,
    loglevel: Annotated[str, typer.Option(help=", ".join(LOGLEVELS))] = "INFO",
) -> None:
    """Run an agent until SIGTERM or Ctrl-C.

    On a terminal, servers that are not named run inside this process, and their addresses are printed for other commands;
    elsewhere that must be asked for: -b embedded --redis embedded. On a real cluster, no answer from a broker within 10 s
    ends the command with exit code 1. Missing topics are waited for: the log and /readyz name them, and the agent
    continues within seconds of their creation.

    \b
    Example:
      qstream run routing
      qstream run routing -b localhost:9092 --redis redis://localhost:6379/0 --set placement=fast
    """
    if loglevel.upper() not in LOGLEVELS:
        raise ConfigError(must_be("--loglevel", f"one of {', '.join(LOGLEVELS)}", loglevel))
    found = find_agent(agent)
    settings = load_settings(
        bootstrap_servers=bootstrap_servers,
        redis_url=redis,
        host=host,
        port=port,
        group_protocol=group_protocol,
        delivery=delivery,
        worker_id=worker_id,
    )
    settings = found.with_settings(settings.model_copy(update={"options": settings.options | parse_options(changes or [])}))
    processor = start_processor(found, settings)
    if settings.port:
        worker.require_free(settings.host, settings.port)  # before servers are started and their addresses printed
    needed = [*processor.inputs, *processor.tables, *processor.outputs, CONTROL, found.dead_letters]
    with ExitStack() as servers:
        worker.run(found, _with_servers(settings, needed, servers), loglevel.upper())


def _with_servers(settings: Settings, needed: list[Topic], servers: ExitStack) -> Settings:
    """The settings with real addresses of servers that answer; embedded ones are started and their addresses printed."""
    own: dict[str, Any] = {}
    prompt: dict[str, str] = {}
    own_kafka = settings.bootstrap_servers == EMBEDDED
    own_redis = settings.redis_url.get_secret_value() == EMBEDDED
    _require_asked(settings, own_kafka, own_redis)
    if own_kafka:
        _refuse_transactions(settings)
        kafka = servers.enter_context(EmbeddedKafka(partitions_of_topics()))
        own["bootstrap_servers"] = kafka.bootstrap_servers
        typer.echo(f"export QSTREAM_BOOTSTRAP_SERVERS={kafka.bootstrap_servers}")
        prompt = PROMPT
    else:
        cluster = reach(settings)
        if cluster.embedded:
            _refuse_transactions(settings)
            prompt = PROMPT
            require_topics(cluster, needed)  # no command can create them there
    if own_redis:
        url = servers.enter_context(EmbeddedRedis()).url
        own["redis_url"] = SecretStr(url)
        typer.echo(f"export QSTREAM_REDIS_URL={url}")
    return settings.model_copy(update=own).with_kafka_defaults(prompt)


def _require_asked(settings: Settings, own_kafka: bool, own_redis: bool) -> None:
    """Say that servers run inside the process; `ConfigError` where they were not asked for and there is no terminal."""
    for name, is_own in (("bootstrap_servers", own_kafka), ("redis_url", own_redis)):
        if is_own and name not in settings.model_fields_set and not sys.stdin.isatty():
            rule = "the address of a server, or 'embedded' for one inside this process that keeps nothing"
            raise ConfigError(must_be(f"{name} or {PREFIX}{name.upper()}", rule, Shown("neither, and there is no terminal")))
        if is_own:
            log.warning("%s is embedded: that server lives in this process, and what it holds ends with it", name)


def _refuse_transactions(settings: Settings) -> None:
    if settings.delivery == "exactly_once":
        raise ConfigError(
            must_be("delivery", "at_least_once on an embedded broker, which has no transactions", settings.delivery)
        )
