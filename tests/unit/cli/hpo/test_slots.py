"""A worker's slots with real child processes: what is asked, run, reported and stopped."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from qstream.cli.hpo.child import Running, start
from qstream.cli.hpo.command import parse_command
from qstream.cli.hpo.slots import Answer, GaveUp, Report, Slots
from qstream.testing.rig import wait_until

TRAIN = f"{sys.executable} {Path(__file__).parent / 'train.py'}"
TEXT = f"{TRAIN} --lr {{lr}} --mode {{mode}} --ready {{ready}}"


class Script:
    """A desk that answers each ask by the next line of a script, and keeps the reports."""

    def __init__(self, *answers: Answer) -> None:
        self.script, self.reports, self.closed = deque(answers), list[Report](), False
        self._due = deque[Answer]()

    def send(self, report: Report) -> None:
        self.reports.append(report)
        if report.ask and self.script:
            self._due.append(self.script.popleft())

    def receive(self, timeout_s: float) -> Answer | None:
        return self._due.popleft() if self._due else time.sleep(timeout_s)

    def close(self) -> None:
        self.closed = True

    @property
    def results(self) -> list[Report]:
        return [report for report in self.reports if report.verdict is not None]


def run(trial: int, mode: str = "train", **more: object) -> Answer:
    return Answer("w", "run", trial, params={"lr": 0.01, "mode": mode, "ready": "x"}, **more)


DONE = Answer("w", "done", reason="budget spent")
Work = Callable[..., Slots]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Slots over a script, in a folder of their own; `stop` is set by the test."""

    def make(
        desk: Script, *, stop: threading.Event | None = None, timeout_s: float | None = None, grace_s: float = 60, **more: object
    ):
        def begin(answer: Answer, slot: int, now_s: float) -> Running:
            params = {**answer.params, "ready": str(tmp_path / "ready")}
            facts = {"trial": answer.trial, "slot": slot}
            folder = tmp_path / str(answer.trial)
            return start(parse_command(TEXT), params, facts, folder, now_s=now_s, timeout_s=timeout_s, grace_s=grace_s)

        given = {"names": ["w"], "start": begin, "objective": "loss", "stop": stop or threading.Event()} | more
        quiet = {"say": lambda text: None, "on_end": lambda *_: None}
        return Slots(desk, **{"clock": time.monotonic, "pause": time.sleep} | quiet | given)

    return make


def test_each_trial_is_run_and_its_result_asks_for_the_next(work: Work, tmp_path: Path):
    desk = Script(run(0), run(1), DONE)
    work(desk).run()
    assert [(report.trial, report.ask, report.verdict.metrics) for report in desk.results] == [
        (0, True, {"loss": 0.0, "ms": 3.0}),
        (1, True, {"loss": 0.0, "ms": 3.0}),
    ]
    assert len(desk.reports) == 3  # and one bare ask
    assert json.loads((tmp_path / "1/params.json").read_text()) == {"lr": 0.01, "mode": "train", "ready": str(tmp_path / "ready")}
    assert desk.closed


@pytest.mark.parametrize(("mode", "reason"), [("fail", "USER"), ("oom", "OOM"), ("nan", "NAN"), ("killed", "OOM")])
def test_a_command_that_fails_is_reported_with_its_reason(work: Work, mode: str, reason: str):
    desk = Script(run(0, mode), DONE)
    work(desk).run()
    (report,) = desk.results
    assert (report.verdict.state, report.verdict.reason) == ("failed", reason)


@pytest.mark.parametrize(("mode", "grace_s"), [("hang", 60), ("stubborn", 0.0)])
def test_a_command_over_its_time_is_stopped_by_force_if_it_must(work: Work, mode: str, grace_s: float):
    desk = Script(run(0, mode), DONE)
    work(desk, timeout_s=0.01, grace_s=grace_s).run()
    assert [report.verdict.reason for report in desk.results] == ["TIMEOUT"]


def test_a_stopped_worker_stops_all_that_its_command_started_and_hands_the_trial_back(work: Work, tmp_path: Path):
    stop, desk = threading.Event(), Script(run(0, "family"))
    slots = work(desk, stop=stop)
    thread = threading.Thread(target=slots.run)
    thread.start()
    pid = int(wait_until(lambda: (tmp_path / "ready").exists() and (tmp_path / "ready").read_text()))
    stop.set()
    thread.join()
    (report,) = desk.results
    assert (report.ask, report.verdict.state, report.verdict.reason) == (False, "failed", "PREEMPTED")
    wait_until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_heartbeat_comes_each_third_of_a_lease_while_a_command_runs(work: Work, tmp_path: Path):
    stop, clock = threading.Event(), [0.0]
    desk = Script(run(0, "hang", lease_s=30.0))
    slots = work(desk, stop=stop, clock=lambda: clock[0])
    thread = threading.Thread(target=slots.run)
    thread.start()
    wait_until((tmp_path / "ready").exists)
    for seconds, beats in ((9.0, 0), (10.0, 1), (19.0, 1), (25.0, 2)):
        clock[0] = seconds
        wait_until(lambda beats=beats: len(_beats(desk)) == beats)
    stop.set()
    thread.join()
    assert {(report.trial, report.ask) for report in _beats(desk)} == {(0, False)}
    assert len(_beats(desk)) == 2


def _beats(desk: Script) -> list[Report]:
    return [report for report in desk.reports if report.trial is not None and report.verdict is None]


class Lossy(Script):
    """A desk that does not get the first and third record that ask, and answers each of the others twice."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(*answers)
        self._arrives = deque([False, True, False, True])

    def send(self, report: Report) -> None:
        if self._arrives.popleft():
            super().send(report)
            self._due.extend(self._due)
        else:
            self.reports.append(report)


def test_a_report_without_an_answer_is_sent_again_and_a_second_answer_runs_nothing(work: Work):
    clock = iter(range(0, 10**6, 5))
    desk = Lossy(run(0), DONE)
    work(desk, clock=lambda: float(next(clock))).run()
    assert [report.trial for report in desk.reports] == [None, None, 0, 0]
    assert desk.results[0] == desk.results[1]


def test_a_worker_ends_when_the_command_is_at_fault_and_not_the_trials(work: Work):
    desk = Script(run(0, "nan"), *(run(trial, "fail") for trial in range(1, 9)))
    with pytest.raises(GaveUp, match=r"3 trials in a row failed, the last one, 3: exit code 1: no data"):
        work(desk, give_up=3).run()
    assert len(desk.results) == 4
    assert desk.closed


def test_a_worker_ends_after_its_count_without_asking_for_more(work: Work):
    desk = Script(run(0), run(1), run(2))
    work(desk, count=2).run()
    assert [(report.trial, report.ask) for report in desk.results] == [(0, True), (1, False)]


def test_a_command_dies_with_its_worker(orphaned: Callable[[str], int], tmp_path: Path):
    code = (
        "from pathlib import Path\nfrom qstream.cli.hpo.child import start\nfrom qstream.cli.hpo.command import parse_command\n"
        f"print(start(parse_command('sleep 600'), {{}}, {{}}, Path({str(tmp_path)!r}), now_s=0, timeout_s=None, grace_s=1)"
        ".process.pid, flush=True)"
    )
    pid = orphaned(code)
    wait_until(lambda: not _runs(pid))
