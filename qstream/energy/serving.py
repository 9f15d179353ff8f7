"""Serving: how many replicas of each served model to keep active, from the demand on them."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.active import Active, active_step
from qstream.errors import ProblemError
from schemas.frame import Axes, Count, Frame, Name, TimeNs
from schemas.power import PowerTopology, ServingLoad
from schemas.wording import must_be

MAX_MODELS: Final = 256  # of a domain


class Served(Frame):
    """One model after its newest window, as the state of its domain keeps it. `seen` replicas were active at most so far."""

    model: Name
    ts_ns: TimeNs
    active: Count
    below: Count
    level: float
    seen: Count
    gpus_per_replica: Count
    errors: Annotated[NDArray[np.float64], Axes("errors")]

    @property
    def spare_gpus(self) -> int:
        """GPUs of replicas that were active once and are not needed now."""
        return max(0, self.seen - self.active) * self.gpus_per_replica


def served(models: tuple[Served, ...], load: ServingLoad, topology: PowerTopology) -> tuple[Served, ...]:
    """The models of a domain after one more window of one of them; a window that is not newer changes nothing.

    Where the objective for the time between tokens is missed, one replica more than were active is needed.

    Raises
    ------
    ProblemError
        The replicas have more GPUs than the domain, or the domain has too many models.
    """
    before = next((each for each in models if each.model == load.model), None)
    if before is not None and load.ts_ns <= before.ts_ns:
        return models
    gpus = len(topology.uuid)
    there = gpus // load.gpus_per_replica
    if max(load.replicas, load.most_replicas) > there:
        name = "replicas" if load.replicas > there else "most_replicas"
        allowed = f"at most {there} of {load.gpus_per_replica} GPUs, as {topology.domain} has {gpus}"
        raise ProblemError(must_be(name, allowed, getattr(load, name)))
    if before is None and len(models) >= MAX_MODELS:
        raise ProblemError(must_be("models of a domain", f"at most {MAX_MODELS}", len(models) + 1))
    most = max(1, load.most_replicas or there)
    state = Active(min(load.replicas, most), 0, -1.0, ())
    if before is not None:
        state = Active(min(before.active, most), before.below, before.level, tuple(before.errors.tolist()))
    late = 0 < load.slo_itl_ms < load.itl_p95_ms
    state = active_step(state, load.tokens_s, load.capacity_tokens_s, most, min(most, load.replicas + 1) if late else 1)
    after = Served(
        model=load.model,
        ts_ns=load.ts_ns,
        active=state.active,
        below=state.below,
        level=state.level,
        seen=max(load.replicas, 0 if before is None else before.seen),
        gpus_per_replica=load.gpus_per_replica,
        errors=np.array(state.errors),
    )
    return tuple(sorted((*(each for each in models if each is not before), after), key=lambda each: each.model))
