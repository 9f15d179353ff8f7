"""The contract: what a processor need not say, and what a result must not."""

from __future__ import annotations

import pytest

from qstream.contract import Batch, Processor, Result, Tick
from qstream.errors import OptionError
from qstream.testing.sample import Ping, Tally
from schemas.topics import Topic


class Least(Processor[Tally]):
    """As little as a processor may say."""

    name = "least"
    inputs = (Topic("least.ping.v1", Ping, "name", "input", "things", 1),)
    outputs = ()
    state = Tally

    def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
        return Result()


def test_a_processor_says_only_what_has_no_default():
    least = Least()
    assert (least.tables, least.tick_s, least.state_ttl_s) == ((), None, None)
    assert least.configure({}) is least.with_tables({}) is least
    assert least.on_tick(Tick("a", 1, 0, idle=False), Tally.of()).events == ()
    least.warm()
    with pytest.raises(OptionError, match=r"options must be empty, least has none, got \['depth'\]"):
        least.configure({"depth": 1})


def test_the_events_of_a_tick_are_named_after_key_and_version():
    assert Tick("a", 7, 0, idle=True).event_id(2) == "tick/a/7/2"


def test_a_result_does_not_both_forget_and_keep_a_state():
    with pytest.raises(ValueError, match="state must be None in a result that forgets the key"):
        Result(state=Tally.of(), forget=True)
