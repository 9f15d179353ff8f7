"""Example records for the conformance checks: a tensor's steps in two blocks, with faults, and what they are coded to."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qstream.compression.coding import coded_block
from qstream.compression.header import digest
from qstream.compression.memory import Memory
from qstream.compression.stream_options import EncodeOptions
from qstream.contract import Record
from qstream.errors import BlockError
from schemas.frame import Frame
from schemas.tensors import TensorBlock, TensorPolicy
from schemas.topics import TENSOR_BLOCK, TENSOR_COMPRESSED, Topic

TENSOR_ID: Final = "my-moe/layers.3.mlp.up"
STEPS: Final = 6
SHAPE: Final = (16, 32)
BLOCKS: Final = 2
DAMAGED: Final = (3, 8, 11)  # of the coded records


def records() -> list[Record]:
    """Steps of a matrix of which few values change; one is sent twice, one goes back, one has another digest, one another shape,
    and some are coded by a policy, of which one contradicts itself."""
    given = [block(values, step, at) for step, values in enumerate(series()) for at in range(BLOCKS)]
    first, last = given[0], given[-1]
    policies = (
        TensorPolicy(mode="gradient"),
        TensorPolicy(mode="rate", target_bits=4.4),
        TensorPolicy(mode="bounded", bound_kind="point", bound=0.1),
        TensorPolicy(mode="bounded", bound_kind="l2", bound=2.0),
        TensorPolicy(mode="int8"),
        TensorPolicy(mode="delta"),
    )
    given.insert(5, given[4])
    given.insert(7, first)
    given.insert(9, last.model_copy(update={"digest": "0" * 16}))
    given += [last.model_copy(update={"policy": policy, "step": STEPS + n}) for n, policy in enumerate(policies)]
    given.append(block(series()[0][:, :16], 2 * STEPS, 0))
    return _records(TENSOR_BLOCK, given)


def coded_records() -> list[Record]:
    """What those are coded to, with one lost, one sent twice, one damaged, one of another type and one on another base."""
    memory: Memory = None
    coded: list[Any] = []
    for record in records():
        assert isinstance(record.frame, TensorBlock)
        try:
            frame, memory = coded_block(record.frame, EncodeOptions(mode="delta", anchor_every=4), memory)
        except BlockError:
            continue
        coded.append(frame)
    bytes_ = coded[DAMAGED[0]].data.copy()
    bytes_[-1] ^= 1
    changes: tuple[dict[str, Any], ...] = ({"data": bytes_}, {"dtype": "int32"}, {"base_digest": "0" * 16})
    for at, change in zip(DAMAGED, changes, strict=True):
        coded.insert(at, coded[at].model_copy(update=change))
    del coded[2]
    coded.insert(6, coded[6])
    return _records(TENSOR_COMPRESSED, coded)


def series() -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """A matrix at each step."""
    rng = np.random.default_rng(7)
    found = [rng.standard_normal(SHAPE).astype(np.float32)]
    for _ in range(STEPS - 1):
        found.append(found[-1] + (rng.random(SHAPE) < 0.05).astype(np.float32) * np.float32(1e-3))
    return found


def block(values: np.ndarray[Any, Any], step: int, at: int) -> TensorBlock:
    """Rows `at` of a matrix that is cut into `BLOCKS` blocks."""
    rows = len(values) // BLOCKS
    part = np.ascontiguousarray(values[at * rows : (at + 1) * rows])
    data = part.reshape(-1).view(np.uint8)
    return TensorBlock(
        tensor_id=TENSOR_ID,
        model="my-moe",
        role="weight",
        step=step,
        ts_ns=step,
        dtype=str(values.dtype),
        shape=values.shape,
        block=at,
        blocks=BLOCKS,
        start=at * part.size,
        count=part.size,
        digest=digest(data),
        data=data,
    )


def _records(topic: Topic, frames: list[Any]) -> list[Record]:
    made: list[tuple[int, Frame]] = list(enumerate(frames))
    return [Record(topic.name, 0, offset, TENSOR_ID, frame, 1000 + offset) for offset, frame in made]
