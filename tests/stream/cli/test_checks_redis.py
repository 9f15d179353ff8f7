"""The doctor's look at a real Redis: what an agent could not do fails, what may lose states is a warning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from agents.registry import agent_names
from qstream.cli.checks_redis import check_redis
from qstream.embedded.redis import EmbeddedRedis

MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture
def raw(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client; what a test changes is changed back."""
    with redis.Redis.from_url(server.url) as client:
        yield client
        client.replicaof("NO", "ONE")
        for name, value in (("maxmemory", 0), ("maxmemory-policy", "noeviction"), ("save", ""), ("appendonly", "no")):
            client.config_set(name, value)
        client.flushall()


def found(url: str) -> dict[str, tuple[str, str]]:
    return {check.what: (check.verdict, check.detail) for check in check_redis(url, MIB)}


def url_of(server: EmbeddedRedis, login: str) -> str:
    return f"redis://{login}@127.0.0.1:{server.port}/0"


def test_a_redis_that_does_all_is_ok_and_keeps_nothing_of_the_look_for_long(server: EmbeddedRedis, raw: redis.Redis) -> None:
    raw.config_set("save", "3600 1")
    ((what, (verdict, detail)),) = found(server.url).items()
    assert (what, verdict) == ("redis", "ok")
    assert detail.startswith("does all that an agent asks, version ")
    assert all(name.endswith(b":epoch") or raw.ttl(name) > 0 for name in raw.keys("*"))


def test_a_user_who_may_not_ask_for_facts_is_fit_with_a_warning(server: EmbeddedRedis, raw: redis.Redis) -> None:
    raw.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", "~qstream:*", "+@all", "-@dangerous", "-@admin")
    checks = found(url_of(server, "app:pw"))
    assert checks["redis"] == ("ok", "does all that an agent asks, version not known")
    assert checks["redis memory"][0] == "warn"
    assert "may not run INFO" in checks["redis memory"][1]


def test_a_user_with_the_keys_of_one_agent_alone_is_fit_for_that_one(server: EmbeddedRedis, raw: redis.Redis) -> None:
    (first, *_) = agent_names()
    rights = ("reset", "on", ">pw", f"~qstream:{first}:*", f"~qstream:{{{first}:*", "+@all", "-@dangerous")
    raw.execute_command("ACL", "SETUSER", "one", *rights)
    assert found(url_of(server, "one:pw"))["redis"][0] == "ok"
    raw.execute_command("ACL", "SETUSER", "one", "resetkeys", "~other:*")
    verdict, detail = found(url_of(server, "one:pw"))["redis"]
    assert verdict == "fail"
    assert "must have the right to run this command on its keys" in detail


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda raw, port: raw.replicaof("127.0.0.1", str(port)), "read-only replica"),
        (lambda raw, port: raw.config_set("maxmemory", 1), "it must have room"),
    ],
    ids=["replica", "full"],
)
def test_a_redis_that_takes_no_writes_fails(server: EmbeddedRedis, raw: redis.Redis, spoil: object, says: str) -> None:
    spoil(raw, server.port)  # type: ignore[operator]
    verdict, detail = found(server.url)["redis"]
    assert (verdict, says in detail) == ("fail", True)


def test_what_may_lose_states_is_a_warning(server: EmbeddedRedis, raw: redis.Redis) -> None:
    raw.config_set("maxmemory-policy", "volatile-lru")
    raw.config_set("maxmemory", 100 * MIB)
    for agent in agent_names():
        raw.hset(f"qstream:{agent}:watermarks", "in.v1/0", 1)
        raw.expire(f"qstream:{agent}:watermarks", 100)
    checks = {check.what: (check.verdict, check.detail) for check in check_redis(server.url, 120 * MIB)}
    assert checks["redis"][0] == "ok"
    assert checks["redis room"][1] == "maxmemory is 100 MiB, and a worker may keep 120 MiB of states"
    assert "volatile-lru" in checks["redis memory"][1]
    assert "no snapshots" in checks["redis persistence"][1]
    assert "time to live" in checks["redis keys"][1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://u:s3cret@127.0.0.1:1/0?nope=1", "the option 'nope'"),
        ("redis://u:s3cret#x@host", "redis_url must be redis://"),
        ("redis://u:s3cret@127.0.0.1:1/0", "no answer"),
    ],
)
def test_a_url_that_cannot_be_used_fails_without_its_password(url: str, says: str) -> None:
    verdict, detail = found(url)["redis"]
    assert (verdict, says in detail, "s3cret" in detail) == ("fail", True, False)
