"""Ahead: results before they are asked for, each computed once, and errors where they are asked for."""

import subprocess
import sys
import threading
import time

import pytest

from qstream.ahead import KEPT, Ahead


def test_a_result_is_computed_once_in_another_thread():
    ahead: Ahead[int] = Ahead()
    threads = []
    for _ in range(3):
        ahead.start("a", lambda: threads.append(threading.get_ident()) or 5)
    assert [ahead.result("a", lambda: 6) for _ in range(2)] == [5, 5]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_what_was_never_started_is_computed_where_it_is_asked_for():
    ahead: Ahead[int] = Ahead()
    assert ahead.result("a", threading.get_ident) == threading.get_ident()


def test_an_error_is_raised_where_the_result_is_asked_for():
    ahead: Ahead[float] = Ahead()
    ahead.start("a", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ahead.result("a", lambda: 1.0)


def test_old_results_make_room_and_can_be_had_again():
    ahead: Ahead[int] = Ahead()
    blocked = threading.Event()
    ahead.start("first", lambda: int(blocked.wait(300)))
    for n in range(KEPT + 5):
        ahead.start(n, lambda n=n: n)
    blocked.set()
    assert ahead.result(0, lambda: -1) == -1  # pushed out before it began
    assert ahead.result(KEPT + 4, lambda: -1) == KEPT + 4


def test_the_thread_lives_while_there_is_something_to_compute():
    ahead: Ahead[str] = Ahead()
    for turn in range(3):
        ahead.start(turn, lambda: threading.current_thread().name)
        assert ahead.result(turn, lambda: "here") == "qstream ahead"
        deadline = time.monotonic() + 120
        while any(thread.name == "qstream ahead" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_process_does_not_wait_for_what_is_computed_ahead():
    code = "import time; from qstream.ahead import Ahead; Ahead().start(1, lambda: time.sleep(10_000)); time.sleep(0.2)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
