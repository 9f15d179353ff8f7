"""`qstream run`: one agent, on real servers or with its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from agents import app as worker
from agents.registry import find_agent, partitions_of_topics
from qstream.cli.cluster import reach, require_topics
from qstream.cli.names import parse_options
from qstream.cli.options import AgentArgument, BootstrapServers, OptionChanges, RedisUrl, new_app
from qstream.config import EMBEDDED, Settings, load_settings
from qstream.embedded.kafka import PROMPT, EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError
from schemas.topics import CONTROL, Topic
from schemas.wording import must_be

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

    Servers that are not named run inside this process, and their addresses are printed for other commands. On a real
    cluster, no answer from a broker within 10 s or a missing topic ends the command with exit code 1.

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
    settings = settings.model_copy(update={"options": settings.options | parse_options(changes or [])})
    processor = found.processor(settings)
    if settings.port:
        worker.require_free(settings.host, settings.port)  # before servers are started and their addresses printed
    needed = [*processor.inputs, *processor.outputs, CONTROL, found.dead_letters]
    with ExitStack() as servers:
        worker.run(found, _with_servers(settings, needed, servers), loglevel.upper())


def _with_servers(settings: Settings, needed: list[Topic], servers: ExitStack) -> Settings:
    """The settings with real addresses of servers that answer; embedded ones are started and their addresses printed."""
    own: dict[str, str] = {}
    prompt: dict[str, str] = {}
    if settings.bootstrap_servers == EMBEDDED:
        _refuse_transactions(settings)
        kafka = servers.enter_context(EmbeddedKafka(partitions_of_topics()))
        own["bootstrap_servers"] = kafka.bootstrap_servers
        prompt = PROMPT
    else:
        cluster = reach(settings)
        if cluster.embedded:
            _refuse_transactions(settings)
            prompt = PROMPT
        require_topics(cluster, needed)
    if settings.redis_url == EMBEDDED:
        own["redis_url"] = servers.enter_context(EmbeddedRedis()).url
    for name, address in own.items():
        typer.echo(f"export QSTREAM_{name.upper()}={address}")
    return settings.model_copy(update={**own, "kafka": prompt | settings.kafka})


def _refuse_transactions(settings: Settings) -> None:
    if settings.delivery == "exactly_once":
        raise ConfigError(
            must_be("delivery", "at_least_once on an embedded broker, which has no transactions", settings.delivery)
        )
