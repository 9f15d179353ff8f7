"""Demos as a user runs them: a scene to its end and its figures, or line by line, with the processes that it started."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

CIRCUMSTANCES = {"seed", "machine", "versions", "options", "switch"}  # beside the figures of every scene
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None and os.environ.get("CI") != "true", reason="the demo extra is not installed"
)
STREAMING = "tokens/s"  # what a line of the scene routing has, once it streams


class Demo:
    """A demo that streams; `output` has what it printed, `children` the processes that it started."""

    def __init__(self, process: subprocess.Popen[str], streaming: str) -> None:
        self.process = process
        self.output: list[str] = []
        while streaming not in "".join(self.output[-1:]):
            line = self.read_line()
            assert line, f"the demo ended before it streamed: {''.join(self.output)}"
        self.children = psutil.Process(process.pid).children(recursive=True)

    def read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.output.append(line)
        return line

    def end(self) -> int:
        """Its exit code, once it has ended."""
        while self.read_line():
            pass
        return self.process.wait()

    def left_behind(self) -> list[psutil.Process]:
        return psutil.wait_procs(self.children, timeout=60)[1]


def figures_of(scene: str, seconds: int, *json_options: str) -> tuple[dict[str, Any], str]:
    """The figures of a scene, which are all that stdout has, and what it said on stderr."""
    options = json_options or ("--json", "-")
    command = [sys.executable, "-m", "qstream.cli", "demo", scene, "--plain", "--seconds", str(seconds), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures, done.stderr


@contextmanager
def streaming_demo(seconds: int, *options: str, streaming: str = STREAMING) -> Iterator[Demo]:
    command = [sys.executable, "-m", "qstream.cli", "demo", "--plain", "--seconds", str(seconds), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Demo(process, streaming)
        finally:
            process.kill()
