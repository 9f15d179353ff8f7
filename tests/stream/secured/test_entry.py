"""Who is not let in by Kafka or Redis is told why, and what to check."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from qstream.cli.checks_redis import check_redis
from qstream.cli.cluster import reach
from qstream.errors import ConfigError, QstreamError
from qstream.stream.client import PlanSubscriber
from qstream.testing.rig import wait_until
from qstream.testing.sample import Pong
from qstream.testing.secured import CERTIFIED, ELSEWHERE, PASSWORD

FAULTS = {
    "wrong password": ({"sasl_password": "wrong"}, ("refuses this client", "Invalid username or password", "sasl.password")),
    "unknown user": ({"sasl_username": "mallory"}, ("refuses this client", "Invalid username or password", "sasl.username")),
    "wrong mechanism": ({"sasl_mechanism": "SCRAM-SHA-512"}, ("Unsupported SASL mechanism", "PLAIN", "sasl.mechanism")),
    "unknown mechanism": ({"sasl_mechanism": "PLAYN"}, ("Unsupported SASL mechanism: PLAYN",)),
    "wrong CA": ({"ssl_ca_location": "other-ca.pem"}, ("certificate verify failed", "ssl.ca.location")),
    "no CA": ({"ssl_ca_location": None}, ("certificate verify failed", "ssl.ca.location")),
    "missing CA": (
        {"ssl_ca_location": "nowhere.pem"},
        ("kafka.ssl.ca.location must be the path of a file that exists", "nowhere.pem"),
    ),
    "wrong host name": ({"at": ELSEWHERE}, ("names this host", "ssl.endpoint.identification.algorithm")),
    "no TLS": ({"security_protocol": "SASL_PLAINTEXT"}, ("security.protocol",)),
    "nothing at all": ({"security_protocol": None, "sasl_mechanism": None}, ("security.protocol",)),
    "TLS to a door without": ({"at": "PLAINTEXT"}, ("SSL connection closed by peer", "security.protocol")),
    "no certificate": ({"at": CERTIFIED}, ("refuses this client", "alert", "check ssl.certificate.location")),
    "a stranger's certificate": (
        {"at": CERTIFIED, "ssl_certificate_location": "other-ca.pem", "ssl_key_location": "other-ca.key"},
        ("refuses this client", "alert", "check ssl.certificate.location"),
    ),
    "misspelt property": ({"sasl_pasword": PASSWORD}, ('No such configuration property: "sasl.pasword"',)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_that_is_not_let_in_says_why_and_what_to_check(fault, secured, entry):
    changes, words = FAULTS[fault]
    settings, said = entry(**changes), ""

    def says_it() -> bool:
        """Asked once more where a busy broker has not refused the client in time."""
        nonlocal said
        with pytest.raises(QstreamError) as failure:
            reach(settings, timeout_s=2.0)
        said = str(failure.value)
        assert PASSWORD not in "".join(traceback.format_exception(failure.value))
        return all(word in said for word in words)

    wait_until(says_it, saying=lambda: said)


@pytest.mark.parametrize("group", [None, "rig.plans"])
def test_a_subscriber_with_a_property_that_is_none_says_so_without_its_value(group, entry, shared_rig):
    settings = entry(sasl_pasword=PASSWORD)
    with pytest.raises(ConfigError, match=r'kafka: No such configuration property: "sasl\.pasword"') as failure:
        PlanSubscriber(shared_rig.sample.pongs, Pong, settings.bootstrap_servers, group=group, settings=settings)
    assert PASSWORD not in "".join(traceback.format_exception(failure.value))


def test_a_client_with_a_certificate_has_the_rights_of_its_name(secured, entry, shared_rig):
    pings = shared_rig.sample.pings
    secured.allow("CN=client", ("DESCRIBE", "topic", pings.name))
    settings = entry(at=CERTIFIED, ssl_certificate_location="client.pem", ssl_key_location="client.key")
    assert pings.name in reach(settings, timeout_s=60.0).topics


REDIS_FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "wrong password": (lambda url: url.replace("S3cret-redis", "S3cret-other"), "user and password in the URL must be right"),
    "wrong CA": (lambda url: url.replace("/ca.pem", "/other-ca.pem"), "the server's certificate must be one that this machine"),
    "no CA": (lambda url: url.partition("?")[0], "the server's certificate must be one that this machine"),
    "no TLS": (lambda url: url.partition("?")[0].replace("rediss", "redis"), "no answer"),
}


@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_a_redis_with_tls_that_cannot_be_entered_says_why(fault, servers):
    spoil, words = REDIS_FAULTS[fault]
    assert check_redis(servers[1], 1 << 20)[0].verdict == "ok"
    (check,) = check_redis(spoil(servers[1]), 1 << 20)
    assert (check.verdict, words in check.detail, "S3cret" in check.detail + check.fix) == ("fail", True, False)


@pytest.mark.parametrize("given", ["file", "text"])
def test_a_host_that_the_certificate_does_not_name_is_fine_where_that_is_not_checked(given, secured, entry):
    ca = secured.certificates / "ca.pem"
    named = {"ssl_ca_location": "ca.pem"} if given == "file" else {"ssl_ca_location": None, "ssl_ca_pem": ca.read_text()}
    settings = entry(at=ELSEWHERE, ssl_endpoint_identification_algorithm="none", **named)
    assert not reach(settings, timeout_s=60.0).embedded
