"""Headers of events: CloudEvents 1.0 in Kafka's binary mode, and what is passed on from the cause."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from qstream.config import Settings
from qstream.stream.headers import event_headers, passed_on
from qstream.stream.producers import producer_config

REQUIRED = ("ce_id", "ce_source", "ce_specversion", "ce_type")  # CloudEvents 1.0.2, section "Required attributes"


def headers(timestamp_ms: int = 1_700_000_000_123) -> dict[str, bytes]:
    return dict(event_headers("qstream.t.v1", "in/0/7/0", "qstream/routing", "modell-ä", timestamp_ms, "application/json"))


def test_every_required_attribute_is_there_and_the_content_type_has_no_prefix():
    found = headers()
    assert all(found[name] for name in REQUIRED)
    assert found["ce_specversion"] == b"1.0"
    assert found["ce_type"] == b"qstream.t.v1"
    assert found["ce_id"] == b"in/0/7/0"
    assert found["ce_subject"].decode() == "modell-ä"
    assert found["content-type"] == b"application/json"


@pytest.mark.parametrize("timestamp_ms", [0, 1, 999, 1_700_000_000_000, 4_102_444_799_999])
def test_the_time_is_rfc_3339_in_utc_and_keeps_the_millisecond(timestamp_ms):
    text = headers(timestamp_ms)["ce_time"].decode()
    assert text.endswith("Z")
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo == UTC
    assert round(moment.timestamp() * 1000) == timestamp_ms


@pytest.mark.parametrize("timestamp_ms", [253_402_300_800_000, 2**62, 2**63 - 1])
def test_a_time_that_no_calendar_holds_is_written_as_the_last_one(timestamp_ms):
    assert headers(timestamp_ms)["ce_time"].startswith(b"9999-12-31T23:59:59")


def test_only_the_trace_context_is_passed_on():
    given = [("traceparent", b"00-a"), ("tracestate", b"x=1"), ("ce_id", b"1"), ("secret", b"s"), ("traceparent", None)]
    assert passed_on(given) == [("traceparent", b"00-a"), ("tracestate", b"x=1")]
    assert passed_on([]) == []


def test_a_producer_keeps_order_repeats_nothing_and_hashes_keys_as_java_does():
    config = producer_config(Settings(kafka={"linger.ms": "7", "security.protocol": "SSL"}))
    assert config["enable.idempotence"] is True
    assert config["partitioner"] == "murmur2_random"
    assert (config["linger.ms"], config["security.protocol"]) == ("7", "SSL")
