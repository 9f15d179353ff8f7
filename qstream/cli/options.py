"""Options: what several commands take, and the settings of a command that is a client of running servers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final

import typer

from agents.names import agent_names
from qstream.config import EMBEDDED, Settings, load_settings
from qstream.errors import ConfigError
from schemas.wording import must_be

LOCAL_BROKER: Final = "localhost:9092"
# librdkafka's own complaints would hide the one line that says what is wrong.
QUIET: Final = {"log_level": "2"}
UNITS_S: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
START_HINT: Final = "name one by --bootstrap-servers or QSTREAM_BOOTSTRAP_SERVERS, or start one by: qstream broker"


def agent_completion(start: str) -> list[str]:
    """Agents for the shell's completion."""
    return [name for name in agent_names() if name.startswith(start)]


def topic_completion(start: str) -> list[str]:
    """Topics for the shell's completion."""
    # Loaded when the shell asks: the registry is more than `qstream --help` needs.
    names: list[str] = [topic.name for topic in importlib.import_module("agents.registry").all_topics()]
    return [name for name in names if name.startswith(start)]


AgentArgument = Annotated[
    str, typer.Argument(metavar="AGENT", autocompletion=agent_completion, help="A module, such as routing; see qstream --help.")
]
BootstrapServers = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", "-b", metavar="HOST:PORT", help="Kafka brokers; else QSTREAM_BOOTSTRAP_SERVERS."),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        callback=lambda text: _redis_url(text),
        help="Redis, as redis://HOST:PORT/0, or @FILE that holds it; else QSTREAM_REDIS_URL.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OptionChanges = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="OPTION=VALUE", help="Change an option of the agent's module; may be repeated."),
]


def seconds(text: str, name: str = "deadline") -> float:
    """A time as ``50ms``, ``2s``, ``45m`` or ``2h``; `ConfigError` for anything else."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", text)
    value = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if value <= 0:
        raise ConfigError(must_be(name, "a time above 0, such as 50ms or 2s", text))
    return value


def require_unused(context: typer.Context, flags: Collection[str], rule: str) -> None:
    """`ConfigError` that names the first of the flags that is on the command line."""
    for parameter in context.command.params:
        name, flag = parameter.name or "", max(parameter.opts, key=len)
        source = context.get_parameter_source(name)
        if flag in flags and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(must_be(flag, rule, context.params[name]))


def _redis_url(text: str | None) -> str | None:
    """The URL, read from a file where the text is ``@FILE``; a password on the command line is warned of."""
    if text is None or not text.startswith("@"):
        if text is not None and ("@" in text or "password=" in text):
            where = "the environment (QSTREAM_REDIS_URL), a file (--redis @FILE) or the file that QSTREAM_CONFIG names"
            typer.echo(f"warning: the process list shows what --redis holds; keep a password in {where}", err=True)
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError(must_be("--redis", f"a URL, or @ and the path of a file that holds it ({reason})", text)) from exc


def new_app(help_text: str | None = None) -> typer.Typer:
    """A typer app for one command or one group, in the plain style of the root."""
    return typer.Typer(help=help_text, add_completion=False, no_args_is_help=help_text is not None, rich_markup_mode=None)


def client_settings(bootstrap_servers: str | None = None) -> Settings:
    """Settings to reach running servers: an 'embedded' broker runs in another process, so the local address is tried."""
    settings = load_settings(bootstrap_servers=bootstrap_servers)
    servers = LOCAL_BROKER if settings.bootstrap_servers == EMBEDDED else settings.bootstrap_servers
    return settings.model_copy(update={"bootstrap_servers": servers}).with_kafka_defaults(QUIET)
