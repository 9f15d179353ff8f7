"""Cause: what a client's log passes on."""

from __future__ import annotations

import logging

import pytest

from qstream.stream import cause as module
from qstream.stream.cause import Cause

TEXT = "%s [%s] %s"


def test_of_each_kind_of_line_one_is_passed_on_in_a_minute_and_then_the_number_of_the_others(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "qstream.librdkafka")
    cause = Cause()
    for _ in range(1000):
        now[0] += 0.01
        cause.log(logging.ERROR, TEXT, "FAIL", "client", "refused")
    cause.log(logging.WARNING, TEXT, "SESSTMOUT", "client", "timed out")
    now[0] += 60
    cause.log(logging.ERROR, TEXT, "FAIL", "client", "refused")
    now[0] += 60
    cause.log(logging.ERROR, TEXT, "FAIL", "client", "refused")
    assert [record.getMessage() for record in caplog.records] == [
        "FAIL [client] refused",
        "SESSTMOUT [client] timed out",
        "FAIL [client] refused (and 999 more FAIL in the meantime)",
        "FAIL [client] refused",
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_the_error_that_ends_a_client_is_heard_each_time(count, caplog):
    cause = Cause()
    for _ in range(count):
        cause.log(logging.ERROR, TEXT, "FATAL", "client", "[thrd:main]: Fatal error: Local: Fatal error: gone")
    assert cause.fatal is not None
    assert caplog.records == []
