"""learn train, models, publish, retire, evaluate, log: models and decisions on their topics, with a real broker."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import agents.names
from agents.registry import find_agent
from qstream.cli.learn.models import known_parts
from qstream.config import load_settings
from qstream.energy.processor import EnergyProcessor
from qstream.learn import policy
from qstream.learn.model import from_bytes, parts
from qstream.learn.registry import Registry, Want
from qstream.stream.client import Publisher
from qstream.testing.feed import Feed
from qstream.testing.meter import Meter
from qstream.testing.readings import Outlook, Reading
from schemas.frame import JSON
from schemas.learning import Decisions
from schemas.topics import LEARN_DECISION, MODELS, TASK_GRAPH, TASK_SCHEDULE
from tests.unit.energy import pipelines
from tests.unit.energy.windows_played import schedules


@pytest.fixture
def trainable(monkeypatch):
    """The routing agent with a trainer, which it does not have: it has no arms to choose among."""
    agent = dataclasses.replace(find_agent("routing"), trainers={"policy": "qstream.learn.train:policy_of_decisions"})
    monkeypatch.setattr("qstream.cli.learn.train.find_agent", lambda name: agent)


def decisions(gain, n=400, learner="choice.bandit"):
    """Two arms; which one is better depends on the sign of the second feature, by `gain`."""
    rng = np.random.default_rng(1)
    context = np.c_[np.ones(n), rng.normal(size=n)].astype(np.float32)
    arm = rng.integers(2, size=n).astype(np.int32)
    mean = 0.5 + gain * np.where(arm == 0, 1, -1) * np.sign(context[:, 1])
    return Decisions(
        module="routing",
        key="k",
        learner=learner,
        policy="linucb",
        arm_names=("left", "right"),
        feature_names=("one", "x"),
        reward_name="gain",
        decision_id=tuple(f"t/0/{index}/0" for index in range(n)),
        arm=arm,
        reward=(mean + 0.1 * rng.normal(size=n)).astype(np.float32),
        rewarded=np.ones(n, np.uint8),
        ts_ns=np.arange(n) + 1,
        waited_ns=np.zeros(n, np.int64),
        propensity=np.full((n, 2), 0.5, np.float32),
        expected=np.full((n, 2), 0.5, np.float32),
        context=context,
    )


def test_a_trained_model_is_published_listed_used_and_retired(cluster, invoke, answer_of, trainable, tmp_path):
    with Publisher(cluster) as publisher:
        publisher.publish(LEARN_DECISION, decisions(0.3))
    file, at = tmp_path / "model.safetensors", ("-b", cluster)
    words = ("learn", "train", "routing", "policy", "--from", LEARN_DECISION.name, "--out", file, "--publish", *at)
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "it beats its twin" in result.output

    made = from_bytes(file.read_bytes())
    (fact,) = answer_of("learn", "models", "routing", *at)
    assert (fact["version"], fact["state"], fact["kind"]) == (made.version, "published", "mlp")
    assert fact["trained_on"].startswith(LEARN_DECISION.name)
    rows = {part.part_key: part for found in known_parts(load_settings(bootstrap_servers=cluster)).values() for part in found}
    models = Registry("routing", {"choice.bandit": Want(("mlp",), ("one", "x"), 2)}).taken(rows)
    assert policy.mlp(models.get("choice.bandit", made.version), [[1, 1], [1, -1]]).argmax(1).tolist() == [0, 1]

    judged = answer_of("learn", "evaluate", "decision", "--policy", f"model:routing/choice.bandit@{made.version}", *at)
    assert judged["doubly_robust"]["low"] > 0.7 > judged["logged"]
    assert judged["warnings"][0].startswith("400 of 400 decisions were made before the model was trained")

    again = invoke("learn", "publish", file, *at)
    assert again.exit_code == 2
    assert "a new one of routing/choice.bandit" in again.output
    assert invoke("learn", "retire", "choice.bandit", made.version, *at).exit_code == 0
    (fact,) = answer_of("learn", "models", "routing", *at)
    assert fact["state"] == "retired"
    assert invoke("learn", "publish", file, *at).exit_code == 2  # a version never comes back
    unknown = invoke("learn", "retire", "choice.bandit", 1, *at)
    assert unknown.exit_code == 2
    assert f"routing/choice.bandit {made.version}" in unknown.output.replace("\n", " ")


def test_a_model_that_does_not_beat_its_twin_is_published_by_force_only(cluster, invoke, answer_of, trainable, tmp_path):
    recorded, file, at = tmp_path / "decisions.jsonl", tmp_path / "model.safetensors", ("-b", cluster)
    recorded.write_bytes(decisions(0.0).encode(JSON) + b"\n")
    words = ("learn", "train", "routing", "policy", "--from", recorded, "--out", file, *at)
    refused = invoke(*words, "--publish")
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert all(fact["version"] != from_bytes(file.read_bytes()).version for fact in answer_of("learn", "models", *at))
    assert invoke("learn", "publish", file, *at).exit_code == 2
    assert invoke("learn", "publish", file, "--force", *at).exit_code == 0
    assert from_bytes(file.read_bytes()).trained_on[0].startswith("decisions.jsonl sha256:")

    model = dataclasses.replace(from_bytes(file.read_bytes()), name="torn", arrays={"0.weight": np.ones((9, 40_000))})
    with Publisher(cluster) as publisher:
        publisher.publish(MODELS, parts(model)[0])
    (torn,) = [fact for fact in answer_of("learn", "models", *at) if fact["name"] == "torn"]
    assert torn["state"] == "not whole"
    (check,) = [check for check in answer_of("doctor", *at) if check["what"] == "models"]
    assert check["verdict"] == "warn"
    assert "routing/torn" in check["detail"]


def test_decisions_on_the_topic_are_judged_and_written_for_other_tools(cluster, invoke, answer_of, tmp_path):
    frame = decisions(0.3, learner="judged")
    with Publisher(cluster) as publisher:
        publisher.publish(LEARN_DECISION, frame)
        publisher.publish_raw(LEARN_DECISION.name, b"k", b"torn")
    one, at = ("--learner", "routing/judged"), ("-b", cluster)
    judged = answer_of("learn", "evaluate", "decision", "--policy", "arm:left", *one, *at)
    assert (judged["decisions"], judged["damaged"]) == (400, 1)
    assert judged["doubly_robust"]["low"] < 0.5 < judged["doubly_robust"]["high"]
    for to in ("dsjson", "csv", "parquet"):
        file = tmp_path / f"log.{to}"
        result = invoke("learn", "log", "--to", to, "--out", file, *one, *at)
        assert result.exit_code == 0, result.output
        again = answer_of("learn", "evaluate", file, "--policy", "arm:left")
        assert again["ips"] == judged["ips"], to
    absent = invoke("learn", "evaluate", "decision", "--policy", "uniform", "--learner", "other", *at)
    assert absent.exit_code == 2
    assert "--learner must be one of" in absent.output


def test_a_trainer_that_the_module_does_not_have_is_named(invoke):
    result = invoke("learn", "train", "routing", "gnn", "--from", "x.jsonl")
    assert result.exit_code == 2
    assert "a trainer of routing (it has none)" in result.output


def test_an_agent_of_another_package_trains_its_forecaster_from_recorded_readings_and_its_workers_watch_it(
    cluster, invoke, answer_of, monkeypatch, tmp_path
):
    point = EntryPoint("meter", "qstream.testing.meter:AGENT", "qstream.agents")
    monkeypatch.setattr(agents.names, "entry_points", lambda group: [point] if group == "qstream.agents" else [])
    rng, recorded, file = np.random.default_rng(0), tmp_path / "readings.jsonl", tmp_path / "model.safetensors"
    readings = [Reading.of("h", n, 0.3 + 0.5 * (n // 13 % 2) + 0.1 * rng.random()) for n in range(230)]
    recorded.write_bytes(b"\n".join(reading.encode(JSON) for reading in readings))
    words = ("learn", "train", "meter", "lstm", "--from", recorded, "--deadline-s", 1, "--out", file, "-b", cluster)
    result = invoke(*words, "--publish", "--force")
    assert result.exit_code == 0, result.output
    assert "twin: the same forecasters without it" in result.output
    made = from_bytes(file.read_bytes())
    (fact,) = answer_of("learn", "models", "meter", "-b", cluster)
    assert (fact["version"], fact["state"], fact["loss"] > 0, fact["loss_twin"] > 0) == (made.version, "published", True, True)
    feed = Feed(Meter())
    for part in known_parts(load_settings(bootstrap_servers=cluster))["meter", "forecast", made.version]:
        feed.send(part, 0)
    feed.send(readings[0], 0)
    assert feed.frames(Outlook)[0].offered_by == made.version


def test_the_models_of_energy_are_trained_from_files_and_topics_and_its_workers_know_them(cluster, invoke, tmp_path):
    recorded, at = tmp_path / "graphs.jsonl", ("-b", cluster, "--deadline-s", 1)
    graphs = [pipelines.graph(seed) for seed in range(24)]
    recorded.write_bytes(b"\n".join(graph.encode(JSON) for graph in graphs))
    with Publisher(cluster) as publisher:
        for graph in graphs:
            publisher.publish(TASK_GRAPH, graph)
        for schedule in schedules([0.3 * (n % 12 < 3) for n in range(100)]):
            publisher.publish(TASK_SCHEDULE, schedule)
    found = {}
    for kind, source in (("gnn", recorded), ("gnn", TASK_GRAPH.name), ("meta", TASK_SCHEDULE.name)):
        file = tmp_path / f"{kind}.safetensors"
        result = invoke("learn", "train", "energy", kind, "--from", source, "--out", file, "--publish", "--force", *at)
        assert result.exit_code == 0, result.output
        assert {"gnn": "twin: boosted trees", "meta": "twin: its running mean"}[kind] in result.output
        found[kind, source] = from_bytes(file.read_bytes())
    first, second = found["gnn", recorded], found["gnn", TASK_GRAPH.name]
    assert second.trained_on[0].startswith(TASK_GRAPH.name)
    assert all(
        (first.arrays[name] == second.arrays[name]).all() for name in first.arrays if name.startswith(("x.", "y.", "twin."))
    )
    feed = Feed(EnergyProcessor())
    rows = known_parts(load_settings(bootstrap_servers=cluster))
    for (kind, _), model in found.items():
        for part in rows["energy", kind, model.version]:
            feed.send(part, 0)
    assert all(feed.processor.models.get(kind, model.version) for (kind, _), model in found.items())
    assert not feed.processor.models.refused
