"""A worker that is killed between two blocks of a tensor: the next one goes on with what it left in Redis."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import numpy as np

from qstream.compression.cutting import blocks_of
from qstream.compression.dtypes import canonical
from qstream.compression.local import LocalEncoder
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import Publisher
from qstream.stream.tensors import TensorSubscriber, Whole
from qstream.testing.rig import PATIENCE_S, Program
from schemas.tensors import RestoredBlock, TensorManifest, TensorPart, TensorPolicy
from schemas.topics import TENSOR_COMPRESSED
from tests.stream.registry import create_registry


def test_deltas_go_on_after_a_worker_was_killed_between_two_blocks(
    local_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str, tmp_path: Path
):
    create_registry(local_kafka)
    model = f"m-{uuid.uuid4().hex[:8]}"
    first = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024)
    encoder = LocalEncoder()
    steps = [
        [
            encoder.code(block)
            for block in blocks_of(
                canonical(first + step),
                "up",
                model=model,
                role="weight",
                step=step,
                ts_ns=0,
                block_bytes=16_384,
                policy=TensorPolicy(mode="delta"),
            )
        ]
        for step in range(2)
    ]
    came: list[tuple[int, int]] = []

    def wanted(frame: TensorManifest | TensorPart) -> bool:
        if isinstance(frame, RestoredBlock) and frame.skip_reason is None:
            came.append((frame.step, frame.block))
        return True

    def worker(name: str) -> Program:
        environment = {
            "QSTREAM_BOOTSTRAP_SERVERS": local_kafka,
            "QSTREAM_REDIS_URL": redis_server.url,
            "QSTREAM_WORKER_ID": name,
            "QSTREAM_GROUP_PREFIX": topic_prefix,
            "QSTREAM_SESSION_TIMEOUT_MS": "6000",
        }
        return Program(["-m", "qstream.cli", "run", "decompression", "--port", "0"], environment, tmp_path / f"{name}.log")

    with (
        Publisher(local_kafka) as publisher,
        TensorSubscriber(local_kafka, model=model, wanted=wanted, timeout_s=PATIENCE_S) as subscriber,
    ):
        tensors = subscriber.tensors(PATIENCE_S)
        with worker("first") as dying:
            for coded in (*steps[0], *steps[1][:3]):
                publisher.publish(TENSOR_COMPRESSED, coded)
            publisher.flush()
            whole = next(tensors)
            assert isinstance(whole, Whole)
            assert np.array_equal(whole.array, first)
            deadline = time.monotonic() + PATIENCE_S
            while (1, 2) not in came and time.monotonic() < deadline:
                list(subscriber.tensors(0.1))
            dying.kill()
        assert came[-1] == (1, 2), "three blocks of the second step had come back when the worker died"
        with worker("second") as following:
            for coded in steps[1][3:]:
                publisher.publish(TENSOR_COMPRESSED, coded)
            publisher.flush()
            whole = next(subscriber.tensors(PATIENCE_S))
            assert isinstance(whole, Whole), following.log_tail()
            assert (whole.step, whole.array.tobytes()) == (1, (first + 1).tobytes())
