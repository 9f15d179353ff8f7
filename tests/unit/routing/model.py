"""Model: a small model, and the records that its tests feed to the processor."""

from collections import Counter

import numpy as np

from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.testing.feed import Feed, Sent
from schemas import ExpertLoad, ExpertTopology, TokenBatch

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=200, min_gain=0.0, plan_ms=0, plan_every_s=0)


class Stream:
    """Feeds one model record by record, one a millisecond and topic."""

    def __init__(self, options: RoutingOptions = OPTIONS, processor: RoutingProcessor | None = None) -> None:
        self.feed = Feed(processor or RoutingProcessor(options))
        self.sent: Counter[type] = Counter()

    def send(self, frame, at_ms: int | None = None) -> Sent:
        at_ms = 1000 + self.sent[type(frame)] if at_ms is None else at_ms
        self.sent[type(frame)] += 1
        return self.feed.send(frame, at_ms)

    @property
    def state(self) -> RoutingState:
        return self.feed.state("m")


def batch(seed: int, layer: int | None = 0, tokens: int = 128, experts: int = 8) -> TokenBatch:
    rng = np.random.default_rng(seed)
    gate = {} if layer is None else {"topk_ids": np.minimum(rng.geometric(0.4, (tokens, 2)) - 1, experts - 1).astype(np.int32)}
    return TokenBatch(
        batch_id=f"b{seed}", ts_ns=5, model="m", layer=layer, token_id=np.arange(tokens, dtype=np.uint64) + seed * 1000, **gate
    )


def load(window: str, source: str = "s", tokens: int = 256, queued: dict[str, int] | None = None) -> ExpertLoad:
    count = np.tile(np.array([90, 50, 40, 30, 20, 10, 10, 6]), (2, 1))
    return ExpertLoad(
        model="m",
        source=source,
        window_id=window,
        t0_ns=0,
        t1_ns=1,
        num_tokens=tokens,
        logical_count=count,
        queued_by_label=queued,
    )
