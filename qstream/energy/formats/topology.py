"""A topology from a recording: the GPUs that were recorded, with the limits that they report, under one budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from qstream.errors import ProblemError
from schemas.power import GpuTelemetry, PowerTopology
from schemas.wording import Shown, must_be

LIMITS: Final = ("power_limit_min_w", "power_limit_max_w", "power_limit_default_w")
ALL: Final = "all"


def recorded_topology(
    frames: Iterable[GpuTelemetry],
    *,
    domain: str,
    budget_w: float,
    opt_in: Sequence[str] = (),
    clocks_mhz: Sequence[float] = (),
) -> PowerTopology:
    """The topology of the GPUs of a recording, each on the node whose frames have it, in the order in which they come.

    Limits are the last that a GPU reports, -1 where it reports none: it is then never given a target.

    Parameters
    ----------
    opt_in
        GPUs that may be given targets, by uuid, or ``all``.
    clocks_mhz
        Supported SM clocks of all GPUs, rising; without, plans limit power only.

    Raises
    ------
    ProblemError
        There are no GPUs, one is on two nodes, or one named to opt in was not recorded.
    """
    node_of: dict[str, str] = {}
    limits: dict[str, list[float]] = {}
    for frame in frames:
        for column, uuid in enumerate(frame.uuid):
            if node_of.setdefault(uuid, frame.node) != frame.node:
                shown = Shown(f"{node_of[uuid]!r} and {frame.node!r}")
                raise ProblemError(must_be(f"node of {uuid}", "the same in all of its readings", shown))
            known = limits.setdefault(uuid, [-1.0] * len(LIMITS))
            for place, name in enumerate(LIMITS):
                if name in frame.metric and (watts := float(frame.value[frame.metric.index(name), column])) > 0:
                    known[place] = watts
    if not node_of:
        raise ProblemError(must_be("readings", f"of 1 or more GPUs of domain {domain!r}", Shown("none")))
    if absent := [uuid for uuid in opt_in if uuid != ALL and uuid not in node_of]:
        raise ProblemError(must_be("opt_in", f"a GPU of the recording, or {ALL}", Shown(absent[0])))
    nodes = list(dict.fromkeys(node_of.values()))
    least, most, default = np.array(list(limits.values()), np.float32).T
    clocks: dict[str, Any] = {}
    if clocks_mhz:
        model_of_gpu = np.zeros(len(node_of), np.int32)
        clocks = {"model": ("gpu",), "model_of_gpu": model_of_gpu, "sm_clock_mhz": np.array([clocks_mhz], np.float32)}
    return PowerTopology.build(
        domain=domain,
        budget_w=budget_w,
        node=tuple(nodes),
        uuid=tuple(node_of),
        node_of_gpu=np.array([nodes.index(node) for node in node_of.values()], np.int32),
        limit_min_w=least,
        limit_max_w=most,
        limit_default_w=default,
        opt_in=np.array([ALL in opt_in or uuid in opt_in for uuid in node_of], np.uint8),
        **clocks,
    )
