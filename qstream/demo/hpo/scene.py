"""The hpo scene: two studies tune the same model, one with the defaults and one by Sobol points; half-way a worker dies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import RenderableType

from qstream.demo.hpo.model import SPACE
from qstream.demo.hpo.score import STUDIES, Score
from qstream.demo.hpo.screen import line, panel, report
from qstream.demo.hpo.workers import Workers
from qstream.demo.scene import Frames, PlainScene
from qstream.demo.text import load_corpus
from qstream.errors import Transient
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.hpo import StudySpec
from schemas.space import Parameter
from schemas.topics import HPO_STUDY

OPTIONS: Final[Mapping[str, Mapping[str, Scalar]]] = {"default": {}, "sobol": {"optimizer": "sobol"}}
WORKERS: Final = 2  # of a study, of one slot each
LEASE_S: Final = 4.0  # short, so that a lost trial goes out again within the scene
MAX_TRIALS: Final = 2_000
TEXT_BYTES: Final = 1 << 20
TURN_S: Final = 0.05
NEXT: Final = """next
  your training   qstream hpo create study.yaml;  qstream hpo worker STUDY --command 'python train.py --lr {lr}'
  one machine     qstream hpo worker space.yaml --local --trials 40 --command 'python train.py {args}': no server
  in Python       from qstream.hpo import Study: ask and tell; samplers for Optuna and Ray Tune
  a cluster       qstream run hpo;  qstream watch best;  qstream hpo show STUDY
  what it does    qstream/hpo/README.md: optimizers, warm starts, limits, and what each toggle is worth"""


class HpoScene(PlainScene):
    """Workers are `qstream hpo worker`, which runs a training as a command and reports its loss. The one that is killed loses its
    trial, which goes out again when its lease is over; another takes its place."""

    agent = "hpo"
    options: Mapping[str, Scalar] = {}
    ends = True
    streams_s = 18.0  # with what starts before and ends after, half a minute
    packages = ("scipy",)
    max_waiting = 1_000_000
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.score = Score()
        self.died = ""
        self._servers = ""
        self._figures: Mapping[str, Any] = {}

    def connected(self, bootstrap_servers: str) -> None:
        self._servers = bootstrap_servers

    def first(self) -> Frames:
        parameters = tuple(Parameter(**parameter) for parameter in SPACE)
        return [
            (
                HPO_STUDY,
                StudySpec(
                    study=study,
                    ts_ns=time.time_ns(),
                    parameters=parameters,
                    max_trials=MAX_TRIALS,
                    lease_s=LEASE_S,
                    seed=self.seed,
                    options=dict(OPTIONS[study]),
                ),
            )
            for study in STUDIES
        ]

    def steps(self, seconds: float) -> Iterator[Frames]:
        """No frames of its own: workers ask and report. Half-way one of them dies while it holds a trial."""
        with tempfile.TemporaryDirectory(prefix="qstream-demo-hpo-") as folder:
            text = Path(folder) / "text.npy"
            np.save(text, load_corpus(TEXT_BYTES).text)
            with Workers(self._servers, text, Path(folder), self.seed) as workers:
                for number in range(WORKERS):
                    for study in STUDIES:
                        workers.start(study, f"{study}-{number}")
                yield from self._work(workers, seconds)
        yield []

    def _work(self, workers: Workers, seconds: float) -> Iterator[Frames]:
        own = self.score.studies[STUDIES[0]]
        while not self._all_hold:
            yield from self._turn(workers)
        began_s = time.monotonic()
        victim, heir = f"{STUDIES[0]}-0", f"{STUDIES[0]}-{WORKERS}"
        while time.monotonic() - began_s < seconds or not self._shown:
            yield from self._turn(workers)
            if not self.died and time.monotonic() - began_s >= seconds / 2 and f"{victim}/0" in own.held:
                workers.kill(victim)
                workers.start(STUDIES[0], heir)
                self.died = victim

    def _turn(self, workers: Workers) -> Iterator[Frames]:
        yield []
        time.sleep(TURN_S)
        if ended := workers.ended():
            raise Transient(f"the worker {ended[0]} ended by itself:\n{workers.log(ended[0])}")

    @property
    def _all_hold(self) -> bool:
        """Whether each worker has had a trial: the time counts from then on."""
        return all(len(tally.held) >= WORKERS or len(tally.losses) >= WORKERS for tally in self.score.studies.values())

    @property
    def _shown(self) -> bool:
        """Whether there is something to show, however slow the machine: the lost trial is out again, both have results."""
        return bool(self.died) and self.score.studies[STUDIES[0]].reissued > 0 and self.score.shared > 0

    def published(self, frame: Frame, at_s: float) -> None:
        return

    def received(self, frame: Frame, at_s: float) -> Frames:
        self.score.received(frame)
        return ()

    @property
    def waiting(self) -> int:
        return self.score.waiting

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        self._figures = self.score.figures()
        return self._figures

    def line(self, agent_state: str) -> str:
        return line(self._figures, self.score, self.died, agent_state)

    def panel(self, agent_state: str) -> RenderableType:
        return panel(self._figures, self.score, self.died, agent_state)

    def report(self) -> Iterator[RenderableType]:
        yield from report(self._figures, self.score)
