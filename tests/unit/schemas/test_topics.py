"""The table of topics: names, keys and configuration that a cluster takes."""

import re
from typing import get_args

import pytest

from schemas import TOPICS, DeadLetter, FrameError, TokenBatch
from schemas.frame import MAX_MESSAGE_BYTES
from schemas.topics import BY_NAME, ROUTING_DLQ, Topic, dead_letter_topic

COMPACTED = (
    *("qstream.experts.topology.v1", "qstream.power.topology.v1", "qstream.control.v1", "qstream.learn.model.v1"),
    *("qstream.tensor.codebook.v1", "qstream.tensor.manifest.v1", "qstream.hpo.study.v1", "qstream.hpo.best.v1"),
    "qstream.fabric.topology.v1",
)
EACH = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


def test_names_are_distinct():
    assert len({topic.name for topic in TOPICS}) == len(TOPICS) == len(BY_NAME)


@EACH
def test_a_name_is_dotted_and_ends_in_the_major_version_of_its_frame(topic):
    assert re.fullmatch(r"qstream(\.[a-z]+)+\.v[1-9]\d*", topic.name)
    assert topic.name.endswith(f".v{topic.frame.VERSION}")
    assert len(topic.name) <= 249


@EACH
def test_the_key_is_a_required_string_of_the_frame_or_has_a_default(topic):
    key = getattr(topic.frame.example(), topic.key)
    assert isinstance(key, str)
    assert key
    assert str in (topic.frame.model_fields[topic.key].annotation, *get_args(topic.frame.model_fields[topic.key].annotation))


@EACH
def test_the_broker_takes_any_frame_with_room_for_its_headers(topic):
    config = topic.config()
    assert int(config["max.message.bytes"]) >= topic.frame.MAX_BYTES + 40_000
    assert (MAX_MESSAGE_BYTES if topic.role != "plan" else 4 * MAX_MESSAGE_BYTES) >= topic.frame.MAX_BYTES
    assert int(config["retention.ms"]) > 0
    assert config["cleanup.policy"] == ("compact" if topic.compacted else "delete")
    assert topic.partitions >= 1


@EACH
def test_nothing_compresses_what_is_compressed_already(topic):
    assert (topic.compression == "none") == topic.name.startswith(
        ("qstream.tensor.block.", "qstream.tensor.codebook.", "qstream.tensor.compressed.", "qstream.tensor.restored.")
    )
    assert topic.config().get("compression.type") == ("producer" if topic.compression == "none" else None)


@EACH
def test_state_of_the_world_is_compacted_and_events_are_deleted(topic):
    assert topic.compacted == (topic.name in COMPACTED)


def test_dead_letters_go_to_the_topic_of_their_agent():
    assert dead_letter_topic("routing") is ROUTING_DLQ
    assert all(topic.frame is DeadLetter for topic in TOPICS if topic.role == "dead-letter")
    assert dead_letter_topic("cooling").name == "qstream.cooling.dlq.v1"


@EACH
def test_the_bytes_of_every_other_topic_are_refused(topic):
    for other in TOPICS:
        if other.frame is not topic.frame:
            with pytest.raises(FrameError, match=f"{re.escape(topic.frame.tag())}.* must be "):
                topic.frame.decode(other.frame.example().encode())


def test_a_key_that_the_frame_does_not_have_is_refused_by_name():
    message = r"key of topic pumps\.flow\.v1 must be a field of TokenBatch \(.*batch_id, .*\), got 'pump'"
    with pytest.raises(ValueError, match=message):
        Topic("pumps.flow.v1", TokenBatch, "pump", "input", "flow of pumps")
