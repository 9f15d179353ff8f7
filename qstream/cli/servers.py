"""`qstream broker` and `qstream redis`: the embedded servers as processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agents.registry import partitions_of_topics
from qstream.cli.ending import stop_signal
from qstream.cli.options import AsJson, new_app
from qstream.cli.output import print_json
from qstream.embedded.kafka import EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis

broker = new_app()
redis = new_app()
CHECK_S = 1.0


@broker.command("broker")
def run_broker(as_json: AsJson = False) -> None:
    """Run the embedded Kafka broker, with all topics, until Ctrl-C or SIGTERM.

    For development: it keeps the newest 5 MiB of each partition in memory, and nothing once it ends.

    \b
    Example:
      qstream broker
      export QSTREAM_BOOTSTRAP_SERVERS=127.0.0.1:...   (as printed; in the other terminals)
    """
    stop = stop_signal()
    with EmbeddedKafka(partitions_of_topics()) as server:
        _tell("bootstrap_servers", server.bootstrap_servers, as_json)
        stop.wait()


@redis.command("redis")
def run_redis(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; else a free one.")] = None,
    directory: Annotated[
        Path | None, typer.Option(file_okay=False, help="Keep the data here; else it is lost at the end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the bundled Redis until Ctrl-C or SIGTERM; it is started again if it ends by itself.

    \b
    Example:
      qstream redis --port 6379 --directory ./redis
    """
    stop = stop_signal()
    with EmbeddedRedis(directory, append_only=directory is not None, port=port) as server:
        _tell("redis_url", server.url, as_json)
        while not stop.wait(CHECK_S):
            pid = server.pid
            server.start()
            if server.pid != pid:
                typer.echo(f"redis-server {pid} ended; {server.pid} serves {server.url} now", err=True)


def _tell(setting: str, address: str, as_json: bool) -> None:
    if as_json:
        print_json({setting: address})
    else:
        typer.echo(f"export QSTREAM_{setting.upper()}={address}")
