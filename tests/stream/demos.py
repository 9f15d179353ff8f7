"""Demos: one as a user runs it, read line by line, and the processes that it started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

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


@contextmanager
def streaming_demo(seconds: int, *options: str, streaming: str = STREAMING) -> Iterator[Demo]:
    command = [sys.executable, "-m", "qstream.cli", "demo", "--plain", "--seconds", str(seconds), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield Demo(process, streaming)
        finally:
            process.kill()
