"""broker, redis and run as processes: addresses that others can use, and an end without traces."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
import redis
from confluent_kafka.admin import AdminClient

from qstream.embedded.child import free_ports
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.testing.rig import wait_until
from schemas.topics import CONTROL, EXPERTS_TOPOLOGY, ROUTING_PLAN, TOKENS_BATCH, TOPICS

READY_S = 600.0  # where no cache has the kernels, they are compiled for a minute of a processor that may be busy


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as page:
            return page.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_broker_prints_its_address_has_all_topics_and_ends_cleanly(started, end):
    process = started("broker")
    name, _, address = process.stdout.readline().strip().partition("=")
    assert name == "export QSTREAM_BOOTSTRAP_SERVERS"
    known = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=60).topics
    assert {topic.name: len(known[topic.name].partitions) for topic in TOPICS} == {t.name: t.partitions for t in TOPICS}
    process.send_signal(end)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


def test_redis_keeps_its_data_in_the_directory_and_comes_back_when_it_dies(started, tmp_path):
    port = str(free_ports(1)[0])
    for _ in range(2):
        process = started("redis", "--port", port, "--directory", str(tmp_path), "--json")
        url = json.loads(process.stdout.readline())["redis_url"]
        assert url == f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url) as client:
            assert client.incr("starts") in (1, 2)
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
        assert "serves" in process.stderr.readline()
        process.terminate()
        assert process.wait() == 0
    process = started("redis", "--port", port, "--directory", str(tmp_path), "--json")
    with redis.Redis.from_url(json.loads(process.stdout.readline())["redis_url"]) as client:
        assert client.get("starts") == b"2"


def test_an_agent_with_its_own_servers_answers_a_producer_and_obeys_control(started, invoke):
    port = free_ports(1)[0]
    own = ("-b", "embedded", "--redis", "embedded")
    process = started("run", "routing", *own, "--port", str(port), "--loglevel", "ERROR", "--set", "placement=off")
    exports = dict(process.stdout.readline().strip().removeprefix("export ").split("=", 1) for _ in range(2))
    assert exports.keys() == {"QSTREAM_BOOTSTRAP_SERVERS", "QSTREAM_REDIS_URL"}
    address = exports["QSTREAM_BOOTSTRAP_SERVERS"]
    deadline = time.monotonic() + READY_S
    while not ready(port):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    topology, batch = EXPERTS_TOPOLOGY.frame.example(), TOKENS_BATCH.frame.example()
    with PlanSubscriber(ROUTING_PLAN, ROUTING_PLAN.frame, address, from_start=True) as plans, Publisher(address) as publisher:
        publisher.publish(EXPERTS_TOPOLOGY, topology)
        publisher.publish(TOKENS_BATCH, batch)
        publisher.flush()
        plan = next(plan for _ in range(6000) if (plan := plans.poll(0.1)) is not None)
    assert plan.batch_id == batch.batch_id
    assert invoke("control", "routing", "--pause", "-b", address).exit_code == 0
    while not json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).read())["paused"]:
        assert time.monotonic() < deadline + READY_S
        time.sleep(0.2)
    process.terminate()
    assert process.wait() == 0


def page(port: int, name: str) -> tuple[int, dict[str, Any]]:
    """Status and content of a page; 0 while it is not served."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=30) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read())
    except OSError:
        return 0, {}


def test_an_agent_and_its_topics_may_come_up_in_any_order(started, invoke, bare_kafka):
    port = free_ports(1)[0]
    process = started("run", "routing", "--port", str(port), "-b", bare_kafka, "--redis", "embedded", "--loglevel", "ERROR")
    wait_until(lambda: page(port, "readyz")[1].get("missing_topics") or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    code, status = page(port, "readyz")
    assert (code, status["ready"], page(port, "healthz")[0]) == (503, False, 200)
    assert {TOKENS_BATCH.name, ROUTING_PLAN.name, CONTROL.name, "qstream.routing.dlq.v1"} <= set(status["missing_topics"])
    assert invoke("topics", "apply", "-b", bare_kafka).exit_code == 0
    wait_until(lambda: ready(port), READY_S)
    assert page(port, "readyz")[1]["missing_topics"] == []
    process.terminate()
    assert process.wait() == 0
