"""Skipped: at the end of a run, which tests lacked what, and how to get it; in CI a run that lacks a required part fails."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pytest


@dataclass(frozen=True, slots=True)
class Part:
    """A program or folder that some tests need; `sign` is found in the reason of a test that was skipped without it."""

    name: str
    sign: str
    how_to_get: str
    required_in_ci: bool = True


PARTS: Final = (
    Part("Java 17 and Maven", r"\bno java\b|is Java |\bmvn\b|no Java Kafka", "apt-get install openjdk-17-jre-headless maven"),
    Part("openssl and a Redis with TLS", r"\bno openssl\b|\bredis-server with TLS\b", "apt-get install openssl redis-server"),
    Part("promtool", r"\bpromtool\b", "apt-get install prometheus"),
    Part("docker compose", r"\bdocker compose\b", "https://docs.docker.com/compose/install/", required_in_ci=False),
    Part("the recordings", r"\bQSTREAM_DATA\b", "set QSTREAM_DATA to the folder that holds them", required_in_ci=False),
    Part("a Python package", r"could not import|extra is not installed", "make install"),
)


def part_of(reason: str) -> Part | None:
    """The part that a skipped test lacked; None if it was skipped for another reason."""
    return next((part for part in PARTS if re.search(part.sign, reason)), None)


def summary(reasons: Iterable[str]) -> list[str]:
    """One line a part, with the number of tests that lacked it."""
    lacking = Counter(part for part in map(part_of, reasons) if part is not None)
    return [f"{count} skipped without {part.name}: {part.how_to_get}" for part, count in lacking.items()]


def unexcused(reasons: Iterable[str]) -> list[str]:
    """The reasons that must not occur in CI."""
    return sorted({reason for reason in reasons if (part := part_of(reason)) is None or part.required_in_ci})


def _reasons(config: pytest.Config) -> list[str]:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    reports = [] if terminal is None else terminal.stats.get("skipped", [])
    return [report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in reports]


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci() and session.exitstatus == pytest.ExitCode.OK and unexcused(_reasons(session.config)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reasons = _reasons(config)
    if lines := summary(reasons):
        terminalreporter.section("what was missing")
        terminalreporter.write("\n".join(lines) + "\n")
    if _in_ci() and (found := unexcused(reasons)):
        terminalreporter.section("skipped in CI, which fails the run")
        terminalreporter.write("\n".join(found) + "\n")
