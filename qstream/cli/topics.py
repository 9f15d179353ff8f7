"""`qstream topics`: the topics of the registry, on paper and on the cluster."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Annotated

import typer

from agents.registry import all_topics
from qstream.cli.cluster import Cluster, reach
from qstream.cli.options import AsJson, BootstrapServers, client_settings, new_app
from qstream.cli.output import print_json, print_table
from qstream.stream.admin import TopicState, apply_topics, inspect_topics
from schemas.topics import HOUR_MS, Topic

app = new_app(
    """List the topics, or create those that are missing.

    \b
    Example:
      qstream topics apply -b localhost:9092
    """
)
STYLES = {"ok": "green", "created": "green", "missing": "yellow", "differs": "red", "failed": "red"}
STARTED_WITHOUT = "the embedded broker creates topics only at its start: start it again"
TOO_FEW_BROKERS = "replication factor"  # in the broker's words


@app.command("list")
def list_topics(
    bootstrap_servers: BootstrapServers = None,
    registry: Annotated[bool, typer.Option("--registry", help="Only what should be; asks no broker.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every topic, and how the cluster has it.

    \b
    Example:
      qstream topics list --registry
      qstream topics list -b localhost:9092 --json
    """
    topics = all_topics()
    states: dict[str, TopicState] = {}
    if not registry:
        cluster = reach(client_settings(bootstrap_servers))
        states = {state.topic: state for state in inspect_topics(cluster.client, topics)}
    rows = [_row(topic) | ({} if registry else dataclasses.asdict(states[topic.name])) for topic in topics]
    if as_json:
        print_json(rows)
        return
    columns = ["topic", "key", "frame", "role", "partitions", "retention", "purpose"]
    if not registry:
        columns = ["finding", "topic", "key", "frame", "role", "partitions", "detail"]
    styles = [] if registry else [STYLES[str(row["finding"])] for row in rows]
    print_table(columns, [["" if row[name] is None else row[name] for name in columns] for row in rows], styles)


@app.command()
def apply(
    bootstrap_servers: BootstrapServers = None,
    replication: Annotated[int | None, typer.Option(min=1, help="Copies of each new topic; else the cluster's default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create the missing topics, and compare those that exist.

    What exists is never changed. Ends with exit code 1 if a topic differs or could not be created. May run any number of
    times. An embedded broker has all topics from its start and creates none later: there, they are only compared.

    \b
    Example:
      qstream topics apply -b localhost:9092 --replication 3
    """
    cluster = reach(client_settings(bootstrap_servers))
    states = _on_embedded(cluster) if cluster.embedded else apply_topics(cluster.client, all_topics(), replication)
    if as_json:
        print_json([dataclasses.asdict(state) for state in states])
    else:
        rows = [(s.finding, s.topic, "" if s.partitions is None else s.partitions, _brief(s)) for s in states]
        print_table(("finding", "topic", "partitions", "detail"), rows, [STYLES[s.finding] for s in states])
        if any(s.finding == "failed" and TOO_FEW_BROKERS in s.detail for s in states):
            typer.echo(f"Brokers of the cluster: {cluster.brokers}; name that many copies or fewer by --replication.")
    if any(state.finding in ("differs", "failed") for state in states):
        raise typer.Exit(1)


def _on_embedded(cluster: Cluster) -> list[TopicState]:
    """The topics of a broker that takes no requests to create any."""
    states = inspect_topics(cluster.client, all_topics())
    return [replace(state, finding="failed", detail=STARTED_WITHOUT) if state.finding == "missing" else state for state in states]


def _brief(state: TopicState) -> str:
    """The detail; of a failure, the first sentence, without the reason that stands once below the table."""
    if state.finding != "failed":
        return state.detail
    return state.detail.partition(": " if TOO_FEW_BROKERS in state.detail else ". ")[0]


def _row(topic: Topic) -> dict[str, object]:
    retention = "compacted" if topic.compacted else f"{topic.retention_ms / HOUR_MS:g} h"
    return {
        "topic": topic.name,
        "key": topic.key,
        "frame": topic.frame.tag(),
        "role": topic.role,
        "partitions": topic.partitions,
        "retention": retention,
        "purpose": topic.purpose,
    }
