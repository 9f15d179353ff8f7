"""The worker refuses what it cannot serve, before it starts."""

from __future__ import annotations

import socket

import pytest

from agents.app import require_free, run
from agents.names import agent_names
from agents.registry import find_agent
from agents.routing import AGENT
from qstream.config import Settings
from qstream.errors import ConfigError


def test_a_port_that_is_taken_is_refused_by_name():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"host and port must be an address that is free here .*in use.*, got 127.0.0.1:{port}"
        ):
            run(AGENT, Settings(bootstrap_servers="127.0.0.1:1", port=port))


def test_an_ipv6_address_is_taken_as_a_host_and_stands_in_brackets_where_it_is_named(ipv6_loopback):
    with socket.create_server((ipv6_loopback, 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"free here .*in use.*, got \[::1\]:{port}"):
            run(AGENT, Settings(bootstrap_servers="127.0.0.1:1", host=ipv6_loopback, port=port))
    require_free(ipv6_loopback, port)


def test_a_host_that_is_not_here_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"got 203\.0\.113\.9:"):
        run(AGENT, Settings(bootstrap_servers="127.0.0.1:1", host="203.0.113.9"))


@pytest.mark.parametrize("name", agent_names())
def test_without_a_port_of_its_user_an_agent_serves_at_its_own(name):
    agent = find_agent(name)
    own = agent.settings.get("port", Settings.model_fields["port"].default)
    with pytest.raises(ConfigError, match=rf"got 203\.0\.113\.9:{own};"):
        run(agent, Settings(bootstrap_servers="127.0.0.1:1", host="203.0.113.9"))
