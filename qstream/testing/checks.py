"""Checks that every frame and processor must pass; a module's author calls them in the module's own tests."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from qstream.contract import Batch, Event, Processor, Record, Result, Tick, periods
from qstream.errors import NotYet, OptionError, Poison, Transient
from qstream.learn.state import LearningState
from qstream.module.commands import process as obeying
from qstream.state.fields import pack, unpack
from schemas.frame import JSON, SAFETENSORS, Frame
from schemas.plan import Plan
from schemas.topics import LEARN_COMMAND

S = TypeVar("S", bound=Frame)
NEVER_SEEN = "never.seen"
NO_OPTION = "no.such.option"
LATER_S = (0.0, 1.0, 86_400.0)  # after the newest record, when a key ticks
NOT_YET_S = 0.001  # between two looks for a result that is computed next to the records


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


Rows = Mapping[str, Mapping[str, Frame]]


def check_processor(
    processor: Processor[S], records: Sequence[Record], splits: int = 8, seed: int = 0, rows: Rows = MappingProxyType({})
) -> None:
    """The processor keeps the contract on these records of one key, which may hold poison but none that waits.

    The same input gives the same bytes; any split into batches gives the same events, dead records and final state; the
    state is never changed in place and survives its storage; event ids are unique and begin with their cause's, and a plan has
    the id of its event. The same holds of ticks, at which a processor that was just made does what one with a history does.
    `configure` refuses an option that does not exist, and without options changes nothing.

    Parameters
    ----------
    records
        Of one key, in order.
    splits, seed
        How many random splits into batches are tried, in addition to one by one and all at once.
    rows
        Rows of its tables by topic name and key; a table that is not named has none, as before its first record.

    Raises
    ------
    AssertionError
        Says which rule is broken.
    """
    name, made = processor.name, processor
    processor = _with_rows(made, rows)
    try:
        periods(processor)
    except OptionError as exc:
        raise AssertionError(str(exc)) from exc
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

    def new() -> Processor[S]:
        return _with_rows(made.configure({}), rows)

    assert _run(new(), [records]) == whole, f"{name}: configured without options, it gave other bytes"
    _check_options(made)
    _check_learners(made)
    if processor.tick_s is not None:
        _check_ticks(processor, new, records)
    foreign = [record for record in records if record.topic not in {topic.name for topic in processor.inputs}]
    assert not foreign, f"{name}: the check was given a record of {foreign[0].topic}, which is not an input"


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
            result = obeying(processor, Batch(records[0].key, records), state, now_ns)
        except Poison as poison:
            dead.append(getattr(poison.record, "id", NEVER_SEEN))
            records = [record for record in records if record is not poison.record]
            continue
        except NotYet:  # computed next to the records: ready soon
            time.sleep(NOT_YET_S)
            continue
        except Transient as waits:
            raise AssertionError(f"{processor.name}: a record of the check waits: {waits}") from waits
        finally:
            assert state is None or pack(state) == before, f"{processor.name}: process changed its state in place"
        events = [_check_event(processor, event) for event in result.events]
        dead += [getattr(poison.record, "id", NEVER_SEEN) for poison in result.dead]
        return _next(processor, result, state), events, dead
    return state, [], dead


def _with_rows(processor: Processor[S], rows: Rows) -> Processor[S]:
    """The processor as the loop makes it: with all its tables, those without rows too."""
    if not processor.tables:
        return processor
    return processor.with_tables({topic.name: dict(rows.get(topic.name, {})) for topic in processor.tables})


def _check_options(processor: Processor[S]) -> None:
    name = processor.name
    refusal = ""
    try:
        processor.configure({NO_OPTION: 1})
    except OptionError as exc:
        refusal = str(exc)
    assert refusal, f"{name}: configure took an option that does not exist"
    assert NO_OPTION in refusal, f"{name}: the error of an unknown option does not name it: {refusal}"


def _check_learners(processor: Processor[S]) -> None:
    name, state = processor.name, processor.state
    if processor.learners:
        assert LEARN_COMMAND in processor.inputs, f"{name}: has learners, so {LEARN_COMMAND.name} must be among its inputs"
        assert state is not None, f"{name}: has learners, so it must have a state"
        assert issubclass(state, LearningState), f"{name}: has learners, so its state must be a LearningState"


def _check_ticks(processor: Processor[S], new: Callable[[], Processor[S]], records: Sequence[Record]) -> None:
    """Tick the state after each record, at several times, idle and not."""
    state: S | None = None
    for version, record in enumerate(records, 1):
        state, _, _ = _process(processor, [record], state)
        if state is not None:
            for later_s, idle in itertools.product(LATER_S, (False, True)):
                now_ns = record.timestamp_ms * 1_000_000 + int(later_s * 1e9)
                _check_tick(processor, new, Tick(record.key, version, now_ns, idle), state)


def _check_tick(processor: Processor[S], new: Callable[[], Processor[S]], tick: Tick, state: S) -> None:
    name, before = processor.name, pack(state)
    results = [_ticked(made, tick, state) for made in (processor, processor, new())]
    assert pack(state) == before, f"{name}: on_tick changed its state in place"
    first, again, of_new = (_tick_trace(processor, tick, result) for result in results)
    assert first == again, f"{name}: the same tick of the same state gave other bytes"
    assert first == of_new, f"{name}: a tick depends on what the processor remembers; use tick.idle, or the state"
    ids = [event_id for event_id, _ in first[0]]
    assert len(set(ids)) == len(ids), f"{name}: a tick gave an event id twice"


def _ticked(processor: Processor[S], tick: Tick, state: S) -> Result[S]:
    while True:
        try:
            return processor.on_tick(tick, state)
        except NotYet:
            time.sleep(NOT_YET_S)


def _tick_trace(processor: Processor[S], tick: Tick, result: Result[S]) -> Trace:
    for event in result.events:
        assert event.cause is None, f"{processor.name}: event {event.id} of a tick names a cause"
        assert event.id in {tick.event_id(n) for n in range(len(result.events))}, (
            f"{processor.name}: event id {event.id} of a tick is not made by tick.event_id"
        )
    events = [(event.id, _check_frame_of(processor, event)) for event in result.events]
    state = _next(processor, result, None)
    return events, [str(result.forget)], None if state is None else pack(state)


def _next(processor: Processor[S], result: Result[S], state: S | None) -> S | None:
    """The state after a result, as it is when it comes back from the store."""
    if result.forget:
        return None
    return state if result.state is None else _stored(processor, result.state)


def _stored(processor: Processor[S], state: S) -> S:
    assert processor.state is not None, f"{processor.name}: gives a state but declares none"
    twin: Any = unpack(processor.state, pack(state))
    assert twin == state, f"{processor.name}: the state does not survive its storage"
    return twin  # type: ignore[no-any-return]


def _check_event(processor: Processor[S], event: Event) -> tuple[str, bytes]:
    assert event.cause is not None, f"{processor.name}: event {event.id} of a batch names no cause"
    assert event.id.startswith(f"{event.cause.id}/"), f"{processor.name}: event id {event.id} does not begin with its cause's"
    return event.id, _check_frame_of(processor, event)


def _check_frame_of(processor: Processor[S], event: Event) -> bytes:
    assert event.topic in processor.outputs, f"{processor.name}: {event.topic.name} is not a declared output"
    assert type(event.frame) is event.topic.frame, f"{processor.name}: {type(event.frame).__name__} on {event.topic.name}"
    if isinstance(event.frame, Plan):
        plan_id = event.frame.plan_id
        assert plan_id == event.id, f"{processor.name}: plan_id must be the id of its event, {event.id}, got {plan_id!r}"
    key = str(getattr(event.frame, event.topic.key))
    assert event.key == key, f"{processor.name}: event {event.id} has the key {event.key!r}, its {event.topic.key} is {key!r}"
    return event.frame.encode()


def _split(records: Sequence[Record], rng: random.Random) -> Parts:
    cuts = sorted(rng.sample(range(1, len(records)), rng.randint(1, len(records) - 1))) if len(records) > 1 else []
    return [records[start:end] for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True)]
