"""Blocks of tensors through both agents: how long one takes from its producer to a reader, and what the agents use meanwhile.

Blocks are 512 KiB of bfloat16 weights, 20 a second: tensors of four blocks each, as a trainer sends them, in the default mode
(lossless), as deltas, and within a bound.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import numpy as np
from confluent_kafka import Consumer

from qstream.compression.header import digest
from qstream.stream.client import Publisher
from schemas.bfloat16 import to_bfloat16
from schemas.frame import SAFETENSORS
from schemas.tensors import RestoredBlock, TensorBlock, TensorPolicy
from schemas.topics import TENSOR_BLOCK, TENSOR_RESTORED, TOPICS
from tests.benchmarks.worker import servers, worker

Row = tuple[str, float, str, str]

ROWS: Final = 256  # of a block
COLUMNS: Final = 1024
BLOCKS: Final = 4  # of a tensor
TENSORS: Final = 5
STEPS: Final = 20
RATE: Final = 20.0  # blocks a second
PATIENCE_S: Final = 60.0
CHANGED: Final = 0.006  # of the values, by a step
POLICIES: Final[Mapping[str, TensorPolicy | None]] = {
    "lossless": None,
    "delta": TensorPolicy(mode="delta"),
    "bounded .05 rms": TensorPolicy(mode="bounded", bound_kind="rms", bound=0.05),
}


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    settings: dict[str, Any] = {"options": {"state_bytes": 1 << 21}}
    with (
        servers(TOPICS) as at,
        worker("agents.compression:AGENT", at, **settings) as coding,
        worker("agents.decompression:AGENT", at, **settings) as restoring,
        closing(Consumer({"bootstrap.servers": at.kafka, "group.id": "bench.reader", "auto.offset.reset": "latest"})) as reader,
        Publisher(at.kafka) as publisher,
    ):
        agents = {"coding": coding, "restoring": restoring}
        ready_s = [running.await_ready() for running in agents.values()]
        found: list[Row] = [("start of both agents to ready", max(ready_s), "s", "-")]
        reader.subscribe([TENSOR_RESTORED.name])
        while not reader.assignment():
            reader.poll(0.1)
        through(publisher, reader, blocks("warm-up", None))  # of the broker and of connections too
        for name, policy in POLICIES.items():
            sent, cpu_s = blocks(name, policy), {who: running.cpu_s() for who, running in agents.items()}
            began = time.perf_counter()
            taken_s = through(publisher, reader, sent)
            wall_s = time.perf_counter() - began
            p50, p99 = 1e3 * np.percentile(taken_s, [50, 99])
            label = f"512 KiB block through both agents, {name}, {RATE:.0f} a second"
            found += [(f"{label}: p50", p50, "ms", "-"), (f"{label}: p99", p99, "ms", "<= 80")]
            found.append(("  blocks lost", len(sent) - len(taken_s), "", "0"))
            for who, running in agents.items():
                found.append((f"  CPU of {who}", 1e2 * (running.cpu_s() - cpu_s[who]) / wall_s, "% of a core", "-"))
        found += [(f"memory of {who}", running.resident_mib(), "MiB", "-") for who, running in agents.items()]
    return found


def through(publisher: Publisher, reader: Consumer, given: Sequence[TensorBlock]) -> list[float]:
    """Seconds from the call that publishes each block to its restored bytes in a reader's hand, of those that came."""
    sent: dict[tuple[str, int, int], tuple[float, str]] = {}
    taken: list[float] = []
    start = time.perf_counter()
    for number, block in enumerate(given):
        while (wait_s := start + number / RATE - time.perf_counter()) > 0:
            take(reader, wait_s, sent, taken)
        sent[block.tensor_id, block.step, block.block] = time.perf_counter(), block.digest
        publisher.publish(TENSOR_BLOCK, block)
    quiet = time.perf_counter()
    while len(taken) < len(sent) and time.perf_counter() - quiet < PATIENCE_S:
        take(reader, 0.1, sent, taken)
    return taken


def take(reader: Consumer, wait_s: float, sent: Mapping[tuple[str, int, int], tuple[float, str]], taken: list[float]) -> None:
    """Read a block, if one comes in time, and compare it with what was sent."""
    message = reader.poll(wait_s)
    if message is None or message.error() is not None:
        return
    now_s, block = time.perf_counter(), RestoredBlock.decode(message.value(), SAFETENSORS)
    began_s, wanted = sent[block.tensor_id, block.step, block.block]
    if block.data is None or (block.promise == "exact" and digest(block.data) != wanted):
        raise RuntimeError(f"{block.tensor_id} came back as {block.skip_reason or 'something else'}")
    taken.append(now_s - began_s)


def blocks(name: str, policy: TensorPolicy | None) -> list[TensorBlock]:
    """The tensors of all steps, block by block; few values change with a step."""
    rng = np.random.default_rng(0)
    found = []
    values = [to_bfloat16(0.02 * rng.standard_normal(BLOCKS * ROWS * COLUMNS, np.float32)) for _ in range(TENSORS)]
    for step in range(STEPS):
        for tensor in range(TENSORS):
            now = values[tensor] ^ (rng.random(len(values[tensor])) < CHANGED) if step else values[tensor]
            values[tensor] = now
            for at in range(BLOCKS):
                part = now[at * ROWS * COLUMNS : (at + 1) * ROWS * COLUMNS]
                data = np.ascontiguousarray(part).view(np.uint8)
                found.append(
                    TensorBlock(
                        tensor_id=f"bench/{name}/layers.{tensor}.up",
                        model="bench",
                        role="weight",
                        step=step,
                        ts_ns=time.time_ns(),
                        dtype="bfloat16",
                        shape=(BLOCKS * ROWS, COLUMNS),
                        block=at,
                        blocks=BLOCKS,
                        start=at * len(part),
                        count=len(part),
                        policy=policy,
                        digest=digest(data),
                        data=data,
                    )
                )
    return found
