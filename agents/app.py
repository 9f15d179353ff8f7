"""The Faust application around a batch loop: worker life cycle, timers, and the pages of an operator."""

from __future__ import annotations

import dataclasses
import gc
import logging
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import faust
import prometheus_client
from faust.app import BootStrategy
from faust.types.web import Request, Response, View

from agents.registry import Agent, load, start_processor
from qstream.config import Settings
from qstream.contract import Event
from qstream.errors import ConfigError
from qstream.metrics import READY
from qstream.state.store import StateStore
from qstream.stream.loop import BatchLoop
from qstream.stream.service import LoopService
from qstream.stream.status import Status
from schemas.topics import CONTROL
from schemas.wording import Shown, must_be

log = logging.getLogger(__name__)
HEALTH_PERIOD_S = 2.0
STUCK_S = 60.0
DEFAULT_PORT = 6066  # Faust wants one even where the pages are off


def build_loop(agent: Agent, settings: Settings) -> BatchLoop[Any]:
    """The agent's batch loop with its state store, for real servers whose addresses stand in the settings."""
    settings = agent.with_settings(settings)
    processor = start_processor(agent, settings)
    state = processor.state
    store = (
        None
        if state is None
        else StateStore(settings.redis_url.get_secret_value(), processor.name, state, settings.redis_timeout_ms)
    )
    observe = load(agent.observe) if agent.observe else _observe_nothing
    return BatchLoop(processor, settings, store, observe, CONTROL)


def _observe_nothing(event: Event) -> None:
    """For a module without metrics of its own."""


def build_app(agent: Agent, settings: Settings) -> faust.App:
    """A Faust app whose worker runs the loop in a thread."""
    loop = build_loop(agent, settings)
    app = Shell(
        f"{settings.group_prefix}.{loop.agent}.{settings.worker_id}",
        store="memory://",
        datadir=Path(tempfile.gettempdir()) / "qstream-faust",  # Faust makes it though nothing is kept there
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
        web_bind=settings.host,
        web_port=settings.port or DEFAULT_PORT,
        web_host=_in_url(settings.host),
        web_enabled=settings.port > 0,
    )
    app.service(LoopService(loop, settings.drain_s, loop=app.loop, beacon=app.beacon))
    _report_health(app, loop)
    _serve_pages(app, loop)
    return app


class _NoKafka(BootStrategy):  # type: ignore[misc]  # faust is untyped
    """Start no client of Kafka."""

    enable_kafka = False


class Shell(faust.App):  # type: ignore[misc]  # faust is untyped
    """A Faust app without a client of Kafka, for the life cycle, the timers and the pages: the loop has the clients."""

    BootStrategy = _NoKafka
    producer_only = True  # a Faust mode that starts no consumer, no tables and no assignor; the strategy drops the producer


class Worker(faust.Worker):  # type: ignore[misc]  # faust is untyped
    """A Faust worker without the terminal spinner, which would set the root logger to DEBUG."""

    def _setup_spinner_handler(self, logger: logging.Logger, level: int) -> None:
        """Do nothing; see the class."""


def run(agent: Agent, settings: Settings, loglevel: str = "INFO") -> None:
    """Run the worker until SIGTERM or SIGINT; ends the process.

    `ConfigError` if the pages' port is taken. A cluster that does not answer, or lacks topics, is waited for.
    """
    settings = agent.with_settings(settings)
    if settings.port:
        require_free(settings.host, settings.port)
    if loglevel != "DEBUG":
        for library in ("faust", "mode"):  # they log every step of their own start and stop
            logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[loglevel]))
    app = build_app(agent, settings)
    tune_interpreter()
    Worker(app, loglevel=loglevel, quiet=True, redirect_stdouts=False).execute_from_commandline()


def tune_interpreter() -> None:
    """Have the garbage collector and the threads of this process serve a loop, once everything is loaded."""
    # A batch makes thousands of objects and drops them together: look for cycles once in many batches, and not among all
    # that was loaded by now. At the defaults that is a fifth of the loop's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.001)  # a thread that computes ahead gives way to the loop five times sooner than by default


def require_free(host: str, port: int) -> None:
    """Faust's worker would neither serve nor end without its port."""
    try:
        for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            socket.create_server(address, family=family).close()
    except OSError as exc:
        reason = exc.strerror or exc
        message = must_be("host and port", f"an address that is free here ({reason})", Shown(f"{_in_url(host)}:{port}"))
        raise ConfigError(f"{message}; choose another by --port, 0 for no pages") from exc


def _in_url(host: str) -> str:
    """The host as URLs have it: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def _report_health(app: faust.App, loop: BatchLoop[Any]) -> None:
    @app.timer(HEALTH_PERIOD_S)  # type: ignore[untyped-decorator]
    async def report() -> None:
        READY.labels(loop.agent).set(loop.status().ready)


def _serve_pages(app: faust.App, loop: BatchLoop[Any]) -> None:
    @app.page("/healthz")  # type: ignore[untyped-decorator]
    async def healthz(view: View, request: Request) -> Response:
        """Alive: the loop's thread turns, or waits for topics."""
        status = loop.status()
        alive = (status.running or bool(status.missing_topics)) and status.last_turn_age_s < STUCK_S
        return view.json(_page(loop.agent, status), status=200 if alive else 503)

    @app.page("/readyz")  # type: ignore[untyped-decorator]
    async def readyz(view: View, request: Request) -> Response:
        """Ready: in the group, kernels warm, and the store answers or its absence is declared."""
        status = loop.status()
        return view.json(_page(loop.agent, status), status=200 if status.ready else 503)

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def metrics(view: View, request: Request) -> Response:
        return view.bytes(prometheus_client.generate_latest(), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


def _page(agent: str, status: Status) -> dict[str, Any]:
    return {"agent": agent, "ready": status.ready} | dataclasses.asdict(status)
