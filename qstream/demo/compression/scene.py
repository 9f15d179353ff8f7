"""The compression scene: a model trains on gradients that travel at a bit a value, next to a twin whose gradients stay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import RenderableType

from qstream.compression.cutting import blocks_of, series_of, tensor_id_of
from qstream.compression.dtypes import Form, canonical
from qstream.compression.warm import warm
from qstream.demo.compression.score import Score
from qstream.demo.compression.screen import line, panel, report
from qstream.demo.compression.training import Arrays, Replica, mean, shares
from qstream.demo.model import Shape
from qstream.demo.scene import Frames, PlainScene
from qstream.demo.text import TextBatch, batches, load_corpus
from schemas.bfloat16 import to_bfloat16
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.tensors import Role, TensorBlock, TensorPolicy
from schemas.topics import TENSOR_BLOCK

SHAPE: Final = Shape(layers=2, experts=8, top_k=2, width=64, heads=4, hidden=64, context=64)
SEQUENCES: Final = 16  # of a step, for all workers
WORKERS: Final = 2
LEARNING_RATE: Final = 2e-3
BITS: Final = 1.0
BOUND: Final = 0.05
MODEL: Final = "demo-moe"
POLICIES: Final[Mapping[Role, TensorPolicy]] = {
    "weight": TensorPolicy(mode="delta"),
    "gradient": TensorPolicy(mode="gradient", target_bits=BITS),
    "activation": TensorPolicy(mode="bounded", bound_kind="rms", bound=BOUND),
}
BLOCK_BYTES: Final = 1 << 16
IN_FLIGHT: Final = 16  # blocks: 1 MiB of the 5 that the embedded broker keeps of a partition
LEAST_STEPS: Final = 3
SAMPLED: Final = 8  # one step of so many is given to the peers
NEXT: Final = """next
  your tensors   qstream compression pack FILE --compare: a file as it travels, next to int8, Q4_0, NF4 and zstd
  your trainer   TensorPublisher sends what TensorSubscriber gives back: docs/pages/howto/tensors.md
  a cluster      qstream run compression;  qstream run decompression;  qstream control compression --set mode=bounded
  what it does   qstream/compression/README.md: modes, promises, and what each toggle is worth"""


class CompressionScene(PlainScene):
    """A step each: weights, the gradients of two workers and activations are published as blocks, coded by one agent and
    restored by another. The optimizer waits for the gradients and takes what came back, so that a slow machine does fewer
    steps and measures the same.
    """

    agent = "compression"
    others: Sequence[str] = ("decompression",)
    options: Mapping[str, Scalar] = {}
    ends = True
    packages = ("torch", "numba", "zstandard")
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.max_waiting = IN_FLIGHT
        self.score = Score(BOUND)
        self._before: dict[str, Form] = {}
        self._figures: Mapping[str, Any] = {}

    def first(self) -> Frames:
        return []

    def warm(self) -> None:
        warm()

    def steps(self, seconds: float) -> Iterator[Frames]:
        """Blocks, a few at a time, so that the broker keeps them; the last of a step return before the next begins.

        At least `LEAST_STEPS`, so that there is something to compare however slow the machine.
        """
        replica = Replica(SHAPE, seed=self.seed, learning_rate=LEARNING_RATE)
        twin = Replica(SHAPE, seed=self.seed, learning_rate=LEARNING_RATE)
        text = batches(load_corpus(), SEQUENCES, SHAPE.context, np.random.default_rng(self.seed))
        began_s = time.monotonic()
        for step, batch in enumerate(text):
            if step >= LEAST_STEPS and time.monotonic() - began_s >= seconds:
                return
            yield from self._sent(step, "weight", replica.weights())
            own_loss, gradients, activations = _work(replica, batch)
            for worker, arrays in enumerate(gradients):
                yield from self._sent(step, "gradient", arrays, f"worker-{worker}")
            twin_loss, uncompressed, _ = _work(twin, batch)
            twin.step(mean(uncompressed))
            yield from self._sent(step, "activation", activations)
            self.max_waiting = 0
            yield []
            self.max_waiting = IN_FLIGHT
            self.score.losses.own.append(own_loss)
            self.score.losses.twin.append(twin_loss)
            replica.step(mean(self._restored(gradients)))

    def _sent(self, step: int, role: Role, arrays: Arrays, worker: str | None = None) -> Iterator[Frames]:
        """The tensors as blocks, `IN_FLIGHT` at a time; on some steps peers code them too."""
        ts_ns = time.time_ns()
        blocks: list[TensorBlock] = []
        for name, array in arrays.items():
            form = canonical(to_bfloat16(array), "bfloat16") if role == "weight" else canonical(array)
            blocks += blocks_of(
                form,
                name,
                model=MODEL,
                role=role,
                worker=worker,
                step=step,
                ts_ns=ts_ns,
                block_bytes=BLOCK_BYTES,
                policy=POLICIES[role],
            )
            tensor_id = tensor_id_of(series_of(MODEL, role, worker), name)
            if step % SAMPLED == 1:
                self.score.compare_peers(role, form, self._before.get(tensor_id))
            if step % SAMPLED == 0:
                self._before[tensor_id] = form
        for at in range(0, len(blocks), IN_FLIGHT):
            yield [(TENSOR_BLOCK, block) for block in blocks[at : at + IN_FLIGHT]]

    def _restored(self, gradients: Sequence[Arrays]) -> list[Arrays]:
        """What came back of the workers' gradients; zeros where an agent refused a block."""
        came = self.score.gradients()
        found: list[Arrays] = []
        for worker, sent in enumerate(gradients):
            series = series_of(MODEL, "gradient", f"worker-{worker}")
            found.append({name: _came(came, tensor_id_of(series, name), array) for name, array in sent.items()})
        return found

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, TensorBlock):
            self.score.sent(frame, at_s)

    def received(self, frame: Frame, at_s: float) -> Frames:
        self.score.received(frame, at_s)
        return ()

    @property
    def waiting(self) -> int:
        return self.score.waiting

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        self._figures = self.score.figures(seconds)
        return self._figures

    def line(self, agent_state: str) -> str:
        return line(self._figures, agent_state)

    def panel(self, agent_state: str) -> RenderableType:
        return panel(self._figures, self.score, agent_state)

    def report(self) -> Iterator[RenderableType]:
        yield from report(self._figures, self.score)


def _work(replica: Replica, batch: TextBatch) -> tuple[float, list[Arrays], Arrays]:
    """The workers' mean loss, their gradients, and the activations of the first."""
    works = [replica.gradients(share) for share in shares(batch, WORKERS)]
    return float(np.mean([work.loss for work in works])), [work.gradients for work in works], works[0].activations


def _came(came: Mapping[str, NDArray[Any]], tensor_id: str, sent: NDArray[np.float32]) -> NDArray[np.float32]:
    found = came.get(tensor_id)
    return np.zeros_like(sent) if found is None else found.astype(np.float32, copy=False)
