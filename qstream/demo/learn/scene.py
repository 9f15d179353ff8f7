"""The learning scene: this machine's CPU use while a model trains, forecast by an agent whose worker is killed."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from qstream.demo.learn.cpu import loads
from qstream.demo.learn.models import TRAINED_S, Offers
from qstream.demo.learn.score import Score
from qstream.demo.scene import Frames, PlainScene
from qstream.embedded.child import end_child, start_child
from qstream.learn.model import parts
from qstream.testing.readings import RATE_HZ, READINGS, SECOND, Reading
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.topics import MODELS

PROMOTED: Final = 20.0  # the wealth at which a guard promotes
LEAST_SCORED: Final = 9 * SECOND  # nine blocks of the guard with the most that one can gain
NEXT: Final = """next
  your module    keep a state of qstream.learn in your own keyed state: qstream/learn/README.md, qstream/testing/meter.py
  which learner  forecast and hedge where each option's loss is seen, bandit where only the chosen one's is"""


class LearnScene(PlainScene):
    """Ten readings a second; each answer forecasts the next second, and the reading a second later says how the guess did."""

    agent = "meter"
    options: Mapping[str, Scalar] = {}
    kill_s = 8.0
    packages = ("numba",)
    max_waiting = 5000
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.host = re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()) or "this-machine"
        self.score = Score()
        self.models = Offers(seed)
        self._figures: Mapping[str, Any] = {}

    def first(self) -> Frames:
        return []

    def steps(self, seconds: float) -> Iterator[Frames]:
        """A reading each, ten a second by the clock, while a process trains."""
        with tempfile.TemporaryDirectory(prefix="qstream-load-") as folder:
            env = shutil.which("env") or "/usr/bin/env"
            command = [env, "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", sys.executable]
            command += ["-m", "qstream.demo.learn.load", folder, str(self.seed)]
            training = start_child(command, Path(folder) / "load.log", Path(folder))
            try:
                yield from self._readings()
            finally:
                end_child(training)

    def _readings(self) -> Iterator[Frames]:
        use = loads()
        next(use)
        number, began_s = 0, time.monotonic()
        due_s = began_s
        while True:
            due_s = max(due_s + 1 / RATE_HZ, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            load = next(use)
            yield [(READINGS, Reading.of(self.host, number, load, self.score.earned(number, load)))]
            number += 1
            for what, model in self.models.due(time.monotonic() - began_s, self.score.loads):
                self.score.published_models[model.version] = what
                yield [(MODELS, part) for part in parts(model)]

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, Reading):
            self.score.published(frame, at_s)

    def received(self, frame: Frame, at_s: float) -> Frames:
        self.score.received(frame, at_s)
        return ()

    def killed(self) -> None:
        self.score.killed()

    @property
    def waiting(self) -> int:
        return len(self.score.waiting)

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        self._figures = self.score.figures(seconds, repeated)
        return self._figures

    def line(self, agent_state: str) -> str:
        newest, f = self.score.newest, self._figures
        if newest is None or not f:
            return f"{agent_state}: no forecast yet"
        error, coverage = f["error_over_persistence"], f["coverage"]
        met = f"; error {error:.2f} of persistence's, {coverage:.1%} within the bound" if error is not None else ""
        if (last := self.score.last_second()) is not None:
            met += f"; the last second: {last[0]:.0%} said, {last[1]:.0%} at most, {last[2]:.0%} came"
        best = max(zip(newest.weight.tolist(), newest.forecasters, strict=True))
        return (
            f"{agent_state}: load {newest.load:.0%}, next second {newest.mean:.0%}, at most {newest.bound:.0%}{met}; "
            f"{best[1]} weighs {best[0]:.0%}; {f['updates']} updates, {f['updates_lost']} lost, {f['updates_twice']} twice"
        )

    def panel(self, agent_state: str) -> RenderableType:
        table = Table(title=self.line(agent_state), title_justify="left", box=None)
        table.add_column("forecaster")
        table.add_column("weight", justify="right")
        table.add_column("")
        newest = self.score.newest
        for name, weight in zip(newest.forecasters, newest.weight.tolist(), strict=True) if newest else ():
            table.add_row(name, f"{weight:.2f}", "█" * round(40 * weight))
        for model in self._figures.get("models", ()):
            table.add_row(_verdict(model))
        return table

    def report(self) -> Iterator[RenderableType]:
        f = self._figures
        table = Table(title="learning")
        table.add_column("what")
        table.add_column("figure", justify="right")
        for name, value in f.items():
            if isinstance(value, Mapping):
                for part, figure in value.items():
                    shown = ", ".join(map(str, figure)) or "none" if isinstance(figure, list) else _shown(figure)
                    table.add_row(f"{name} {part}", shown)
            elif not isinstance(value, list):
                table.add_row(name, _shown(value))
        yield table
        for model in f["models"]:
            yield Text(_verdict(model))
        if self.models.missing and f["seconds"] >= TRAINED_S:
            yield Text(f"no LSTM was published: {self.models.missing}")
        yield Text(
            f"{f['updates_lost']} of {f['updates']} learning steps were lost and {f['updates_twice']} done twice{_gap(f)}."
        )


def _gap(f: Mapping[str, Any]) -> str:
    """What the death of the worker cost, where there was one."""
    if not f["gap_ms"]:
        return ""
    waited = f"{f['waited_in_gap']} readings waited {f['gap_ms'] / 1e3:.1f} s at most for the next worker"
    return f" across the death of the worker; {waited}"


def _verdict(model: Mapping[str, Any]) -> str:
    """Why a model answered or did not."""
    what, scored, ratio = f"model {model['version']}, {model['what']}", model["scored"], model["error_over_incumbent"]
    if ratio is None:
        return f"{what}: none of its forecasts was met in time"
    shown = f"{what}: error {ratio:.2f} of the incumbent's on {scored} forecasts, wealth {model['wealth']:.3g} of {PROMOTED:.0f}"
    if model["answered"]:
        return f"{shown}: it was promoted"
    if ratio >= 1:
        return f"{shown}: it is not better, and stayed in shadow"
    return f"{shown}: it stayed in shadow, where it takes {LEAST_SCORED} forecasts to be promoted, if each is far better"


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
