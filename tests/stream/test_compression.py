"""Blocks of tensors through both real agents, broker and store: exact after a kill, and no bad record ends a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import redis
from pydantic import SecretStr

from agents import compression, decompression
from agents.app import build_loop
from qstream.compression import CompressionOptions, compress
from qstream.compression.examples import block
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import Publisher
from qstream.stream.headers import headers_of
from qstream.testing.rig import LoopThread, Program, Tail, reading, wait_until
from schemas.deadletter import DeadLetter
from schemas.frame import JSON
from schemas.tensors import CompressedBlock, RestoredBlock, TensorBlock, TensorPolicy, TensorQuality
from schemas.topics import COMPRESSION_DLQ, DECOMPRESSION_DLQ, TENSOR_BLOCK, TENSOR_COMPRESSED, TENSOR_RESTORED
from tests.unit.compression.test_damage import rewritten

QUICK: dict[str, Any] = {
    "port": 0,
    "session_timeout_ms": 6000,
    "retry_max_s": 0.5,
    "worker_id": "worker-0",
    "static_membership": True,
}
F = TypeVar("F", CompressedBlock, RestoredBlock)
ID = "my-moe/layers.3.mlp.up"


def steps(count: int) -> list[np.ndarray]:
    """A matrix of which few values change at each step."""
    rng = np.random.default_rng(3)
    found = [rng.standard_normal((64, 128)).astype(np.float32)]
    for _ in range(count - 1):
        found.append(found[-1] + (rng.random(found[-1].shape) < 0.02).astype(np.float32) * np.float32(1e-3))
    return found


def firsts(tail: Tail, kind: type[F]) -> dict[tuple[int, int], F]:
    """The first frame of each step and block: a worker that is killed between its output and its state makes them twice."""
    found: dict[tuple[int, int], F] = {}
    for message in tail.read():
        frame = kind.decode(message.value())
        found.setdefault((frame.step, frame.block), frame)
    return found


def test_a_killed_worker_goes_on_with_deltas_and_one_without_its_state_with_an_anchor(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str, tmp_path: Path
) -> None:
    given = QUICK | {"bootstrap_servers": registry_kafka, "group_prefix": topic_prefix, "options": {"mode": "delta"}}
    settings = Settings(redis_url=SecretStr(redis_server.url), **given)
    plain = settings.model_copy(update={"options": {}})
    matrices, sent = steps(4), dict[tuple[int, int], bytes]()
    environment = {
        "QSTREAM_REDIS_URL": redis_server.url,
        **{f"QSTREAM_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in given.items()},
    }
    command = ["-m", "qstream.cli", "run", "compression"]
    with (
        reading(registry_kafka, TENSOR_COMPRESSED, TENSOR_RESTORED) as (coded, restored),
        Publisher(registry_kafka) as publisher,
        LoopThread(build_loop(decompression.AGENT, plain)),
    ):

        def send(*which: tuple[int, int]) -> None:
            """Publish blocks, and wait until they are back."""
            for step, at in which:
                part = block(matrices[step], step, at)
                sent[step, at] = part.data.tobytes()
                publisher.publish(TENSOR_BLOCK, part)
            publisher.flush()
            wait_until(
                lambda: firsts(restored, RestoredBlock).keys() == sent.keys(),
                saying=lambda: (len(coded.read()), len(restored.read())),
            )

        with Program(command, environment, tmp_path / "worker.log") as worker:
            send((0, 0), (0, 1), (1, 0))
            worker.kill()
        with LoopThread(build_loop(compression.AGENT, settings)):
            send((1, 1), (2, 0), (2, 1))
        redis.Redis.from_url(redis_server.url).flushall()
        with LoopThread(build_loop(compression.AGENT, settings)):
            send((3, 0), (3, 1))
        made, back = firsts(coded, CompressedBlock), firsts(restored, RestoredBlock)
    assert {at: frame.anchor for at, frame in made.items()} == {at: at[0] in (0, 3) for at in sent}
    assert {at: frame.data.tobytes() for at, frame in back.items() if frame.data is not None} == sent
    assert all(frame.verified for frame in back.values())


def bad_blocks() -> list[tuple[Any, str]]:
    """What must become a dead letter of compression, and how its reason begins."""
    good = block(steps(1)[0], 5, 0)

    def said(**change: object) -> bytes:
        return json.dumps(json.loads(good.encode(JSON)) | change).encode()

    return [
        (b"\x80\x02}q\x00.", ""),
        (said(dtype="object"), ""),
        (said(shape=[1] * 9), ""),
        (said(shape=[-1, 4]), ""),
        (said(shape=[1 << 62, 1 << 62]), ""),
        (said(count=7), ""),
        (said(policy={"mode": "bounded", "bound": 0}), ""),
        (said(policy={"mode": "bounded", "bound": "NaN"}), ""),
        (good.model_copy(update={"digest": "0" * 16}), "checksum: "),
        (good.model_copy(update={"policy": TensorPolicy(mode="bounded", bound_kind="l2", bound=2.0)}), "bad_frame: option bound"),
        (block(steps(1)[0], 4, 0), "bad_frame: step of block 0 must be 5 or more, got 4"),
    ]


def bad_coded() -> list[tuple[Any, str]]:
    """The same of decompression."""
    values = np.ones((32, 64), np.float32)
    whole = {"block": 0, "blocks": 1, "start": 0, "count": values.size, "shape": values.shape, "digest": "0" * 16}
    part = TensorBlock(**(block(values, 5, 0).part | whole | {"data": values.reshape(-1).view(np.uint8)}))
    data = compress(values).data
    changes: dict[str, dict[str, object]] = {
        "limit: ": {"shape": [1 << 40, 1 << 20]},
        "unknown_op: ": {"ops": [{"op": "pickle"}]},
        "bad_frame: ": {"ops": [{"op": "raw"}, {"op": "raw"}]},
        "dtype: ": {"dtype": "object"},
        "shape: ": {"shape": [1] * 9},
        "checksum: ": {"digest": "0" * 16},
    }
    bodies = [(rewritten(data, change), code) for code, change in changes.items()]
    bodies += [(b"", "bad_frame: "), (data[:-1], "bad_frame: "), (compress(values[:, :32]).data, "shape: ")]
    bomb = compress(np.zeros((1 << 12, 1 << 12), np.uint8), CompressionOptions(verify=False)).data
    bodies.append((bomb, "dtype: "))
    quality = TensorQuality(bits_per_value=1.0)
    made: dict[str, Any] = {"anchor": True, "promise": "exact", "quality": quality, "ops": ("split_float",)}
    return [(CompressedBlock(**part.part, **made, data=np.frombuffer(body, np.uint8)), code) for body, code in bodies]


def test_bad_records_of_each_kind_are_dead_letters_and_the_next_good_one_is_answered(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str
) -> None:
    given = QUICK | {"bootstrap_servers": registry_kafka, "group_prefix": topic_prefix, "options": {"mode": "delta"}}
    settings = Settings(redis_url=SecretStr(redis_server.url), **given)
    good = block(steps(1)[0], 5, 0)
    into, back = bad_blocks(), bad_coded()
    with (
        reading(registry_kafka, COMPRESSION_DLQ, DECOMPRESSION_DLQ, TENSOR_RESTORED) as (first, second, restored),
        Publisher(registry_kafka) as publisher,
        LoopThread(build_loop(compression.AGENT, settings)),
        LoopThread(build_loop(decompression.AGENT, settings.model_copy(update={"options": {}}))),
    ):
        publisher.publish(TENSOR_BLOCK, good)
        wait_until(lambda: len(restored.read()) == 1)
        for topic, records in ((TENSOR_BLOCK, into), (TENSOR_COMPRESSED, back)):
            for record, _ in records:
                if isinstance(record, bytes):
                    publisher.publish_raw(topic.name, ID.encode(), record, [("content-type", JSON.encode())], compression="none")
                else:
                    publisher.publish(topic, record)
        publisher.publish(TENSOR_BLOCK, good)
        publisher.flush()
        wait_until(lambda: len(restored.read()) >= 2)
        wait_until(lambda: len(first.read()) >= len(into) and len(second.read()) >= len(back))
        frames = [RestoredBlock.decode(message.value()) for message in restored.read()]
        for tail, records in ((first, into), (second, back)):
            letters = [DeadLetter.from_headers(headers_of(message)) for message in tail.read()]
            letters.sort(key=lambda letter: letter.offset)
            for letter, (_, reason) in zip(letters, records, strict=True):
                assert letter.stage == ("process" if reason else "decode")
                assert letter.error_message.startswith(reason)
    assert [frame.data.tobytes() for frame in frames if frame.data is not None] == [good.data.tobytes()] * 2
