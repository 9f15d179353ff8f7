"""Learning under faults: what is published to the meter, and what it must have learnt of it in the order in which that met."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qstream.contract import Record
from qstream.learn import conformal, decision, recurrent
from qstream.learn.model import Model, parts
from qstream.learn.registry import Models
from qstream.testing.feed import Feed
from qstream.testing.meter import ARMS, FEATURES, LEARNERS, MODEL, TURNS, Meter, MeterState
from qstream.testing.readings import NAME, OUTLOOKS, READINGS, SECOND, Reading
from qstream.testing.verify import Produced, Run
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.model import ModelPart
from schemas.topics import LEARN_COMMAND, LEARN_DECISION, MODELS
from tests.chaos.cases import Case, Step, draw_fault

HOSTS = tuple(f"host-{n}" for n in range(8))
SHADOWED = HOSTS[:3]  # their forecasters are frozen for a while, in which a model proves itself
EVEN, BRIEF, LATE = 70, 80, 90  # versions that are models at some time


def meter() -> Case:
    inputs, outputs = (READINGS, LEARN_COMMAND), (OUTLOOKS, LEARN_DECISION)
    return Case(NAME, inputs, outputs, MeterState, HOSTS, script, expected, first=len(HOSTS), open_order=True, most_behind=300)


def script(rng: random.Random, count: int) -> Iterator[Step]:
    """A reading of each host, then `count` more of any, and among them commands and parts of models at their times."""
    numbers = dict.fromkeys(HOSTS, 0)
    aside = deque(sorted([*_commands(rng, count), *_models(count)], key=lambda due: due[0]))
    for at in range(len(HOSTS) + count):
        while aside and aside[0][0] <= at - len(HOSTS):
            yield aside.popleft()[1]
        host = HOSTS[at] if at < len(HOSTS) else rng.choice(HOSTS)
        fault = draw_fault(rng) if at >= len(HOSTS) else ""
        yield Step(READINGS, host, _reading(rng, host, numbers[host], fault.replace("bytes", "")), fault)
        numbers[host] += 1
    yield from (step for _, step in aside)


def _reading(rng: random.Random, host: str, number: int, fault: str) -> Frame:
    """Of a load that jumps at each reading, so that the last value is a bad forecast. It has rewards of some guesses: some
    before their guess, some twice, some never, in any order."""
    about = {max(0, number + rng.randrange(-40, 6)) for _ in range(rng.randrange(3))}
    load = 0.2 + 0.6 * (number % 2) + 0.1 * rng.random()
    return Reading.of(host, number, load, {n: float(rng.randrange(2)) for n in about}, fault)


Due = list[tuple[float, Step]]


def _commands(rng: random.Random, count: int) -> Due:
    """Of which some cannot be obeyed, and some are to another module."""

    def ask(host: str, command: str, learner: str = "", state: Frame | None = None, fault: str = "", to: str = NAME) -> Step:
        body = None if state is None else np.frombuffer(state.encode(), np.uint8)
        frame = LearnCommand.build(module=to, key=host, command=command, learner=learner, state=body)
        return Step(LEARN_COMMAND, host, frame, fault)

    margin = conformal.learn(conformal.start(), [0.25], [0.5])
    taught, _, _ = decision.choose(
        decision.start(ARMS, FEATURES), [1.0, 0.5, 0.5], "of another host", 1, learn="on", explore=0.02
    )
    other = decision.start(("rises", "stays"), FEATURES)
    due = [(0.02 * count, ask(host, "freeze", "forecast")) for host in SHADOWED]
    due += [(0.5 * count, ask(host, "thaw")) for host in SHADOWED]
    for _ in range(30):
        host, command = rng.choice(HOSTS), rng.choice(["reset", "freeze", "thaw", "restore", "restore"])
        learner = rng.choice(["margin", "guess"] if host in SHADOWED or command == "restore" else [*LEARNERS, ""])
        state = {"margin": margin, "guess": taught}[learner] if command == "restore" else None
        due.append((rng.random() * count, ask(host, command, learner, state)))
    wrong = [ask(HOSTS[3], "melt", fault="unknown"), ask(HOSTS[4], "reset", "none.such", fault="unknown")]
    wrong += [ask(HOSTS[5], "restore", "guess", margin, fault="another learner's"), ask(HOSTS[6], "freeze", to="routing")]
    wrong.append(ask(HOSTS[7], "restore", "guess", other, fault="other arms"))
    return due + [(rng.random() * count, step) for step in wrong]


def model(version: int, said: float, feature_names: tuple[str, ...] = recurrent.FEATURES) -> Model:
    """A network in two parts that answers with the mean of 30 values and `said` of the range."""
    units, outputs = recurrent.UNITS, recurrent.WANT.outputs
    arrays = {
        "weight_ih": np.zeros((4 * units, len(feature_names))),
        "weight_hh": np.zeros((4 * units, units)),
        "bias": np.zeros(4 * units),
        "head.weight": np.zeros((outputs, units)),
        "head.bias": np.r_[np.zeros(outputs - 2), 50.0, said],
        "unused": np.zeros(130_000),
    }
    config = {"horizon": SECOND}
    return Model(module=NAME, name=MODEL, version=version, kind="lstm", arrays=arrays, feature_names=feature_names, config=config)


def _models(count: int) -> Due:
    """Three models come, of which one is retired while it is pinned and one lacks a part until the end; three others never
    become models, though they are newer: of two files mixed, with a wrong hash, with other features."""
    (even, brief, late), never = [parts(known) for known in (model(EVEN, 0.0), model(BRIEF, -0.3), model(LATE, -0.1))], []
    assert len(even) == 2
    never += [parts(model(91, 0.2))[0], parts(model(91, 0.3))[1]]
    never += [_changed(part, sha256="0" * 64) for part in parts(model(92, 0.2))]
    never += parts(model(93, 0.2, recurrent.FEATURES[::-1]))
    retired = [_changed(part, retired=True, data=np.zeros(0, np.uint8)) for part in brief]
    times = ((0.05, [even[1], even[0], late[1]]), (0.1, never), (0.6, brief), (0.75, retired), (0.92, [late[0]]))
    return [(share * count, Step(MODELS, part.part_key, part)) for share, some in times for part in some]


def _changed(part: ModelPart, **changes: object) -> ModelPart:
    return ModelPart.build(**{name: getattr(part, name) for name in ModelPart.model_fields} | changes)


def expected(records: Sequence[Record], poison: Collection[str], states: Mapping[str, bytes]) -> Run:
    """What a run without faults leaves, in which readings, commands and versions of each host meet as its state says."""
    events: list[Produced] = []
    after: dict[str, bytes] = {}
    for host in HOSTS:
        own = [record for record in records if record.key == host and record.id not in poison]
        if host not in states:
            continue
        feed = _replayed(own, MeterState.decode(states[host]))
        assert feed.dead == []
        events += [Produced(event.id, event.key, event.frame.encode(), event.topic.name) for event in feed.events]
        state = feed.state(host)
        assert state is not None
        after[host] = state.encode()
    return Run(events, sorted(poison), after)


def _replayed(records: Sequence[Record], found: MeterState) -> Feed[MeterState]:
    """The feed after the records of one host in the order of `found.turn`."""
    assert found.turns <= TURNS
    turns = deque(found.turn[: found.turns].tolist())
    known = {version: model(version, said) for version, said in ((EVEN, 0.0), (BRIEF, -0.3), (LATE, -0.1))}
    readings = [record for record in records if isinstance(record.frame, Reading)]
    asked = deque(record for record in records if isinstance(record.frame, LearnCommand) and record.frame.module == NAME)
    plain = Meter()
    feed, obeyed = Feed(plain), 0
    for index, reading in enumerate(readings):
        if turns and turns[0][0] == index:
            _, commands, version, missing = turns.popleft()
            while obeyed < commands and asked:
                feed.send_batch([asked.popleft()])
                obeyed += 1
            held = set() if missing or version < 0 or (state := feed.state(reading.key)) is None else {state.pinned.version}
            there = {name: known[name] for name in (held | {version}) & known.keys()}
            feed.processor = replace(plain, models=Models({MODEL: there}))
        feed.send_batch([reading])
    if asked:
        feed.send_batch([*asked])
    return feed
