"""The verifier fails on each kind of fault, names it, and forgives repetition alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qstream.contract import Record
from qstream.testing.chaos_worker import PAYMENTS, Ledgers, Payment
from qstream.testing.verify import Produced, Run, fault_free, verify

A0, A1, A2 = (Produced(f"in/0/{n}/0", "a", b"a%d" % n) for n in range(3))
B0, B1 = (Produced(f"in/1/{n}/0", "b", b"b%d" % n) for n in range(2))
EXPECTED = Run([A0, A1, A2, B0, B1], ["in/0/3"], {"a": b"3", "b": b"2"})


def with_events(*events: Produced) -> Run:
    return replace(EXPECTED, events=events)


def test_an_equal_run_is_ok() -> None:
    verdict = verify(EXPECTED, EXPECTED)
    assert verdict.ok
    assert (verdict.expected, verdict.repeated, verdict.repeated_dead_letters) == (5, 0, 0)
    assert str(verdict).startswith("ok: 5 events expected")


def test_keys_and_the_partitions_behind_one_key_may_interleave_in_any_way() -> None:
    assert verify(EXPECTED, with_events(B0, A0, A1, B1, A2)).ok
    other = Produced("other/0/0/0", "a", b"o")
    assert verify(replace(EXPECTED, events=[A0, A1, other]), with_events(other, A0, A1)).ok


def test_repetition_is_counted_and_forgiven() -> None:
    found = replace(with_events(A0, A1, A0, A1, A2, A2, B0, B1), dead_letters=["in/0/3", "in/0/3"])
    verdict = verify(EXPECTED, found)
    assert verdict.ok
    assert (verdict.repeated, verdict.repeated_dead_letters) == (3, 1)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (with_events(A0, A2, B0, B1), {"lost": (A1.id,)}),
        (with_events(), {"lost": (A0.id, A1.id, A2.id, B0.id, B1.id)}),
        (with_events(*EXPECTED.events, Produced("in/7/7/0", "a", b"a0")), {"unrecognised": ("in/7/7/0",)}),
        (with_events(A0, A1._replace(value=b"other"), A2, B0, B1), {"changed": (A1.id,)}),
        (with_events(*EXPECTED.events, A1._replace(value=b"other")), {"changed": (A1.id,)}),
        (with_events(A0, A1._replace(key="c"), A2, B0, B1), {"changed": (A1.id,)}),
        (with_events(A0, A2, A1, B0, B1), {"out_of_order": (A1.id,)}),
        (with_events(A1, A2, A0, A1, A2, B0, B1), {"out_of_order": (A0.id,)}),
        (replace(EXPECTED, dead_letters=[]), {"missing_dead_letters": ("in/0/3",)}),
        (replace(EXPECTED, dead_letters=["in/0/3", "in/0/4"]), {"unexpected_dead_letters": ("in/0/4",)}),
        (replace(EXPECTED, states={"a": b"3"}), {"state_differences": ("b",)}),
        (replace(EXPECTED, states={"a": b"4", "b": b"2"}), {"state_differences": ("a",)}),
        (replace(EXPECTED, states={"a": b"3", "b": b"2", "c": b"1"}), {"state_differences": ("c",)}),
    ],
)
def test_each_fault_is_found_and_named(found: Run, fault: dict[str, tuple[str, ...]]) -> None:
    verdict = verify(EXPECTED, found)
    assert not verdict.ok
    assert verdict.faults == fault
    ((kind, ids),) = fault.items()
    assert f"{len(ids)} {kind.replace('_', ' ')}: {ids[0]}" in str(verdict)


def test_a_long_list_is_cut() -> None:
    many = Run([Produced(f"in/0/{n}/0", "a", b"") for n in range(9)])
    assert str(verify(many, Run())).endswith("in/0/4/0 and 4 more")


def test_the_fault_free_run_passes_over_poison_and_counts_the_rest() -> None:
    payments = [Payment(account="a", number=n, fault="error" if n == 1 else "") for n in range(3)]
    records = [Record(PAYMENTS.name, 0, n, "a", payment, 0) for n, payment in enumerate(payments)]
    run = fault_free(Ledgers(), records, {records[1].id})
    assert [event.id for event in run.events] == [f"{PAYMENTS.name}/0/0/0", f"{PAYMENTS.name}/0/2/0"]
    assert run.dead_letters == [records[1].id]
    assert run.states.keys() == {"a"}
    assert not verify(run, fault_free(Ledgers(), reversed(records), {records[1].id})).ok


def test_where_no_order_holds_an_attempt_that_died_may_have_said_otherwise_but_the_one_that_was_kept_is_there() -> None:
    other, more = A1._replace(value=b"other"), Produced("in/0/1/1", "a", b"more")
    assert verify(EXPECTED, with_events(A0, other, more, A1, A2, B0, B1), open_order=True).ok
    assert verify(EXPECTED, with_events(A0, other, A2, B0, B1), open_order=True).faults == {"changed": (A1.id,)}
    stray = Produced("in/7/7/0", "a", b"a0")
    assert verify(EXPECTED, with_events(*EXPECTED.events, stray), open_order=True).faults == {"unrecognised": (stray.id,)}


def test_where_no_order_holds_the_first_event_of_a_record_stands_for_all() -> None:
    log = Produced("in/0/0/1", "a", b"log")
    expected = replace(EXPECTED, events=[A0, log, A1, A2, B0, B1])
    assert verify(expected, with_events(A0, A1, log, A2, B0, B1), open_order=True).ok
    assert verify(expected, with_events(A0, A1, log, A2, B0, B1)).faults == {"out_of_order": (log.id,)}
    assert verify(expected, with_events(A1, A0, log, A2, B0, B1), open_order=True).faults == {"out_of_order": (A0.id,)}
