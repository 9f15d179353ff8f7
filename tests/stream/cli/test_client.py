"""topics, publish, watch, control and doctor against a real broker."""

from __future__ import annotations

import json
import signal
import time
import uuid

import pytest
import redis
from confluent_kafka.admin import AdminClient, NewTopic

from qstream.config import load_settings
from qstream.contract import TopicPartition
from qstream.embedded.kafka import EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.routing.memory import RoutingState
from qstream.state.store import StateStore
from qstream.stream.client import Publisher
from qstream.stream.read import frame_of, read_all
from qstream.testing.rig import wait_until
from schemas.frame import JSON
from schemas.topics import BY_NAME, CONTROL, EXPERTS_LOAD, EXPERTS_TOPOLOGY, PLACEMENT_PLAN, TOKENS_BATCH, TOPICS

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def model() -> str:
    return f"m-{uuid.uuid4().hex[:8]}"


def frames(address: str, topic, model: str):
    settings = load_settings(bootstrap_servers=address)
    found = [frame_of(message, topic.frame) for message in read_all(settings, topic.name)]
    return [frame for frame in found if frame.model == model]


def example(topic, folder, **fields):
    frame = topic.frame.example().model_copy(update=fields)
    path = folder / f"{topic.frame.__name__}.json"
    path.write_bytes(frame.encode(JSON))
    return path, frame


def test_topics_that_exist_are_left_alone_and_listed(cluster, answer_of):
    states = answer_of("topics", "apply", "-b", cluster)
    assert [(state["topic"], state["finding"]) for state in states] == [(topic.name, "ok") for topic in TOPICS]
    listed = answer_of("topics", "list", "-b", cluster)
    assert {row["topic"]: row["partitions"] for row in listed} == {topic.name: topic.partitions for topic in TOPICS}


def test_apply_creates_what_is_missing_and_reports_what_differs_without_changing_it(bare_kafka, invoke, tmp_path):
    client = AdminClient({"bootstrap.servers": bare_kafka})
    wrong = NewTopic(TOKENS_BATCH.name, num_partitions=3, replication_factor=1)
    client.create_topics([wrong])[TOKENS_BATCH.name].result()
    wait_until(lambda: TOKENS_BATCH.name in client.list_topics(timeout=60).topics)
    before = json.loads(invoke("topics", "list", "-b", bare_kafka, "--json").stdout)
    assert [row["finding"] for row in before] == ["differs"] + ["missing"] * (len(TOPICS) - 1)
    lacking = invoke("publish", example(EXPERTS_LOAD, tmp_path)[0], "-b", bare_kafka)
    assert lacking.exit_code == 1
    assert lacking.stderr == f"Error: the cluster lacks {EXPERTS_LOAD.name}; create by: qstream topics apply\n"

    result = invoke("topics", "apply", "-b", bare_kafka, "--json")

    assert result.exit_code == 1
    assert [state["finding"] for state in json.loads(result.stdout)] == ["differs"] + ["created"] * (len(TOPICS) - 1)
    known = client.list_topics(timeout=60).topics
    wanted = {name: topic.partitions for name, topic in BY_NAME.items()} | {TOKENS_BATCH.name: 3}
    assert {name: len(known[name].partitions) for name in BY_NAME} == wanted
    again = invoke("topics", "apply", "-b", bare_kafka)
    assert again.exit_code == 1
    assert "3 partitions, the registry has 8" in again.stdout
    doctor = invoke("doctor", "-b", bare_kafka, "--json")
    assert doctor.exit_code == 1
    assert [row["what"] for row in json.loads(doctor.stdout) if row["verdict"] == "fail"] == [f"topic {TOKENS_BATCH.name}"]


def test_more_copies_than_brokers_is_a_failure_with_the_brokers_reason(bare_kafka, invoke):
    result = invoke("topics", "apply", "-b", bare_kafka, "--replication", 3, "--json")
    assert result.exit_code == 1
    states = json.loads(result.stdout)
    assert {state["finding"] for state in states} == {"failed"}
    assert all("replication" in state["detail"].lower() for state in states)
    read = invoke("topics", "apply", "-b", bare_kafka, "--replication", 3)
    assert read.exit_code == 1
    assert "registered" not in read.stdout
    assert read.stdout.splitlines()[-1].startswith("Brokers of the cluster: 1; ")


def test_the_doctor_says_of_a_fresh_cluster_that_no_worker_has_joined_and_counts_no_topics_of_others(
    bare_kafka, topic_prefix, invoke
):
    client = AdminClient({"bootstrap.servers": bare_kafka})
    client.create_topics([NewTopic(topic_prefix, num_partitions=1)])[topic_prefix].result()
    assert invoke("topics", "apply", "-b", bare_kafka).exit_code == 0
    checks = {check["what"]: check for check in json.loads(invoke("doctor", "-b", bare_kafka, "--json").stdout)}
    group = checks["group qstream.routing"]
    assert (group["verdict"], group["detail"]) == ("warn", "no worker of routing has joined yet")
    assert group["fix"] == "qstream run routing"
    assert f" {len(TOPICS)} of our topics" in checks["broker"]["detail"]


def test_the_doctor_names_a_topic_that_was_created_again(bare_kafka, redis_server: EmbeddedRedis, invoke):
    assert invoke("topics", "apply", "-b", bare_kafka).exit_code == 0
    topic = TOKENS_BATCH.name
    with StateStore(redis_server.url, "routing", RoutingState) as store:
        store.logs.take({TopicPartition(topic, 0): "topic:another", TopicPartition(CONTROL.name, 0): "cluster:x"}, 1)
    checks = json.loads(invoke("doctor", "-b", bare_kafka, "--redis", redis_server.url, "--json").stdout)
    (found,) = [check for check in checks if "created again" in check["detail"]]
    assert (found["verdict"], found["what"]) == ("warn", f"topic {topic}")
    assert "routing" in found["detail"]


def test_the_embedded_broker_has_its_topics_already_and_says_so(invoke, answer_of):
    with EmbeddedKafka({topic.name: topic.partitions for topic in TOPICS}) as server:
        assert {row["finding"] for row in answer_of("topics", "list", "-b", server.bootstrap_servers)} == {"ok"}
        assert {row["finding"] for row in answer_of("topics", "apply", "-b", server.bootstrap_servers)} == {"ok"}
        servers = ("-b", server.bootstrap_servers, "--redis", "embedded", "--port", "0")
        exactly = invoke("run", "routing", *servers, "--delivery", "exactly_once")
        assert exactly.exit_code == 2
        assert "no transactions" in exactly.stderr


def test_the_embedded_broker_names_the_topics_that_it_was_started_without(invoke):
    older = {topic.name: topic.partitions for topic in TOPICS if topic is not EXPERTS_LOAD}
    with EmbeddedKafka(older) as server:
        result = invoke("topics", "apply", "-b", server.bootstrap_servers, "--json")
    assert result.exit_code == 1
    failed = [row for row in json.loads(result.stdout) if row["finding"] != "ok"]
    assert [(row["topic"], row["finding"]) for row in failed] == [(EXPERTS_LOAD.name, "failed")]
    assert "start it again" in failed[0]["detail"]


def test_an_agent_without_a_broker_says_so_in_one_line(invoke):
    result = invoke("run", "routing", "--redis", "redis://127.0.0.1:1/0", "-b", NOWHERE, "--port", "0")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: Kafka at {NOWHERE} does not answer: ")
    assert result.stderr.count("\n") == 1


def test_json_frames_are_read_back_as_they_were(cluster, answer_of, tmp_path, model):
    path, frame = example(EXPERTS_TOPOLOGY, tmp_path, model=model)
    assert answer_of("publish", path, "-b", cluster) == {"published": 1, "topics": {EXPERTS_TOPOLOGY.name: 1}}
    assert frames(cluster, EXPERTS_TOPOLOGY, model) == [frame]


def test_json_lines_from_stdin_keep_their_order_within_a_key(cluster, answer_of, model):
    sent = [EXPERTS_LOAD.frame.example().model_copy(update={"model": model, "window_id": str(n)}) for n in range(20)]
    lines = "\n".join(frame.encode(JSON).decode() for frame in sent)
    assert answer_of("publish", "-", "-b", cluster, stdin=lines)["published"] == 20
    assert frames(cluster, EXPERTS_LOAD, model) == sent


def test_a_graph_of_networkx_becomes_the_topology_that_the_agent_reads(cluster, invoke, answer_of, tmp_path, model):
    nodes = [{"id": name, "type": "gpu"} for name in "ab"]
    graph = {
        "graph": {"fabric": model},
        "nodes": nodes,
        "edges": [{"source": "a", "target": "b", "kind": "nvlink", "bw_gb_s": 25.0}],
    }
    (tmp_path / "fabric.json").write_text(json.dumps(graph))
    assert answer_of("publish", tmp_path / "fabric.json", "-b", cluster)["topics"] == {"qstream.fabric.topology.v1": 1}
    shown = invoke("watch", "fabric.topology", "-b", cluster, "--from-start", "--key", model, "--count", 1, "--timeout", 20)
    assert f"{model}  2 GPUs  2 links" in shown.stdout


def test_a_safetensors_file_is_one_frame(cluster, answer_of, tmp_path, model):
    frame = TOKENS_BATCH.frame.example().model_copy(update={"model": model})
    path = tmp_path / "a.safetensors"
    path.write_bytes(frame.encode())
    answer_of("publish", path, "-b", cluster)
    assert frames(cluster, TOKENS_BATCH, model) == [frame]


def test_a_table_becomes_token_batches_with_the_gates_choices(cluster, answer_of, tmp_path, model):
    path = tmp_path / "tokens.csv"
    path.write_text("id,topk_id_0,topk_id_1\n" + "".join(f"{n},{n % 4},{(n + 1) % 4}\n" for n in range(9000)))
    answer_of("publish", path, "--model", model, "--layer", 2, "--batch-id", "b", "-b", cluster)
    batches = frames(cluster, TOKENS_BATCH, model)
    assert [(batch.batch_id, len(batch.token_id), batch.layer) for batch in batches] == [("b/0", 8192, 2), ("b/1", 808, 2)]
    assert batches[1].topk_ids[-1].tolist() == [8999 % 4, 9000 % 4]


def test_a_recording_that_is_replayed_keeps_its_times_if_asked(cluster, answer_of, tmp_path, model):
    path, load = example(EXPERTS_LOAD, tmp_path, model=model, t0_ns=1, t1_ns=time.time_ns() - 3600 * 10**9)
    answer_of("publish", path, "--keep-times", "-b", cluster)
    topology, _ = example(EXPERTS_TOPOLOGY, tmp_path, model=model)  # has no time of its own
    answer_of("publish", topology, "--keep-times", "-b", cluster)
    settings = load_settings(bootstrap_servers=cluster)

    def times(topic):
        return [m.timestamp()[1] for m in read_all(settings, topic.name) if m.key() == model.encode()]

    assert times(EXPERTS_LOAD) == [load.t1_ns // 10**6]
    assert times(EXPERTS_TOPOLOGY) > [load.t1_ns // 10**6]


def test_the_result_names_the_model_of_tokens_that_have_none_of_their_own(cluster, invoke, tmp_path, model):
    tokens = tmp_path / "tokens.json"
    tokens.write_text('[{"id": 1}]')
    assert invoke("publish", tokens, "-b", cluster).stdout.endswith(", of model 'default'\n")
    assert invoke("publish", tokens, "--model", model, "-b", cluster).stdout.endswith(f", of model {model!r}\n")
    frame, _ = example(EXPERTS_LOAD, tmp_path, model=model)
    assert "model" not in invoke("publish", frame, "-b", cluster).stdout


def test_a_file_with_one_bad_frame_sends_nothing(cluster, invoke, tmp_path, model):
    good = json.loads(EXPERTS_LOAD.frame.example().model_copy(update={"model": model}).encode(JSON))
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | {'num_tokens': -1})}\n")
    result = invoke("publish", path, "-b", cluster)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: a.jsonl:2: ExpertLoad.v1.num_tokens")
    assert frames(cluster, EXPERTS_LOAD, model) == []


def test_what_watch_prints_can_be_published_again(cluster, invoke, answer_of, tmp_path, model):
    path, frame = example(EXPERTS_LOAD, tmp_path, model=model)
    answer_of("publish", path, "-b", cluster)
    words = ("watch", "experts.load", "--from-start", "--count", 1, "--timeout", 120, "--key", model, "-b", cluster)
    header, full = invoke(*words, "--json"), invoke(*words, "--json", "--full")
    assert "logical_count" not in json.loads(header.stdout)
    answer_of("publish", "-", "-b", cluster, stdin=full.stdout)
    assert frames(cluster, EXPERTS_LOAD, model) == [frame, frame]
    assert model in invoke(*words).stdout


def test_watch_without_the_awaited_record_fails_when_its_time_is_over(cluster, invoke, model):
    result = invoke("watch", "placement", "--count", 1, "--timeout", 0.2, "--key", model, "-b", cluster)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert invoke("watch", "placement", "--timeout", 0.2, "--key", model, "-b", cluster).exit_code == 0


def test_watch_sees_what_comes_after_it_says_so_and_ends_cleanly_by_ctrl_c(cluster, started, model):
    process = started("watch", "placement", "-b", cluster, "--key", model)
    assert "watching" in process.stderr.readline()
    plan = PLACEMENT_PLAN.frame.example().model_copy(update={"model": model})
    with Publisher(cluster) as publisher:
        publisher.publish_raw(PLACEMENT_PLAN.name, model.encode(), b"garbage")
        publisher.publish(PLACEMENT_PLAN, plan)
    assert f"{model}  v2 -> v3" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 0
    assert "unreadable record" in rest
    assert "Traceback" not in rest


def test_control_changes_the_newest_record_and_publishes_it_whole(cluster, answer_of, invoke):
    def ask(*words: str):
        return answer_of("control", "routing", *words, "-b", cluster)

    assert ask()["options"] == {}
    ask("--set", "placement=fast", "--set", "min_gain=0.5", "--reason", "a try")
    assert ask("--pause")["options"] == {"placement": "fast", "min_gain": 0.5}
    with Publisher(cluster) as publisher:
        publisher.publish_raw(CONTROL.name, b"routing", b"garbage")
        publisher.publish(CONTROL, CONTROL.frame(agent="other", ts_ns=1, options={"seed": 1}))
    shown = ask("--show")
    assert (shown["paused"], shown["options"]) == (True, {"placement": "fast", "min_gain": 0.5})
    for refused in (("--set", "nonesuch=1"), ("--set", "min_gain=7"), ("--unset", "seed")):
        result = invoke("control", "routing", *refused, "-b", cluster)
        assert result.exit_code == 2
        assert refused[1].partition("=")[0] in result.stderr
    assert ask("--show") == shown
    assert "unreadable" not in invoke("control", "routing", "-b", cluster).stderr
    warning = invoke("control", "routing", "--show", "-b", cluster).stderr
    assert warning == f"unreadable records skipped on {CONTROL.name}: 1\n"
    after = ask("--resume", "--unset", "min_gain")
    assert (after["paused"], after["options"]) == (False, {"placement": "fast"})
    assert after["ts_ns"] > shown["ts_ns"]
    key = {message.key() for message in read_all(load_settings(bootstrap_servers=cluster), CONTROL.name)}
    assert key == {b"routing", b"other"}


def test_the_doctor_finds_a_working_system_fit(cluster, redis_server, answer_of):
    checks = answer_of("doctor", "-b", cluster, "--redis", redis_server.url)
    assert {"python", "packages", "kernel cache", "gpu", "broker", "topics", "group qstream.routing", "redis"} <= {
        check["what"] for check in checks
    }
    assert [check for check in checks if check["verdict"] == "fail"] == []


def test_the_doctor_warns_of_a_redis_that_may_drop_states(redis_server, invoke):
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    result = invoke("doctor", "--redis", redis_server.url, "--json")
    assert result.exit_code == 0
    (warning,) = [check for check in json.loads(result.stdout) if check["what"] == "redis memory"]
    assert warning["verdict"] == "warn"
    assert "noeviction" in warning["fix"]


def test_the_doctor_names_what_does_not_answer(invoke):
    result = invoke("doctor", "-b", NOWHERE, "--redis", "redis://127.0.0.1:1/0", "--json")
    assert result.exit_code == 1
    failed = {check["what"]: check for check in json.loads(result.stdout) if check["verdict"] == "fail"}
    assert failed.keys() == {"broker", "redis"}
    assert all(check["fix"] for check in failed.values())


def test_the_doctor_tries_the_embedded_servers_if_none_is_named(answer_of):
    details = {check["what"]: check["detail"] for check in answer_of("doctor")}
    assert details["broker"].startswith("embedded")
    assert details["redis"].startswith("embedded")


def test_watch_says_which_key_a_record_without_a_body_removes(cluster, invoke, model):
    with Publisher(cluster) as publisher:
        publisher.publish(EXPERTS_TOPOLOGY, EXPERTS_TOPOLOGY.frame.example().model_copy(update={"model": model}))
        publisher.publish_raw(EXPERTS_TOPOLOGY.name, model.encode(), None)
        publisher.publish(EXPERTS_TOPOLOGY, EXPERTS_TOPOLOGY.frame.example().model_copy(update={"model": model}))
    shown = invoke("watch", "experts.topology", "--from-start", "--count", 2, "--timeout", 120, "--key", model, "-b", cluster)
    assert shown.exit_code == 0
    assert f"key '{model}' removed by {EXPERTS_TOPOLOGY.name}/" in shown.stderr
    assert "unreadable" not in shown.stderr
