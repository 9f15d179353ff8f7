"""What reaches the terminal: nothing that drives it, a line for every frame."""

from __future__ import annotations

import json

import pytest

from qstream.cli.lines import as_object, line_of, one_line
from qstream.cli.output import counted, print_json, print_table, printable, utc
from schemas.frame import Frame
from schemas.plan import Plan, SkipReason, VersionedPlan
from schemas.solver import Reason
from schemas.topics import PLACEMENT_PLAN, TOPICS


class StoredRecord:
    """The five answers of a consumed record that a summary asks for."""

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 17

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000


def test_control_characters_are_written_out():
    assert printable("a\x1b[31mb\x07\u202e\u00e9\n") == "a\\x1b[31mb\\x07\\u202e\u00e9\n"


def test_a_cell_with_brackets_is_text_and_no_markup(capsys):
    print_table(("a", "b"), [("x", "[red]1[/red]")])
    assert "[red]1[/red]" in capsys.readouterr().out


def test_one_of_a_kind_is_singular():
    assert [counted(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]


def test_json_is_one_line(capsys):
    print_json({"a": [1, "\n"]})
    assert capsys.readouterr().out == '{"a": [1, "\\n"]}\n'


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1_700_000_000_123, "2023-11-14T22:13:20.123Z"), (-1, "1970-01-01T00:00:00.000Z")],
)
def test_times_are_utc_in_iso_8601(timestamp_ms, text):
    assert utc(timestamp_ms) == text


def test_a_time_beyond_the_calendar_is_no_error():
    assert utc(2**63 - 1).startswith("9999-12-31")


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_frame_has_a_line_that_names_its_key(topic):
    frame = topic.frame.example()
    line = one_line(StoredRecord(), frame, topic, line_of(topic), now_ns=0)
    assert "\n" not in line
    assert line.startswith("2023-11-14T22:13:20.000Z  ")
    assert str(getattr(frame, topic.key)) in line


def test_a_plan_past_its_time_is_marked():
    plan = PLACEMENT_PLAN.frame.example()
    end = plan.ts_ns + int(plan.ttl_s * 1e9)
    line = line_of(PLACEMENT_PLAN)
    assert "expired" not in one_line(StoredRecord(), plan, PLACEMENT_PLAN, line, end)
    assert "expired" in one_line(StoredRecord(), plan, PLACEMENT_PLAN, line, end + 1)


def nothing_known(frame: Frame) -> None:
    """A module without lines of its own."""


PLANS = [topic for topic in TOPICS if issubclass(topic.frame, Plan)]


@pytest.mark.parametrize("topic", PLANS, ids=lambda topic: topic.name)
def test_every_plan_has_a_readable_line_even_if_its_module_brings_none(topic):
    frame = topic.frame.example()
    line = one_line(StoredRecord(), frame, topic, nothing_known, now_ns=0)
    assert line.count(str(getattr(frame, topic.key))) == 1
    assert frame.solver.solver in line
    assert "{" not in line


def test_a_skipped_plan_says_which_version_stays_and_why():
    plan = PLACEMENT_PLAN.frame.example()
    arrays = dict.fromkeys(plan.arrays)
    skipped = plan.model_copy(update=arrays | {"version": 2, "skip_reason": SkipReason.GAIN_TOO_SMALL})
    line = one_line(StoredRecord(), skipped, PLACEMENT_PLAN, nothing_known, now_ns=0)
    assert "v2 stays" in line
    assert line.endswith("gain_too_small")


@pytest.mark.parametrize("topic", PLANS, ids=lambda topic: topic.name)
def test_every_plan_says_why_a_solver_did_not_answer_also_one_that_is_skipped(topic):
    plan = topic.frame.example().model_copy(update={"fallback_reason": Reason.TIMEOUT})
    plans = [plan]
    if isinstance(plan, VersionedPlan):
        plans.append(plan.model_copy(update=dict.fromkeys(plan.arrays) | {"skip_reason": SkipReason.NO_ANSWER}))
    for given in plans:
        for line in (line_of(topic), nothing_known):
            assert one_line(StoredRecord(), given, topic, line, now_ns=0).endswith("  fallback: timeout")


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_the_object_is_the_frame_and_arrays_only_if_asked_for(topic):
    frame = topic.frame.example()
    short, full = (as_object(StoredRecord(), frame, full=full) for full in (False, True))
    assert not short.keys() & frame.arrays.keys()
    assert full["record"] == {"partition": 3, "offset": 17, "timestamp_ms": 1_700_000_000_000}
    assert topic.frame.decode(json.dumps(full).encode(), "application/json") == frame
