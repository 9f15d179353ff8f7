"""Topics, agents and toggles by the names that people type."""

from __future__ import annotations

import pytest

from qstream.cli.names import find_topic, parse_options
from qstream.errors import ConfigError
from schemas.deadletter import DeadLetter
from schemas.topics import (
    CONTROL,
    ENERGY_PLAN,
    EXPERTS_LOAD,
    EXPERTS_TOPOLOGY,
    FABRIC_PLAN,
    FABRIC_ROUTES,
    PLACEMENT_PLAN,
    ROUTING_DLQ,
    ROUTING_PLAN,
    TOKENS_BATCH,
    TOPICS,
    Topic,
)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tokens", TOKENS_BATCH),
        ("experts.topology", EXPERTS_TOPOLOGY),
        ("energy", ENERGY_PLAN),
        ("routing", ROUTING_PLAN),
        ("placement", PLACEMENT_PLAN),
        ("fabric", FABRIC_PLAN),
        ("routes", FABRIC_ROUTES),
        ("control", CONTROL),
        ("routing.dlq", ROUTING_DLQ),
        ("experts.load", EXPERTS_LOAD),
    ],
)
def test_a_part_of_a_topics_name_is_enough(typed, meant):
    assert find_topic(typed) is meant


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_is_found_by_its_full_name(topic):
    assert find_topic(topic.name) is topic


@pytest.mark.parametrize(("typed", "several"), [("plan", 4), ("experts", 2), ("topology", 3), ("load", 2), ("dlq", 6)])
def test_an_ambiguous_part_lists_what_it_could_mean(typed, several):
    with pytest.raises(ConfigError, match="several match") as error:
        find_topic(typed)
    assert str(error.value).count("qstream.") == several


def test_an_unknown_topic_lists_all():
    with pytest.raises(ConfigError, match="known are") as error:
        find_topic("nonesuch")
    assert all(topic.name in str(error.value) for topic in TOPICS)


def test_where_one_agent_has_dead_letters_dlq_alone_means_them():
    other = Topic("qstream.cooling.dlq.v1", DeadLetter, "topic", "dead-letter", "of another agent")
    assert find_topic("dlq", (TOKENS_BATCH, other)) is other
    assert find_topic("cooling.dlq", (*TOPICS, other)) is other


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=false", False),
        ("a=fast", "fast"),
        ('a="1"', "1"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=NaN", "NaN"),
        ("a=[1]", "[1]"),
        ("a=null", "null"),
        ("a={}", "{}"),
    ],
)
def test_a_value_is_a_json_scalar_or_text(typed, value):
    (found,) = parse_options([typed]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("typed", ["a=1e999", "a=-1e999", f"a={2**63}", f"a={-(2**63) - 1}"])
def test_a_number_that_no_record_can_hold_is_refused(typed):
    with pytest.raises(ConfigError, match=r"--set a must be"):
        parse_options([typed])


@pytest.mark.parametrize("typed", [["a"], ["=1"], ["a=1", "a=2"]])
def test_what_is_no_option_or_comes_twice_is_refused(typed):
    with pytest.raises(ConfigError, match="--set"):
        parse_options(typed)
