"""Compression under faults: tensors of two blocks whose steps are coded as deltas, some with bytes of another digest."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from agents.registry import find_agent
from qstream.compression.examples import block
from qstream.config import Settings
from qstream.contract import Record
from qstream.testing.verify import Run, fault_free
from schemas.topics import TENSOR_BLOCK
from tests.chaos.cases import Case, Step, draw_fault

TENSORS: Final = tuple(f"chaos/layers.{n}.up" for n in range(8))
SHAPE: Final = (8, 64)
OPTIONS: Final = {"mode": "delta", "anchor_every": 16}


def tensors() -> Case:
    """Coded blocks say by their bytes what was kept of the blocks before."""
    agent = find_agent("compression")
    processor = agent.processor(Settings(options=dict(OPTIONS)))

    def expected(records: Sequence[Record], poison: Collection[str], states: Mapping[str, bytes]) -> Run:
        return fault_free(processor, records, poison)

    state = processor.state
    assert state is not None
    return Case(agent.name, processor.inputs, processor.outputs, state, TENSORS, script, expected)


def script(rng: random.Random, count: int) -> Iterator[Step]:
    """Steps of tensors at random, block by block."""
    draw = np.random.default_rng(rng.randrange(1 << 32))
    values = {name: draw.standard_normal(SHAPE).astype(np.float32) for name in TENSORS}
    steps = dict.fromkeys(TENSORS, 0)
    for _ in range(count // 2):
        name = rng.choice(TENSORS)
        values[name] = values[name] + (draw.random(SHAPE) < 0.05).astype(np.float32) * np.float32(1e-3)
        for at in range(2):
            frame = block(values[name], steps[name], at).model_copy(update={"tensor_id": name, "model": "chaos"})
            fault = draw_fault(rng).replace("error", "poison")
            change = {"digest": "0" * 16} if fault == "poison" else {}
            yield Step(TENSOR_BLOCK, name, frame.model_copy(update=change), fault)
        steps[name] += 1
