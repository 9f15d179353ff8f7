"""Unseen: seconds and watts of tasks that were not measured, by a graph network or, where that gains too little, by its twin.

The network is GraphSAGE (Hamilton, Ying and Leskovec 2017) over the links of the graph; the twin sees the same columns and their
means over neighbours. Both travel in one model. What a graph declares of a task that was not measured is an upper bound: a
prediction only lowers it.
"""

from __future__ import annotations

import json
import math
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from qstream.energy.features import COLUMNS, MODES, Bools, around, columns, curves, links, measured
from qstream.energy.fleet import Floats, Ints
from qstream.errors import LearnError
from qstream.learn.model import Model, setting
from qstream.learn.policy import sage
from qstream.learn.registry import Want
from schemas.solver import Reason
from schemas.tasks import TaskGraph
from schemas.wording import Shown, must_be

NAME: Final = "gnn"
WANT: Final = Want(("sage",), COLUMNS, 2 * MODES)
GAIN: Final = 0.03  # of the twin's error, by which the network must be better, else the twin answers
DEPTH: Final = 3  # of the twin's trees, laid out as heaps
_CLIP: Final = 8.0  # deviations, beyond which a column counts as this
_LONGEST: Final = 60.0  # of a logarithm, so that its exponential is finite

Answers = Literal["network", "twin"]


def answers(model: Model) -> Answers:
    """Which of both answers, as the trainer found on graphs kept apart."""
    return "twin" if setting(model, "answers", "network", ("network", "twin")) == "twin" else "network"


def network_curves(model: Model, x: Floats, link: Ints) -> Floats:
    """Curves [N, 2 M] of the network, from columns [N, F] and links [2, E]."""
    out = sage(model, scaled(x, _array(model, "x.mean"), _array(model, "x.scale")), link)
    return out * _array(model, "y.scale") + _array(model, "y.mean")


def twin_curves(model: Model, x: Floats, link: Ints) -> Floats:
    """Curves [N, 2 M] of the twin: boosted trees, or a ridge regression where the trainer had no trees."""
    scale = (np.tile(_array(model, name), 2) for name in ("x.mean", "x.scale"))
    seen = scaled(around(x, link), *scale)
    if "twin.weight" in model.arrays:
        out = seen @ _array(model, "twin.weight").T + _array(model, "twin.bias")
    else:
        trees = (_array(model, f"twin.{name}") for name in ("feature", "threshold", "value"))
        out = boosted(seen, *trees) + _array(model, "twin.bias")
    return out * _array(model, "y.scale") + _array(model, "y.mean")


def boosted(x: Floats, feature: Floats, threshold: Floats, value: Floats) -> Floats:
    """Sums of trees [N, outputs]: `feature` and `threshold` [outputs, trees, nodes] of their inner nodes in the order of a heap,
    `value` [outputs, trees, leaves]. A row goes right where its column is above the threshold."""
    outputs, trees, leaves = value.shape
    out, each = np.zeros((len(x), outputs)), np.arange(trees)
    for o in range(outputs):
        at = np.zeros((len(x), trees), np.int64)
        for _ in range(leaves.bit_length() - 1):
            tested = np.take_along_axis(x, feature[o][each, at].astype(np.int64), 1)
            at = 2 * at + 1 + (tested > threshold[o][each, at])
        out[:, o] = value[o][each, at - (leaves - 1)].sum(1)
    return out


def scaled(x: Floats, mean: Floats, scale: Floats) -> Floats:
    """Columns in deviations from their means, clipped."""
    return np.asarray(np.clip((x - mean) / scale, -_CLIP, _CLIP))


def predict(model: Model, graph: TaskGraph, known: Bools | None = None) -> Floats:
    """The curves [N, 2 M] that the model says of all tasks, from those that are `known` [N]: by default all that were measured.

    Raises
    ------
    LearnError
        The model's arrays do not fit, or an answer is not finite.
    """
    seen = measured(graph) if known is None else known
    x, link = columns(graph, seen, categories(model)), links(graph)
    found = (twin_curves if answers(model) == "twin" else network_curves)(model, x, link)
    if not np.isfinite(found).all():
        raise LearnError(must_be("answer of the model", "finite", Shown("NaN or infinity")))
    return np.clip(found, -_LONGEST, _LONGEST)


def with_predictions(graph: TaskGraph, model: Model) -> TaskGraph:
    """The graph with predicted slots and watts of its tasks that were not measured, none above what it declares.

    Slots are those that hold in nine of ten cases, as graphs kept apart have shown; watts are the middle ones.
    """
    return graph if measured(graph).all() else lowered(graph, model, predict(model, graph))


def lowered(graph: TaskGraph, model: Model, said: Floats) -> TaskGraph:
    """The same from what the model said [N, 2 M]."""
    unseen, count = ~measured(graph), min(MODES, graph.duration.shape[1])
    margin = float(_array(model, "margin")[0])
    gpus = np.ones(len(graph.task)) if graph.gpus is None else graph.gpus
    seconds, watts = np.exp(said[:, :count] + margin), np.exp(said[:, MODES : MODES + count]) * gpus[:, None]
    duration, power = graph.duration.copy(), graph.power_w.copy()
    there = (duration[:, :count] > 0) & unseen[:, None]
    slots = np.clip(np.ceil(seconds / graph.slot_s), 1, np.maximum(duration[:, :count], 1))
    duration[:, :count] = np.where(there, slots, duration[:, :count])
    power[:, :count] = np.where(there, np.minimum(watts, power[:, :count]), power[:, :count])
    return graph.model_copy(update={"duration": duration, "power_w": power})


def reason(model: Model) -> Reason | None:
    """Why the network did not answer, if it did not."""
    return Reason.TWIN_IS_BETTER if answers(model) == "twin" else None


def error(said: Floats, came: Floats) -> Floats:
    """Mean distance of logarithms over the modes that there are [N], near the relative error; NaN without any."""
    apart = np.abs(said - came)
    count = (~np.isnan(apart)).sum(1)
    return np.where(count > 0, np.nansum(apart, 1) / np.maximum(count, 1), math.nan)


def declared_error(graph: TaskGraph, came: ArrayLike) -> Floats:
    """The same of what the graph declares [N]."""
    return error(curves(graph), np.asarray(came, np.float64))


def categories(model: Model) -> tuple[str, ...]:
    """The categories that have a column."""
    text = str(model.config.get("categories", "[]"))
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise LearnError(must_be("config['categories']", "a list of names as JSON", text)) from exc
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _array(model: Model, name: str) -> Floats:
    if name not in model.arrays:
        raise LearnError(must_be("model", f"with an array {name}", Shown(", ".join(model.arrays))))
    return np.asarray(model.arrays[name], np.float64)
