"""The routing agent's loop, in one process and inside the Faust worker on a real Kafka and a real Redis: what a token costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from qstream.contract import Batch, Record
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.stream.client import Publisher
from schemas.experts import ExpertTopology
from schemas.frame import SAFETENSORS
from schemas.tokens import TokenBatch
from schemas.topics import EXPERTS_TOPOLOGY, ROUTING_PLAN, TOKENS_BATCH, TOPICS
from tests.benchmarks.worker import Servers, follow, servers, worker

Row = tuple[str, float, str, str]

BATCHES = 12_000
TOKENS = 256
TOP_K = 6
LAYERS = 26
EXPERTS = 64
GROUP = 64


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    return [*token_rows(), *worker_token_rows()]


def token_rows() -> list[Row]:
    """Bytes to bytes in one process: decode, process with routing plans, encode; groups of records of one model."""
    bodies = [token_batch(number).encode() for number in range(GROUP)]
    found = []
    for label, target, options in (
        ("routing plans", ">= 1", RoutingOptions(placement="off")),
        ("routing and placement plans", "-", RoutingOptions()),
    ):
        processor = RoutingProcessor(options)
        processor.warm()
        first = Record(EXPERTS_TOPOLOGY.name, 0, 0, "m", topology(), 1_700_000_000_000)
        state = processor.process(Batch("m", [first]), None, 0).state

        def turn(processor: RoutingProcessor = processor) -> None:
            nonlocal state
            records = [Record(TOKENS_BATCH.name, 0, i, "m", TokenBatch.decode(body), 1) for i, body in enumerate(bodies)]
            result = processor.process(Batch("m", records), state, 0)
            state = result.state
            for event in result.events:
                event.frame.encode()

        cpu_s = _cpu_s(turn, 200) / GROUP
        found.append((f"tokens through decode, state and {label}: a core", TOKENS / cpu_s / 1e6, "M/s", target))
        found.append((f"  CPU a batch of {TOKENS} tokens, top-{TOP_K} of {EXPERTS}", cpu_s * 1e6, "us", "-"))
    return found


def worker_token_rows() -> list[Row]:
    """The same through the routing agent's worker."""
    found = []
    for label, target, options in (
        ("routing plans", ">= 1", {"placement": "off"}),
        ("routing and placement plans", "-", {}),
    ):
        with servers(TOPICS) as at:
            publish_batches(at, BATCHES)
            with worker("agents.routing:AGENT", at, options=options) as running:
                progress = follow(running, at, ROUTING_PLAN, BATCHES)
        cpu_s, wall_s = progress.between()
        found += [
            (f"tokens through the worker, {label}: a CPU second", TOKENS / cpu_s / 1e6, "M", target),
            ("  a second of wall time", TOKENS / wall_s / 1e6, "M", "-"),
            (f"  CPU a batch of {TOKENS} tokens", cpu_s * 1e6, "us", "-"),
        ]
    return found


def publish_batches(at: Servers, number: int) -> None:
    """The topology, then token batches."""
    bodies = [token_batch(n).encode() for n in range(GROUP)]
    headers = [("content-type", SAFETENSORS.encode())]
    with Publisher(at.kafka) as publisher:
        publisher.publish(EXPERTS_TOPOLOGY, topology())
        for n in range(number):
            publisher.publish_raw(TOKENS_BATCH.name, b"m", bodies[n % GROUP], headers)


def topology() -> ExpertTopology:
    """A small model on two nodes of four GPUs."""
    return ExpertTopology(
        model="m", num_layers=LAYERS, num_logical_experts=EXPERTS, top_k=TOP_K, num_nodes=2, num_gpus=8, slots_per_gpu=9
    )


def token_batch(number: int, tokens: int = TOKENS) -> TokenBatch:
    """Tokens of one layer, with a gate that likes some experts more than others."""
    rng = np.random.default_rng(number)
    liked = rng.gumbel(size=(tokens, EXPERTS)) - 0.03 * np.arange(EXPERTS)
    return TokenBatch(
        batch_id=f"step-{number}",
        ts_ns=1_700_000_000_000_000_000,
        model="m",
        layer=number % LAYERS,
        token_id=rng.integers(0, 2**63, tokens).astype(np.uint64),
        topk_ids=np.argsort(-liked, 1)[:, :TOP_K].astype(np.int32),
    )


def _cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Median over ten rounds of the CPU time of one call."""
    work()
    rounds = []
    for _ in range(10):
        start = time.process_time()
        for _ in range(repeats // 10):
            work()
        rounds.append((time.process_time() - start) / (repeats // 10))
    return statistics.median(rounds)
