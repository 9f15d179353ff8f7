"""`qstream doctor`: whether this machine and its servers work, and how to fix what does not."""

from __future__ import annotations

import dataclasses

import typer

from qstream.cli.checks import Check, check_broker, check_gpu, check_installation, check_kernel_cache, check_logs
from qstream.cli.checks_models import check_models
from qstream.cli.checks_redis import check_redis
from qstream.cli.options import AsJson, BootstrapServers, RedisUrl, new_app
from qstream.cli.output import print_json, print_table
from qstream.config import load_settings

app = new_app()
STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@app.command()
def doctor(bootstrap_servers: BootstrapServers = None, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Check the installation, Kafka, its topics and groups, Redis and the GPU.

    Servers that are not named are the embedded ones: they are started once to see that they can be. Exit code 1 if a
    check fails; warnings do not count.

    \b
    Example:
      qstream doctor
      qstream doctor -b localhost:9092 --redis redis://localhost:6379/0 --json
    """
    settings = load_settings(bootstrap_servers=bootstrap_servers, redis_url=redis)
    servers = [*check_broker(settings), *check_redis(settings.redis_url.get_secret_value(), settings.max_state_bytes)]
    if not any(check.verdict == "fail" and check.what in ("broker", "redis") for check in servers):
        servers += [*check_logs(settings), *check_models(settings)]
    checks: list[Check] = [*check_installation(), check_kernel_cache(), check_gpu(), *servers]
    if as_json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        rows = [(check.verdict, check.what, check.detail, check.fix) for check in checks]
        print_table(("", "what", "detail", "fix"), rows, [STYLES[check.verdict] for check in checks])
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)
