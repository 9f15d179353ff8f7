"""A channel carries whole messages, and can be read again after nothing came in time."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from qstream.quantum.devices.channel import ChannelClosed, receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon(seconds: float = 120.0) -> float:
    return time.monotonic() + seconds


def test_a_message_larger_than_any_buffer_arrives(pair: Pair):
    message = np.arange(1_000_000)
    writer = threading.Thread(target=send, args=(pair[0], message, soon()))
    writer.start()
    np.testing.assert_array_equal(receive(pair[1], soon()), message)
    writer.join()


def test_nothing_in_time_leaves_the_channel_as_it_was(pair: Pair):
    for _ in range(2):
        with pytest.raises(TimeoutError):
            receive(pair[1], soon(0.01))
    send(pair[0], "late", soon())
    assert receive(pair[1], soon()) == "late"


def test_a_message_that_is_there_is_read_though_its_time_is_almost_up(pair: Pair):
    for turn in range(200):
        send(pair[0], turn, soon())
        time.sleep(0.0001)
        try:
            found = receive(pair[1], time.monotonic() + 2e-6 * (turn % 10))
        except TimeoutError:
            found = receive(pair[1], soon())
        assert found == turn


def test_half_a_message_is_the_end_of_the_channel(pair: Pair):
    body = pickle.dumps("whole")
    pair[0].sendall(struct.pack("<Q", len(body)) + body[:3])
    with pytest.raises(ChannelClosed):
        receive(pair[1], soon(0.05))


def test_a_side_that_has_ended_is_told(pair: Pair):
    pair[0].close()
    with pytest.raises(ChannelClosed):
        receive(pair[1], soon())
    with pytest.raises(ChannelClosed):
        send(pair[1], "anybody?", soon())


def test_a_missing_reader_is_not_waited_for(pair: Pair):
    with pytest.raises(TimeoutError):
        send(pair[0], np.zeros(1_000_000), soon(0.05))
