"""Checks that every frame and processor must pass; a module's author calls them in the module's own tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from qstream.contract import Batch, Event, Processor, Record
from qstream.errors import Poison, Transient
from qstream.state.fields import pack, unpack
from schemas.frame import JSON, SAFETENSORS, Frame

S = TypeVar("S", bound=Frame)
NEVER_SEEN = "never.seen"


def check_frame(frame: type[Frame]) -> None:
    """The example is equal to itself after a round trip through each wire form, and is encoded to the same bytes each time.

    Raises
    ------
    AssertionError
        Says which form does not hold.
    """
    example = frame.example()
    for form in (SAFETENSORS, JSON):
        data = example.encode(form)
        assert data == example.encode(form), f"{frame.tag()}: two encodings as {form} differ"
        assert frame.decode(data, form) == example, f"{frame.tag()}: the round trip through {form} changed the example"
    twin = frame.decode(example.encode(JSON), JSON)
    assert twin.encode(SAFETENSORS) == example.encode(SAFETENSORS), f"{frame.tag()}: the two forms differ"


def check_processor(processor: Processor[S], records: Sequence[Record], splits: int = 8, seed: int = 0) -> None:
    """The processor keeps the contract on these records of one key, which may hold poison but none that waits.

    The same input gives the same bytes; any split into batches gives the same events, dead records and final state; the
    state is never changed in place and survives its storage; event ids are unique and begin with their cause's.

    Parameters
    ----------
    records
        Of one key, in order.
    splits, seed
        How many random splits into batches are tried, beside one by one and all at once.

    Raises
    ------
    AssertionError
        Says which rule is broken.
    """
    name = processor.name
    whole = _run(processor, [records])
    assert _run(processor, [records]) == whole, f"{name}: the same input gave other bytes"
    rng = random.Random(seed)
    one_by_one: Parts = [[record] for record in records]
    for parts in [one_by_one, *(_split(records, rng) for _ in range(splits))]:
        found = _run(processor, parts)
        for what, one, other in zip(("events", "dead records", "state"), whole, found, strict=True):
            lengths = [len(part) for part in parts]
            assert one == other, f"{name}: split into batches of {lengths}, the {what} differ from those of one batch"
    ids = [event_id for event_id, _ in whole[0]]
    assert len(set(ids)) == len(ids), f"{name}: an event id occurs twice"
    foreign = [record for record in records if record.topic not in {topic.name for topic in processor.inputs}]
    assert not foreign, f"{name}: the check was given a record of {foreign[0].topic}, which is no input"


Parts = Sequence[Sequence[Record]]
Trace = tuple[list[tuple[str, bytes]], list[str], dict[str, bytes] | None]


def _run(processor: Processor[S], parts: Parts) -> Trace:
    """Events as (id, bytes), ids of dead records, and the stored form of the final state."""
    state: S | None = None
    events: list[tuple[str, bytes]] = []
    dead: list[str] = []
    for part in parts:
        state, found, poisoned = _process(processor, list(part), state)
        events += found
        dead += poisoned
    return events, dead, None if state is None else pack(state)


def _process(
    processor: Processor[S], records: list[Record], state: S | None
) -> tuple[S | None, list[tuple[str, bytes]], list[str]]:
    """One batch as the loop would run it: poison is taken out, the state goes through its stored form."""
    dead: list[str] = []
    while records:
        before = None if state is None else pack(state)
        now_ns = max(record.timestamp_ms for record in records) * 1_000_000
        try:
            result = processor.process(Batch(records[0].key, records), state, now_ns)
        except Poison as poison:
            dead.append(getattr(poison.record, "id", NEVER_SEEN))
            records = [record for record in records if record is not poison.record]
            continue
        except Transient as waits:
            raise AssertionError(f"{processor.name}: a record of the check waits: {waits}") from waits
        finally:
            assert state is None or pack(state) == before, f"{processor.name}: process changed its state in place"
        events = [_check_event(processor, event) for event in result.events]
        dead += [getattr(poison.record, "id", NEVER_SEEN) for poison in result.dead]
        return _stored(processor, result.state) if result.state is not None else state, events, dead
    return state, [], dead


def _stored(processor: Processor[S], state: S) -> S:
    assert processor.state is not None, f"{processor.name}: gives a state but declares none"
    twin: Any = unpack(processor.state, pack(state))
    assert twin == state, f"{processor.name}: the state does not survive its storage"
    return twin  # type: ignore[no-any-return]


def _check_event(processor: Processor[S], event: Event) -> tuple[str, bytes]:
    assert event.topic in processor.outputs, f"{processor.name}: {event.topic.name} is no declared output"
    assert type(event.frame) is event.topic.frame, f"{processor.name}: {type(event.frame).__name__} on {event.topic.name}"
    assert event.cause is not None, f"{processor.name}: event {event.id} of a batch names no cause"
    assert event.id.startswith(f"{event.cause.id}/"), f"{processor.name}: event id {event.id} does not begin with its cause's"
    return event.id, event.frame.encode()


def _split(records: Sequence[Record], rng: random.Random) -> Parts:
    cuts = sorted(rng.sample(range(1, len(records)), rng.randint(1, len(records) - 1))) if len(records) > 1 else []
    return [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
