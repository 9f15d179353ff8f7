"""The page "Embed the client" is true: what it publishes arrives, and a question without an agent ends in time."""

from __future__ import annotations

import re
from pathlib import Path

from agents.registry import partitions_of_topics
from qstream.config import Settings
from qstream.embedded.kafka import PROMPT, EmbeddedKafka
from qstream.stream.read import read_all
from schemas import ExpertTopology, TokenBatch
from schemas.frame import SAFETENSORS
from schemas.topics import EXPERTS_TOPOLOGY, TOKENS_BATCH

PAGE = (Path(__file__).parents[2] / "docs/pages/howto/client.md").read_text()
PUBLISHES, _, ASKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_examples_for_producers_work_as_they_stand():
    with EmbeddedKafka(partitions_of_topics()) as kafka:
        names: dict[str, object] = {}
        for block in (PUBLISHES, ASKS):
            exec(compile(block.replace("localhost:9092", kafka.bootstrap_servers), "client.md", "exec"), names)
        assert names["plan"] is None
        settings = Settings(bootstrap_servers=kafka.bootstrap_servers, kafka=PROMPT)
        (topology,) = read_all(settings, EXPERTS_TOPOLOGY.name)
        batches = list(read_all(settings, TOKENS_BATCH.name))
    assert ExpertTopology.decode(topology.value(), SAFETENSORS).model == "my-moe"
    assert {TokenBatch.decode(found.value(), SAFETENSORS).model for found in batches} == {"my-moe", TokenBatch.example().model}
