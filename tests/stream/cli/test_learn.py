"""learn: a real worker's learners are shown, frozen, reset, exported and imported, as records of their key's stream."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

import agents.names
from agents.registry import Agent
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.learn import hedge
from qstream.state.store import StateStore
from qstream.stream.admin import apply_topics
from qstream.stream.client import Publisher
from qstream.stream.loop import BatchLoop
from qstream.stream.read import read_all
from qstream.testing.rig import LoopThread, wait_until
from qstream.testing.sample import Ping
from schemas.topics import LEARN_COMMAND, dead_letter_topic
from tests.scales import PINGS, PONGS, Scales, ScalesState

AGENT = Agent(name="scales", purpose="weighs", topics=(PINGS, PONGS, LEARN_COMMAND), processor=lambda _: Scales())
LETTERS = dead_letter_topic("scales")


@pytest.fixture
def scales(cluster: str, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateStore[ScalesState]]:
    """A running worker whose keys a and b have seen losses."""
    point = EntryPoint("scales", f"{__name__}:AGENT", "qstream.agents")
    monkeypatch.setattr(agents.names, "entry_points", lambda group: [point] if group == "qstream.agents" else [])
    apply_topics(AdminClient({"bootstrap.servers": cluster}), (PINGS, PONGS, LETTERS, LEARN_COMMAND), timeout_s=60.0)
    settings = Settings(bootstrap_servers=cluster, redis_url=SecretStr(redis_server.url), port=0, session_timeout_ms=6000)
    with (
        StateStore(redis_server.url, "scales", ScalesState, 20_000) as onlooker,
        LoopThread(BatchLoop(Scales(), settings, StateStore(redis_server.url, "scales", ScalesState, 20_000))),
        Publisher(cluster) as publisher,
    ):
        for name in ("a", "a", "b"):
            publisher.publish(PINGS, Ping.of(name, 1, 2))
        publisher.flush()
        wait_until(lambda: _steps(onlooker, "a") == 2 and _steps(onlooker, "b") == 1)
        yield onlooker


def _steps(store: StateStore[ScalesState], key: str) -> int | None:
    state = store.load(key).state
    return None if state is None else state.shares.steps


def test_learners_are_seen_carried_to_another_key_frozen_and_reset(
    scales: StateStore[ScalesState], cluster: str, redis_server: EmbeddedRedis, invoke, answer_of, tmp_path: Path
):
    redis = ("--redis", redis_server.url)
    shown = answer_of("learn", "show", "scales", "a", *redis)
    learner = shown["learners"]["shares"]
    assert (learner["kind"], learner["steps"], learner["best_fixed_arm"]) == ("hedge", 2, "0")
    assert learner["arms"]["0"]["share"] > 0.5
    assert learner["arms"]["1"]["loss"] == pytest.approx(2)
    assert [one["key"] for one in answer_of("learn", "show", "scales", *redis)] == ["a", "b"]
    assert "best_fixed_arm" in invoke("learn", "show", "scales", *redis).stdout

    file = tmp_path / "a.safetensors"
    assert invoke("learn", "export", "scales", "a", "--out", file, *redis).exit_code == 0
    done = invoke("learn", "import", file, "--key", "b", "-b", cluster)
    assert done.exit_code == 0, done.output
    kept = scales.load("a").state
    wait_until(lambda: _steps(scales, "b") == 2)
    assert scales.load("b").state == kept

    assert invoke("learn", "freeze", "scales", "a", "--learner", "shares", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.frozen == ("shares",))
    assert invoke("learn", "reset", "scales", "a", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.shares == hedge.start(2))
    assert answer_of("learn", "show", "scales", "a", *redis)["learners"]["shares"]["frozen"]
    assert invoke("learn", "thaw", "scales", "a", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.frozen == ())
    assert list(read_all(Settings(bootstrap_servers=cluster), LETTERS.name)) == []

    wrong = invoke("learn", "freeze", "scales", "a", "--learner", "none", "-b", cluster)
    assert (wrong.exit_code, "--learner must be one of shares, late, got 'none'" in wrong.output) == (2, True)
    unknown = invoke("learn", "show", "scales", "c", *redis)
    assert "KEY must be one that scales has a state of, got 'c'" in unknown.output
