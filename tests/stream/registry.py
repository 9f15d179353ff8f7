"""Registry: the topics of the registry on the broker that tests share, which is emptied sooner than started."""

from __future__ import annotations

from contextlib import suppress

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from qstream.stream.admin import apply_topics, inspect_topics
from qstream.testing.rig import wait_until
from schemas.topics import TOPICS


def delete_registry(bootstrap_servers: str) -> None:
    """Delete what there is of the registry's topics, and the groups of its agents."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers})

    def left() -> list[str]:
        known = client.list_topics(timeout=60.0).topics
        return [topic.name for topic in TOPICS if topic.name in known]

    def no_group_left() -> bool:
        listed = client.list_consumer_groups(request_timeout=60.0).result().valid
        groups = [group.group_id for group in listed if group.group_id.startswith("qstream.")]
        for deleted in client.delete_consumer_groups(groups, request_timeout=60.0).values() if groups else ():
            with suppress(KafkaException):  # a member that was killed is in its group for a while
                deleted.result()
        return not groups

    if names := left():
        for deleted in client.delete_topics(names, operation_timeout=60.0).values():
            deleted.result()
        wait_until(lambda: not left())
    wait_until(no_group_left)


def create_registry(bootstrap_servers: str) -> None:
    """Have all topics as the registry describes them, with the records that are there, unless one of them differs."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    if {state.finding for state in inspect_topics(client, TOPICS, 60.0)} != {"ok"}:
        delete_registry(bootstrap_servers)
        assert {state.finding for state in apply_topics(client, TOPICS, timeout_s=60.0)} == {"created"}
