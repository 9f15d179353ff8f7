"""The doctor looks into the states of what learns: guards that have tripped, and pinned versions that no worker has."""

import math

import numpy as np
import pytest
from pydantic import SecretStr

from agents.registry import Agent
from qstream.cli.checks_models import check_models
from qstream.config import Settings
from qstream.contract import Batch, Processor, Result, TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.learn import version
from qstream.learn.model import Model
from qstream.learn.registry import Models
from qstream.learn.state import LearningState
from qstream.learn.version import VersionState
from qstream.state.store import StateStore
from qstream.state.write import Stored
from schemas.topics import LEARN_COMMAND

P0 = TopicPartition(LEARN_COMMAND.name, 0)


class WatchState(LearningState):
    next: VersionState


class Watch(Processor[WatchState]):
    name = "watch"
    inputs = (LEARN_COMMAND,)
    outputs = ()
    state = WatchState
    learners = ("next",)

    def process(self, batch: Batch, state: WatchState | None, now_ns: int) -> Result[WatchState]:
        return Result()


AGENT = Agent(name="watch", purpose="watches", topics=(LEARN_COMMAND,), processor=lambda _: Watch())


def pinned(number: int) -> VersionState:
    model = Model(module="watch", name="next", version=number, kind="mlp", arrays={"x": np.zeros(1)}, feature_names=("x",))
    return version.choose(version.start("next", bound=1.0), Models({"next": {number: model}}))[0]


def keep(redis: EmbeddedRedis, **states: VersionState) -> None:
    with StateStore(redis.url, "watch", WatchState, 20_000) as store:
        epoch = store.new_epoch()
        store.index.take(P0, epoch)
        store.index.change({P0: epoch}, {P0: states}, {})
        for key, state in states.items():
            store.save(key, Stored(), WatchState(next=state), {P0: 1}, {P0: epoch})


def test_tripped_guards_and_pinned_versions_that_are_missing_are_named_with_their_keys(
    cluster: str, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("qstream.cli.checks_models.all_agents", lambda: (AGENT,))
    settings = Settings(bootstrap_servers=cluster, redis_url=SecretStr(redis_server.url))
    keep(redis_server, fresh=version.start("next", bound=1.0))
    assert [check.verdict for check in check_models(settings)[1:]] == ["ok"]

    tripped, verdict = version.compare(pinned(7), "next@7", 0.0, math.nan)
    assert verdict == "trip"
    keep(redis_server, a=tripped, b=pinned(8), **{f"c{n}": pinned(9) for n in range(5)})
    _, *checks = check_models(settings)
    details = [(check.what, check.verdict, check.detail) for check in checks]
    incumbent, pins = "the incumbent answers", "which is missing, in"
    assert details == [
        ("learners of watch", "warn", f"the guard of next has tripped in 1 key (a): {incumbent}"),
        ("learners of watch", "warn", f"next pins next 8, {pins} 1 key (b): {incumbent}"),
        ("learners of watch", "warn", f"next pins next 9, {pins} 5 keys (c0, c1, c2 and 2 more): {incumbent}"),
    ]
    assert checks[0].fix.endswith("qstream learn reset watch a --learner next")
