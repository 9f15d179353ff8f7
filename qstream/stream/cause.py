"""Cause: why a client of Kafka fails, in words; its error callback knows more than its calls, which say that time ran out."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from qstream.config import Settings
from qstream.errors import ConfigError
from schemas.wording import must_be

C = TypeVar("C")
_LOGIN: Final = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
_FIX_LOGIN: Final = "check sasl.mechanism, sasl.username and sasl.password in QSTREAM_KAFKA"
_FIX_TLS: Final = (
    "check ssl.ca.location in QSTREAM_KAFKA, and that the broker's certificate is in date and names this host "
    "(ssl.endpoint.identification.algorithm 'none' turns that off)"
)
_FIX_CERTIFICATE: Final = (
    "the broker wants a certificate that it trusts: check ssl.certificate.location and ssl.key.location in QSTREAM_KAFKA"
)
_FIX_PROTOCOL: Final = "the port answers, but not in this protocol: check security.protocol in QSTREAM_KAFKA"
_NO_DETAIL: Final = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
_NO_CERTIFICATE: Final = re.compile(r"SSL alert number (4[2-68]|116)\b")  # RFC 8446, 6.2: about this client's certificate
_CLUSTER_RIGHT: Final = "WRITE on the topics that it sends to, or IDEMPOTENT_WRITE on the cluster"
_SHOWN: Final = {"security.protocol", "sasl.mechanism", "sasl.mechanisms"}  # properties whose values are no secret
_LOG_AGAIN_S: Final = 60.0
_FATAL: Final = re.compile(r"Fatal error: (.*)", re.DOTALL)
_log: Final = logging.getLogger("qstream.librdkafka")


class Cause:
    """What one client said last of why it cannot reach or enter the cluster; `note` is its error callback.

    A refused login, a failed TLS handshake or a refused certificate stays over the lost connections that follow from it, until
    `clear`. As the client's logger it also hears the error that ends the client for good, `fatal`. The client raises that one
    from whatever call serves its callbacks, and a callback or a garbage collection in the same call can take it away; the log
    comes first. Of each kind of line it passes on one a minute, with the number of those that it has left out since: a client
    whose broker restarts would log a hundred a second.
    """

    def __init__(self) -> None:
        self._error: KafkaError | None = None
        self.fatal: KafkaError | None = None
        self._logged: dict[str, tuple[float, int]] = {}  # by kind: when a line of it was passed on, and how many were not since

    def log(self, level: int, text: str, facility: str, client: str, line: str) -> None:
        """Take a line of the client's log, as a logger does. Any thread."""
        if facility == "FATAL" and (found := _FATAL.search(line)):
            self.fatal = _fatal_error(found[1])
            level = logging.DEBUG  # the caller that gets the error reports it
        elif level > logging.DEBUG:
            now = time.monotonic()
            at, left_out = self._logged.get(facility, (-_LOG_AGAIN_S, 0))
            if now - at < _LOG_AGAIN_S:
                self._logged[facility] = at, left_out + 1
                level = logging.DEBUG
            else:
                self._logged[facility] = now, 0
                line += f" (and {left_out} more {facility} in the meantime)" if left_out else ""
        _log.log(level, text, facility, client, line)

    def note(self, error: KafkaError) -> None:
        """Take an error of the client. Any thread."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN and (self._error is None or not self.is_refusal or _refuses(error)):
            self._error = error

    def clear(self) -> None:
        """Forget it: the client does its work."""
        self._error = None

    @property
    def is_refusal(self) -> bool:
        """Whether trying again changes nothing: the broker refuses the login, or TLS fails."""
        return self._error is not None and _refuses(self._error)

    def explain(self, error: KafkaError) -> str:
        """Why a call failed with `error`: what the client said of it, else the error's own words."""
        if self._error is not None and error.code() in _VAGUE:
            return _NO_DETAIL.sub("", self._error.str())
        return str(error.str())

    def fix(self, error: KafkaError) -> str:
        """What to do about it, empty if all that can be said is that a broker must answer."""
        if self._error is None:
            return _FIX_PROTOCOL if error.code() == KafkaError._TRANSPORT else ""
        if self._error.code() in _LOGIN:
            return _FIX_LOGIN
        if _NO_CERTIFICATE.search(self._error.str()):
            return _FIX_CERTIFICATE
        if self._error.code() == KafkaError._SSL:
            return _FIX_TLS
        return _FIX_PROTOCOL if "in state SSL_HANDSHAKE" in self._error.str() else ""


_VAGUE: Final = {
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._WAIT_COORD,
    KafkaError._TIMED_OUT_QUEUE,
}
_DENIED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
}


_CODES: Final = {KafkaError(code).str(): code for code in vars(KafkaError).values() if isinstance(code, int)}


def denied(error: KafkaError, **rights: str) -> str | None:
    """The right that the Kafka user lacks, in words; None for an error of another kind.

    `rights` say what the call needs, by the kind of resource: ``topic="WRITE on topic t"``, ``group="READ on group g"``.
    """
    kind = _DENIED.get(error.code())
    if kind is None:
        return None
    right = rights.get(kind.replace(" ", "_"), _CLUSTER_RIGHT if kind == "cluster" else f"a right on a {kind}")
    return f"the Kafka user must have {right}"


def refusal(consumer: Consumer) -> KafkaError | None:
    """The error by which the broker has denied something to a consumer without assignment, if it has."""
    message = consumer.poll(0)
    error = None if message is None else message.error()
    return error if error is not None and denied(error) else None


def open_client(make: Callable[..., C], settings: Settings, properties: Mapping[str, object], cause: Cause) -> C:
    """A client that tells `cause` of its errors and logs through it. `ConfigError` names a property of `kafka` it refuses."""
    for name, text in settings.kafka_properties().items():
        if name.endswith(".location") and text != "probe" and not Path(text).exists():
            raise ConfigError(must_be(f"kafka.{name}", "the path of a file that exists", text))
    try:
        return make({**properties, "error_cb": cause.note}, logger=cause)
    except KafkaException as exc:
        # Not chained: the client's words may hold a value.
        raise ConfigError(f"kafka: {_without_values(exc.args[0].str(), settings)}") from None


class OnceAMinute:
    """Logs a text once in a minute, however often it comes."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._at: dict[str, float] = {}

    def error(self, text: str) -> None:
        """Log an error, unless it was logged a moment ago."""
        self._say(logging.ERROR, text)

    def warning(self, text: str) -> None:
        """Log a warning, unless it was logged a moment ago."""
        self._say(logging.WARNING, text)

    def _say(self, level: int, text: str) -> None:
        now = time.monotonic()
        if now - self._at.get(text, -_LOG_AGAIN_S) < _LOG_AGAIN_S:
            return
        self._at = {said: at for said, at in self._at.items() if now - at < _LOG_AGAIN_S} | {text: now}
        self._log.log(level, "%s", text)


def _fatal_error(text: str) -> KafkaError:
    """The error that the client's log tells: the words of its code, then the reason."""
    for words, code in _CODES.items():
        if text.startswith(f"{words}: "):
            return KafkaError(code, text.removeprefix(f"{words}: "), fatal=True)
    return KafkaError(KafkaError._FATAL, text, fatal=True)


def _refuses(error: KafkaError) -> bool:
    return error.code() in _LOGIN or error.code() == KafkaError._SSL or _NO_CERTIFICATE.search(error.str()) is not None


def _without_values(text: str, settings: Settings) -> str:
    for name, value in settings.kafka_properties().items():
        if len(value) > 3 and name not in _SHOWN:
            text = text.replace(value, "(not shown)")
    return text
