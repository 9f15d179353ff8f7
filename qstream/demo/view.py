"""View: a live panel in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from qstream.demo.scene import Scene

LIVE_PERIOD_S = 0.25
LINE_PERIOD_S = 3.0


class View:
    """Shows a run as it goes; closes its panel on exit, so that what follows prints below it."""

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self._live = None if plain or not console.is_terminal else Live(console=console, auto_refresh=False, transient=True)
        self._said = ""
        self._next_s = 0.0

    def say(self, text: str) -> None:
        """One line about what happens now; the same line again is ignored."""
        if text == self._said:
            return
        self._said = text
        if self._live is None:
            self.console.print(text, soft_wrap=True, highlight=False)
        else:
            self._live.update(Text(text, style="dim"), refresh=True)

    def due(self) -> bool:
        """Whether it is time for `show`: then the next time is set."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + (LINE_PERIOD_S if self._live is None else LIVE_PERIOD_S)
        return True

    def show(self, scene: Scene, agent_state: str) -> None:
        """The scene's newest figures."""
        if self._live is None:
            self.say(scene.line(agent_state))
        else:
            self._live.update(scene.panel(agent_state), refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
