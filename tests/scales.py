"""Scales: a module with a hedge by key, to try how learners are steered."""

from qstream.contract import Batch, Event, Processor, Result
from qstream.learn import decision, hedge
from qstream.learn.hedge import HedgeState
from qstream.learn.state import LearningState
from qstream.testing.sample import Ping, Pong
from schemas.topics import LEARN_COMMAND, Topic

PINGS = Topic("scales.ping.v1", Ping, "name", "input", "losses")
PONGS = Topic("scales.pong.v1", Pong, "name", "plan", "answers")


class ScalesState(LearningState):
    shares: HedgeState
    late: HedgeState | None = None


class Scales(Processor[ScalesState]):
    """A hedge of two arms by key, which learns the values of each ping."""

    name = "scales"
    inputs = (PINGS, LEARN_COMMAND)
    outputs = (PONGS,)
    state = ScalesState
    learners = ("shares", "late")

    def process(self, batch: Batch, state: ScalesState | None, now_ns: int) -> Result[ScalesState]:
        events = []
        for record in batch.records:
            ping = record.frame
            assert isinstance(ping, Ping)
            state = state or ScalesState(shares=hedge.start(2))
            if decision.mode("on", state.frozen, "shares") != "off":
                state = state.model_copy(update={"shares": hedge.learn(state.shares, [ping.values.astype(float)])})
            pong = Pong(name=batch.key, count=state.shares.steps, total=0, digest=0)
            events.append(Event(PONGS, batch.key, record.event_id(0), pong, record))
        return Result(events, (), state)
