"""Train gnn: a graph network that predicts tasks that were not measured, and its twin, from recorded graphs; torch trains.

Half of the measured tasks of a graph are hidden, drawn more than once, and predicted from their features and from the others. The
newest quarter of the graphs is kept apart: there network and twin are compared, and the twin answers unless the network's error
is 3 % smaller.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from qstream.energy.features import CATEGORIES, COLUMNS, MODES, Bools, around, columns, curves, links, measured
from qstream.energy.fleet import Floats, Ints
from qstream.energy.unseen import DEPTH, GAIN, NAME, error, network_curves, scaled, twin_curves
from qstream.errors import LearnError
from qstream.learn.fit import one_thread
from qstream.learn.model import Model
from qstream.learn.report import HELD_OUT, Report, report
from schemas.frame import Frame
from schemas.tasks import TaskGraph
from schemas.wording import Shown, must_be

LEAST: Final = 20  # graphs with two measured tasks or more
ROUNDS: Final = 200
UNITS: Final = 64
MASKS: Final = 3  # times that the tasks of a graph are hidden
TREES: Final = 80
_RATE, _DECAY, _CHECK = 0.01, 0.001, 10
_COVERED: Final = 0.9
_RIDGE: Final = 1.0
_ACTIVE: Final = "relu"


class Lesson(NamedTuple):
    """One graph with some of its tasks hidden: columns [N, F], links [2, E], curves [N, 2 M], and which are hidden [N]."""

    x: Floats
    link: Ints
    curve: Floats
    hidden: Bools


def train_gnn(
    frames: Iterable[Frame],
    *,
    seed: int,
    deadline_s: float,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Model, Report]:
    """Train on recorded `TaskGraph` s; of a graph that came more than once the last one counts.

    Losses are the errors of a graph's hidden tasks, mean distance of the logarithms of seconds and watts. The twin are boosted
    trees where scikit-learn is installed, else a ridge regression.

    Raises
    ------
    LearnError
        Fewer than 20 graphs have two measured tasks.
    """
    graphs = _graphs(frames)
    if len(graphs) < LEAST:
        raise LearnError(must_be("frames", f"{LEAST} or more TaskGraphs with two measured tasks", Shown(f"{len(graphs)}")))
    known = int(len(graphs) * (1 - HELD_OUT))
    older, checked = graphs[: int(known * 0.8)], graphs[int(known * 0.8) : known]
    names = [name for name, _ in Counter(name for graph in graphs[:known] for name in graph.category if name).most_common()]
    made = names[:CATEGORIES]
    fit, check, apart = (lessons(part, made, seed + at) for at, part in enumerate((older, checked, graphs[known:])))
    scales = _scales(fit)
    twin, kind = _twin(fit, scales, seed)
    arrays = _network(fit, check, scales, seed, rounds, clock, clock() + deadline_s)
    model = Model(
        module="energy",
        name=NAME,
        version=0,
        kind="sage",
        arrays={**scales, **twin, **arrays, "margin": np.zeros(1)},
        feature_names=COLUMNS,
        config={"categories": json.dumps(made), "activation": _ACTIVE, "twin": kind},
    )
    own, others = (_errors(model, apart, of) for of in (network_curves, twin_curves))
    better = own.mean() <= (1 - GAIN) * others.mean()
    of = network_curves if better else twin_curves
    config = {**model.config, "answers": "network" if better else "twin"}
    model = replace(model, config=config, arrays={**model.arrays, "margin": np.array([_margin(model, check, of)])})
    who = "the network answers" if better else "the twin answers"
    compared = report(f"error of seconds and watts of hidden tasks ({who})", kind, own, others, block=1)
    return replace(model, metrics=compared.metrics), compared


def lessons(graphs: Sequence[TaskGraph], categories: Sequence[str], seed: int) -> list[Lesson]:
    """Graphs with half of their measured tasks hidden, each `MASKS` times; what was not measured is hidden, and no target."""
    rng, found = np.random.default_rng(seed), []
    for graph in graphs:
        seen, link = measured(graph), links(graph)
        curve = np.where(seen[:, None], curves(graph), np.nan)
        for _ in range(MASKS):
            hidden = seen & (rng.random(len(seen)) < rng.uniform(0.25, 0.75))
            if not hidden.any():
                hidden[rng.choice(np.flatnonzero(seen))] = True
            found.append(Lesson(columns(graph, seen & ~hidden, categories), link, curve, hidden))
    return found


def _graphs(frames: Iterable[Frame]) -> list[TaskGraph]:
    newest: dict[tuple[str, str], TaskGraph] = {}
    for frame in frames:
        if isinstance(frame, TaskGraph):
            newest.pop((frame.domain, frame.graph_id), None)
            newest[frame.domain, frame.graph_id] = frame
    return sorted((graph for graph in newest.values() if measured(graph).sum() >= 2), key=lambda graph: graph.ts_ns)


def _scales(fit: Sequence[Lesson]) -> dict[str, Floats]:
    x = np.concatenate([lesson.x for lesson in fit])
    y = np.concatenate([lesson.curve[lesson.hidden] for lesson in fit])
    there = ~np.isnan(y)
    count = np.maximum(there.sum(0), 1)
    middle = np.where(there, y, 0.0).sum(0) / count
    spread = np.sqrt((np.where(there, y - middle, 0.0) ** 2).sum(0) / count)
    wide = x.std(0)
    return {
        "x.mean": x.mean(0),
        "x.scale": np.where(wide > 1e-9, wide, 1.0),
        "y.mean": middle,
        "y.scale": np.where(spread > 1e-9, spread, 1.0),
    }


def _twin(fit: Sequence[Lesson], scales: dict[str, Floats], seed: int) -> tuple[dict[str, Floats], str]:
    """Arrays of the twin, and what it is."""
    mean, scale = np.tile(scales["x.mean"], 2), np.tile(scales["x.scale"], 2)
    x = np.concatenate([scaled(around(lesson.x, lesson.link), mean, scale)[lesson.hidden] for lesson in fit])
    y = (np.concatenate([lesson.curve[lesson.hidden] for lesson in fit]) - scales["y.mean"]) / scales["y.scale"]
    try:
        from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415 - an extra, which no worker needs
    except ImportError:
        return _ridge(x, y), "ridge regression"
    shape = (2 * MODES, TREES)
    feature, threshold = np.zeros((*shape, 2**DEPTH - 1)), np.zeros((*shape, 2**DEPTH - 1))
    value, bias = np.zeros((*shape, 2**DEPTH)), np.zeros(2 * MODES)
    for output in range(2 * MODES):
        rows = ~np.isnan(y[:, output])
        if not rows.any():
            continue
        trees = GradientBoostingRegressor(
            loss="huber",
            n_estimators=TREES,
            max_depth=DEPTH,
            learning_rate=0.1,
            subsample=0.7,
            max_features=0.3,
            random_state=seed,
        ).fit(x[rows], y[rows, output])
        bias[output] = float(trees.init_.constant_.ravel()[0])
        for at, tree in enumerate(trees.estimators_[:, 0]):
            heap(tree.tree_, feature[output, at], threshold[output, at], value[output, at], trees.learning_rate)
    return {"twin.feature": feature, "twin.threshold": threshold, "twin.value": value, "twin.bias": bias}, "boosted trees"


def heap(tree: Any, feature: Floats, threshold: Floats, value: Floats, rate: float) -> None:
    """Lay a tree out as a heap; a leaf above the last level holds for all below it."""

    def place(node: int, at: int) -> None:
        leaf = tree.children_left[node] < 0
        if at >= len(feature):
            value[at - len(feature)] = rate * tree.value[node].ravel()[0]
            return
        feature[at] = 0 if leaf else tree.feature[node]
        threshold[at] = 0 if leaf else tree.threshold[node]
        for side, child in enumerate((tree.children_left[node], tree.children_right[node])):
            place(node if leaf else int(child), 2 * at + 1 + side)

    place(0, 0)


def _ridge(x: Floats, y: Floats) -> dict[str, Floats]:
    weight, bias = np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
    for output in range(y.shape[1]):
        rows = ~np.isnan(y[:, output])
        if rows.any():
            one = np.concatenate([x[rows], np.ones((int(rows.sum()), 1))], 1)
            gram = one.T @ one + _RIDGE * np.eye(one.shape[1])
            found = np.linalg.solve(gram, one.T @ y[rows, output])
            weight[output], bias[output] = found[:-1], found[-1]
    return {"twin.weight": weight, "twin.bias": bias}


def _network(
    fit: Sequence[Lesson],
    check: Sequence[Lesson],
    scales: dict[str, Floats],
    seed: int,
    rounds: int,
    clock: Callable[[], float],
    ends: float,
) -> dict[str, Floats]:
    """The network's arrays after the round with the least error on the graphs `check`."""
    import torch  # noqa: PLC0415 - no worker needs it

    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (len(COLUMNS), UNITS, UNITS, 2 * MODES)
        layers = [(torch.nn.Linear(a, b), torch.nn.Linear(a, b, bias=False)) for a, b in pairwise(sizes)]
        given, tested = (_tensors(part, scales) for part in (fit, check))
        weights = [weight for pair in layers for part in pair for weight in part.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=_DECAY)
        least, best = float("inf"), _arrays(layers)
        for turn in range(rounds):
            if clock() > ends:
                break
            optimizer.param_groups[0]["lr"] = _RATE * (0.5 + 0.5 * float(np.cos(np.pi * turn / rounds))) + 1e-5
            loss = _loss(layers, given)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            if turn % _CHECK == _CHECK - 1 or turn == rounds - 1:
                with torch.no_grad():
                    now = float(_loss(layers, tested))
                if now < least:
                    least, best = now, _arrays(layers)
        return best


def _tensors(part: Sequence[Lesson], scales: dict[str, Floats]) -> tuple[Any, ...]:
    """All lessons as one graph: columns, source, target, neighbours of each, curves, and where they count."""
    import torch  # noqa: PLC0415 - no worker needs it

    at = np.cumsum([0, *(len(lesson.x) for lesson in part)])
    x = scaled(np.concatenate([lesson.x for lesson in part]), scales["x.mean"], scales["x.scale"])
    link = np.concatenate([lesson.link + start for lesson, start in zip(part, at[:-1].tolist(), strict=True)], 1)
    y = (np.concatenate([lesson.curve for lesson in part]) - scales["y.mean"]) / scales["y.scale"]
    counts = ~np.isnan(y) & np.concatenate([lesson.hidden for lesson in part])[:, None]
    degree = np.maximum(np.bincount(link[1], minlength=len(x)), 1)[:, None]
    floats = (torch.tensor(value, dtype=torch.float32) for value in (x, degree, np.nan_to_num(y)))
    columns_, degrees, target = floats
    return columns_, torch.tensor(link[0]), torch.tensor(link[1]), degrees, target, torch.tensor(counts)


def _loss(layers: Sequence[Any], given: tuple[Any, ...]) -> Any:
    import torch  # noqa: PLC0415 - no worker needs it

    h, source, to, degree, target, counts = given
    for at, (own, near) in enumerate(layers):
        total = torch.zeros_like(h).index_add_(0, to, h[source])
        h = own(h) + near(total / degree)
        h = torch.relu(h) if at + 1 < len(layers) else h
    return torch.nn.functional.smooth_l1_loss(h[counts], target[counts], beta=0.2)


def _arrays(layers: Sequence[Any]) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for at, (own, near) in enumerate(layers):
        parts = {"own.weight": own.weight, "bias": own.bias, "neighbour.weight": near.weight}
        found |= {f"{at}.{name}": value.detach().numpy().copy() for name, value in parts.items()}
    return found


Answer = Callable[[Model, Floats, Ints], Floats]


def _errors(model: Model, part: Sequence[Lesson], of: Answer) -> Floats:
    """The error of each graph, over its hidden tasks and the times that they were hidden."""
    each = [float(np.nanmean(error(of(model, one.x, one.link), one.curve)[one.hidden])) for one in part]
    return np.asarray(np.array(each).reshape(-1, MASKS).mean(1))


def _margin(model: Model, part: Sequence[Lesson], of: Answer) -> float:
    """What the logarithm of the seconds exceeds the prediction by in nine of ten cases at most, 0 or more."""
    over = [(one.curve - of(model, one.x, one.link))[one.hidden, :MODES].ravel() for one in part]
    found = np.concatenate(over)
    return max(0.0, float(np.quantile(found[~np.isnan(found)], _COVERED)))
