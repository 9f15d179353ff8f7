"""The command in this process or as one of its own, and a broker with the registry's topics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from typer.testing import CliRunner, Result

from qstream.cli.main import app
from tests.stream.registry import create_registry, delete_registry

Invoke = Callable[..., Result]


def _foreign() -> dict[str, None]:
    return dict.fromkeys(name for name in os.environ if name.startswith("QSTREAM_"))


def _invoke(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env=_foreign(), input=stdin)


@pytest.fixture
def invoke() -> Invoke:
    """Run the command here, without the settings of the person who runs the tests."""
    return _invoke


@pytest.fixture
def answer_of() -> Callable[..., object]:
    """The JSON that a successful command prints."""

    def ask(*words: object, stdin: str | None = None) -> object:
        result = _invoke(*words, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return ask


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command as a process; what still runs at the end of the test is killed."""
    with ExitStack() as running:

        @contextmanager
        def ended(process: subprocess.Popen[str]) -> Iterator[None]:
            with process:
                yield
                process.kill()

        def start(*words: str) -> subprocess.Popen[str]:
            kept = {name: value for name, value in os.environ.items() if name not in _foreign()}
            process = subprocess.Popen(
                # A run in the background of a shell ignores Ctrl-C, and would hand that down.
                ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "qstream.cli", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=kept | {"PYTHONUNBUFFERED": "1"},
            )
            running.enter_context(ended(process))
            return process

        yield start


@pytest.fixture(scope="module")
def emptied(local_kafka: str) -> str:
    """A broker on which no other file has left anything on the topics of the registry."""
    delete_registry(local_kafka)
    return local_kafka


@pytest.fixture
def cluster(emptied: str) -> str:
    """A broker with all topics of the registry, the only ones that the command knows; their records stay within a file."""
    create_registry(emptied)
    return emptied
