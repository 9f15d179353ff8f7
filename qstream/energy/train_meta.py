"""Train meta: an LSTM that says whether the next window ends further from its bound than usual, from schedules; torch trains.

Its twin is the running mean of how often that happened, as the agent has it without a model.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from qstream.energy import regime
from qstream.energy.arms import NAME, gap
from qstream.energy.fleet import Floats
from qstream.errors import LearnError
from qstream.learn.fit import lstm_arrays, one_thread
from qstream.learn.model import Model
from qstream.learn.report import HELD_OUT, Report, report
from schemas.frame import Frame
from schemas.tasks import EnergySchedule
from schemas.wording import Shown, must_be

LEAST: Final = 80  # windows of a domain
ROUNDS: Final = 200
_WINDOWS, _LENGTH, _RATE, _DECAY = 8, 48, 0.01, 0.01
_BLOCK: Final = 8

Series = tuple[Floats, Floats, Floats]  # features [T, F] after each window, the mean's chance [T], and what came next [T]


def train_meta(
    frames: Iterable[Frame],
    *,
    seed: int,
    deadline_s: float,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Model, Report]:
    """Train on recorded `EnergySchedule` s, domain by domain in the order of time; a loss is a squared error.

    Raises
    ------
    LearnError
        No domain has 80 solved schedules or more.
    """
    gaps = gaps_of(frames)
    series = _series(gaps)
    if not series:
        most = max(map(len, gaps.values()), default=0)
        raise LearnError(must_be("frames", f"{LEAST} or more solved EnergySchedules of one domain", Shown(f"{most} at most")))
    known = [int(len(chance) * (1 - HELD_OUT)) for _, chance, _ in series]
    older = [(one[0][:end], one[1][:end], one[2][:end]) for one, end in zip(series, known, strict=True)]
    arrays = _fit(older, seed, rounds, clock, deadline_s)
    model = Model(module="energy", name=NAME, version=0, kind="lstm", arrays=arrays, feature_names=regime.FEATURES)
    own, twin = [], []
    for (features, chance, came), end in zip(series, known, strict=True):
        own.append((_said(model, features) - came)[end:] ** 2)
        twin.append((chance - came)[end:] ** 2)
    compared = report("squared error of the chance that a window is loud", "its running mean",
                      np.concatenate(own), np.concatenate(twin), block=_BLOCK)  # fmt: skip
    return replace(model, metrics=compared.metrics), compared


def gaps_of(frames: Iterable[Frame]) -> dict[str, list[float]]:
    """How far the classical peaks of solved schedules are above their bounds, by domain in the order of time."""
    found: dict[str, dict[str, tuple[int, float]]] = defaultdict(dict)
    for frame in frames:
        if isinstance(frame, EnergySchedule) and frame.skip_reason is None and frame.status != "infeasible":
            record = frame.solver
            if record.solver != "soonest":
                classical = frame.peak_w if record.twin is None else record.twin
                found[frame.domain][frame.plan_id] = frame.ts_ns, gap(classical, frame.bound_w)
    return {domain: [came for _, came in sorted(made.values())] for domain, made in sorted(found.items())}


def _series(gaps: Mapping[str, list[float]]) -> list[Series]:
    found = []
    for mine in gaps.values():
        if len(mine) < LEAST:
            continue
        state, features, chance, came = regime.start(), [], [], []
        for each in mine:
            state, seen = regime.observe(state, each)
            features.append(seen.features)
            chance.append(state.rate)
            came.append(float(seen.loud))
        found.append((np.array(features[:-1]), np.array(chance[:-1]), np.array(came[1:])))
    return found


def _said(model: Model, features: Floats) -> Floats:
    state, found = regime.start(), []
    for row in features:
        state, chance = regime.answer(state, regime.Seen(False, row), model)
        found.append(chance)
    return np.array(found, np.float64)


def _fit(series: Sequence[Series], seed: int, rounds: int, clock: Callable[[], float], deadline_s: float) -> dict[str, Floats]:
    import torch  # noqa: PLC0415 - no worker needs it

    ends, rng = clock() + deadline_s, np.random.default_rng(seed)
    length = min(_LENGTH, *(len(came) for _, _, came in series))
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = torch.nn.LSTM(len(regime.FEATURES), regime.UNITS, batch_first=True)
        head = torch.nn.Linear(regime.UNITS, 1)
        weights = [*cell.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=_DECAY)
        for turn in range(rounds):
            if clock() > ends:
                break
            optimizer.param_groups[0]["lr"] = _RATE * (0.5 + 0.5 * float(np.cos(np.pi * turn / rounds))) + 1e-5
            drawn = []
            for at in rng.integers(len(series), size=_WINDOWS).tolist():
                begin = int(rng.integers(len(series[at][2]) - length + 1))
                drawn.append([part[begin : begin + length] for part in series[at]])
            x, y = (torch.tensor(np.array([one[field] for one in drawn]), dtype=torch.float32) for field in (0, 2))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(head(cell(x)[0])[..., 0], y)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    return lstm_arrays(cell, head)
