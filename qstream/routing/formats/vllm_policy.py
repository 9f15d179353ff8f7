"""A policy class for vLLM's EPLB: the newest plan of qstream, or what is in force if the agent keeps it, else our own planner."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.array_files import bounded
from qstream.errors import ConfigError, ProblemError, QstreamError
from qstream.routing.eplb import rebalance_experts
from qstream.routing.memory import RoutingState
from qstream.routing.rebalance import next_map
from schemas.frame import FrameError, body_type
from schemas.placement import PlacementPlan
from schemas.wording import Shown, must_be

Source = Callable[[], PlacementPlan | RoutingState | bytes | None]
Agree = Callable[[Any], Any]
Leads = Callable[[], bool]
Answered = Callable[["type[QstreamPolicy]", NDArray[Any] | None, NDArray[np.int64]], None]
_ABSTRACT: Final = "vllm.distributed.eplb.policy.abstract"


class Subscriber(Protocol):
    """What `newest_of` needs of ``qstream.stream.client.PlanSubscriber``."""

    def drain(self, timeout_s: float = 0.0) -> Iterable[PlacementPlan]: ...


class QstreamPolicy:
    """Answers ``rebalance_experts`` as vLLM's ``AbstractEplbPolicy`` declares it. Use a class that `policy` makes.

    Attributes
    ----------
    used : str
        What the last answer was: ``plan VERSION``, ``kept: REASON`` of a skipped plan, or ``own planner: REASON``; empty where
        another rank answered.
    version : int or None
        Version of the plan that the last answer was of; None if it was no plan.
    last : int64 [L, num_replicas] or None
        The map of the last plan that fitted.
    """

    source: ClassVar[Source]
    agree: ClassVar[Agree]
    leads: ClassVar[Leads]
    answered: ClassVar[Answered]
    used: ClassVar[str] = ""
    version: ClassVar[int | None] = None
    last: ClassVar[NDArray[np.int64] | None] = None

    @classmethod
    def rebalance_experts(
        cls,
        weight: Any,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Any = None,
    ) -> Any:
        """The physical-to-logical map int64 [L, num_replicas], of the kind of `weight`; tensors on the CPU.

        Parameters
        ----------
        weight : float or int [L, E], NumPy array or torch tensor
            Load of each expert.
        num_replicas, num_groups, num_nodes, num_ranks : int
            Slots, groups of experts (0 where there are none), nodes and GPUs, as in `rebalance_experts` of
            ``qstream.routing.eplb``.
        old_global_expert_indices : int [L, num_replicas], optional
            The map in force. It stays where the agent has skipped its plan and no earlier plan is known; our own planner
            moves few experts from it. Slots of -1 hold nothing; GPUs that have come or gone are the last ones.

        Raises
        ------
        ProblemError
            The arguments contradict each other, whether a plan or our own planner answers.
        """
        experts, num_groups = int(weight.shape[1]), num_groups or 1
        fresh = rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_ranks)[0]
        shape = int(fresh.shape[0]), int(fresh.shape[1])
        old = None if old_global_expert_indices is None else _numpy(old_global_expert_indices)
        if not cls.leads():
            answer = cls.agree(_numpy(fresh))
            return fresh.new_tensor(answer) if hasattr(fresh, "new_tensor") else np.asarray(answer, np.int64)
        plan, cls.used, cls.version = _answer(cls.source, cls.last, old, shape, experts, num_ranks)
        if plan is None:
            load = _numpy(weight).astype(np.float64)
            plan = None if old is None else next_map(load, old, num_replicas, num_groups, num_nodes, num_ranks)
            plan = _numpy(fresh) if plan is None else plan
        elif cls.version is not None:
            cls.last = plan
        answer = cls.agree(plan)
        cls.answered(cls, old, answer)
        return fresh.new_tensor(answer) if hasattr(fresh, "new_tensor") else np.asarray(answer, np.int64)


def policy(
    source: Source,
    agree: Agree = lambda plan: plan,
    leads: Leads = lambda: True,
    answered: Answered = lambda policy, in_force, answer: None,
) -> type[QstreamPolicy]:
    """A policy class that asks `source` for the newest plan: ``EPLB_POLICIES["default"] = policy(source)``.

    Parameters
    ----------
    source : callable
        The newest plan, its bytes, the agent's state, or None: `newest_of` a subscriber, `of_file`, or of Redis
        ``lambda: store.load("my-moe").state`` with ``store = StateStore(url, "routing", RoutingState)``. Where it raises an
        error of qstream's or of the system, our own planner answers.
    agree : callable
        Every rank calls the policy, and all must give the same answer or weights are lost. Where each rank reads the source
        itself, pass a function that gives rank 0's map to all, such as a broadcast over the group; it takes and returns
        int64 [L, P].
    leads : callable
        Whether this rank answers. Any other asks no source and plans nothing: it takes what `agree` returns.
    answered : callable
        Called on the rank that answers after each answer, with the class, the map in force (None if the engine gave none) and
        the answer, both int64 [L, P].

    Raises
    ------
    ConfigError
        The vLLM that is imported is an older one, which takes three maps from a policy.
    """
    _refuse_three_maps()
    given: dict[str, Callable[..., Any]] = {"source": source, "agree": agree, "leads": leads, "answered": answered}
    return type("QstreamPolicy", (QstreamPolicy,), {name: staticmethod(call) for name, call in given.items()})


def newest_of(subscriber: Subscriber, model: str, timeout_s: float = 0.0) -> Callable[[], PlacementPlan | None]:
    """The newest placement of a model that a subscriber to the placement plans has seen; the newest skipped plan before any.

    A call waits `timeout_s` for plans.
    """
    newest: PlacementPlan | None = None

    def source() -> PlacementPlan | None:
        nonlocal newest
        for plan in subscriber.drain(timeout_s):
            if plan.model == model and (plan.skip_reason is None or newest is None or newest.skip_reason is not None):
                newest = plan
        return newest

    return source


def of_file(path: Path) -> Source:
    """The plan in a file, as ``qstream routing place --export plan`` writes it; None while there is no such file."""
    return lambda: bounded(path, PlacementPlan.MAX_BYTES) if path.is_file() else None


def _answer(
    source: Source, last: NDArray[Any] | None, old: NDArray[Any] | None, shape: tuple[int, int], experts: int, ranks: int
) -> tuple[NDArray[np.int64] | None, str, int | None]:
    """The map of the source's plan where it fits, of a skipped one what is in force, else None; what was used; version."""
    try:
        found = source()
        plan = PlacementPlan.decode(found, body_type(found)) if isinstance(found, bytes) else found
    except (FrameError, QstreamError, OSError) as exc:
        return None, f"own planner: {exc}", None
    if plan is None:
        return None, "own planner: no plan", None
    slots, gpus, version = _in_force(plan)
    if slots is None:
        skipped = isinstance(plan, PlacementPlan)
        reason = getattr(plan, "skip_reason", None) or "no plan"
        held = next((map_ for map_ in (last, old) if skipped and _holds_all(map_, shape, experts)), None)
        return (None, f"own planner: {reason}", None) if held is None else (held.astype(np.int64), f"kept: {reason}", None)
    if slots.shape != shape or gpus != ranks:
        got = Shown(f"{list(slots.shape)} on {gpus} GPUs")
        return None, f"own planner: {must_be(f'plan {version}', f'{list(shape)} on {ranks} GPUs', got)}", None
    if not _holds_all(slots, shape, experts):
        return None, f"own planner: plan {version} does not hold the experts 0 to {experts - 1} in each layer", None
    return slots.astype(np.int64), f"plan {version}", version


def _holds_all(slots: NDArray[Any] | None, shape: tuple[int, int], experts: int) -> bool:
    """Whether a map has this shape and, in each layer, every expert and no other."""
    if slots is None or slots.shape != shape:
        return False
    in_range = 0 <= slots.min() <= slots.max() < experts
    return bool(in_range and all(np.unique(row).size == experts for row in slots))


def _in_force(plan: PlacementPlan | RoutingState) -> tuple[NDArray[np.int32] | None, int, int]:
    """Map, GPUs and version; of a state the proposed placement if there is one, and none before the first plan."""
    if isinstance(plan, PlacementPlan):
        return plan.physical_to_logical_map, plan.num_gpus, plan.version
    gpus = plan.topology.num_gpus
    if plan.proposed is not None:
        return plan.proposed, gpus, plan.in_force.proposed_version
    return plan.placement if plan.in_force.version else None, gpus, plan.in_force.version


def _refuse_three_maps() -> None:
    """`ConfigError` if the vLLM that is imported takes three maps from a policy, as it did before it took one."""
    base = getattr(sys.modules.get(_ABSTRACT), "AbstractEplbPolicy", None)
    declared = "" if base is None else str(inspect.signature(base.rebalance_experts).return_annotation)
    if "tuple" in declared.lower():
        found = Shown(f"{version('vllm')}, which takes three")
        raise ConfigError(must_be("vllm", "a version that takes one map from an EPLB policy", found))


def _numpy(value: Any) -> NDArray[Any]:
    out: NDArray[Any] = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    if out.dtype.kind not in "iuf":
        raise ProblemError(must_be("old_global_expert_indices", "whole numbers", Shown(f"dtype {out.dtype}")))
    return out
