"""Ahead: no call waits, each snapshot is computed once, the newest of a key wins, keys come in turn, and all is bounded."""

import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from qstream.ahead import KEPT, MOST_WAITING, Ahead
from qstream.errors import NotYet

LONG_S = 250


def of(value):
    return lambda: lambda: value


@pytest.fixture
def blocked():
    """An Ahead whose thread is busy with another key until the gate opens."""
    ahead, gate, busy = Ahead(), threading.Event(), threading.Event()
    ahead.start("busy", 0, lambda: lambda: (busy.set(), gate.wait(LONG_S)))
    assert busy.wait(LONG_S)
    yield ahead, gate
    gate.set()


def test_a_result_is_computed_once_in_another_thread():
    ahead = Ahead()
    threads = []
    for _ in range(3):
        ahead.start("a", 1, lambda: lambda: threads.append(threading.get_ident()) or 5)
    assert ahead.settle(LONG_S)
    assert [ahead.result("a", 1, of(6)) for _ in range(2)] == [5, 5]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_what_is_not_there_is_started_and_no_call_waits_for_it(blocked):
    ahead, gate = blocked
    for _ in range(3):
        with pytest.raises(NotYet, match="'a'"):
            ahead.result("a", 1, of(5))
    gate.set()
    assert ahead.settle(LONG_S)
    assert ahead.result("a", 1, of(6)) == 5


def test_what_a_result_is_made_of_is_taken_by_the_caller_and_only_if_it_is_computed(blocked):
    ahead, _ = blocked
    threads = []

    def prepare():
        threads.append(threading.get_ident())
        return lambda: 5

    for _ in range(3):
        ahead.start("a", 1, prepare)
    assert threads == [threading.get_ident()]


def test_an_error_is_raised_where_the_result_is_asked_for():
    ahead = Ahead()
    ahead.start("a", 1, lambda: lambda: 1 / 0)
    assert ahead.settle(LONG_S)
    with pytest.raises(ZeroDivisionError):
        ahead.result("a", 1, of(1.0))


def test_the_newest_snapshot_of_a_key_wins_and_older_ones_that_have_not_begun_are_not_computed(blocked):
    ahead, gate = blocked
    computed = []
    for snapshot in range(64):
        ahead.start("a", snapshot, lambda snapshot=snapshot: lambda: computed.append(snapshot) or snapshot)
    gate.set()
    assert ahead.settle(LONG_S)
    assert computed == [63]
    assert ahead.result("a", 63, of(-1)) == 63
    with suppress(NotYet):  # it may be computed before it is asked for
        ahead.result("a", 62, of(-1))
    assert ahead.settle(LONG_S)
    assert ahead.result("a", 62, of(-2)) == -1


def test_records_that_are_processed_again_find_the_results_of_all_their_plans():
    """A batch with two plans waits for the first, then for the second, and begins with the first again each time."""
    ahead, found, tries = Ahead(), [], 0
    while len(found) < 2 and (tries := tries + 1) < 10:
        found = []
        try:
            for snapshot in (1, 2):
                found.append(ahead.result("a", snapshot, of(snapshot)))
        except NotYet:
            assert ahead.settle(LONG_S)
    assert found == [1, 2]


def test_keys_come_in_turn_however_often_one_of_them_asks(blocked):
    ahead, gate = blocked
    order = []
    for key in ("a", "b"):
        ahead.start(key, 0, lambda key=key: lambda: order.append(key))
    for snapshot in range(1, 64):
        ahead.start("a", snapshot, lambda: lambda: order.append("a"))
    ahead.start("c", 0, lambda: lambda: order.append("c"))
    gate.set()
    assert ahead.settle(LONG_S)
    assert order == ["a", "b", "c"]


def test_of_very_many_keys_those_that_found_no_room_are_computed_when_they_ask_again(blocked):
    ahead, gate = blocked
    keys = [f"key {n}" for n in range(MOST_WAITING + 20)]
    computed = []

    def noted(key):
        return lambda: lambda: computed.append(key) or key

    for key in keys:
        ahead.start(key, 0, noted(key))
    gate.set()
    assert ahead.settle(LONG_S)
    assert computed == keys[:MOST_WAITING]
    for key in keys[MOST_WAITING:]:
        ahead.start(key, 0, noted(key))
    assert ahead.settle(LONG_S)
    assert [ahead.result(key, 0, of(key)) for key in keys[MOST_WAITING:]] == keys[MOST_WAITING:]


def test_old_results_make_room():
    ahead = Ahead()
    for n in range(KEPT + 5):
        ahead.start(str(n), 0, of(n))
        assert ahead.settle(LONG_S)
    assert ahead.result(str(KEPT + 4), 0, of(-1)) == KEPT + 4
    with suppress(NotYet):  # it may be computed before it is asked for
        ahead.result("0", 0, of(-1))
    assert ahead.settle(LONG_S)
    assert ahead.result("0", 0, of(-2)) == -1


def test_the_thread_lives_while_there_is_something_to_compute():
    ahead = Ahead()
    for turn in range(3):
        ahead.start("a", turn, lambda: threading.current_thread)
        assert ahead.settle(LONG_S)
        thread = ahead.result("a", turn, lambda: threading.current_thread)
        assert thread.name == "qstream ahead"
        thread.join(LONG_S)
        assert not thread.is_alive()


def test_a_process_does_not_wait_for_what_is_computed_ahead():
    code = (
        "import time; from qstream.ahead import Ahead; Ahead().start('a', 1, lambda: lambda: time.sleep(10_000)); time.sleep(0.2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
