"""Train: trainers that agents declare, `train(frames, *, seed, deadline_s) -> (Model, Report)`; torch trains, numpy answers.

A trainer holds out the newest quarter, and its report compares the model with a twin there. Who publishes the model gives it its
version and says what it was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.learn import forecast, given, recurrent
from qstream.learn.fit import lstm_arrays, one_thread
from qstream.learn.model import Model
from qstream.learn.policy import mlp
from qstream.learn.report import HELD_OUT, Report, report
from schemas.frame import Frame
from schemas.learning import Decisions
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
ROUNDS: Final = 300
WARM: Final = 40  # steps of each window after which errors count
LEAST: Final = 120  # samples of a series
LEAST_DECISIONS: Final = 40
HIDDEN: Final = 16
_WINDOWS, _LENGTH, _RATE = 12, 200, 0.01


class _Lesson(NamedTuple):
    """Inputs [n, F] of a series, and relative to value and range: forecasts of the bank [n, K], and the target [n]."""

    features: Floats
    bank: Floats
    target: Floats


def lstm(
    series: Iterable[ArrayLike],
    *,
    module: str,
    name: str = "forecast",
    horizon: int = 1,
    seed: int = 0,
    deadline_s: float = 60.0,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Model, Report]:
    """Train a forecaster of the mean of the next `horizon` values, for `recurrent.step`, on recorded series.

    Its twin is the same mixture of forecasters without it; losses are absolute errors over the mean error of the last value.
    Training ends early at `deadline_s`; within it, equal arguments give equal models.

    Raises
    ------
    LearnError
        A series is too short (its first three quarters must have 120 + 3 x horizon values), or a value is not finite.
    """
    ahead = given.whole("horizon", horizon, 1, recurrent.MAX_HORIZON)
    least = int((LEAST + 3 * ahead) / (1 - HELD_OUT)) + ahead
    recorded = [_series(index, values, least) for index, values in enumerate(series)]
    if not recorded:
        raise LearnError(must_be("series", "at least one", Shown("none")))
    known = [values[: _split(values)] for values in recorded]
    made = fit_lstm(known, module=module, name=name, horizon=ahead, seed=seed, deadline_s=deadline_s, rounds=rounds, clock=clock)
    own, without = [], []
    for values in recorded:
        losses = [_losses(values, ahead, model) for model in (made, None)]
        own.append(losses[0])
        without.append(losses[1])
    what = f"error of the mean of the next {ahead}, over that of the last value"
    compared = report(what, "the same forecasters without it", np.concatenate(own), np.concatenate(without), block=2 * ahead + 8)
    return replace(made, metrics=compared.metrics), compared


def fit_lstm(
    series: Sequence[Floats],
    *,
    module: str,
    name: str,
    horizon: int,
    seed: int,
    deadline_s: float,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> Model:
    """Train on the whole of the series, of at least `LEAST` + 3 x horizon values each, and hold nothing out."""
    import torch  # noqa: PLC0415 - no worker needs it

    ends = clock() + deadline_s
    lessons = [_lesson(values, horizon) for values in series]
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = torch.nn.LSTM(len(recurrent.FEATURES), recurrent.UNITS, batch_first=True)
        head = torch.nn.Linear(recurrent.UNITS, len(recurrent.BANK) + 1)
        _descend(cell, head, lessons, np.random.default_rng(seed), rounds, lambda: clock() > ends)
    return Model(
        module=module,
        name=name,
        version=0,
        kind="lstm",
        arrays=lstm_arrays(cell, head),
        feature_names=recurrent.FEATURES,
        config={"horizon": horizon},
    )


def policy(
    arm: ArrayLike,
    reward: ArrayLike,
    propensity: ArrayLike,
    expected: ArrayLike,
    context: ArrayLike,
    *,
    arm_names: Sequence[str],
    feature_names: Sequence[str],
    module: str,
    name: str = "policy",
    seed: int = 0,
    deadline_s: float = 60.0,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Model, Report]:
    """Train a small network that scores arms by context, on logged decisions in the order of time, all of them rewarded.

    Targets are doubly robust: the expectation logged for each arm, and for the arm taken also (reward - expectation) /
    propensity. A softmax of the outputs gives the shares of the arms. The twin is the arm that was best in the older three
    quarters; a loss is the negative doubly robust reward of a decision.

    Parameters
    ----------
    arm, reward
        [n], as logged.
    propensity, expected
        [n, arms].
    context
        [n, features].

    Raises
    ------
    LearnError
        A shape or value is wrong, or there are fewer than 40 decisions.
    """
    arms, features = given.labels("arm_names", arm_names, 1000), given.labels("feature_names", feature_names, 1000)
    taken = np.asarray(arm)
    if (
        taken.ndim != 1
        or len(taken) < LEAST_DECISIONS
        or taken.dtype.kind not in "iu"
        or not 0 <= taken.min() <= taken.max() < len(arms)
    ):
        allowed = f"at least {LEAST_DECISIONS} numbers of arms from 0 to {len(arms) - 1}"
        raise LearnError(must_be("arm", allowed, Shown(f"{taken.dtype} of shape {taken.shape}")))
    rows, n = np.arange(len(taken)), len(taken)
    earned, value = given.numbers("reward", reward, (n,)), given.numbers("expected", expected, (n, len(arms))).copy()
    chance = given.numbers("propensity", propensity, (n, len(arms)))[rows, taken]
    if chance.min() <= 0:
        raise LearnError(must_be("propensity", "above 0 for the arm that was taken", Shown(f"0 in row {int(chance.argmin())}")))
    seen = given.numbers("context", context, (n, len(features)))
    value[rows, taken] += (earned - value[rows, taken]) / chance
    known = _split(earned)
    arrays = _fit_policy(seen[:known], value[:known], seed, rounds, deadline_s, clock)
    made = Model(
        module=module,
        name=name,
        version=0,
        kind="mlp",
        arrays=arrays,
        feature_names=features,
        config={"activation": "tanh", "arms": ",".join(arms)},
    )
    score = mlp(made, seen[known:])
    share = np.exp(score - score.max(1, keepdims=True))
    own = -(share * value[known:]).sum(1) / share.sum(1)
    best = int(value[:known].mean(0).argmax())
    what = "negative reward of a decision, doubly robust"
    compared = report(what, f"always {arms[best]}", own, -value[known:, best], block=max(2, n // 100))
    return replace(made, metrics=compared.metrics), compared


def policy_of_decisions(frames: Iterable[Frame], *, seed: int, deadline_s: float) -> tuple[Model, Report]:
    """The trainer ``policy`` of any module that logs `Decisions`: those of one learner that were rewarded, by their time.

    Raises
    ------
    LearnError
        The frames hold decisions of several learners, arms or features, or too few.
    """
    logs = [frame for frame in frames if isinstance(frame, Decisions)]
    kinds = {(log.module, log.learner, log.arm_names, log.feature_names) for log in logs}
    if len(kinds) != 1:
        shown = ", ".join(sorted({f"{module}/{learner}" for module, learner, _, _ in kinds})) or "none"
        raise LearnError(must_be("frames", "Decisions of one learner with the same arms and features", Shown(shown)))
    ((module, learner, arms, features),) = kinds
    whole = {
        name: np.concatenate([getattr(log, name)[log.rewarded == 1] for log in logs])
        for name in ("ts_ns", "arm", "reward", "propensity", "expected", "context")
    }
    order = np.argsort(whole.pop("ts_ns"), kind="stable")
    arm, reward, propensity, expected, context = (column[order] for column in whole.values())
    return policy(
        *(arm, reward, propensity, expected, context),
        arm_names=arms,
        feature_names=features,
        module=module,
        name=learner.replace("/", "."),
        seed=seed,
        deadline_s=deadline_s,
    )


def _fit_policy(
    context: Floats, value: Floats, seed: int, rounds: int, deadline_s: float, clock: Callable[[], float]
) -> dict[str, NDArray[np.float64]]:
    """Weights that make the mean value of the shares large; inputs are standardised in the first layer."""
    import torch  # noqa: PLC0415 - no worker needs it

    ends, middle, spread = clock() + deadline_s, context.mean(0), context.std(0)
    spread[spread < 1e-9] = 1.0  # a constant feature: its weight becomes part of the bias
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = torch.nn.Linear(context.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, value.shape[1])
    x = torch.tensor((context - middle) / spread, dtype=torch.float32)
    y = torch.tensor((value - value.mean()) / max(float(value.std()), 1e-9), dtype=torch.float32)
    optimizer = torch.optim.AdamW([*layers[0].parameters(), *layers[1].parameters()], lr=_RATE, weight_decay=0.01)
    for _ in range(rounds):
        if clock() > ends:
            break
        loss = -(torch.softmax(layers[1](torch.tanh(layers[0](x))), -1) * y).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight, bias, top, top_bias = (
        np.asarray(part.detach().numpy(), np.float64) for part in (*layers[0].parameters(), *layers[1].parameters())
    )
    scaled = weight / spread
    return {"0.weight": scaled, "0.bias": bias - scaled @ middle, "1.weight": top, "1.bias": top_bias}


def _descend(
    cell: torch.nn.LSTM, head: torch.nn.Linear, lessons: Sequence[_Lesson], rng: Any, rounds: int, late: Callable[[], bool]
) -> None:
    """AdamW on windows drawn at random, with a rate that falls to 0 as a cosine."""
    import torch  # noqa: PLC0415 - no worker needs it

    weights = [*cell.parameters(), *head.parameters()]
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.zero_()
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=1e-4)
    scale = [max(float(np.abs(lesson.target).mean()), 1e-6) for lesson in lessons]
    length = min(_LENGTH, *(len(lesson.target) for lesson in lessons))
    for turn in range(rounds):
        if late():
            return
        optimizer.param_groups[0]["lr"] = _RATE * (0.5 + 0.5 * float(np.cos(np.pi * turn / rounds))) + 1e-5
        chosen = rng.integers(len(lessons), size=_WINDOWS)
        starts = [int(rng.integers(len(lessons[at].target) - length + 1)) for at in chosen]
        windows = [
            [lessons[at][field][start : start + length] for at, start in zip(chosen, starts, strict=True)] for field in range(3)
        ]
        features, bank, target = (torch.tensor(np.array(window), dtype=torch.float32) for window in windows)
        weight = torch.tensor([1 / scale[at] for at in chosen], dtype=torch.float32)[:, None]
        output = head(cell(features)[0])
        said = (torch.softmax(output[..., :-1], -1) * bank).sum(-1) + output[..., -1]
        loss = ((said - target).abs()[:, min(WARM, length // 2) :] * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def _lesson(values: Floats, horizon: int) -> _Lesson:
    """What the network sees of a series and should say, without the first `recurrent.MEAN_OF` values."""
    state, seen = recurrent.start(horizon=horizon), []
    for value in values:
        state, inputs = recurrent.observe(state, float(value))
        seen.append(inputs)
    shown = slice(recurrent.MEAN_OF, len(values) - horizon)
    span = np.maximum([inputs.high - inputs.low for inputs in seen], 1e-30)[shown]
    now = values[shown]
    return _Lesson(
        np.array([inputs.features for inputs in seen])[shown],
        np.clip((np.array([inputs.bank for inputs in seen])[shown] - now[:, None]) / span[:, None], -10, 10),
        np.clip((targets(values, horizon)[shown] - now) / span, -10, 10),
    )


def targets(values: Floats, horizon: int) -> Floats:
    """The mean of the next `horizon` values after each [T]; NaN where there are fewer."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    after = np.full(len(values), np.nan)
    after[: len(values) - horizon] = (total[horizon + 1 :] - total[1:-horizon]) / horizon
    return after


def forecasts(values: Floats, horizon: int, model: Model | None) -> Floats:
    """What the mixed forecasters say after each value [T], with the model as one of them or without."""
    network = recurrent.start(horizon=horizon)
    state = forecast.start(horizon=horizon, extra=("model",) if model else 0)
    said = np.empty(len(values))
    for at, value in enumerate(values.tolist()):
        extra = None
        if model is not None:
            network, answer = recurrent.step(network, value, model)
            extra = None if answer is None else [[answer]]
        state, mixed = forecast.step(state, [value], extra)
        said[at] = mixed.mean[0]
    return said


def _losses(values: Floats, horizon: int, model: Model | None) -> Floats:
    """Absolute errors on the newest quarter, over the mean error of the last value there."""
    held_out, target = slice(_split(values), len(values) - horizon), targets(values, horizon)
    last = float(np.abs(values - target)[held_out].mean())
    return np.asarray(np.abs(forecasts(values, horizon, model) - target)[held_out] / max(last, 1e-30))


def _series(index: int, values: ArrayLike, least: int) -> Floats:
    shape = given.shape_of(f"series {index}", values)
    if len(shape) != 1 or shape[0] < least:
        allowed = f"at least {least} values, one after another"
        raise LearnError(must_be(f"series {index}", allowed, Shown(f"shape {shape}")))
    return given.numbers(f"series {index}", values, shape)


def _split(values: Floats) -> int:
    return int(len(values) * (1 - HELD_OUT))
