"""Ending: how a command ends by a signal, and by an error that is not a bug, with one line on stderr and an exit code."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from confluent_kafka import KafkaException

from qstream.errors import EXIT_FATAL, ConfigError, Fatal, QstreamError
from schemas.frame import FrameError

P = ParamSpec("P")
R = TypeVar("R")
EXIT_FAILED = 1
EXIT_USAGE = 2


def stop_signal() -> threading.Event:
    """Set by Ctrl-C or SIGTERM; the first one already, while a server is still starting."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def ended_well(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of the call; an error that a user can fix ends the command without a traceback."""
    try:
        return call(*args, **kwargs)
    except ConfigError as exc:
        raise _failed(exc, EXIT_USAGE) from exc
    except Fatal as exc:
        raise _failed(exc, EXIT_FATAL) from exc
    except (QstreamError, FrameError) as exc:
        raise _failed(exc, EXIT_FAILED) from exc
    except KafkaException as exc:
        raise _failed(f"Kafka: {exc.args[0].str()}", EXIT_FAILED) from exc
    except OSError as exc:
        if exc.errno == errno.EPIPE:  # the reader of a pipe has closed it
            raise
        raise _failed(exc, EXIT_FAILED) from exc


def _failed(what: object, code: int) -> typer.Exit:
    typer.echo(f"Error: {what}", err=True)
    return typer.Exit(code)
