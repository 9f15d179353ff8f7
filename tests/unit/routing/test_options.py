"""Options: defaults, contradictions by name, and what is recommended for which load."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from qstream.errors import OptionError
from qstream.routing.options import RoutingOptions
from qstream.routing.windows import MAX_WINDOW


def toggles(options: RoutingOptions) -> tuple[bool, bool, bool]:
    return options.qaoa, options.hqc, options.deterministic


def test_by_default_the_classical_plan_stands_alone_and_no_window_is_tried() -> None:
    assert toggles(RoutingOptions()) == (False, False, True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"deterministic": False}, "option deterministic must be true while qaoa and hqc are off, .* got False"),
        ({"device": "lightning.qubit"}, "option device must be none while qaoa is off, .* got 'lightning.qubit'"),
        ({"device": "lightning.qubit", "hqc": True}, "option device must be none while qaoa is off, .* got 'lightning.qubit'"),
        ({"qaoa": True, "placement": "off"}, "option qaoa must be false while placement is off"),
        ({"hqc": True, "placement": "off"}, "option hqc must be false while placement is off"),
        ({"circuit_slots": 18}, "option circuit_slots must be less than or equal to 16, got 18"),
        ({"circuit_slots": 9}, "option circuit_slots must be a multiple of 2, got 9"),
        ({"circuit_layers": 0}, "option circuit_layers must be greater than or equal to 1, got 0"),
        ({"shots": 0}, "option shots must be greater than or equal to 1, got 0"),
        ({"deadline_ms": 0}, "option deadline_ms must be greater than 0, got 0"),
        ({"device": "a b", "qaoa": True}, "option device must be text that matches '.*', got 'a b'"),
        ({"qoaa": True}, "an option of routing must be one of .*qaoa.*, got 'qoaa'"),
    ],
)
def test_what_contradicts_itself_or_is_out_of_range_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RoutingOptions().changed(given)


@pytest.mark.parametrize(
    ("given", "dearest"),
    [
        ({"steps": 1_000_000}, "steps"),
        ({"qaoa": True, "shots": 100_000}, "shots"),
        ({"qaoa": True, "circuit_slots": 16}, "circuit_slots"),
        ({"qaoa": True, "shots": 100_000, "deadline_ms": 3_600_000}, "shots"),
        (
            {"qaoa": True, "hqc": True, "shots": 100_000, "circuit_layers": 16, "circuit_slots": 14, "steps": 1_000_000},
            "shots",  # within their ranges, one by one; a batch took 28.8 s by them
        ),
    ],
)
def test_what_would_cost_too_much_is_refused_by_name(given: dict[str, Any], dearest: str) -> None:
    with pytest.raises(OptionError, match=f"option {dearest} must be lower: a plan may take 5000 ms of a core"):
        RoutingOptions().changed(given)


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 100_000},
        {"steps": 1_000_000, "placement": "fast"},
        {"qaoa": True, "hqc": True, "circuit_slots": 12},
        {"qaoa": True, "circuit_slots": 16, "circuit_layers": 16, "shots": 100_000, "deadline_ms": 200},
        {"qaoa": True, "shots": 100_000, "device": "lightning.qubit"},
    ],
)
def test_what_is_bounded_otherwise_may_be_asked_for(given: dict[str, Any]) -> None:
    assert RoutingOptions().changed(given).work_ms()


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
    options = RoutingOptions.recommended(tokens=tokens, quantum=quantum, goal=goal)
    assert toggles(options) == expected
    assert options.circuit_layers == 2


@pytest.mark.parametrize("tokens", [0, 999, 1_000, 9_999, 10_000, 10**9])
def test_there_is_a_recommendation_for_every_load_and_no_circuit_where_none_can_run_in_time(tokens: int) -> None:
    for quantum, goal in itertools.product(("online", "none", "overloaded"), ("latency", "throughput", "balanced", "robustness")):
        options = RoutingOptions.recommended(tokens=tokens, quantum=quantum, goal=goal)
        if quantum != "online" and goal != "robustness":
            assert not options.qaoa
        if goal == "robustness" and tokens >= 10_000:
            assert options.deterministic


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((-1, "online", "latency"), "tokens must be 0 or more, got -1"),
        ((1, "busy", "latency"), "quantum must be one of online, none, overloaded, got 'busy'"),
        ((1, "online", "cheap"), "goal must be one of latency, throughput, balanced, robustness, got 'cheap'"),
    ],
)
def test_a_load_that_is_none_is_refused_by_name(given: tuple[Any, Any, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RoutingOptions.recommended(**dict(zip(("tokens", "quantum", "goal"), given, strict=True)))


def test_a_boolean_is_not_a_number() -> None:
    with pytest.raises(OptionError, match="option window_tokens must be a number or text, not a boolean, got True"):
        RoutingOptions().changed({"window_tokens": True})
    assert RoutingOptions().changed({"queues": True}).queues


def test_what_is_none_by_default_can_be_set_to_none_again() -> None:
    started = RoutingOptions(capacity_factor=1.5, deadline_ms=50, qaoa=True, device="lightning.qubit")
    changed = started.changed({"capacity_factor": "none", "deadline_ms": "none", "device": "none"})
    assert changed == RoutingOptions(qaoa=True)
    with pytest.raises(OptionError, match="option min_gain"):
        started.changed({"min_gain": "none"})


def test_a_circuit_may_rearrange_as_many_slots_as_a_window_may_have() -> None:
    assert RoutingOptions().changed({"circuit_slots": MAX_WINDOW}).circuit_slots == MAX_WINDOW
    with pytest.raises(OptionError, match="circuit_slots"):
        RoutingOptions().changed({"circuit_slots": MAX_WINDOW + 2})
