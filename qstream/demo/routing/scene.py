"""The routing scene: a mixture-of-experts language model trains, and the agent places its experts as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from qstream.demo.model import MoELanguageModel, Shape, train
from qstream.demo.routing.findings import findings
from qstream.demo.routing.frames import in_words, model_topology, token_batch
from qstream.demo.routing.score import Score
from qstream.demo.routing.screen import gains_table, line, panel, run_table
from qstream.demo.routing.summary import Summary
from qstream.demo.routing.twin import Twin
from qstream.demo.scene import Frames, PlainScene
from qstream.demo.text import batches, load_corpus
from qstream.routing.warm import warm
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.tokens import TokenBatch
from schemas.topics import EXPERTS_TOPOLOGY, TOKENS_BATCH

SHAPE: Final = Shape()
SEQUENCES: Final = 8  # per step
WINDOW_TOKENS: Final = 8192
STRETCH_TOKENS: Final = 2048  # between two dispatch shares
OPTIONS: Final[Mapping[str, Scalar]] = {
    "window_tokens": WINDOW_TOKENS,
    "windows": 16,
    "shares_tokens": STRETCH_TOKENS,
    "min_gain": 0.02,
    "move_cost": 0.01,
    "plan_ms": 100.0,
    "plan_every_s": 0.0,
}
NEXT: Final = """next
  your model     copy `recorded_routing` from qstream/demo/model.py, publish with `Publisher`, read plans with
                 `PlanSubscriber`: docs/pages/howto/client.md
  a cluster      qstream run routing --bootstrap-servers HOST:PORT --redis URL;  qstream watch placement
  the switches   qstream control routing --set colocate=true;  qstream/routing/README.md says what each costs
  a recording    qstream routing place FILE --gpus G --slots P --nodes N: the same plans from a file, next to EPLB's
  the dashboard  deploy/README.md: docker compose up, with Prometheus, alerts and Grafana"""


class RoutingScene(PlainScene):
    """A small model trains on Python's own sources; each layer's routing of each step is a token batch."""

    agent = "routing"
    options = OPTIONS
    switch: Mapping[str, Scalar] = {"colocate": True}
    packages = ("torch", "numba")
    # An embedded partition keeps 5 MiB, about 110 of these batches: a producer further ahead would overwrite unread ones.
    max_waiting = 64
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.topology = model_topology(SHAPE)
        self.score = Score(self.topology, WINDOW_TOKENS, STRETCH_TOKENS, Twin(self.topology, OPTIONS))
        self._step = 0
        self._summary: Summary = self.score.summary(0.0)

    def first(self) -> Frames:
        return [(EXPERTS_TOPOLOGY, self.topology)]

    def warm(self) -> None:
        warm()

    def steps(self, seconds: float) -> Iterator[Frames]:
        """A training step each: its token batches, one per layer."""
        text = batches(load_corpus(), SEQUENCES, SHAPE.context, np.random.default_rng(self.seed))
        for step in train(MoELanguageModel(SHAPE, seed=self.seed), text):
            self._step = step.step
            self.score.trained(len(step.token_id), step.loss)
            yield [(TOKENS_BATCH, token_batch(step, routing, self.topology.num_gpus)) for routing in step.routing]

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, TokenBatch):
            self.score.published(frame, at_s)

    def received(self, frame: Frame, at_s: float) -> Frames:
        self.score.received(frame, at_s)
        return ()

    def switched(self) -> None:
        self.score.switched = True

    @property
    def waiting(self) -> int:
        return len(self.score.waiting)

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        self._summary = self.score.summary(seconds, repeated)
        return asdict(self._summary) if self._summary.tokens else {}

    def line(self, agent_state: str) -> str:
        return line(self._summary, agent_state)

    def panel(self, agent_state: str) -> RenderableType:
        return panel(self._summary, self.score, self._step, agent_state)

    def report(self) -> Iterator[RenderableType]:
        yield run_table(self._summary, in_words(self.topology))
        yield gains_table(self._summary)
        for sentence in findings(self._summary):
            yield Text(sentence)
