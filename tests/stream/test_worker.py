"""The real worker as a process: its pages, its control topic, SIGTERM and SIGKILL, on the routing agent."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import routing
from qstream.config import load_settings
from qstream.embedded.child import free_ports
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import Publisher
from qstream.testing.rig import Program, Tail, header, wait_until
from schemas import Control, ExpertTopology, TokenBatch
from schemas.topics import CONTROL, EXPERTS_TOPOLOGY, PLACEMENT_PLAN, ROUTING_PLAN, TOKENS_BATCH

CODE = "from agents import app, routing; from qstream.config import load_settings; app.run(routing.AGENT, load_settings())"
PARTITIONS = sum(topic.partitions for topic in routing.AGENT.processor(load_settings()).inputs)
START_S = 600.0  # where no cache has the kernels, a worker compiles them for a minute of a processor that may be busy


class Worker(Program):
    """The routing agent with its pages on a free port."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.host, self.port = environment.get("QSTREAM_HOST", "127.0.0.1"), free_ports(1)[0]
        super().__init__(["-c", CODE], environment | {"QSTREAM_PORT": str(self.port)}, log)

    def page(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def status(self, path: str = "/healthz") -> dict[str, Any]:
        text = self.page(path)[1]
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def metric(self, name: str) -> float:
        lines = [line for line in self.page("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def start(registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with ExitStack() as running:

        def run(name: str = "worker", **settings: str) -> Worker:
            environment = {
                "QSTREAM_BOOTSTRAP_SERVERS": registry_kafka,
                "QSTREAM_REDIS_URL": redis_server.url,
                "QSTREAM_WORKER_ID": name,
                "QSTREAM_GROUP_PREFIX": topic_prefix,
                "QSTREAM_SESSION_TIMEOUT_MS": "6000",
            } | {f"QSTREAM_{key.upper()}": value for key, value in settings.items()}
            worker = running.enter_context(Worker(tmp_path / f"{name}.log", environment))
            wait_until(lambda: worker.page("/readyz")[0] == 200, START_S, worker.log_tail)
            return worker

        yield run


@pytest.fixture
def plans(registry_kafka: str) -> Iterator[Callable[[], list[str]]]:
    """Ids of the routing plans so far."""
    tail = Tail(registry_kafka, ROUTING_PLAN.name, ROUTING_PLAN.partitions)
    yield lambda: [header(message, "ce_id") for message in tail.read()]
    tail.close()


@pytest.fixture
def publisher(registry_kafka: str) -> Iterator[Publisher]:
    with Publisher(registry_kafka) as found:
        yield found


def publish(publisher: Publisher, first: int, count: int, models: int = 3) -> None:
    """The topologies, and batches of those models in turn."""
    rng = np.random.default_rng(first)
    for model in range(models if first == 0 else 0):
        topology = ExpertTopology(model=f"m{model}", num_layers=2, num_logical_experts=8, num_gpus=4, slots_per_gpu=2, top_k=2)
        publisher.publish(EXPERTS_TOPOLOGY, topology)
    for n in range(first, first + count):
        batch = TokenBatch(
            batch_id=str(n),
            ts_ns=time.time_ns(),
            model=f"m{n % models}",
            layer=n % 2,
            token_id=np.arange(64, dtype=np.uint64),
            topk_ids=rng.integers(0, 8, (64, 2)).astype(np.int32),
        )
        publisher.publish(TOKENS_BATCH, batch)
    publisher.flush()


def control(publisher: Publisher, paused: bool = False, **options: Any) -> None:
    publisher.publish(CONTROL, Control(agent="routing", ts_ns=time.time_ns(), paused=paused, options=options))
    publisher.flush()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_the_pages_are_served_on_ipv6(host, ipv6_loopback, tmp_path):
    servers = {"QSTREAM_BOOTSTRAP_SERVERS": "127.0.0.1:1", "QSTREAM_REDIS_URL": "redis://127.0.0.1:1"}  # none is needed for them
    with Worker(tmp_path / "worker.log", servers | {"QSTREAM_HOST": host}) as worker:
        worker.host = ipv6_loopback
        wait_until(worker.status, START_S, worker.log_tail)
        assert worker.page("/metrics")[0] == 200


def test_the_pages_show_health_readiness_and_valid_metrics(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]
):
    worker = start()
    publish(publisher, 0, 30)
    wait_until(lambda: len(plans()) == 30, saying=worker.log_tail)
    assert worker.page("/healthz")[0] == 200
    fit = {
        "agent": "routing",
        "ready": True,
        "running": True,
        "warm": True,
        "joined": True,
        "degraded": False,
        "paused": False,
        "partitions": PARTITIONS,
        "uncommitted": 0,
        "waiting": 0,
        "last_turn_age_s": 0,
        "control_error": "",
        "missing_topics": [],
        "store_error": "",
        "lacks": "",
    }
    wait_until(lambda: worker.status("/readyz") | {"last_turn_age_s": 0} == fit, saying=lambda: worker.status("/readyz"))
    wait_until(lambda: worker.metric(f'qstream_records_consumed_total{{agent="routing",topic="{TOKENS_BATCH.name}"}}') == 30)
    assert worker.metric(f'qstream_records_produced_total{{agent="routing",topic="{ROUTING_PLAN.name}"}}') == 30
    wait_until(lambda: worker.metric('qstream_ready{agent="routing"}') == 1)
    check_metrics(worker.page("/metrics")[1])


def check_metrics(text: str) -> None:
    """What promtool says of the families of qstream."""
    ours = [line for line in text.splitlines() if "qstream_" in line.split(" ")[2 if line.startswith("#") else 0]]
    assert len(ours) > 50
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool on PATH; the pages were checked")
    body = "\n".join(ours) + "\n"
    checked = subprocess.run([promtool, "check", "metrics"], input=body, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_sigterm_finishes_the_batch_in_hand_commits_and_exits_with_0(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]
):
    worker = start(max_batch_records="10")
    publish(publisher, 0, 400)
    wait_until(lambda: len(plans()) > 20, saying=worker.log_tail)
    worker.terminate()
    assert worker.wait() == 0, worker.log_tail()
    start("next")
    wait_until(lambda: len(plans()) >= 400)
    assert len(set(plans())) == 400
    assert len(plans()) == 400, "what was delivered before the end was not committed"


def test_sigkill_loses_nothing(start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]):
    worker = start(max_batch_records="10")
    publish(publisher, 0, 300)
    wait_until(lambda: len(plans()) > 20, saying=worker.log_tail)
    worker.kill()
    publish(publisher, 300, 100)
    start("next")
    wait_until(lambda: len(set(plans())) == 400)


def test_the_control_topic_pauses_resumes_and_changes_options_while_the_worker_runs(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]
):
    worker = start()
    publish(publisher, 0, 5)
    wait_until(lambda: len(plans()) == 5, saying=worker.log_tail)
    lag = f'qstream_consumer_lag_records{{agent="routing",topic="{TOKENS_BATCH.name}"}}'

    control(publisher, paused=True)
    wait_until(lambda: worker.status()["paused"], saying=worker.log_tail)
    publish(publisher, 5, 5)
    wait_until(lambda: worker.metric(lag) == 5, saying=worker.log_tail)
    assert len(plans()) == 5
    assert worker.page("/healthz")[0] == 200

    control(publisher, routing_plans=False)
    wait_until(lambda: not worker.status()["paused"])
    wait_until(lambda: worker.metric(lag) == 0)
    assert len(plans()) == 5, "the option holds from the first batch after the pause"

    control(publisher, no_such_option=1)
    wait_until(lambda: worker.status()["control_error"])
    assert "an option of routing must be one of" in worker.status()["control_error"]
    publish(publisher, 10, 5)
    wait_until(lambda: worker.metric(f'qstream_records_consumed_total{{agent="routing",topic="{TOKENS_BATCH.name}"}}') == 15)
    assert len(plans()) == 5, "refused options leave those in force as they were"

    control(publisher)
    wait_until(lambda: not worker.status()["control_error"])
    publish(publisher, 15, 5)
    wait_until(lambda: len(plans()) == 10)


def test_a_placement_comes_though_no_record_follows_its_window(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]], registry_kafka: str
):
    worker = start(options='{"window_tokens": 256, "min_gain": 0, "plan_ms": 500}')
    tail = Tail(registry_kafka, PLACEMENT_PLAN.name, PLACEMENT_PLAN.partitions)
    publish(publisher, 0, 8, models=1)
    wait_until(lambda: len(plans()) == 8, saying=worker.log_tail)
    wait_until(lambda: tail.read(), saying=worker.log_tail)
    assert [header(message, "ce_id").split("/")[:2] for message in tail.read()] == [["tick", "m0"]]
    wait_until(lambda: worker.status()["uncommitted"] == 0)
    publish(publisher, 8, 1, models=1)
    wait_until(lambda: len(plans()) == 9, saying=worker.log_tail)
    assert len(tail.read()) == 1
    tail.close()


def test_an_agent_that_was_paused_stays_paused_over_a_restart(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]
):
    control(publisher, paused=True)
    publish(publisher, 0, 5)
    worker = start()
    wait_until(lambda: worker.status()["paused"] and worker.status()["partitions"] == PARTITIONS, saying=worker.log_tail)
    assert plans() == []
    control(publisher)
    wait_until(lambda: len(plans()) == 5, saying=worker.log_tail)


def test_an_unreadable_wish_and_one_for_another_agent_change_nothing(
    start: Callable[..., Worker], publisher: Publisher, plans: Callable[[], list[str]]
):
    publisher.publish_raw(CONTROL.name, b"routing", b"no frame")
    publisher.publish(CONTROL, Control(agent="other", ts_ns=0, paused=True))
    publisher.publish_raw(CONTROL.name, b"routing", None)
    publish(publisher, 0, 5)
    worker = start()
    wait_until(lambda: len(plans()) == 5, saying=lambda: (plans(), worker.status(), worker.log_tail()))
    assert not worker.status()["paused"]
