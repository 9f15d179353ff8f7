"""Options: defaults, contradictions by name, and what is recommended for which load."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from qstream.errors import OptionError
from qstream.routing.options import RoutingOptions


def toggles(options: RoutingOptions) -> tuple[bool, bool, bool]:
    return options.qaoa, options.hqc, options.deterministic


def test_by_default_the_classical_plan_stands_alone_and_no_window_is_tried() -> None:
    assert toggles(RoutingOptions()) == (False, False, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"deterministic": False}, "option deterministic: False with qaoa and hqc off"),
        ({"device": "lightning.qubit"}, "option device: 'lightning.qubit' with qaoa off"),
        ({"device": "lightning.qubit", "hqc": True}, "option device: 'lightning.qubit' with qaoa off"),
        ({"qaoa": True, "placement": "off"}, "option qaoa: True with placement off"),
        ({"hqc": True, "placement": "off"}, "option hqc: True with placement off"),
        ({"window": 16}, "option window: .* less than or equal to 14, got 16"),
        ({"window": 9}, "option window: .* multiple of 2, got 9"),
        ({"layers": 0}, "option layers: "),
        ({"shots": 0}, "option shots: "),
        ({"deadline_ms": 0}, "option deadline_ms: .*, got 0"),
        ({"device": "a b", "qaoa": True}, "option device: "),
        ({"qoaa": True}, "no option 'qoaa', allowed are .*qaoa"),
    ],
)
def test_what_contradicts_itself_or_is_out_of_range_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RoutingOptions().changed(given)


def test_contradictions_are_option_errors_however_options_are_made() -> None:
    with pytest.raises(OptionError, match="option deterministic"):
        RoutingOptions(deterministic=False)
    with pytest.raises(OptionError, match="option deterministic"):
        RoutingOptions.model_validate({"deterministic": False})


def test_a_contradiction_can_be_left_in_one_step_with_the_options_that_cause_it() -> None:
    options = RoutingOptions(qaoa=True, device="lightning.qubit", deterministic=False)
    with pytest.raises(OptionError, match="deterministic"):
        options.changed({"qaoa": False, "device": None})
    assert toggles(options.changed({"qaoa": False, "device": None, "hqc": True})) == (False, True, False)


@pytest.mark.parametrize(
    ("tokens", "quantum", "goal", "expected"),
    [
        (500, "online", "latency", (True, True, False)),
        (500, "none", "latency", (False, False, True)),
        (1_000, "online", "balanced", (True, False, True)),
        (9_999, "overloaded", "throughput", (False, True, True)),
        (10_000, "online", "robustness", (True, True, True)),
        (1_000_000, "none", "robustness", (True, True, True)),
    ],
)
def test_the_recommended_options_are_those_of_the_table(
    tokens: int, quantum: Any, goal: Any, expected: tuple[bool, bool, bool]
) -> None:
    options = RoutingOptions.recommended(tokens, quantum, goal)
    assert toggles(options) == expected
    assert options.layers == 2


@pytest.mark.parametrize("tokens", [0, 999, 1_000, 9_999, 10_000, 10**9])
def test_there_is_a_recommendation_for_every_load_and_no_circuit_where_none_can_run_in_time(tokens: int) -> None:
    for quantum, goal in itertools.product(("online", "none", "overloaded"), ("latency", "throughput", "balanced", "robustness")):
        options = RoutingOptions.recommended(tokens, quantum, goal)  # type: ignore[arg-type]
        if quantum != "online" and goal != "robustness":
            assert not options.qaoa
        if goal == "robustness" and tokens >= 10_000:
            assert options.deterministic


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((-1, "online", "latency"), "option tokens: -1"),
        ((1, "busy", "latency"), "option quantum: 'busy', allowed are online, none, overloaded"),
        ((1, "online", "cheap"), "option goal: 'cheap', allowed are latency, throughput, balanced, robustness"),
    ],
)
def test_a_load_that_is_none_is_refused_by_name(given: tuple[Any, Any, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RoutingOptions.recommended(*given)


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(OptionError, match="option window_tokens: True"):
        RoutingOptions().changed({"window_tokens": True})
    assert RoutingOptions().changed({"queues": True}).queues


def test_what_is_none_by_default_can_be_set_to_none_again() -> None:
    started = RoutingOptions(capacity_factor=1.5, deadline_ms=50, qaoa=True, device="lightning.qubit")
    changed = started.changed({"capacity_factor": "none", "deadline_ms": "none", "device": "none"})
    assert changed == RoutingOptions(qaoa=True)
    with pytest.raises(OptionError, match="option min_gain"):
        started.changed({"min_gain": "none"})
