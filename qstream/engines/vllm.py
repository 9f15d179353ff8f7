"""vLLM: our EPLB policy under the name of the default one, in every process; rank 0 reads plans, and says what is applied."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.config import load_settings
from qstream.engines.plans import Plans
from qstream.engines.plugin import EPLB
from qstream.errors import ConfigError
from qstream.routing.formats.vllm_policy import QstreamPolicy, of_file, policy
from schemas.wording import Shown, must_be

AGENT: Final = "agent"
PLANNER: Final = "planner"
MODEL: Final = "QSTREAM_EPLB_MODEL"
_EPLB: Final = "vllm.distributed.eplb"
log = logging.getLogger("vllm.qstream")  # vLLM shows what its own loggers say


def register(plans: str) -> None:
    """Put our policy into vLLM's table; `plans` is ``planner``, ``agent``, or the path of a plan. Again is the same as once.

    Raises
    ------
    ConfigError
        `plans` is something else, what it needs is missing, or this vLLM has no such table or takes three maps from a policy.
    """
    table = _table()
    known = table.get("default")
    if not (isinstance(known, type) and issubclass(known, QstreamPolicy)):
        table["default"] = _policy(plans)


def _table() -> Any:
    try:
        return importlib.import_module(f"{_EPLB}.policy").EPLB_POLICIES
    except (ModuleNotFoundError, AttributeError) as exc:
        if isinstance(exc, ModuleNotFoundError) and not f"{_EPLB}.policy".startswith(str(exc.name)):
            raise
        raise ConfigError(must_be("vllm", "0.19.0 or newer, with EPLB policies", Shown(version("vllm")))) from exc


def _policy(plans: str) -> type[QstreamPolicy]:
    if plans == PLANNER:
        return policy(lambda: None, agreed, leads)
    if plans == AGENT:
        return _of_agent()
    if not plans.endswith(".json"):
        raise ConfigError(must_be(EPLB, f"{PLANNER}, {AGENT}, or the path of a plan in JSON", plans))
    return policy(of_file(Path(plans)), agreed, leads)


def _of_agent() -> type[QstreamPolicy]:
    model = os.environ.get(MODEL)
    if not model:
        raise ConfigError(must_be(MODEL, f"the model's name on the topics, with {EPLB}={AGENT}", Shown("none")))
    link = Plans(model, load_settings())
    return policy(link.newest, agreed, leads, Acknowledging(link.acknowledge))


class Acknowledging:
    """Tells the agent which of its plans the engine has applied. Called after each answer of the policy."""

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._awaited: tuple[int, NDArray[np.int64]] | None = None

    def __call__(self, chosen: type[QstreamPolicy], in_force: NDArray[Any] | None, answer: NDArray[np.int64]) -> None:
        _watch(self)
        if in_force is not None:
            self.confirm([in_force])
        log.info("experts rebalanced by %s", chosen.used)
        self._awaited = None if chosen.version is None else (chosen.version, answer)

    @property
    def awaits(self) -> bool:
        """Whether a plan was answered with that is not in force yet."""
        return self._awaited is not None

    def confirm(self, in_force: list[NDArray[Any]]) -> None:
        """Acknowledge the plan of the last answer if one of these maps is its map."""
        if self._awaited is not None and any(np.array_equal(held, self._awaited[1]) for held in in_force):
            self._acknowledge(self._awaited[0])
            self._awaited = None


def _watch(acknowledging: Acknowledging) -> None:
    """After a step that no transfer follows, compare the engine's map with the awaited one: vLLM tells a policy nothing."""
    states = importlib.import_module(f"{_EPLB}.eplb_state").EplbState
    if hasattr(states.step, "__wrapped__"):
        return
    step = states.step

    @functools.wraps(step)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = step(self, *args, **kwargs)
        models = self.model_states.values()
        if acknowledging.awaits and not any(model.rebalanced for model in models):
            acknowledging.confirm([model.physical_to_logical_map.cpu().numpy() for model in models])
        return done

    states.step = watched


def leads() -> bool:
    """Whether this process is rank 0 of the EPLB group."""
    return bool(_group().rank_in_group == 0)


def agreed(plan: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank 0's map [L, P] in all ranks, over the EPLB group of the CPU: vLLM plans in a thread, next to the model's own calls."""
    group = _group()
    if group.world_size == 1:
        return plan
    torch = importlib.import_module("torch")
    map_ = torch.from_numpy(np.array(plan, np.int64))
    torch.distributed.broadcast(map_, group_src=0, group=group.cpu_group)
    out: NDArray[np.int64] = map_.numpy()
    return out


def _group() -> Any:
    state: ModuleType = importlib.import_module("vllm.distributed.parallel_state")
    return state.get_eplb_group()
