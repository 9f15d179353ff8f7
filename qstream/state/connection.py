"""Connection: one Redis, its address without the password, and its faults as errors of qstream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qstream.errors import ConfigError, QstreamError, StoreUnavailable
from schemas.wording import Shown, must_be

_SECRET: Final = re.compile(r"(?<=//).*(?=@)|^[^/]*(?=@)|(?<=password=)[^&]*")


class Connection:
    """A client of one Redis for one module: no call retries, or blocks longer than about twice `timeout_ms`.

    `ConfigError` if the url is not a Redis url.
    """

    def __init__(self, url: str, module: str, timeout_ms: int) -> None:
        self.module = module
        self.client = _client(url, timeout_ms / 1000)
        self._where = _SECRET.sub("***", url)

    @contextmanager
    def answers(self) -> Iterator[None]:
        """Raise what goes wrong inside as an error of qstream."""
        try:
            yield
        except redis.RedisError as exc:
            raise self.fault(exc) from exc

    def fault(self, exc: redis.RedisError) -> QstreamError:
        """The error of qstream for one of Redis."""
        # Inside a script the error of a command arrives as text.
        if "WRONGTYPE" in str(exc):
            return ConfigError(
                f"redis at {self._where}: a key of qstream:{self.module} holds something that qstream did not write; "
                f"delete it, or choose another database: {exc}"
            )
        if isinstance(exc, redis.exceptions.NoPermissionError):
            return ConfigError(f"redis at {self._where}: the user must have the right to run this command: {exc}")
        return StoreUnavailable(f"redis at {self._where}: {type(exc).__name__}: {exc}")


def _client(url: str, timeout_s: float) -> redis.Redis:
    try:
        # By default redis-py tries ten times, which blocks for seconds; the loop has a better plan while Redis is away.
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            decode_responses=False,
            protocol=2,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # or an unknown option in the url fails at the first call only
        if pool.get_encoder().decode_responses:
            raise ValueError
    except (ValueError, TypeError, redis.RedisError):
        # Not chained: the cause may quote a part of the password.
        raise ConfigError(
            must_be(
                "redis_url",
                "redis://[user:password@]host[:port][/db], rediss:// or unix://path, without decode_responses",
                Shown("text that cannot be read as one (not shown, as it may hold a password)"),
            )
        ) from None
    return client
