"""Learned: what the scheduler asks of the learners of a domain, under the options: predictions, arms, and what became of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from qstream.contract import Event
from qstream.energy import arms, outcomes, regime, unseen
from qstream.energy.arms import MetaState
from qstream.energy.features import measured
from qstream.energy.graphs import Arm, GraphPlan, category_of
from qstream.energy.held import HeldGraph
from qstream.energy.memory import EnergyState, Memory
from qstream.energy.options import EnergyOptions
from qstream.energy.outcomes import UnseenState
from qstream.errors import LearnError
from qstream.learn import decision, version
from qstream.learn.decision import Line
from qstream.learn.options import Learn
from qstream.learn.registry import Models
from qstream.module.stamp import Stamp
from schemas.solver import Reason
from schemas.tasks import TaskGraph
from schemas.topics import LEARN_DECISION

LEARNERS: Final = ("meta.choice", "meta.watch", "meta.pinned", outcomes.LEARNER)
WANTS: Final = {unseen.NAME: unseen.WANT, arms.NAME: regime.WANT}


class Foreseen(NamedTuple):
    """The graph with predictions where a model answers; why it does not, if it does not; and by which version (-1: none)."""

    graph: TaskGraph | None
    reason: Reason | None
    by: int
    state: UnseenState | None


@dataclass(frozen=True, slots=True)
class Learned:
    """The learners of all domains: options and models. What is learnt is in the state of each."""

    options: EnergyOptions
    models: Models

    def mode(self, now: EnergyState, learner: str) -> Learn:
        """What the option ``learn`` means for a learner."""
        return decision.mode(self.options.learn, now.frozen, learner)

    def foresee(self, graph: TaskGraph, now: EnergyState) -> Foreseen:
        """Predict the tasks of a graph that were not measured, once what earlier ones came to is learnt."""
        learn = self.mode(now, outcomes.LEARNER)
        state = now.unseen
        if state is not None:
            state = outcomes.came(state, graph, learn=learn)
        if not self.options.gnn or measured(graph).all():
            return Foreseen(None, None, -1, state)
        if learn == "off":
            return Foreseen(None, Reason.DISABLED, -1, state)
        state = state or outcomes.start()
        pinned, used = decision.use(state.pinned, self.models, self.options.model_gnn, learn=learn)
        state = state.model_copy(update={"pinned": pinned})
        model = used.model
        if model is None:
            return Foreseen(None, Reason.MODEL_MISSING, -1, state)
        try:
            said = unseen.predict(model, graph)
            lowered = unseen.lowered(graph, model, said)
        except LearnError:  # an answer that is not finite must cost the model, not the graph
            return Foreseen(None, Reason.INVALID_OUTPUT, -1, state.model_copy(update={"pinned": version.trip(pinned)}))
        if used.candidate:
            state = outcomes.asked(state, graph, said, model.version)
        if not used.answers:
            return Foreseen(None, Reason.NOT_READY, -1, state)
        return Foreseen(lowered, unseen.reason(model), model.version, state)

    def choose(self, stamp: Stamp, graph: TaskGraph, now: EnergyState) -> tuple[MetaState | None, Arm | None, list[Line]]:
        """The arm of a graph's window; None where the toggles say how it is solved."""
        if not self.options.meta:
            return now.meta, None, []
        learn = self.mode(now, arms.LEARNER)
        seed = decision.seed_of(stamp.key, self.options.seed)
        return arms.chosen(
            now.meta or arms.start(),
            category_of(graph),
            stamp.id,
            stamp.ts_ns,
            learn=learn,
            explore=self.options.explore,
            seed=seed,
        )

    def learn(self, graph: HeldGraph, ts_ns: int, found: GraphPlan, memory: Memory) -> list[Line]:
        """Learn what a window came to, and return lines to log."""
        state, plan, arm = memory.now.meta, found.plan, graph.chosen()
        if state is None or arm is None:
            return []
        classical = plan.peak_w if plan.solver.twin is None else plan.solver.twin
        came = arms.Came(plan.peak_w, plan.bound_w, classical, 0 if arm == "list" else plan.solver.tried or 0)
        learn = partial(self.mode, memory.now)
        _, used = pinned = decision.use(state.pinned, self.models, self.options.model_meta, learn=learn("meta.pinned"))
        state = state.model_copy(update={"pinned": pinned[0]})
        state, lines = arms.learnt(state, arm, graph.decision_id, came, ts_ns, used, mode=learn)
        memory.set(meta=state)
        return lines

    def log(self, stamp: Stamp, memory: Memory, lines: Sequence[Line]) -> list[Event]:
        """The event that logs lines, if there are any."""
        state = memory.now.meta
        if not lines or state is None:
            return []
        learn = self.mode(memory.now, arms.LEARNER)
        named = {"module": "energy", "key": stamp.key, "learner": arms.LEARNER, "reward_name": arms.REWARD}
        frame = decision.log(state.choice, lines, learn=learn, **named)
        return [Event(LEARN_DECISION, stamp.key, stamp.id, frame, stamp.cause)]
