"""Address: from the URL of one Redis, of a Redis Cluster, or of a service behind sentinels, to what opens a client of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from qstream.errors import ConfigError
from schemas.wording import Shown, must_be

Client = redis.Redis | RedisCluster
Host = tuple[str, int]
Opener = Callable[[Iterable[Host]], Client]

_SECRET: Final = re.compile(r"(?<=//).*(?=@)|^[^/]*(?=@)|(?<=password=)[^&]*")
_ALLOWED: Final = (
    "redis://[user:password@]host[:port][/db], rediss:// (TLS), unix://path, redis+cluster://host:port[,host:port...] "
    "or redis+sentinel://host:port[,host:port...]/service[/db]"
)
_PORTS: Final = {"cluster": 6379, "sentinel": 26379}
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_UNKNOWN: Final = re.compile(r"unexpected keyword argument '(\w+)'")


def without_secrets(url: str) -> str:
    """The URL as messages may show it."""
    return _SECRET.sub("***", url)


def opener(url: str, timeout_s: float) -> Opener:
    """What opens a client: that of a cluster asks the nodes of the URL, and those given, for the layout of the cluster.

    No call of a client retries. `ConfigError` if the URL cannot be used; it hides the password.
    """
    # None of these is chained: the cause may quote a part of the password.
    try:
        return _opener(url, timeout_s)
    except TypeError as exc:
        found = _UNKNOWN.search(str(exc))
        option = f"the option {found[1]!r}" if found else "an option that it does not take"
        raise ConfigError(must_be("redis_url", "a URL with options that its client takes", Shown(option))) from None
    except (ValueError, redis.RedisError):
        raise ConfigError(must_be("redis_url", _ALLOWED, Shown("text that cannot be read as one (not shown)"))) from None


def _opener(url: str, timeout_s: float) -> Opener:
    # By default redis-py tries ten times, which blocks for seconds; the loop has a better plan while Redis is away.
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
    }
    scheme, _, mode = url.partition("://")[0].partition("+")
    if "#" in url or "@" in url.partition("://")[2].partition("/")[2]:  # of a password that is not quoted
        raise ValueError
    if not mode:
        _try_options(url, common)
        return lambda known: redis.Redis.from_url(url, **common)
    if mode not in _PORTS:
        raise ValueError
    one, hosts, service, login = _split(url, scheme, mode)
    _try_options(one, common)
    given = parse_url(one)
    tls = {"ssl": True} if given.pop("connection_class", None) is SSLConnection else {}
    options = common | {name: value for name, value in given.items() if name not in ("host", "port")} | tls
    return _cluster(hosts, options) if mode == "cluster" else _sentinel(hosts, service, options, login)


def _try_options(url: str, common: dict[str, Any]) -> None:
    """An unknown option would fail at the first call only."""
    for name in _FILES:
        path = parse_url(url).get(name)
        if path and not Path(path).is_file():  # the client would say so at each call, without the name of the file
            raise ConfigError(must_be("redis_url", f"a URL whose {name} is a file", path))
    pool = redis.Redis.from_url(url, **common).connection_pool
    pool.connection_class(**pool.connection_kwargs)
    if pool.get_encoder().decode_responses:
        raise TypeError("unexpected keyword argument 'decode_responses'")


def _cluster(hosts: tuple[Host, ...], options: dict[str, Any]) -> Opener:
    retry = options.pop("retry")
    del options["health_check_interval"]
    if options.pop("db", 0):
        raise ValueError
    for name in options.keys() - set(REDIS_ALLOWED_KEYS):  # the client would pass over it without a word
        raise TypeError(f"unexpected keyword argument '{name}'")

    def open_cluster(known: Iterable[Host]) -> Client:
        nodes = [ClusterNode(*host) for host in dict.fromkeys((*hosts, *known))]
        return RedisCluster(startup_nodes=nodes, retry=retry, **options)

    return open_cluster


def _sentinel(hosts: tuple[Host, ...], service: str, options: dict[str, Any], login: dict[str, str]) -> Opener:
    to_sentinels = {name: value for name, value in options.items() if name not in ("username", "password", "db")} | login

    def open_primary(known: Iterable[Host]) -> Client:
        sentinel = Sentinel(list(hosts), sentinel_kwargs=to_sentinels)
        client: redis.Redis = sentinel.master_for(service, **options)
        return client

    return open_primary


def _split(url: str, scheme: str, mode: str) -> tuple[str, tuple[Host, ...], str, dict[str, str]]:
    """A URL of the first host alone with the same login and options, all hosts, the service, and the login to sentinels."""
    parts = urlsplit(url)
    login, at, listed = parts.netloc.rpartition("@")
    found = [urlsplit(f"//{host}") for host in listed.split(",")]
    hosts = tuple((host.hostname or "", host.port or _PORTS[mode]) for host in found)
    service, _, db = parts.path.strip("/").partition("/") if mode == "sentinel" else ("", "", parts.path.strip("/"))
    if not all(name for name, _ in hosts) or (mode == "sentinel" and not service) or not (db or "0").isdecimal():
        raise ValueError
    words = parse_qsl(parts.query, keep_blank_values=True)
    sentinel = {name: word for name, word in words if mode == "sentinel" and name in ("sentinel_username", "sentinel_password")}
    query = urlencode([(name, word) for name, word in words if name not in sentinel])
    one = urlunsplit((scheme, f"{login}{at}{listed.partition(',')[0]}", f"/{db}", query, ""))
    return one, hosts, unquote(service), {name.removeprefix("sentinel_"): word for name, word in sentinel.items()}
