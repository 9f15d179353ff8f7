"""Policy: numpy forward passes of trained models, equal to PyTorch's to 1e-5; torch trains, numpy answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.learn import given
from qstream.learn.model import Model, setting
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
_ACTIVATIONS: Final[dict[str, Callable[[Floats], Floats]]] = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh}


def mlp(model: Model, x: ArrayLike) -> Floats:
    """The outputs [n, outputs] of a multi-layer perceptron for inputs [n, features].

    Layer i is ``i.weight`` [out, in] and ``i.bias`` [out], as of `torch.nn.Linear`; between layers stands
    ``config["activation"]``, relu (also without it) or tanh.

    Raises
    ------
    LearnError
        The model is of another kind, an array is missing or of another shape, or `x` is not finite or has other features.
    """
    _is(model, "mlp")
    h, act = _inputs(model, x), _ACTIVATIONS[setting(model, "activation", "relu", tuple(_ACTIVATIONS))]
    layers = _layers(model, "weight")
    for i in range(layers):
        h = h @ _weight(model, f"{i}.weight", (None, h.shape[1])).T
        h = h + _weight(model, f"{i}.bias", (h.shape[1],))
        h = act(h) if i + 1 < layers else h
    return h


def lstm(model: Model, x: ArrayLike, carry: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """One step of an LSTM (Hochreiter and Schmidhuber 1997) for n series: outputs [n, outputs] and the next carry [2, n, units].

    Arrays as of `torch.nn.LSTM` with one layer, gates in the order i, f, g, o: ``weight_ih`` [4 units, features], ``weight_hh``
    [4 units, units], ``bias`` [4 units], the sum of both of torch's; then ``head.weight`` [outputs, units], ``head.bias``.

    Parameters
    ----------
    x
        [n, features], the newest values.
    carry
        [2, n, units], hidden and cell, from the last step; zeros if None.
    """
    _is(model, "lstm")
    now = _inputs(model, x)
    recurrent = _weight(model, "weight_hh", (None, None))
    units = recurrent.shape[1]
    recurrent = _weight(model, "weight_hh", (4 * units, units))
    shape = (2, len(now), units)
    hidden, cell = np.zeros(shape) if carry is None else given.numbers("carry", carry, shape)
    gates = (
        now @ _weight(model, "weight_ih", (4 * units, now.shape[1])).T
        + hidden @ recurrent.T
        + _weight(model, "bias", (4 * units,))
    )
    enter, keep, new, out = (gates[:, at * units : (at + 1) * units] for at in range(4))
    cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
    hidden = _sigmoid(out) * np.tanh(cell)
    head = _weight(model, "head.weight", (None, units))
    return hidden @ head.T + _weight(model, "head.bias", (len(head),)), np.stack([hidden, cell])


def gru(model: Model, x: ArrayLike, carry: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """One step of a GRU (Cho et al. 2014, as `torch.nn.GRU`) for n series: outputs [n, outputs], the next carry [n, units].

    Arrays with gates in the order r, z, n: ``weight_ih`` [3 units, features], ``weight_hh`` [3 units, units], ``bias_ih`` and
    ``bias_hh`` [3 units]; then ``head.weight`` [outputs, units], ``head.bias``. `x` and `carry` as in `lstm`.
    """
    _is(model, "gru")
    now = _inputs(model, x)
    units = _weight(model, "weight_hh", (None, None)).shape[1]
    hidden = np.zeros((len(now), units)) if carry is None else given.numbers("carry", carry, (len(now), units))
    inner = now @ _weight(model, "weight_ih", (3 * units, now.shape[1])).T + _weight(model, "bias_ih", (3 * units,))
    outer = hidden @ _weight(model, "weight_hh", (3 * units, units)).T + _weight(model, "bias_hh", (3 * units,))
    reset, keep = (_sigmoid(inner[:, at : at + units] + outer[:, at : at + units]) for at in (0, units))
    hidden = (1.0 - keep) * np.tanh(inner[:, 2 * units :] + reset * outer[:, 2 * units :]) + keep * hidden
    head = _weight(model, "head.weight", (None, units))
    return hidden @ head.T + _weight(model, "head.bias", (len(head),)), hidden


def ridge(model: Model, x: ArrayLike) -> Floats:
    """The outputs [n, outputs] of a linear model: ``weight`` [outputs, features], ``bias`` [outputs]."""
    _is(model, "ridge")
    now = _inputs(model, x)
    weight = _weight(model, "weight", (None, now.shape[1]))
    return now @ weight.T + _weight(model, "bias", (len(weight),))


def svm(model: Model, x: ArrayLike) -> Floats:
    """The decision [n, 1] of a support vector machine with radial basis functions for inputs [n, features].

    The kernel is exp(-gamma |x - v|²). Inputs are standardised by ``mean`` and ``scale`` [features]; then come ``support``
    [vectors, features], ``weight`` [1, vectors], ``bias`` [1], and ``config["gamma"]``.
    """
    _is(model, "svm")
    now = _inputs(model, x)
    mean, scale = (_weight(model, name, (now.shape[1],)) for name in ("mean", "scale"))
    support = _weight(model, "support", (None, now.shape[1]))
    gamma = model.config.get("gamma")
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < np.inf:
        raise LearnError(must_be("config['gamma']", "a positive number", gamma))
    with np.errstate(divide="ignore", invalid="ignore"):
        standard = (now - mean) / scale
    if not np.isfinite(standard).all():
        raise LearnError(must_be("arrays['scale']", "positive", Shown("a zero")))
    own, theirs = (np.einsum("nf,nf->n", each, each) for each in (standard, support))
    apart = (own[:, None] + theirs) - 2 * standard @ support.T
    near = np.exp(-gamma * np.maximum(apart, 0.0))
    return np.asarray(near @ _weight(model, "weight", (1, len(support))).T + _weight(model, "bias", (1,)))


def outputs(model: Model) -> int:
    """How many outputs the model has, found by an answer to zeros; `LearnError` if its arrays do not give one."""
    zeros = np.zeros((1, len(model.feature_names)))
    match model.kind:
        case "mlp":
            answer = mlp(model, zeros)
        case "ridge":
            answer = ridge(model, zeros)
        case "svm":
            answer = svm(model, zeros)
        case "lstm":
            answer = lstm(model, zeros)[0]
        case "gru":
            answer = gru(model, zeros)[0]
        case "sage":
            answer = sage(model, zeros, np.zeros((2, 0), np.int64))
    return int(answer.shape[1])


def sage(model: Model, x: ArrayLike, edges: ArrayLike) -> Floats:
    """The outputs [nodes, outputs] of GraphSAGE with mean aggregation (Hamilton, Ying and Leskovec 2017).

    Layer i: own.weight h + neighbour.weight (mean of h over the sources of a node's edges, 0 without one) + bias, named
    ``i.own.weight``, ``i.neighbour.weight`` [out, in] and ``i.bias`` [out]; the activation as in `mlp`.

    Parameters
    ----------
    x
        [nodes, features].
    edges
        Whole numbers [2, edges]: source and target of each.
    """
    _is(model, "sage")
    h, act = _inputs(model, x), _ACTIVATIONS[setting(model, "activation", "relu", tuple(_ACTIVATIONS))]
    source, target = _edges(edges, len(h))
    degree = np.maximum(np.bincount(target, minlength=len(h)), 1)[:, None]
    layers = _layers(model, "own.weight")
    for i in range(layers):
        own = _weight(model, f"{i}.own.weight", (None, h.shape[1]))
        total = np.zeros_like(h)
        np.add.at(total, target, h[source])
        h = h @ own.T + (total / degree) @ _weight(model, f"{i}.neighbour.weight", own.shape).T
        h = h + _weight(model, f"{i}.bias", (len(own),))
        h = act(h) if i + 1 < layers else h
    return h


def _sigmoid(x: Floats) -> Floats:
    half: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))  # never overflows
    return half


def _is(model: Model, kind: str) -> None:
    if model.kind != kind:
        raise LearnError(must_be("model", f"of kind {kind}", model.kind))


def _inputs(model: Model, x: ArrayLike) -> Floats:
    shape = given.shape_of("x", x)
    if len(shape) != 2 or 0 in shape:
        raise LearnError(must_be("x", "of shape [n, features], neither of them 0", Shown(f"shape {shape}")))
    return given.numbers("x", x, (shape[0], len(model.feature_names)))


def _edges(edges: ArrayLike, nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    given.shape_of("edges", edges)
    found: NDArray[Any] = np.asarray(edges)
    if found.ndim != 2 or len(found) != 2 or found.dtype.kind not in "iu":
        raise LearnError(must_be("edges", "whole numbers of shape [2, edges]", Shown(f"{found.dtype} of shape {found.shape}")))
    if found.size and (found.min() < 0 or found.max() >= nodes):
        raise LearnError(must_be("edges", f"nodes from 0 to {nodes - 1}", Shown(f"values from {found.min()} to {found.max()}")))
    return found[0].astype(np.int64), found[1].astype(np.int64)


def _layers(model: Model, name: str) -> int:
    count = 0
    while f"{count}.{name}" in model.arrays:
        count += 1
    if not count:
        raise LearnError(must_be("model", f"with an array 0.{name}", Shown(", ".join(model.arrays))))
    return count


def _weight(model: Model, name: str, shape: tuple[int | None, ...]) -> Floats:
    """An array of the model as float64; `LearnError` unless it has that shape, None being any length."""
    if name not in model.arrays:
        raise LearnError(must_be("model", f"with an array {name}", Shown(", ".join(model.arrays))))
    array = model.arrays[name]
    if len(array.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise LearnError(must_be(f"arrays[{name!r}]", f"of shape ({wanted})", Shown(f"shape {array.shape}")))
    return array.astype(np.float64)
