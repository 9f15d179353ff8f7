"""How a trial's command ended, as state, metrics and reason."""

from __future__ import annotations

import pytest

from qstream.cli.hpo.outcome import Ended, Verdict, verdict_of


def judge(output: str = "", code: int = 0, errors: str = "", **more: object) -> Verdict:
    return verdict_of(Ended(code, output, errors, **more), "loss")


def test_metrics_are_the_numbers_of_the_last_line_of_json():
    found = judge('step 1\n{"loss": 9}\n{"loss": 0.5, "ms": 31, "run": "a", "ok": true, "bad": NaN}\nsaved to {x}\n\n')
    assert found == Verdict("complete", {"loss": 0.5, "ms": 31.0})


def test_a_bare_number_in_the_last_line_is_the_objective():
    assert judge("epoch 3\n0.25\n") == Verdict("complete", {"loss": 0.25})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" + 400 * "0"])
def test_a_loss_that_is_not_finite_is_a_failure_for_its_own_reason(value: str):
    found = judge(f'{{"loss": {value}, "ms": 3}}')
    assert (found.state, found.reason, found.metrics) == ("failed", "NAN", {})


@pytest.mark.parametrize(
    ("code", "errors"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        (1, "MemoryError"),
        (1, "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"),
        (-9, ""),
        (137, "Killed"),
    ],
)
def test_a_command_without_memory_failed_for_that(code: int, errors: str):
    assert judge('{"loss": 1}', code, errors).reason == "OOM"


def test_a_failure_says_its_exit_code_and_last_line():
    found = judge("", 2, "Traceback\nValueError: no data\n")
    assert (found.state, found.reason, found.says) == ("failed", "USER", "exit code 2: ValueError: no data")
    assert judge("", -15).says == "ended by SIGTERM"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "no line of JSON"),
        ("done", "no line of JSON"),
        ('{"acc": 1}', "'loss', got ['acc']"),
        ('{"loss": "1"}', "'loss', got '1'"),
    ],
)
def test_a_good_exit_without_the_objective_is_a_failure(output: str, said: str):
    found = judge(output)
    assert (found.state, found.reason) == ("failed", "USER")
    assert said in found.says


@pytest.mark.parametrize("why", ["TIMEOUT", "PREEMPTED"])
def test_what_was_stopped_failed_for_that_whatever_it_printed(why: str):
    found = judge('{"loss": 1}', 0, stopped=why)
    assert (found.state, found.reason, found.metrics) == ("failed", why, {})


def test_the_command_may_say_its_state_itself():
    found = judge('{"state": "infeasible", "reason": "OOM", "ms": 3, "loss": NaN}', 1)
    assert (found.state, found.reason, found.metrics) == ("infeasible", "OOM", {"ms": 3.0})
    assert judge('{"state": "complete", "loss": 2}') == Verdict("complete", {"loss": 2.0})
