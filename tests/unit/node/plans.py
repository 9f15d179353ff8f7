"""Plans for a node, an actuator that may set all of its GPUs, and what they have."""

from __future__ import annotations

import numpy as np

from qstream.node import Actuator
from schemas.energy import EnergyPlan

S = 1_000_000_000


def plan_for(uuids, watts, *, clock=-1.0, version=1, at_s=0, **fields):
    watts, clock = np.broadcast_to(watts, len(uuids)), np.broadcast_to(clock, len(uuids))
    given = {"domain": "d", "plan_id": f"p{version}", "ts_ns": at_s * S, "ttl_s": 30.0, "version": version, "fence": 1}
    return EnergyPlan(
        **given | {"mode": "apply", "uuid": tuple(uuids)} | fields,
        power_limit_w=watts.astype(np.float32),
        sm_clock_mhz=clock.astype(np.float32),
    )


def applying(gpus, tmp_path, allow=None):
    allow = gpus.uuids if allow is None else allow
    return Actuator(gpus, domain="d", node="node-0", mode="apply", allow=allow, state_path=tmp_path / "state.json")


def limits(gpus):
    return [gpus.power_limit_w(uuid) for uuid in gpus.uuids]
