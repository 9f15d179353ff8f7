"""What routing learns, next to what it did without and to the best fixed arm, on real routing. CPU times are of one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qstream.contract import Batch, Record
from qstream.learn import calibration
from qstream.learn.hedge import HedgeState
from qstream.routing import smoothing
from qstream.routing.decision import expected_balancedness
from qstream.routing.options import RoutingOptions
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.plan import plan_placement
from qstream.routing.problem import contiguous
from qstream.routing.processor import RoutingProcessor
from qstream.routing.promise import judge, promise
from qstream.routing.scenarios import place_scenarios
from schemas.experts import ExpertTopology
from schemas.topics import EXPERTS_TOPOLOGY, TOKENS_BATCH
from tests.benchmarks.bench_learn import Row, load_stick
from tests.benchmarks.bench_loop import GROUP, token_batch, topology

_SEEDS = (0, 1)
_PASSES = 8
_FIRST = 3  # windows seen before the first score
_WINDOW = 1024
_TURNS = 400  # of 64 batches, with learning and without
_SHARES = (
    ("512 tokens, placement fresh", 512, 1, ">= 0.916"),
    ("512 tokens, placement 6 windows old", 512, 6, ">= 0.911"),
    ("512 tokens, placement never renewed", 512, 10**6, ">= 0.878"),
    ("256 tokens, placement fresh", 256, 1, ">= 0.893"),
    ("256 tokens, placement 6 windows old", 256, 6, "-"),
    ("2,048 tokens, placement fresh", 2048, 1, "-"),
    ("2,048 tokens, placement never renewed", 2048, 10**6, "-"),
)
_LABELS = (("right", ">= 0.946"), ("of another task", ">= 0.937"), ("of the window before", "-"), ("unknown", "-"))


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_stick()
    return [*([*shares(stick), *labels(stick.esft_stream), *promises(stick.esft_stream)] if stick else []), *costs()]


def model(slots: int) -> ExpertTopology:
    return ExpertTopology(num_layers=26, num_logical_experts=64, top_k=6, num_gpus=8, slots_per_gpu=slots // 8)


def smoothed(pick: Callable[[HedgeState, np.ndarray], np.ndarray], slots: int = 80) -> Callable[[], Any]:
    """What routing does with the counts of each share-out, in the stick's form; `pick` chooses the answer."""

    def make() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        state, seen = smoothing.start(), None

        def step(counts: np.ndarray, plan: np.ndarray) -> np.ndarray:
            nonlocal state, seen
            state, seen, arms = smoothing.learn(state, seen, counts.astype(np.float64), plan.astype(np.int32), model(slots))
            return pick(state, arms)

        return step

    return make


def shares(stick: ModuleType) -> list[Row]:
    """Balancedness of the tokens that come next, by shares from those before; 80 slots, the mean of two request orders."""

    def planner(history: np.ndarray, slots: int, gpus: int) -> np.ndarray:
        return place_scenarios(history.astype(np.float64), gpus, slots, steps=8000)

    found: list[Row] = []
    for what, tokens, replan, target in _SHARES:

        def score(make: Any, tokens: int = tokens, replan: int = replan) -> float:
            every = [stick.shares_score(make, planner, seed=seed, tokens=tokens, replan=replan) for seed in _SEEDS]
            return float(np.mean([one["balancedness"] for one in every]))

        fixed = {name: score(smoothed(lambda _, arms, k=k: arms[k])) for k, name in enumerate(smoothing.ARMS)}
        best = max(fixed, key=lambda name: fixed[name])
        found += [
            (f"shares for the next {what}: smoothed by the hedge", score(smoothed(smoothing.mixed)), "", target),
            ("  the newest counts, as without learning", fixed["live"], "", "-"),
            ("  even", fixed["even"], "", "-"),
            (f"  the best fixed arm, {best}", fixed[best], "", "-"),
            ("  all arms alike", score(smoothed(lambda _, arms: arms.mean(0))), "", "-"),
        ]
    return found


def labels(stick: ModuleType) -> list[Row]:
    """Next-window balancedness of plans that believe what a queue says, 72 slots, one request order."""
    stream, top = stick.stream(stick.load(), 0), model(72)
    history, names = stick.window_counts(stream.ids, _WINDOW), int(stream.label.max()) + 1
    score: dict[str, list[float]] = {name: [] for name, _ in _LABELS} | {"no labels": []}
    for i in range(_FIRST, len(history) - 1):
        now = (i + 1) * _WINDOW
        seen = np.stack([stick.counts(stream.ids[:now][stream.label[:now] == k]) for k in range(names)])
        come, went = (np.bincount(stream.label[t : t + _WINDOW], minlength=names) for t in (now, now - _WINDOW))
        queues = {"right": come, "of another task": np.roll(come, 1), "of the window before": went, "unknown": 0 * come}
        known: dict[str, Any] = {name: {"labels": seen, "queued": queue} for name, queue in queues.items()} | {"no labels": {}}
        for name, more in known.items():
            plan = place(history[max(0, i - 15) : i + 1], top, options=PlaceOptions(), **more).physical_to_logical_map
            score[name].append(stick.balancedness(plan, history[i + 1], 8))
    targets = dict(_LABELS)
    return [
        (f"next window, labels of the queue {name}" if name in targets else f"next window, {name}", float(np.mean(each)), "", at)
        for name, each in score.items()
        for at in (targets.get(name, "-"),)
    ]


def promises(stick: ModuleType) -> list[Row]:
    """What plans say of the next window against what comes, eight request orders in a row, 72 and 96 slots."""
    history = np.concatenate([stick.window_counts(stick.stream(stick.load(), seed).ids, _WINDOW) for seed in range(_PASSES)])
    options = RoutingOptions()
    planned, corrected, came_before, holds, margin = [], [], [], [], []
    for slots in (72, 96):
        top, state, before = model(slots), calibration.start(), 1.0
        plan = contiguous(top)
        for i in range(len(history) - 1):
            decision = plan_placement(history[max(0, i + 1 - options.windows) : i + 1], plan, top, options)
            skipped = decision.skip_reason is not None
            plan = plan if skipped else decision.physical_to_logical
            expected = decision.score.balancedness_before if skipped else decision.score.balancedness
            said = promise(state, expected, version=i, window=i)
            came = expected_balancedness(plan, history[i + 1].astype(np.float64), top)
            state = judge(state, said, came)
            if i >= _FIRST:
                planned.append(abs(expected - came))
                corrected.append(abs(said.corrected - came))
                came_before.append(abs(before - came))
                holds.append(came >= said.low)
                margin.append(said.corrected - said.low)
            before = came
    return [
        ("expected balancedness, error of what is to expect of the next window", float(np.mean(corrected)), "", "<= 0.010"),
        ("  of what the plan expects, as without learning", float(np.mean(planned)), "", "-"),
        ("  of the last window's balancedness", float(np.mean(came_before)), "", "-"),
        ("  90 % lower bound holds (.88 to .97)", float(np.mean(holds)), "", ">= 0.88"),
        ("  lower bound below what is to expect, mean", float(np.mean(margin)), "", "-"),
    ]


def costs() -> list[Row]:
    """CPU of a batch of 256 tokens with placements and shares, in one process without a broker.

    The mean, as a learning step is rare; on and off take turns of a few ms, so that a busy machine slows both.
    """
    turns = {learn: _turn(RoutingOptions(learn=learn)) for learn in ("off", "on")}
    cpu_s: dict[str, list[float]] = {learn: [] for learn in turns}
    for n in range(_TURNS):
        for learn in ("off", "on") if n % 2 else ("on", "off"):
            start = time.process_time()
            turns[learn]()
            cpu_s[learn].append((time.process_time() - start) / GROUP)
    off, on = (1e6 * float(np.mean(cpu_s[learn])) for learn in ("off", "on"))
    return [
        ("CPU of a batch of 256 tokens, learning on", on, "us", "-"),
        ("  off", off, "us", "-"),
        ("  on over off", on / off, "", "<= 1.05"),
    ]


def _turn(options: RoutingOptions) -> Callable[[], None]:
    """One round of batches through the processor."""
    processor = RoutingProcessor(options)
    processor.warm()
    first = Record(EXPERTS_TOPOLOGY.name, 0, 0, "m", topology(), 1_700_000_000_000)
    state = processor.process(Batch("m", [first]), None, 0).state
    frames = [token_batch(number) for number in range(GROUP)]
    turns = 0

    def turn() -> None:
        nonlocal state, turns
        turns += 1
        records = [Record(TOKENS_BATCH.name, 0, i, "m", frame, turns) for i, frame in enumerate(frames)]
        state = processor.process(Batch("m", records), state, 0).state

    return turn
