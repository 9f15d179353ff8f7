"""Refusals: what an error of Redis means to an operator."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import ResponseError

# The commands of an agent, by name and in its scripts.
RIGHTS: Final = (
    *("eval", "evalsha", "get", "set", "time", "hget", "hmget", "hgetall", "hkeys", "hscan", "hset", "hdel"),
    *("pttl", "pexpire", "persist"),
)

# What Redis says, and what must be so. Inside a script the error of a command arrives as text, which varies by version.
_MEANINGS: Final = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (
            r"NoPermission|NOPERM|no permissions|can't (run|access)",
            "the user must have the right to run this command on its keys",
        ),
        (
            r"NOAUTH|WRONGPASS|Authentication(Error|Wrong| required)|unauthenticated|[Ii]nvalid (password|username)",
            "user and password in the URL must be right",
        ),
        (r"DENIED|protected mode", "the server must be set to accept clients of other machines"),
        (
            r"CERTIFICATE_VERIFY_FAILED",
            "the server's certificate must be one that this machine, or ssl_ca_certs in the URL, trusts",
        ),
        (r"\[SSL|SSLError|WRONG_VERSION_NUMBER", "the server must speak TLS, or the URL begin with redis"),
        (r"MovedError|AskError|MOVED|CROSSSLOT|CrossSlot", "the URL of a Redis Cluster must begin with redis+cluster"),
        (
            r"[Cc]luster mode is not enabled|cluster support disabled",
            "the URL of a Redis that is not a cluster must begin with redis://",
        ),
        (
            r"[Uu]nknown (Redis )?command",
            "the server must know this command: it is disabled, or this is not a Redis that keeps data",
        ),
        (r"DB index is out of range|SELECT is not allowed", "the database in the URL must exist"),
        (r"ReadOnlyError|READONLY|read only replica|is now a slave", "it must be the primary, and is a read-only replica"),
        (r"OutOfMemory|OOM|maxmemory", "it must have room, and is full (maxmemory)"),
        (r"MISCONF", "it must be able to write to its disk"),
        (r"NOREPLICAS", "it must have as many replicas as its min-replicas-to-write asks for"),
        (r"ClusterDown|CLUSTERDOWN|not covered", "all parts of the cluster must be up"),
        (r"MasterDown|MASTERDOWN", "the primary of this replica must be up"),
        (r"max number of clients", "it must accept more clients (maxclients)"),
    )
)


def meaning_of(error: Exception) -> str | None:
    """What must be so that Redis does what it has refused; None if it did not refuse, but gave no answer."""
    text = f"{type(error).__name__}: {error}"
    other = "it must accept this command" if isinstance(error, ResponseError) else None
    return next((meaning for pattern, meaning in _MEANINGS if pattern.search(text)), other)


def is_foreign(error: Exception) -> bool:
    """Whether a key holds something that is not a hash."""
    return "WRONGTYPE" in str(error)
