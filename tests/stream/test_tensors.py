"""Tensors over a real broker and Redis: published as blocks, through both agents, and whole again, or reported."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import ml_dtypes
import numpy as np
import pytest
from pydantic import SecretStr

from qstream.compression.memory import TensorMemory
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.state.store import StateStore
from qstream.stream.loop import BatchLoop
from qstream.stream.tensors import TensorPublisher, TensorSubscriber
from qstream.testing.rig import PATIENCE_S, LoopThread
from tests.stream.registry import create_registry

QUIET_S = 30.0


@pytest.fixture(scope="module")
def tensor_kafka(local_kafka: str) -> str:
    create_registry(local_kafka)
    return local_kafka


@pytest.fixture(scope="module")
def agents(tensor_kafka: str) -> Iterator[str]:
    """A broker with both agents on it."""
    with ExitStack() as running:
        redis = running.enter_context(EmbeddedRedis())
        for processor in (CompressionProcessor(), DecompressionProcessor()):
            settings = Settings(
                bootstrap_servers=tensor_kafka,
                redis_url=SecretStr(redis.url),
                group_prefix=f"tensors.{uuid.uuid4().hex[:8]}",
                redis_timeout_ms=20_000,
                delivery_timeout_ms=60_000,
            )
            store = StateStore(redis.url, processor.name, TensorMemory, 20_000)
            running.enter_context(LoopThread(BatchLoop(processor, settings, store)))
        yield tensor_kafka


@pytest.fixture
def model() -> str:
    return f"m-{uuid.uuid4().hex[:8]}"


def test_ten_mebibytes_in_blocks_come_back_bit_for_bit_with_the_step_that_they_are_of(agents: str, model: str):
    rng = np.random.default_rng(0)
    large = rng.standard_normal((1280, 4096)).astype(ml_dtypes.bfloat16)
    sent = {
        "up": large,
        "bias": rng.standard_normal(7).astype(np.float32),
        "steps": np.array(3),
        "none": np.empty((0, 4), np.int8),
    }
    with TensorSubscriber(agents, model=model, timeout_s=PATIENCE_S) as subscriber, TensorPublisher(agents) as publisher:
        publisher.publish(sent, model=model, step=1)
        publisher.flush()
        step = next(subscriber.steps(PATIENCE_S))
    assert (step.step, step.complete, list(step.tensors)) == (1, True, list(sent))
    for name, array in sent.items():
        assert step.tensors[name].dtype == array.dtype
        assert step.tensors[name].shape == array.shape
        assert step.tensors[name].tobytes() == array.tobytes()
