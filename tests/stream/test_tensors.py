"""Tensors over a real broker and Redis: through both agents, in blobs, in files, and whole again, or reported as incomplete."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from qstream.cli.main import app
from qstream.compression.cutting import blocks_of
from qstream.compression.dtypes import canonical
from qstream.compression.formats.safetensors import written
from qstream.compression.memory import TensorMemory
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.compression.steps import TensorStep
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import BlockError
from qstream.state.blobs import BlobStore
from qstream.state.store import StateStore
from qstream.stream.client import Publisher
from qstream.stream.loop import BatchLoop
from qstream.stream.tensors import Incomplete, TensorPublisher, TensorSubscriber, Whole
from qstream.testing.rig import PATIENCE_S, LoopThread
from schemas.tensors import RestoredBlock, TensorPolicy, TensorQuality
from schemas.topics import TENSOR_RESTORED
from tests.stream.registry import create_registry

Arrays = Mapping[str, NDArray[Any]]
DELTA = TensorPolicy(mode="delta")


@pytest.fixture(scope="module")
def tensor_kafka(local_kafka: str) -> str:
    """A broker with the topics, whose records stay: each test has a model of its own."""
    create_registry(local_kafka)
    return local_kafka


@pytest.fixture(scope="module")
def agents(tensor_kafka: str) -> Iterator[str]:
    """The broker, with both agents on it."""
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


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def steps_of(subscriber: TensorSubscriber, count: int) -> list[TensorStep]:
    steps = subscriber.steps(PATIENCE_S)
    return [next(steps) for _ in range(count)]


def assert_same(found: Arrays, sent: Arrays) -> None:
    assert list(found) == list(sent)
    for name, array in sent.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


def weights(step: int) -> dict[str, NDArray[Any]]:
    """A model whose weights change a little with each step."""
    rng = np.random.default_rng(0)
    up = rng.standard_normal((64, 512)).astype(np.float32)
    up[step % 64] += 1e-3
    return {"up": up.astype(ml_dtypes.bfloat16), "norm": np.full(64, step, np.float32)}


def restored(model: str, step: int, array: NDArray[Any]) -> list[RestoredBlock]:
    """What the agent sends of a tensor, in small blocks."""
    blocks = blocks_of(canonical(array), "up", model=model, role="weight", step=step, ts_ns=0, block_bytes=4096)
    quality = TensorQuality(bits_per_value=32.0)
    return [RestoredBlock(**block.part, promise="exact", verified=True, quality=quality, data=block.data) for block in blocks]


def test_ten_mebibytes_in_blocks_come_back_bit_for_bit_with_the_step_that_they_are_of(agents: str, model: str):
    rng = np.random.default_rng(0)
    sent = {
        "up": rng.standard_normal((1280, 4096)).astype(ml_dtypes.bfloat16),
        "bias": rng.standard_normal(7).astype(np.float32),
        "count": np.array(3),
        "none": np.empty((0, 4), np.int8),
    }
    small_queue = Settings(delivery_timeout_ms=60_000).with_kafka_defaults({"queue.buffering.max.kbytes": "1024"})
    with (
        TensorSubscriber(agents, model=model, timeout_s=PATIENCE_S) as subscriber,
        TensorPublisher(agents, settings=small_queue) as publisher,
    ):
        manifest = publisher.publish(sent, model=model, step=1)
        publisher.flush()
        (step,) = steps_of(subscriber, 1)
    assert step.manifest == manifest
    assert step.complete
    assert_same(step.tensors, sent)


def test_deltas_of_a_trainer_are_restored_on_the_bases_of_an_engine_whether_or_not_a_step_was_in_a_blob(
    tensor_kafka: str, model: str, tmp_path: Path
):
    with (
        BlobStore(tmp_path.as_uri()) as blobs,
        TensorSubscriber(tensor_kafka, bases={}, blobs=blobs, model=model, timeout_s=PATIENCE_S) as engine,
        TensorPublisher(tensor_kafka, encode="local", block_bytes=16_384, blobs=blobs, claim_over=32_768) as trainer,
    ):
        manifests = [trainer.publish(weights(step), model=model, step=step, policy=DELTA) for step in range(4)]
        trainer.flush()
        found = steps_of(engine, 4)
        assert [manifest.format for manifest in manifests] == ["qsz", "blocks", "blocks", "blocks"]
        assert [manifest.anchor_step for manifest in manifests] == [0, 0, 0, 0]
        for n, step in enumerate(sorted(found, key=lambda one: one.step)):
            assert (step.step, step.complete) == (n, True)
            assert_same(step.tensors, weights(n))
        with TensorSubscriber(tensor_kafka, bases=weights(3), model=model, timeout_s=PATIENCE_S) as other:
            late = TensorSubscriber(tensor_kafka, bases={}, model=model, timeout_s=PATIENCE_S)
            trainer.publish(weights(4), model=model, step=4, policy=DELTA)
            trainer.flush()
            (step,) = steps_of(other, 1)
            assert_same(step.tensors, weights(4))
        with late:
            (step,) = steps_of(late, 1)
            assert step.missing == {"up": (0, 1, 2, 3), "norm": (0,)}
            assert late.skipped == {"no_base": 5}
        with TensorSubscriber(tensor_kafka, bases={}, blobs=blobs, model=model, from_start=True) as restarted:
            assert [(step.step, step.complete) for step in steps_of(restarted, 5)] == [(n, True) for n in range(5)]


def test_a_blob_that_is_not_what_its_manifest_says_is_refused_and_reading_goes_on(tensor_kafka: str, model: str, tmp_path: Path):
    with (
        BlobStore(tmp_path.as_uri()) as blobs,
        TensorSubscriber(tensor_kafka, blobs=blobs, model=model) as subscriber,
        TensorPublisher(tensor_kafka, blobs=blobs, claim_over=0) as publisher,
    ):
        claim = publisher.publish(weights(1), model=model, step=1).claim
        assert claim is not None
        blob = bytearray((tmp_path / claim.sha256).read_bytes())
        blob[-1] ^= 1
        (tmp_path / claim.sha256).write_bytes(blob)
        publisher.flush()
        with pytest.raises(BlockError, match="must be of this sha256") as refused:
            steps_of(subscriber, 1)
        assert refused.value.code == "checksum"
        publisher.publish(weights(2), model=model, step=2)
        publisher.flush()
        (step,) = steps_of(subscriber, 1)
        assert_same(step.tensors, weights(2))


def test_blocks_in_any_order_repeated_and_read_again_make_the_tensor_and_a_lost_one_is_named(tensor_kafka: str, model: str):
    array = np.arange(8 * 1024, dtype=np.float32).reshape(8, 1024)
    first, second = restored(model, 1, array), restored(model, 2, -array)
    order: Sequence[RestoredBlock] = [*first[5:], *first[2:4], *first[:2], second[7], first[4], *first[3:6], *second[:7]]
    with Publisher(tensor_kafka) as publisher:
        for block in order[:4]:
            publisher.publish(TENSOR_RESTORED, block)
        publisher.flush()
        with TensorSubscriber(tensor_kafka, model=model, from_start=True, timeout_s=PATIENCE_S) as subscriber:
            assert list(subscriber.tensors(1.0)) == []
        for block in order[4:]:
            publisher.publish(TENSOR_RESTORED, block)
        publisher.flush()
    with TensorSubscriber(tensor_kafka, model=model, from_start=True, timeout_s=PATIENCE_S) as subscriber:
        tensors = subscriber.tensors(PATIENCE_S)
        assert next(tensors) == Incomplete(f"{model}/up", 1, (4,))
        whole = next(tensors)
        assert isinstance(whole, Whole)
        assert (whole.step, whole.array.tobytes()) == (2, (-array).tobytes())


@pytest.mark.parametrize("how", ["agents", "local", "base", "blob"])
def test_a_file_that_is_published_is_collected_byte_for_byte(agents: str, model: str, tmp_path: Path, how: str):
    file, out = tmp_path / "weights.safetensors", tmp_path / "same.safetensors"
    file.write_bytes(written(weights(1), {"format": "pt"}))
    delta = ("--local", "--mode", "delta")
    blob = ("--blobs", tmp_path.as_uri(), "--claim-over", 1000)
    more: tuple[object, ...] = {"agents": (), "local": ("--local",), "base": delta, "blob": blob}[how]
    at = ("-b", agents)
    sent = invoke("publish", file, "--tensors", "--model", model, "--step", 5, *more, *at)
    assert sent.exit_code == 0, sent.output
    assert sent.stdout.startswith(f"published step 5 of {model}: 2 tensors, ")
    given = {"blob": blob[:2], "base": ("--base", file)}.get(how, ())
    result = invoke("compression", "collect", model, "--out", out, *given, *at, "--timeout", f"{PATIENCE_S:.0f}s", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["step"], found["identical"]) == (5, True)
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() == hashlib.sha256(out.read_bytes()).hexdigest()


def test_a_step_that_does_not_come_back_whole_is_explained_and_no_file_is_written(tensor_kafka: str, model: str, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    collect = ("compression", "collect", model, "--out", out, "-b", tensor_kafka, "--timeout", "100ms")
    result = invoke(*collect)
    assert (result.exit_code, result.stderr[: len("Error: no step of ")]) == (1, "Error: no step of ")
    with BlobStore(tmp_path.as_uri()) as blobs, TensorPublisher(tensor_kafka, blobs=blobs, claim_over=0) as publisher:
        publisher.publish(weights(1), model=model, step=1)
    result = invoke(*collect)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: blobs must be given: step 1 of {model!r} is in a blob, got None\n",
    )
    assert not out.exists()


def test_the_page_on_moving_tensors_works_as_it_stands(tensor_kafka: str, model: str):
    page = (Path(__file__).parents[2] / "docs/pages/howto/tensors.md").read_text()
    sends, reads, blob, _ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for block in (sends, reads, blob):
        here = block.replace("localhost:9092", tensor_kafka).replace("my-moe", model).replace('"large"', f'"{model}-large"')
        exec(compile(here, "tensors.md", "exec"), names)
        if block is reads:
            assert_same(names["held"], names["weights"])
    assert_same(names["step"].tensors, {"up": np.zeros((1024, 1024), np.float32)})
