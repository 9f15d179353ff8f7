"""Commands: reset, restore, freeze and thaw of a key's learners, obeyed in the order of the key's records, for every module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

from qstream.contract import Batch, Processor, Record, Result
from qstream.errors import LearnError, Poison
from qstream.learn.state import LearningState, class_of, learner_of, require_alike, with_learner
from schemas.frame import Frame, FrameError
from schemas.learning import COMMANDS, LearnCommand
from schemas.wording import must_be

S = TypeVar("S", bound=Frame)


def process(processor: Processor[S], batch: Batch, state: S | None, now_ns: int) -> Result[S]:
    """What `processor.process` gives, commands obeyed in their place. One that cannot be obeyed is dead; one that is
    addressed to another module is passed over. Raises what `process` raises."""
    if not processor.learners or not any(isinstance(record.frame, LearnCommand) for record in batch.records):
        return processor.process(batch, state, now_ns)
    result: Result[S] = Result(state=state)
    for commands, records in _runs(batch.records):
        if commands:
            found = _obey_all(processor, records, result.state)
        else:
            found = processor.process(Batch(batch.key, records), result.state, now_ns)
        result = Result(
            [*result.events, *found.events],
            [*result.dead, *found.dead],
            None if found.forget else found.state if found.state is not None else result.state,
            found.forget or (result.forget and found.state is None),
        )
    return replace(result, state=None) if result.state is state else result


def _runs(records: Sequence[Record]) -> Iterator[tuple[bool, list[Record]]]:
    for commands, run in groupby(records, lambda record: isinstance(record.frame, LearnCommand)):
        yield commands, list(run)


def _obey_all(processor: Processor[S], records: Sequence[Record], state: S | None) -> Result[S]:
    dead: list[Poison] = []
    for record in records:
        command = record.frame
        if isinstance(command, LearnCommand) and command.module == processor.name:
            try:
                state = obey(command, state, processor.learners)
            except (LearnError, FrameError) as exc:
                dead.append(Poison(record, str(exc)))
    return Result((), dead, state)


def obey(command: LearnCommand, state: S | None, learners: Sequence[str]) -> S:
    """The state after a command.

    Raises
    ------
    LearnError, FrameError
        The command or the learner is unknown, the key has no state yet, or what is to be restored is another learner's, or one's
        with other arms, features or shapes.
    """
    if command.command not in COMMANDS:
        raise LearnError(must_be("command", f"one of {', '.join(COMMANDS)}", command.command))
    if command.learner and command.learner not in learners:
        raise LearnError(must_be("learner", f"one of {', '.join(learners)}", command.learner))
    if not isinstance(state, LearningState):
        raise LearnError(must_be("key", f"one that {command.module} has a state of", command.key))
    names = (command.learner,) if command.learner else tuple(learners)
    return _done(command, state.model_copy(update={"commands": state.commands + 1}), names, learners)


def _done(command: LearnCommand, state: S, names: Sequence[str], learners: Sequence[str]) -> S:
    if command.command == "restore":
        return _restored(command, state)
    if command.command == "reset":
        from qstream.learn.fresh import fresh  # noqa: PLC0415 - all learners, which a worker need not load before

        for name in names:
            if (learner := learner_of(state, name)) is not None:
                state = with_learner(state, name, fresh(learner))
        return state
    before: set[str] = set(getattr(state, "frozen", ()))
    frozen = before | {*names} if command.command == "freeze" else before - {*names}
    return state.model_copy(update={"frozen": tuple(name for name in learners if name in frozen)})


def _restored(command: LearnCommand, state: S) -> S:
    if command.state is None or not command.learner:
        raise LearnError(must_be("restore", "given a learner and its state", command.learner or "no learner"))
    held = learner_of(state, command.learner)
    kind = class_of(state, command.learner) if held is None else type(held)
    restored = kind.decode(command.state.tobytes())
    if held is not None:
        from qstream.learn.fresh import fresh  # noqa: PLC0415 - as above

        require_alike(command.learner, fresh(held), fresh(restored))
    return with_learner(state, command.learner, restored)
