"""learn: a real worker's learners are shown, frozen, reset, exported and imported, as records of their key's stream."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY
from pydantic import SecretStr

import agents.names
from agents import routing
from agents.app import build_loop
from agents.registry import Agent
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.learn import calibration, hedge
from qstream.routing import smoothing
from qstream.routing.memory import RoutingState
from qstream.state.fields import pack
from qstream.state.store import StateStore
from qstream.stream.admin import apply_topics
from qstream.stream.client import Publisher
from qstream.stream.loop import BatchLoop
from qstream.stream.read import read_all
from qstream.testing.rig import LoopThread, wait_until
from qstream.testing.sample import Ping
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.topics import EXPERTS_LOAD, EXPERTS_TOPOLOGY, LEARN_COMMAND, dead_letter_topic
from tests.scales import PINGS, PONGS, Scales, ScalesState

AGENT = Agent(name="scales", purpose="weighs", topics=(PINGS, PONGS, LEARN_COMMAND), processor=lambda _: Scales())
LETTERS = dead_letter_topic("scales")
START_S = 600.0  # where no cache has the kernels, they are compiled for a minute of a processor that may be busy


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


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"qstream_learn_{name}", {"agent": "scales", "learner": "shares", **labels})


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
    wait_until(lambda: sample("updates_total") == 3)  # learners are counted every two seconds, so not all keys at once
    assert (sample("regret_ratio") is not None, sample("frozen_ratio"), sample("arm_share", arm="0") > 0.5) == (True, 0, True)

    file = tmp_path / "a.safetensors"
    assert invoke("learn", "export", "scales", "a", "--out", file, *redis).exit_code == 0
    done = invoke("learn", "import", file, "--key", "b", "-b", cluster)
    assert done.exit_code == 0, done.output
    kept = scales.load("a").state.shares
    wait_until(lambda: _steps(scales, "b") == 2)
    assert scales.load("b").state.shares == kept

    assert invoke("learn", "freeze", "scales", "a", "--learner", "shares", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.frozen == ("shares",))
    assert invoke("learn", "reset", "scales", "a", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.shares == hedge.start(2))
    assert answer_of("learn", "show", "scales", "a", *redis)["learners"]["shares"]["frozen"]
    wait_until(lambda: sample("frozen_ratio"))  # 1, or less where one report covers what b was given as well
    assert sample("updates_total") == 3  # what was restored has not been learnt
    assert invoke("learn", "thaw", "scales", "a", "-b", cluster).exit_code == 0
    wait_until(lambda: scales.load("a").state.frozen == ())
    assert list(read_all(Settings(bootstrap_servers=cluster), LETTERS.name)) == []

    checks = [check for check in answer_of("doctor", "-b", cluster, *redis) if check["what"] == "learners of scales"]
    assert [check["verdict"] for check in checks] == ["ok"]
    assert "looked at 2 keys" in checks[0]["detail"]

    empty = invoke("learn", "freeze", "scales", "", "-b", cluster)
    assert (empty.exit_code, empty.stderr) == (2, "Error: KEY must be a key of the module, such as the name of a model, got ''\n")
    wrong = invoke("learn", "freeze", "scales", "a", "--learner", "none", "-b", cluster)
    assert (wrong.exit_code, "--learner must be one of shares, late, got 'none'" in wrong.output) == (2, True)
    unknown = invoke("learn", "show", "scales", "c", *redis)
    assert "KEY must be one that scales has a state of, got 'c'" in unknown.output


ROUTING_OPTIONS = {"window_tokens": 256, "shares_tokens": 256, "steps": 20, "plan_ms": 0, "plan_every_s": 0}


def _topology(model: str, experts: int) -> ExpertTopology:
    return ExpertTopology(model=model, num_layers=2, num_logical_experts=experts, num_gpus=4, slots_per_gpu=3)


def test_what_routing_learns_is_seen_stopped_by_the_kill_switch_frozen_carried_and_reset_while_it_runs(
    cluster: str, redis_server: EmbeddedRedis, invoke, answer_of, tmp_path: Path
):
    settings = Settings(
        bootstrap_servers=cluster,
        redis_url=SecretStr(redis_server.url),
        port=0,
        session_timeout_ms=6000,
        options=ROUTING_OPTIONS,
    )
    redis, kafka, windows = ("--redis", redis_server.url), ("-b", cluster), 0
    with (
        StateStore(redis_server.url, "routing", RoutingState, 20_000) as store,
        LoopThread(build_loop(routing.AGENT, settings)) as worker,
        Publisher(cluster) as publisher,
    ):

        def state(model: str = "m") -> RoutingState:
            found = wait_until(lambda: store.load(model).state)
            assert isinstance(found, RoutingState)
            return found

        def send(count: int) -> RoutingState:
            nonlocal windows
            for _ in range(count):
                counts = np.random.default_rng(windows).poisson(np.linspace(90, 6, 8), (2, 8))
                publisher.publish(
                    EXPERTS_LOAD,
                    ExpertLoad(model="m", window_id=str(windows), t0_ns=0, t1_ns=1, num_tokens=256, logical_count=counts),
                )
                windows += 1
            publisher.flush()
            wait_until(lambda: state().closed == windows)
            return state()

        def steer(*words: object) -> None:
            done = invoke("learn", *words, *kafka)
            assert done.exit_code == 0, done.output

        def switch(learn: str) -> None:
            assert invoke("control", "routing", "--set", f"learn={learn}", *kafka).exit_code == 0
            wait_until(lambda: worker.loop.controlled.processor.options.learn == learn)

        wait_until(lambda: worker.loop.warm, START_S)
        for model, experts in (("m", 8), ("n", 6)):
            publisher.publish(EXPERTS_TOPOLOGY, _topology(model, experts))
        before = send(5)
        shown = answer_of("learn", "show", "routing", "m", *redis)
        shares, calibrated = shown["learners"]["shares"], shown["learners"]["calibration"]
        assert (shares["kind"], shares["steps"], list(shares["arms"])) == ("hedge", 4, list(smoothing.ARMS))
        assert sum(arm["share"] for arm in shares["arms"].values()) == pytest.approx(1)
        assert shares["regret"] == pytest.approx(shares["loss"] - shares["arms"][shares["best_fixed_arm"]]["loss"])
        assert (calibrated["steps"], calibrated["target"], calibrated["frozen"]) == (4, 0.9, False)
        assert "best_fixed_arm" in invoke("learn", "show", "routing", *redis).stdout

        switch("off")
        assert _learnt(send(2)) == _learnt(before)
        switch("on")
        assert send(2).shares.steps == 6

        steer("freeze", "routing", "m", "--learner", "shares")
        wait_until(lambda: state().frozen == ("shares",))
        frozen, later = state(), send(2)
        assert pack(later.shares) == pack(frozen.shares)
        assert later.calibration.miss.steps == frozen.calibration.miss.steps + 2

        file = tmp_path / "m.safetensors"
        assert invoke("learn", "export", "routing", "m", "--out", file, *redis).exit_code == 0
        steer("import", file, "--key", "n")
        wait_until(lambda: state("n").commands == 2)
        assert _learnt(state("n")) == _learnt(later)

        steer("reset", "routing", "m")
        steer("thaw", "routing", "m")
        wait_until(lambda: state().commands == 3)
        assert _learnt(state()) == (pack(smoothing.start()), pack(calibration.start()))
        assert send(1).shares.steps == 1
        assert answer_of("learn", "show", "routing", "m", *redis)["commands"] == 3
    assert list(read_all(Settings(bootstrap_servers=cluster), dead_letter_topic("routing").name)) == []


def _learnt(state: RoutingState) -> tuple[dict[str, bytes], dict[str, bytes]]:
    return pack(state.shares), pack(state.calibration)
