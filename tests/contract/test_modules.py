"""Every module is complete: what must be written by hand for it exists, and a missing part is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.names import files
from agents.registry import find_agent
from docs.blocks import port, room
from schemas.topics import TOPICS

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("name", files())
PARTS = (
    "qstream/{}/__init__.py",
    "qstream/{}/README.md",
    "qstream/{}/options.py",
    "qstream/{}/processor.py",
    "tests/unit/{}",
    "docs/pages/modules/{}.md",
)


@EACH
@pytest.mark.parametrize("part", PARTS)
def test_every_module_has_its_files(name, part):
    path = part.format(room(find_agent(name)))
    assert (ROOT / path).exists(), f"module {name} lacks {path}"


@EACH
def test_every_topic_of_a_module_and_its_dead_letters_have_a_row(name):
    agent = find_agent(name)
    missing = [topic.name for topic in (*agent.topics, agent.dead_letters) if topic not in TOPICS]
    assert not missing, f"schemas/topics.py lacks rows for {', '.join(missing)}"


def test_every_agent_has_a_port_of_its_own():
    ports = {name: port(find_agent(name)) for name in files()}
    taken = {name: found for name, found in ports.items() if list(ports.values()).count(found) > 1}
    assert not taken, f"agents must have ports of their own (AGENT.settings), got {taken}"


@EACH
def test_every_agent_says_what_it_decides_in_a_sentence_without_a_full_stop(name):
    purpose = find_agent(name).purpose
    assert purpose == purpose.strip()
    assert purpose[0].islower()
    assert not purpose.endswith(".")
