"""The Faust application around a batch loop: worker life cycle, control topic, timers, and the pages of an operator."""

from __future__ import annotations

import dataclasses
import gc
import logging
import socket
import ssl
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import faust
import prometheus_client
from faust.types.web import Request, Response, View

from agents.registry import Agent, load
from qstream.config import Settings
from qstream.contract import Event
from qstream.errors import ConfigError
from qstream.metrics import READY
from qstream.state.store import StateStore
from qstream.stream.loop import BatchLoop
from qstream.stream.read import read_all
from qstream.stream.service import LoopService
from qstream.stream.status import Status
from schemas.control import Control
from schemas.frame import FrameError, body_type
from schemas.topics import CONTROL
from schemas.wording import Shown, must_be

log = logging.getLogger(__name__)
HEALTH_PERIOD_S = 2.0
STUCK_S = 60.0
DEFAULT_PORT = 6066  # Faust wants one even where the pages are off


def build_loop(agent: Agent, settings: Settings) -> BatchLoop[Any]:
    """The agent's batch loop with its state store, for real servers whose addresses stand in the settings."""
    settings = agent.with_settings(settings)
    processor = agent.processor(settings)
    state = processor.state
    store = None if state is None else StateStore(settings.redis_url, processor.name, state, settings.redis_timeout_ms)
    return BatchLoop(processor, settings, store, load(agent.observe) if agent.observe else _observe_nothing)


def _observe_nothing(event: Event) -> None:
    """For a module without metrics of its own."""


def build_app(agent: Agent, settings: Settings) -> faust.App:
    """A Faust app whose worker runs the loop in a thread; Faust itself consumes only the control topic."""
    loop = build_loop(agent, settings)
    # An agent that was paused stays paused over a restart: not one batch is processed before the wish is known.
    for message in read_all(settings, CONTROL.name):
        _obey(loop, message.value() or b"")
    # Every start reads the whole control topic, so each has a group of its own.
    app = faust.App(
        f"{settings.group_prefix}.control.{loop.agent}.{settings.worker_id}.{uuid.uuid4().hex[:8]}",
        broker=[f"kafka://{address}" for address in settings.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings.kafka),
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        consumer_auto_offset_reset="earliest",
        store="memory://",
        datadir=Path(tempfile.gettempdir()) / "qstream-faust",  # Faust makes it though nothing is kept there
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
        web_bind=settings.host,
        web_port=settings.port or DEFAULT_PORT,
        web_host=settings.host,
        web_enabled=settings.port > 0,
    )
    app.service(LoopService(loop, settings.drain_s, loop=app.loop, beacon=app.beacon))
    _follow_control(app, loop)
    _report_health(app, loop)
    _serve_pages(app, loop)
    return app


class Worker(faust.Worker):  # type: ignore[misc]  # faust is untyped
    """A Faust worker without the terminal spinner, which would set the root logger to DEBUG."""

    def _setup_spinner_handler(self, logger: logging.Logger, level: int) -> None:
        """Do nothing; see the class."""


def run(agent: Agent, settings: Settings, loglevel: str = "INFO") -> None:
    """Run the worker until SIGTERM or SIGINT; ends the process.

    `Transient` if the cluster does not answer, `ConfigError` if the pages' port is taken.
    """
    if settings.port:
        _require_free(settings.host, settings.port)
    if loglevel != "DEBUG":
        for library in ("faust", "mode", "aiokafka"):  # they tell every step of their own start and stop
            logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[loglevel]))
    app = build_app(agent, settings)
    # A batch makes thousands of objects and drops them together: look for cycles once in many batches, and not among all
    # that was loaded by now. At the defaults that is a fifth of the loop's time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.001)  # a thread that computes ahead gives way to the loop five times sooner than by default
    Worker(app, loglevel=loglevel, quiet=True, redirect_stdouts=False).execute_from_commandline()


def _require_free(host: str, port: int) -> None:
    """Faust's worker would neither serve nor end without its port."""
    try:
        socket.create_server((host, port)).close()
    except OSError as exc:
        reason = exc.strerror or exc
        raise ConfigError(must_be("host and port", f"an address that is free here ({reason})", Shown(f"{host}:{port}"))) from exc


def _follow_control(app: faust.App, loop: BatchLoop[Any]) -> None:
    topic = app.topic(CONTROL.name, value_serializer="raw", key_serializer="raw")

    @app.agent(topic)  # type: ignore[untyped-decorator]
    async def control(values: Any) -> None:
        async for value in values:
            _obey(loop, value or b"")


def _obey(loop: BatchLoop[Any], body: bytes) -> None:
    try:
        wish = Control.decode(body, body_type(body))
    except FrameError as exc:
        log.error("unreadable record on %s: %s", CONTROL.name, exc)
        return
    if wish.agent == loop.agent:
        loop.control(wish)


def _report_health(app: faust.App, loop: BatchLoop[Any]) -> None:
    @app.timer(HEALTH_PERIOD_S)  # type: ignore[untyped-decorator]
    async def report() -> None:
        READY.labels(loop.agent).set(loop.status().ready)


def _serve_pages(app: faust.App, loop: BatchLoop[Any]) -> None:
    @app.page("/healthz")  # type: ignore[untyped-decorator]
    async def healthz(view: View, request: Request) -> Response:
        """Alive: the loop's thread turns."""
        status = loop.status()
        alive = status.running and status.last_turn_age_s < STUCK_S
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


def _credentials(kafka: dict[str, str]) -> Any:
    """librdkafka's security properties for Faust's own consumer of the control topic."""
    protocol = kafka.get("security.protocol", "PLAINTEXT").upper()
    if protocol == "PLAINTEXT":
        return None
    if protocol not in ("SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise ConfigError(must_be("kafka.security.protocol", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL", protocol))
    context = _ssl_context(kafka) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=kafka.get("sasl.username"),
        password=kafka.get("sasl.password"),
        mechanism=kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", "PLAIN")),
        ssl_context=context,
    )


def _ssl_context(kafka: dict[str, str]) -> ssl.SSLContext:
    for name in ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"):
        if name in kafka and not Path(kafka[name]).is_file():
            raise ConfigError(must_be(f"kafka.{name}", "the path of a PEM file", kafka[name]))
    context = ssl.create_default_context(cafile=kafka.get("ssl.ca.location"))
    if "ssl.certificate.location" in kafka:
        context.load_cert_chain(kafka["ssl.certificate.location"], kafka.get("ssl.key.location"), kafka.get("ssl.key.password"))
    return context
