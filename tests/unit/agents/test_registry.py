"""The registry knows each module once, imports none that it is not asked for, and says what is wrong with one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agents import routing
from agents.registry import Agent, agent_names, all_topics, find_agent, load
from qstream.config import Settings
from qstream.errors import ConfigError
from schemas.topics import ROUTING_DLQ, TOPICS


def test_agents_are_the_files_of_the_folder_without_the_shell_and_the_registry():
    assert "routing" in agent_names()
    assert not {"app", "registry"} & set(agent_names())
    assert find_agent("routing") is routing.AGENT
    with pytest.raises(ConfigError, match=r"agent must be one of .*routing.*, got 'app'"):
        find_agent("app")


def test_the_topics_of_our_agents_and_their_dead_letters_are_in_the_table():
    assert all_topics()[: len(TOPICS)] == TOPICS
    missing = {topic.name for topic in all_topics()} - {topic.name for topic in TOPICS}
    assert not missing, f"schemas/topics.py lacks rows for {missing}"
    assert find_agent("routing").dead_letters is ROUTING_DLQ


def test_listing_agents_and_topics_loads_no_module_of_any():
    code = "import sys; from agents.registry import all_topics; all_topics(); print([m for m in sys.modules if 'numba' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_settings_of_an_agent_give_way_to_those_of_its_user():
    agent = Agent(name="cooling", purpose="cools", topics=(), processor=lambda settings: None, settings={"max_batch_records": 7})
    assert agent.with_settings(Settings()).max_batch_records == 7
    assert agent.with_settings(Settings(max_batch_records=9)).max_batch_records == 9


@pytest.mark.parametrize("path", ["no.such.module:X", "agents.routing:NONE", "not a path"])
def test_a_reference_that_leads_nowhere_is_named(path):
    with pytest.raises(ConfigError, match=path):
        load(path)


@pytest.mark.parametrize("name", ["Cooling", "a-b", "", "1a"])
def test_a_name_that_is_not_a_lower_case_python_name_is_refused(name):
    with pytest.raises(ConfigError, match="lower-case Python name"):
        Agent(name=name, purpose="", topics=(), processor=lambda settings: None)
