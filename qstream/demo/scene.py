"""Scene: what a module's demo brings to the stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from rich.console import RenderableType

from schemas.control import Scalar
from schemas.frame import Frame
from schemas.topics import Topic

Frames = Sequence[tuple[Topic, Frame]]


class Scene(Protocol):
    """One module's main job on real input. The stage makes it with the seed: ``SCENE(seed)``.

    The stage starts the agent with `options`, publishes `first`, then every `Frames` of `steps`, shows the scene each frame
    that was published and each plan and dead letter that arrived, and prints what the scene makes of them. All times are in
    seconds of one monotonic clock; all calls come from one thread.
    """

    agent: str
    """Name of the agent in the registry."""
    others: Sequence[str]
    """Names of agents that run next to it with their defaults, the last one of which answers; empty for none."""
    options: Mapping[str, Scalar]
    """Options that `agent` starts with."""
    step_keys: Sequence[str]
    """Keys of all records of a scene that goes in step with the agent, else empty. Such records have the times of their frames;
    after each step the stage waits until the agent has processed it and its plans have come. Such a scene `ends` by itself."""
    ends: bool
    """Whether `steps` ends by itself, after the seconds or more; else the stage ends it."""
    switch: Mapping[str, Scalar]
    """Options that an operator changes half-way; empty for none."""
    streams_s: float
    """How long it streams where nobody says."""
    kill_s: float
    """When the agent is killed by SIGKILL, and another started, in seconds since the first frame; infinite for never."""
    packages: Sequence[str]
    """Distributions whose versions belong to the figures, next to those of the stage."""
    max_waiting: int
    """Frames without an answer at which the stage waits before it publishes more."""
    next_steps: str
    """Where to go from here, printed last."""

    def first(self) -> Frames:
        """What must be on the topics before the agent starts."""
        ...

    def connected(self, bootstrap_servers: str) -> None:
        """Where the broker is, said before `first`: to scenes with processes of their own."""
        ...

    def warm(self) -> None:
        """Load what `steps` needs, once the agent has compiled its kernels."""
        ...

    def steps(self, seconds: float) -> Iterator[Frames]:
        """Input of `seconds`: all there is, in as many or more, where it `ends`; else without end, and the stage stops."""
        ...

    def published(self, frame: Frame, at_s: float) -> None:
        """A frame is about to be published."""
        ...

    def received(self, frame: Frame, at_s: float) -> Frames:
        """A plan or a dead letter arrived; each id once. What is published in answer."""
        ...

    def switched(self) -> None:
        """`switch` was published."""
        ...

    def killed(self) -> None:
        """The agent was killed, and another is starting."""
        ...

    def behind(self, records: int) -> None:
        """So many of the records that were published are not processed yet; said to a scene that goes in step."""
        ...

    @property
    def waiting(self) -> int:
        """Published frames that have no answer yet; those left at the end are lost."""
        ...

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        """What was measured up to now, for JSON; empty where nothing was streamed.

        `seconds` since the first frame; `repeated` plans arrived more than once.
        """
        ...

    def line(self, agent_state: str) -> str:
        """The newest `figures` as one line."""
        ...

    def panel(self, agent_state: str) -> RenderableType:
        """The newest `figures` as a panel of a live screen."""
        ...

    def report(self) -> Iterable[RenderableType]:
        """The newest `figures` as tables and sentences, at the end."""
        ...


class PlainScene:
    """What a scene leaves as it is where it has no switch and no kill, ends with the stage, and does not go in step."""

    others: Sequence[str] = ()
    step_keys: Sequence[str] = ()
    ends = False
    switch: Mapping[str, Scalar] = {}
    streams_s = 30.0
    kill_s = math.inf

    def connected(self, bootstrap_servers: str) -> None:
        return

    def warm(self) -> None:
        return

    def switched(self) -> None:
        raise AssertionError("this scene has no switch")

    def killed(self) -> None:
        raise AssertionError("this scene kills no agent")

    def behind(self, records: int) -> None:
        raise AssertionError("this scene does not go in step with its agent")


class InStepScene(PlainScene):
    """The same for scenes that go in step with their agent."""

    ends = True
    max_waiting = 1_000_000
    _behind = 0

    def behind(self, records: int) -> None:
        self._behind = records

    @property
    def waiting(self) -> int:
        return max(0, self._behind)
